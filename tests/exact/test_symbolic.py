"""The scalar theorem, rigidity, mirrors; layers as hinges, regions and cells: exact, and equal to torch."""

import random

import pytest
import sympy as sp
import torch
from exact_draws import TOLERANCE, matrix, rational, rotation

from pso_lib.exact.arrangement import arrangement
from pso_lib.exact.hinges import affine_on, from_torch, hinged_layer, layer_conditions
from pso_lib.exact.regions import facets, regions
from pso_lib.exact.symbolic import (
    exact_matrix,
    jacobian_conditions,
    mirror_solutions,
    reflection,
    rigidity_solution,
    rigidity_system,
    scalar_conditions,
    sign,
    solve_scalar,
)
from pso_lib.nn.activations import PiecewiseAffine, get
from pso_lib.nn.layers import Fold, Layer, ModifiedFeedForward

KINKED = PiecewiseAffine("three", ["-1/2", "1/3", 1], [0, 1, "-3/2", "1/4"], at_zero="1/5")
SQRT = sp.sqrt


# ---------------------------------------------------------------- exact numbers


@pytest.mark.parametrize("bad", [[0.5], [[1, 2.0]], ["0.5"], [sp.Float(1)], torch.ones(2), [float("nan")], [sp.oo]])
def test_floats_and_infinities_are_refused(bad):
    with pytest.raises(ValueError, match="exact"):
        exact_matrix("A", bad)


def test_what_is_no_matrix_is_refused_by_name():
    with pytest.raises(ValueError, match="A is not a matrix"):
        exact_matrix("A", [[1, 2], [3]])


def test_strings_are_read_exactly():
    assert exact_matrix("A", ["1/3", "sqrt(2)"]) == sp.Matrix([sp.Rational(1, 3), SQRT(2)])


def test_sign_decides_zeros_of_radicals_and_of_sines():
    cos, sin, pi = sp.cos, sp.sin, sp.pi
    zeros = [
        SQRT(2) * SQRT(3) - SQRT(6),
        SQRT(5 + 2 * SQRT(6)) - SQRT(2) - SQRT(3),
        cos(pi / 9) - cos(2 * pi / 9) - cos(4 * pi / 9),
        SQRT(2) * cos(pi / 7 + pi / 4) - cos(pi / 7) + sin(pi / 7),
        SQRT(3) * sin(pi / 18) - cos(pi / 18) + 2 * cos(pi / 18 + pi / 3),
        cos(pi / 5) - (1 + SQRT(5)) / 4,
    ]
    for zero in zeros:
        assert sign(zero) == 0
        assert sign(zero + sp.Rational(1, 10**12)) == 1 and sign(zero - sp.Rational(1, 10**12)) == -1
    assert (sign(sp.Rational(-1, 3)), sign(sp.Integer(0)), sign(SQRT(2))) == (-1, 0, 1)
    with pytest.raises(ValueError, match="substitute numbers"):
        sign(sp.Symbol("x"))


@pytest.mark.parametrize(
    "number, expected",
    [
        ("cosh(400)**2 - sinh(400)**2", 1),  # 346 digits cancel
        ("cosh(400)**2 - sinh(400)**2 - 1", 0),
        ("cosh(10**20 + sqrt(2)) - exp(10**20 + sqrt(2))/2", 1),
        ("tanh(5000) - 1", -1),
        ("log(1 + Rational(1, 10**300))", 1),
        ("log(1 - Rational(1, 10**3000))", -1),
        ("sqrt(10**1000 + 1) - 10**500", 1),
        ("atan(10**300) - pi/2", -1),
        ("sin(10**60)**2 + cos(10**60)**2 - 1", 0),
        ("sin(10**60)**2 + cos(10**60)**2 - 1 - Rational(1, 10**600)", -1),
        ("sqrt(2) + sqrt(3) - sqrt(5 + 2*sqrt(6)) + Rational(1, 10**900)", 1),
        ("exp(pi*sqrt(163)) - 262537412640768744", -1),
    ],
)
def test_sign_where_hundreds_of_digits_cancel(number, expected):
    assert sign(sp.sympify(number)) == expected
    assert sign(-sp.sympify(number)) == -expected


def test_sign_says_where_it_cannot_tell():
    machin = 4 * sp.atan(sp.Rational(1, 5)) - sp.atan(sp.Rational(1, 239)) - sp.pi / 4  # 0, which takes a proof
    with pytest.raises(ArithmeticError, match="could not decide the sign"):
        sign(machin)
    with pytest.raises(ValueError, match="is not real"):
        sign(1 + sp.I / 10**30)


def test_a_zero_that_takes_algebra_to_see_is_no_normal():
    zero = SQRT(5 + 2 * SQRT(6)) - SQRT(2) - SQRT(3)
    for call in (lambda: reflection([zero, 0]), lambda: mirror_solutions(sp.eye(2), [zero, 0])):
        with pytest.raises(ValueError, match="a is zero"):
            call()
    with pytest.raises(ValueError, match="normals holds a zero vector"):
        arrangement([[1, 0], [zero, 0]])


# ---------------------------------------------------------------- scalar layers


def test_theorem_3_with_symbols():
    s1, s2 = sp.symbols("s1 s2")
    found = {(sp.simplify(a), sp.simplify(b)) for a, b in solve_scalar([s1, s2])}
    fold = (-(s1 + s2) / (s1 - s2), 2 / (s1 - s2))
    expected = {(1, 0), (-1, 0), fold, (-fold[0], -fold[1])}
    assert {tuple(map(sp.simplify, pair)) for pair in expected} == found
    direct = sp.solve(scalar_conditions([s1, s2]), sp.symbols("alpha beta", real=True))
    assert {tuple(map(sp.simplify, pair)) for pair in direct} == found


def test_theorem_3_three_slopes_leave_only_the_trivial_layers():
    assert solve_scalar(sp.symbols("s1:4")) == [(1, 0), (-1, 0)]
    source = random.Random(3)
    for _ in range(10):
        slopes = list({rational(source) for _ in range(4)})
        if len(slopes) >= 3:
            assert solve_scalar(slopes) == [(1, 0), (-1, 0)]


@pytest.mark.parametrize(
    ("slopes", "fold"),
    [
        (get("relu"), (-1, 2)),
        (get("abs"), (0, 1)),
        ([sp.Rational(1, 10), 1], (-sp.Rational(11, 9), sp.Rational(20, 9))),
    ],
)
def test_theorem_3_examples(slopes, fold):
    assert set(solve_scalar(slopes)) == {(1, 0), (-1, 0), fold, (-fold[0], -fold[1])}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_theorem_3_in_torch_for_random_slopes(dtype):
    source = random.Random(5)
    z = torch.linspace(-3, 3, 301, dtype=dtype)
    for _ in range(20):
        s1, s2 = rational(source), rational(source)
        if abs(s1 - s2) < 1:
            continue
        sigma = PiecewiseAffine("s", [rational(source)], [s1, s2])
        for alpha, beta in solve_scalar(sigma):
            slopes = float(alpha) + float(beta) * sigma.slope(z)
            assert (slopes.abs() - 1).abs().max() < TOLERANCE[dtype]
            assert (float(alpha) + 0.1 + float(beta) * sigma.slope(z)).abs().sub(1).abs().max() > 0.05


def test_one_slope_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        solve_scalar([1, 1])


# ---------------------------------------------------------------- rigidity


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_lemma_1_the_system_has_only_zero(n):
    unknowns, equations = rigidity_system(n)
    assert len(unknowns) == n**3
    assert set(rigidity_solution(n).values()) == {0}
    # Either symmetry alone leaves room: the lemma needs both.
    symmetric = [e for e in equations if -1 in sp.Poly(e, *unknowns).coeffs()]
    for half in (symmetric, [e for e in equations if e not in symmetric]):
        assert n == 1 or sp.linear_eq_to_matrix(half, unknowns)[0].rank() < n**3


def test_lemma_1_the_system_is_that_of_a_map():
    """Second derivatives of a smooth F fulfil the symmetric half; the other measures d(J^T J)."""
    x = sp.symbols("x1:3", real=True)
    F = sp.Matrix([x[0] * sp.cos(x[1]), x[0] * sp.sin(x[1])])
    J = F.jacobian(x)
    c = {
        sp.Symbol(f"c_{k + 1}{i + 1}{j + 1}"): (F.diff(x[k]).diff(x[i]).T * J[:, j])[0]
        for k in range(2) for i in range(2) for j in range(2)
    }  # fmt: skip
    _, equations = rigidity_system(2)
    values = [sp.simplify(e.subs(c, simultaneous=True)) for e in equations]
    gram = J.T * J
    changes = {sp.simplify(gram[i, j].diff(v)) for i in range(2) for j in range(2) for v in x}
    assert {abs(v) for v in values if v != 0} <= {abs(v) for v in changes} | {abs(v) / 2 for v in changes}
    assert any(v != 0 for v in values)


def test_lemma_1_refuses_no_dimension():
    with pytest.raises(ValueError, match="n must be"):
        rigidity_system(0)


# ---------------------------------------------------------------- mirrors


@pytest.mark.parametrize("n", [2, 3])
def test_lemma_2_with_a_symbolic_normal(n):
    a = sp.Matrix(sp.symbols(f"a1:{n + 1}", real=True))
    Q = rotation(random.Random(n), n)
    nothing, fold = mirror_solutions(Q, a)
    assert nothing == sp.zeros(n, 1)
    assert sp.simplify(fold + 2 * Q * a / (a.T * a)[0]) == sp.zeros(n, 1)
    assert all(sp.simplify(e) == 0 for e in jacobian_conditions(Q + fold * a.T))


def test_lemma_2_agrees_with_solving_the_whole_system():
    v = sp.Matrix(sp.symbols("v1 v2"))
    a = sp.Matrix([1, 2])
    Q = rotation(random.Random(1), 2)
    direct = sp.solve(list((Q + v * a.T).T * (Q + v * a.T) - sp.eye(2)), list(v))
    assert {tuple(s) for s in direct} == {tuple(s) for s in mirror_solutions(Q, a)}


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_lemma_2_for_random_sizes(n):
    source = random.Random(n)
    Q, a = rotation(source, n), matrix(source, n, 1) + sp.ones(n, 1) * 10
    nothing, fold = mirror_solutions(Q, a)
    assert (Q + fold * a.T) == Q * reflection(a) and not nothing.has(sp.Float)
    assert jacobian_conditions(Q + fold * a.T) == []
    for factor in (sp.Rational(1, 2), sp.Rational(99, 100), -1, 2):  # nothing in between, nothing beyond
        assert jacobian_conditions(Q + factor * fold * a.T) != []
    assert reflection(a) ** 2 == sp.eye(n) and reflection(a).det() == -1


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_lemma_2_numerically_in_dimension_7(dtype):
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(200, 7, 7, generator=generator, dtype=dtype)).Q
    a = torch.randn(200, 7, 1, generator=generator, dtype=dtype)
    v = -2 * Q @ a / (a.mT @ a)
    eye = torch.eye(7, dtype=dtype)

    def error(v):
        J = Q + v @ a.mT
        return (J.mT @ J - eye).abs().amax((-1, -2))

    assert error(v).max() < TOLERANCE[dtype]
    assert error(v + 0.05 * torch.randn(v.shape, generator=generator, dtype=dtype)).min() > 1e-3


def test_the_conditions_see_angles_as_well_as_lengths():
    third, fifth = sp.Rational(3, 5), sp.Rational(4, 5)
    assert jacobian_conditions([[third, -fifth], [fifth, third]]) == []
    assert jacobian_conditions([[1, third], [0, fifth]]) == [third]  # unit columns, not perpendicular
    assert jacobian_conditions([[2, 0], [0, 1]]) == [3]
    assert jacobian_conditions([[1, 0]]) == [-1]  # m < n: no isometry


def test_mirror_errors():
    with pytest.raises(ValueError, match="not orthogonal"):
        mirror_solutions([[1, 1], [0, 1]], [1, 0])
    with pytest.raises(ValueError, match="a is zero"):
        mirror_solutions(sp.eye(2), [0, 0])
    with pytest.raises(ValueError, match="a is zero"):
        reflection([0, 0])
    with pytest.raises(ValueError, match="shape"):
        mirror_solutions(sp.eye(2), [1, 0, 0])


# ---------------------------------------------------------------- layers as hinges


class TorchLayer(torch.nn.Module):
    """alpha x + beta B^T sigma(A x + b), written out, to compare with."""

    def __init__(self, A, b, B, alpha, beta, activation):
        super().__init__()
        self.A, self.b, self.B = (torch.tensor(m.tolist(), dtype=torch.float64) for m in (A, b.T, B))
        self.alpha, self.beta, self.activation, self.b = float(alpha), float(beta), get(activation), self.b[0]

    def forward(self, x):
        z = self.activation(x @ self.A.T + self.b)
        return self.beta * z @ self.B + (self.alpha * x if self.alpha else 0)


ACTIVATIONS = ["relu", "leaky_relu", "abs", "zigzag", "maxmin", "householder", KINKED]


def random_layers(activation, seed, sizes=((2, 4), (2, 2))):
    """The same random stack twice: exact, and in torch."""
    source, exact, plain = random.Random(seed), [], []
    for n, h in sizes:
        A, B, b = matrix(source, h, n), matrix(source, h, n), matrix(source, h, 1) / 3
        alpha, beta = source.choice([0, 1, sp.Rational(-2, 3)]), source.choice([1, -2, sp.Rational(1, 2)])
        exact.append(hinged_layer(A, b, B=B, alpha=alpha, beta=beta, activation=activation))
        plain.append(TorchLayer(A, b, B, alpha, beta, activation))
    return exact, torch.nn.Sequential(*plain)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize(("n", "h"), [(2, 2), (3, 4), (1, 2), (4, 2)])
def test_pieces_equal_torch(activation, n, h):
    (layer,), plain = random_layers(activation, seed=n + h, sizes=((n, h),))
    source = random.Random(7)
    for _ in range(4):
        x = matrix(source, n, 1)
        point = torch.tensor([float(v) for v in x], dtype=torch.float64)
        J, c = layer.piece(layer.pattern_at(x))
        assert not (J.has(sp.Float) or c.has(sp.Float))
        value = torch.tensor([float(v) for v in layer(x)], dtype=torch.float64)
        torch.testing.assert_close(value, plain(point), rtol=1e-12, atol=1e-12)
        slope = torch.tensor(J.tolist(), dtype=torch.float64)
        torch.testing.assert_close(torch.func.jacrev(plain)(point), slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [Fold, ModifiedFeedForward, lambda n, **o: Layer(n, 5, alpha=0.5, beta=-1, **o)])
def test_from_torch_takes_a_library_layer_exactly(make):
    layer = make(3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = from_torch(layer)
    x = torch.randn(3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    point = [sp.Rational(*v.as_integer_ratio()) for v in x.tolist()]
    value = torch.tensor([float(v) for v in exact(point)], dtype=torch.float64)
    torch.testing.assert_close(value, layer(x).detach(), rtol=0, atol=1e-12)
    J, _ = exact.piece(exact.pattern_at(point))
    slope = torch.func.jacrev(layer)(x).detach()
    torch.testing.assert_close(torch.tensor(J.tolist(), dtype=torch.float64), slope, rtol=0, atol=1e-12)
    assert not J.has(sp.Float)
    assert max(entry.q for entry in from_torch(layer, limit=10).G) <= 10


def test_layer_conditions_with_symbols_left_free():
    p, q = sp.symbols("p q", real=True)
    conditions = layer_conditions(hinged_layer([[p, q]], alpha=1, beta=-2))
    solved = [sp.simplify(c.subs(q, SQRT(1 - p**2))) for c in conditions]
    assert conditions and all(s == 0 for s in solved)  # unit rows: the modified ResNet
    alpha, beta = sp.symbols("alpha beta", real=True)
    scalar = layer_conditions(hinged_layer([[1]], alpha=alpha, beta=beta))
    assert set(map(sp.expand, scalar)) == set(map(sp.expand, scalar_conditions([0, 1], alpha, beta)))


def test_modified_layers_are_orthogonal_on_every_pattern():
    source = random.Random(11)
    for n in (2, 3):
        A, B = rotation(source, n), rotation(source, n)
        assert layer_conditions(hinged_layer(A, B=B, activation="abs")) == []
        assert layer_conditions(hinged_layer(A[: n - 1, :], matrix(source, n - 1, 1), alpha=1, beta=-2)) == []
        assert layer_conditions(hinged_layer(2 * A, alpha=1, beta=-2)) != []


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: hinged_layer([[1, 0]], [1, 2]), "b has 2 entries"),
        (lambda: hinged_layer([[1, 0]], B=[[1, 0], [0, 1]]), "B has shape"),
        (lambda: hinged_layer([[1, 0]], B="free"), "is unknown"),
        (lambda: hinged_layer([[1, 0]], activation="tanh"), "not affine in pieces"),
        (lambda: hinged_layer([[1, 0]], activation="maxmin"), "even number"),
        (lambda: hinged_layer([[0.1, 0]]), "A holds 0.1"),
        (lambda: hinged_layer([[1, 0]]).piece((0, 0)), "one piece per unit"),
        (lambda: hinged_layer([[1, 0]]).piece((2,)), "does not exist"),
        (lambda: regions(hinged_layer([[1, 0, 0]])), "length 3, but gets length 2"),
        (lambda: regions(hinged_layer([[1, 0]]), ((1, 1), (0, 1))), "is empty"),
        (lambda: regions(hinged_layer([[1, 0]]), ((0, 0.5), (0, 1))), "box holds 0.5"),
        (lambda: regions(hinged_layer([[1, 0]]), number="floats"), "Did you mean 'float'"),
        (lambda: regions(hinged_layer([[1, 0], [0, 1]]), most=3), "more than 3"),
        (lambda: arrangement([]), "at least one"),
        (lambda: arrangement([[0, 0]]), "zero vector"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(make, text):
    with pytest.raises(ValueError, match=text):
        make()


# ---------------------------------------------------------------- regions


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_regions_tile_the_box_and_equal_torch(activation):
    layers, plain = random_layers(activation, seed=2, sizes=((2, 2), (2, 2)))
    found = regions(layers)
    if activation != "householder":
        assert sum(region.area for region in found) == 4
    assert float(sum(region.area for region in found)) == pytest.approx(4, abs=1e-12)
    assert len({region.patterns for region in found}) == len(found)
    for region in found:
        assert not (region.J.has(sp.Float) or region.c.has(sp.Float) or sp.Matrix(region.vertices).has(sp.Float))
        J, c = affine_on(layers, region.patterns)
        assert all(sign(entry) == 0 for entry in (*(J - region.J), *(c - region.c)))
        centre = torch.tensor([float(v) for v in region.centre], dtype=torch.float64)
        slope = torch.tensor(region.J.tolist(), dtype=torch.float64)
        torch.testing.assert_close(torch.func.jacrev(plain)(centre), slope, rtol=1e-12, atol=1e-11)
        corners = torch.tensor([[float(v) for v in p] for p in region.vertices], dtype=torch.float64)
        image = torch.tensor([[float(v) for v in p] for p in region.image], dtype=torch.float64)
        torch.testing.assert_close(plain(corners), image, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("activation", ["relu", "zigzag", KINKED], ids=str)
def test_crossing_a_facet_changes_the_jacobian_by_rank_one(activation):
    found = regions(random_layers(activation, seed=4, sizes=((2, 2), (2, 2)))[0])
    creases = facets(found)
    assert creases
    for crease in creases:
        change = found[crease.second].J - found[crease.first].J
        assert change == crease.jump * crease.normal.T and change.rank() <= 1
    inside = sum(len(region.vertices) for region in found)
    assert len(creases) < inside  # no facet is counted twice
    assert len({(c.first, c.second, c.start, c.end) for c in creases}) == len(creases)


def test_facets_notice_a_tear():
    found = regions(hinged_layer([[1, 0]]))
    torn = [found[0], type(found[1])(found[1].vertices, found[1].patterns, found[1].J, found[1].c + sp.ones(2, 1))]
    with pytest.raises(ValueError, match="not continuous"):
        facets(torn)


def test_exact_and_float_regions_agree():
    layers, _ = random_layers("relu", seed=6, sizes=((2, 3), (2, 3)))
    exact, plain = regions(layers), regions(layers, number="float")
    assert [r.patterns for r in exact] == [r.patterns for r in plain]
    for left, right in zip(exact, plain, strict=True):
        torch.testing.assert_close(torch.tensor(left.J.tolist(), dtype=torch.float64), torch.tensor(right.J))
        assert (
            left.contains(left.centre)
            and right.contains(right.centre)
            and float(left.area) == pytest.approx(right.area)
        )


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_float_regions_of_a_wide_lifted_torch_network(activation):
    generator = torch.Generator().manual_seed(0)
    options = dict(alpha=0, beta=1, outer="identity", generator=generator, dtype=torch.float64)
    layers = [Layer(12, activation=activation, **options) for _ in range(3)]
    for layer in layers:
        torch.nn.init.normal_(layer.b, generator=generator)
    W, w = torch.randn(12, 2, generator=generator).double(), torch.randn(12, generator=generator).double()
    found = regions(layers, ((-2, 2), (-1, 1)), number="float", lift=(W.tolist(), w.tolist()))
    assert sum(region.area for region in found) == pytest.approx(8, abs=1e-9)
    network = torch.nn.Sequential(*layers)
    centres = torch.tensor([region.centre for region in found], dtype=torch.float64)
    slopes = torch.func.vmap(torch.func.jacrev(lambda p: network(W @ p + w)))(centres).detach()
    torch.testing.assert_close(slopes, torch.stack([torch.tensor(r.J) for r in found]), rtol=0, atol=1e-10)
