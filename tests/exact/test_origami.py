"""One hidden layer that folds, both directions; Kawasaki's condition; the normal form; the one family."""

import random

import numpy as np
import pytest
import sympy as sp
import torch
from exact_draws import TOLERANCE, matrix, rotation

from pso_lib.exact.folds import FoldedMap, fold, fold_directions, from_activation, from_fold, from_modified_feedforward
from pso_lib.exact.hinges import hinged_layer
from pso_lib.exact.origami import (
    NotFlatFoldable,
    crossings,
    fold_pencil,
    kawasaki,
    kawasaki_completion,
    kawasaki_equation,
    normal_form,
    paper_condition,
    require_foldable,
    unit_normal,
)
from pso_lib.exact.symbolic import reflection, sign
from pso_lib.nn.activations import PiecewiseAffine, get
from pso_lib.nn.layers import Fold, ModifiedFeedForward

GOOD = [(0, 90), (10,), (0, 45, 90, 135), (0, 30, 50, 110), (0, 15, 60, 90, 105, 150)]
BAD = {(0, 80): 0.684, (0, 60, 120): 6.0, (0, 30, 50, 100): 0.684}


def degrees(*angles) -> list:
    return [sp.rad(angle) for angle in angles]


def points(n: int, count=2000, dtype=torch.float64):
    return 3 * torch.randn(count, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def isometry_error(folded: FoldedMap, x: torch.Tensor) -> float:
    J = folded.jacobian(x)
    return (J.mT @ J - torch.eye(x.shape[-1], dtype=x.dtype)).abs().max().item()


def last_mirror(normals) -> sp.Matrix:
    """The normal that makes R_2 … R_m fix the first normal; it closes the pencil if it sorts last."""
    first, turn = normals[0], sp.eye(2)
    for a in normals[1:]:
        turn = turn * reflection(a)
    mirror = turn.T * reflection([-first[1], first[0]])
    difference = sp.eye(2) - mirror
    return difference[:, 0] if any(difference[:, 0]) else difference[:, 1]


def distinct(normals) -> bool:
    full = [sp.Matrix(a) for a in normals]
    return all(sp.Matrix.hstack(p, q).rank() == 2 for i, p in enumerate(full) for q in full[:i])


# ---------------------------------------------------------------- Kawasaki's condition


@pytest.mark.parametrize("m", [2, 4, 6])
def test_even_pencils_derive_kawasaki(m):
    angles, equation = kawasaki_equation(m)
    alternating = sum(q - p for p, q in zip(angles[::2], angles[1::2], strict=True))
    assert sp.simplify(equation + sp.cos(2 * alternating) + 1) == 0
    # The sum of increasing angles lies in (0, pi), so cos(2 S) = -1 leaves pi/2 alone.
    S = sp.Symbol("S")
    assert sp.solveset(sp.cos(2 * S) + 1, S, sp.Interval.open(0, sp.pi)) == {sp.pi / 2}


@pytest.mark.parametrize("m", [3, 5])
def test_odd_pencils_fold_as_paper_but_not_as_a_layer(m):
    angles, equation = kawasaki_equation(m)
    rest = angles[1:]
    alternating = sum(q - p for p, q in zip(rest[::2], rest[1::2], strict=True))
    assert sp.simplify(equation - sp.cos(2 * alternating) + 1) == 0
    S = sp.Symbol("S")
    assert sp.solveset(sp.cos(2 * S) - 1, S, sp.Interval.open(0, sp.pi)) == sp.EmptySet
    assert paper_condition(m)[1] == sp.zeros(2, 2)
    assert paper_condition(m + 1)[1] != sp.zeros(2, 2)


@pytest.mark.parametrize("angles", GOOD)
def test_pencils_that_fold(angles):
    folded = fold_pencil(degrees(*angles))
    assert kawasaki(degrees(*angles)).holds
    assert folded.failures() == [] and folded.crease_failures() == []
    assert all(crossing.holds for crossing in crossings([unit_normal(a) for a in degrees(*angles)]))
    for part in (folded.M, folded.G, folded.D):
        assert not part.has(sp.Float)
    for dtype, tolerance in TOLERANCE.items():
        assert isometry_error(folded, points(2, dtype=dtype)) < tolerance


@pytest.mark.parametrize("angles", BAD)
def test_pencils_that_do_not_fold_and_by_how_much(angles):
    normals = [unit_normal(a) for a in degrees(*angles)]
    with pytest.raises(NotFlatFoldable):
        fold_pencil(degrees(*angles))
    forced = fold(sp.eye(2), normals)
    assert isometry_error(forced, points(2)) == pytest.approx(BAD[angles], abs=1e-3)
    largest = max((failure.size for failure in forced.failures()), key=float)
    exact = 6 if len(angles) == 3 else 2 * sp.sin(sp.pi / 9)
    assert sign(largest - exact) == 0
    assert forced.crease_failures() and not any(crossing.holds for crossing in crossings(normals))


def test_the_error_says_which_condition_fails_and_by_how_much():
    with pytest.raises(NotFlatFoldable, match="cross at 90°.* 80°, not 90°; it is off by -10°"):
        fold_pencil(degrees(0, 80))
    with pytest.raises(NotFlatFoldable, match="3 creases .* an odd number"):
        fold_pencil(degrees(0, 60, 120))
    with pytest.raises(NotFlatFoldable, match="Kawasaki's condition.* off by -10°"):
        fold_pencil(degrees(0, 30, 50, 100))
    with pytest.raises(NotFlatFoldable, match=r"creases \(0, 1\) .* not perpendicular"):
        require_foldable([[1, 0], [1, 1]])
    with pytest.raises(NotFlatFoldable, match="odd in number"):
        require_foldable([[1, 0], [0, 1], [1, 1]])
    with pytest.raises(NotFlatFoldable, match="Kawasaki"):
        require_foldable([[1, 0], [0, 1], [1, 1], [1, 2]])


@pytest.mark.parametrize(
    ("angles", "text"),
    [([], "empty"), ([0.5], "0.5"), ([sp.Symbol("t")], "radians"), ([0, sp.pi], "twice"), ([sp.I], "radians")],
)
def test_bad_angles_are_refused(angles, text):
    with pytest.raises(ValueError, match=text):
        kawasaki(angles)


def test_completion():
    assert kawasaki_completion(degrees(0, 30, 50)) == [sp.rad(110)]
    assert kawasaki_completion(degrees(0, 60, 120)) == degrees(30, 90, 150)  # one in each sector
    assert kawasaki_completion([sp.pi / 7]) == [sp.pi / 7 + sp.pi / 2]
    with pytest.raises(ValueError, match="odd number"):
        kawasaki_completion(degrees(0, 90))
    source = random.Random(0)
    for count in (1, 3, 5):
        for _ in range(3):
            angles = [sp.rad(a) for a in source.sample(range(180), count)]
            completions = kawasaki_completion(angles)
            assert 1 <= len(completions) <= count and len(completions) % 2 == 1
            for last in completions:
                assert kawasaki([*angles, last]).holds
                assert not kawasaki([*angles, last + sp.rad(sp.Rational(1, 7))]).holds


def test_the_condition_does_not_depend_on_where_the_circle_is_cut():
    source = random.Random(1)
    for _ in range(20):
        angles = source.sample(range(180), 4)
        shift, flips = source.randint(0, 360), [source.choice([0, 180]) for _ in angles]
        moved = kawasaki(degrees(*(a + shift + f for a, f in zip(angles, flips, strict=True))))
        still = kawasaki(degrees(*angles))
        assert moved.holds == still.holds
        assert moved.alternating_sum in (still.alternating_sum, sp.pi - still.alternating_sum)


# ---------------------------------------------------------------- one hidden layer, both directions


@pytest.mark.parametrize("m", [1, 2, 3, 4, 6])
def test_theorem_4_for_random_pencils_of_rational_normals(m):
    """The angle conditions (a), (b), decided without angles, against every region's Jacobian."""
    source, verdicts = random.Random(m), []
    for trial in range(10):
        normals = [sp.Matrix([source.randint(-4, 4), source.randint(1, 4)]) for _ in range(max(m - 1, 1))]
        if m > 1:
            normals.append(last_mirror(normals) if trial % 3 else sp.Matrix([source.randint(5, 9), 1]))
            normals[-1] *= 1 if normals[-1][1] > 0 else -1  # so that some point is below every crease
        if not distinct(normals):
            continue
        (holds,) = [c.holds for c in crossings(normals)] or [True]
        forced = fold(rotation(source, 2), normals)
        assert (forced.failures() == []) == holds == (forced.crease_failures() == [])
        assert (isometry_error(forced, points(2)) < 1e-12) == holds
        verdicts.append(holds)
    assert set(verdicts) == ({True} if m == 1 else {False} if m == 3 else {True, False})


@pytest.mark.parametrize("n", [1, 2, 3])
def test_theorem_4_the_iff_for_any_directions(n):
    """Orthogonal in every region iff in one region and every crossing is a mirror."""
    source = random.Random(n)
    for trial in range(6):
        axes = rotation(source, n)
        normals = [axes[:, source.randrange(n)] * source.choice([1, -2, 3]) for _ in range(3)]
        offsets = [sp.Rational(k * 5 + source.randint(1, 4), 7) for k in (-1, 0, 1)]
        good = fold(rotation(source, n), normals, offsets, start=[sp.Rational(1, 97)] * n)
        parts = [list(row) for row in good.D.T.tolist()]
        if trial % 3:
            parts[source.randrange(3)][source.randrange(n)] += sp.Rational(1, 50)
        built = FoldedMap.build(good.M, normals, offsets, parts)
        regions_fail, creases_fail = built.failures() != [], built.crease_failures() != []
        assert regions_fail == creases_fail == bool(trial % 3) == (not built.is_orthogonal)
        assert (isometry_error(built, points(n)) > 1e-9) == regions_fail
    if n > 1:  # a right bend and a wrong M: one region must be orthogonal as well
        M = sp.diag(1, *[2] * (n - 1))
        wrong = FoldedMap.build(M, [[1] + [0] * (n - 1)], None, [[-2] + [0] * (n - 1)])
        assert wrong.crease_failures() == [] and len(wrong.failures()) == 2


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_perpendicular_creases_fold_and_have_the_normal_form(n):
    source = random.Random(10 + n)
    axes, Q = rotation(source, n), rotation(source, n)
    normals = [axes[:, k % n] * source.choice([1, -2, sp.Rational(1, 3)]) for k in range(n + 2)]
    offsets = [sp.Rational(3 * k - 4, 5) * n for k in range(n + 2)]
    folded = fold(Q, normals, offsets, start=[sp.Rational(1, 89)] * n)
    assert folded.failures() == [] and all(c.holds for c in crossings(normals, offsets))
    form = normal_form(folded)
    assert form.Q.T * form.Q == sp.eye(n) and form.U.T * form.U == sp.eye(n)
    assert all(abs(slope) == 1 for psi in form.psi for slope in psi.slopes)
    assert sum(len(psi.kinks) for psi in form.psi) == n + 2
    for _ in range(10):
        x = 5 * matrix(source, n, 1)
        assert sp.simplify(form(x) - folded(x)) == sp.zeros(n, 1)
    x = points(n)
    z = x @ torch.tensor(form.U.tolist(), dtype=torch.float64)
    z = torch.stack([psi(z[:, k]) for k, psi in enumerate(form.psi)], -1)
    frame = torch.tensor((form.Q * form.U).tolist(), dtype=torch.float64)
    c = torch.tensor([float(v) for v in form.c], dtype=torch.float64)
    torch.testing.assert_close(z @ frame.T + c, folded.torch(x), rtol=0, atol=1e-11)
    if n > 1:  # tilt one crease: (a) fails, the map fails, the normal form is refused
        normals[0] = normals[0] + axes[:, 1] / 9
        tilted = fold(Q, normals, offsets, start=[sp.Rational(1, 89)] * n)
        assert tilted.failures() and not all(c.holds for c in crossings(normals, offsets))
        with pytest.raises(NotFlatFoldable, match="perpendicular"):
            normal_form(tilted)


def test_crossings_list_creases_by_angle_and_skip_parallel_ones():
    (crossing,) = crossings([[0, 1], [1, 0], [1, 1], [-1, 1]])
    assert crossing.creases == (0, 2, 1, 3) and crossing.holds
    assert crossings([[1, 2], [2, 4]], [0, 1]) == []


def test_a_pencil_times_lines_in_space():
    """n = 3: a Kawasaki pencil of planes through an axis, and planes across that axis."""
    normals = [[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, -1, 0], [0, 0, 1], [0, 0, 2]]
    folded = fold(sp.eye(3), normals, [0, 0, 0, 0, 1, 5], start=["1/3", "1/7", "1/11"])
    assert folded.failures() == []
    found = crossings(normals, [0, 0, 0, 0, 1, 5])
    assert sorted(len(c.creases) for c in found) == [2] * 8 + [4] and all(c.holds for c in found)
    for removed in range(4):  # three planes through the axis: odd
        rest = [a for k, a in enumerate(normals) if k != removed]
        assert fold(sp.eye(3), rest, [0, 0, 0, 1, 5], start=["1/3", "1/7", "1/11"]).failures()


def test_in_the_plane_a_layer_folds_a_grid_or_one_pencil():
    """A crease beside a pencil of four or more spoils it, wherever it is."""
    source = random.Random(4)
    pencil = [[1, 0], [1, 1], [0, 1], [1, -1]]
    for extra in ([1, 0], [1, 1], [2, 1], [source.randint(-5, 5), 3]):
        normals, offsets = [*pencil, extra], [0, 0, 0, 0, 1]
        assert fold(sp.eye(2), normals, offsets, start=["1/97", "1/89"]).failures()
        assert not all(c.holds for c in crossings(normals, offsets))
    # A pencil around each corner of a square, lines shared: still a crossing that is not a mirror.
    square = [([1, 0], 0), ([0, 1], 0), ([1, -1], 0), ([1, 1], 0), ([1, 1], -2), ([1, 0], -1), ([0, 1], -1)]
    assert not all(c.holds for c in crossings([a for a, _ in square], [b for _, b in square]))


def test_parallel_creases_alternate():
    for count in (2, 3, 4):
        folded = fold(sp.eye(2), [[3, 4]] * count, list(range(1, count + 1)))
        for left, right in zip(range(count), range(1, count), strict=False):
            assert folded.D[:, left] == -folded.D[:, right]
        assert folded.failures() == []
        same = FoldedMap.build(sp.eye(2), [[3, 4]] * count, range(1, count + 1), [folded.D[:, 0]] * count)
        assert same.failures()


def test_three_slopes_can_fold_if_two_units_share_the_work():
    """The scalar theorem is about one unit a coordinate: slopes 0, 1, 2 fail there, and work as a pair."""
    stairs = PiecewiseAffine("stairs", [0, 2], [0, 1, 2])
    pair = hinged_layer([[1], [1]], [0, -1], B=[[1], [-1]], alpha=-1, beta=2, activation=stairs)
    assert FoldedMap.of(pair).failures() == []
    alone = hinged_layer([[1]], alpha=-1, beta=2, activation=stairs)
    assert FoldedMap.of(alone).failures()


def test_coincident_hinges_are_one_crease():
    # relu(z) and relu(-z) on one crease: v relu(z) + w relu(-z) bends by v + w.
    split = FoldedMap.build(sp.eye(2), [[1, 0], [-2, 0]], [1, -2], [[-3, 0], ["1/2", 0]])
    assert split.merged().D == sp.Matrix([-2, 0]) and split.merged().G.rows == 1
    assert split.merged().M == sp.Matrix([[0, 0], [0, 1]])
    assert split.failures()  # the bend is a mirror's, the Jacobian is not
    assert FoldedMap.build(2 * sp.eye(1), [[1], [-1]], None, [[-3], [1]]).failures() == []
    cancelled = FoldedMap.build(sp.eye(2), [[1, 0], [1, 0], [0, 0]], [1, 1, 5], [[1, 7], [-1, -7], [1, 1]])
    assert cancelled.merged().G.rows == 0 and cancelled.failures() == []
    x = points(2)
    torch.testing.assert_close(cancelled.merged().torch(x), cancelled.torch(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(split.merged().torch(x), split.torch(x), rtol=0, atol=1e-12)


def test_M_need_not_be_orthogonal():
    """M is a Jacobian only where every relu is off, and there may be no such place."""
    folded = FoldedMap.build([[3]], [[1], [-1]], [0, -1], [[-2], [2]])
    assert folded.failures() != []
    folded = FoldedMap.build([[3]], [[1], [-1]], [1, 0], [[-2], [2]])
    assert folded.failures() == []
    assert from_modified_feedforward(sp.eye(2), sp.eye(2)).M == -sp.eye(2)
    slopes = FoldedMap.build(sp.zeros(2, 2), [[1, 0], [0, 1]], None, [[1, 0], [0, 1]], [(-1, 1), (-1, 1)])
    assert slopes.failures() == []


def test_failures_name_the_place():
    failure = fold(sp.eye(2), [[1, 0], [1, 1]]).failures()[0]
    assert "region with signs" in str(failure) and failure.crease is None
    assert isinstance(failure.size, sp.Expr) and not failure.size.has(sp.Float)
    crease = fold(sp.eye(2), [[1, 0], [1, 1]]).crease_failures()[0]
    assert f"crease {crease.crease}" in str(crease) and crease.signs[crease.crease] == 0


def test_fold_directions_for_the_modified_resnet():
    A = rotation(random.Random(2), 3)[:2, :]
    directions = fold_directions(sp.eye(3), [A[0, :].T, A[1, :].T], [1, 2])
    assert directions == [-2 * A[0, :].T, -2 * A[1, :].T]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: fold([[1, 1], [0, 1]], [[1, 0]]), "Q is not orthogonal"),
        (lambda: fold(sp.eye(2), [[1, 0], [-1, 0]], [0, 1]), "negative side"),
        (lambda: fold(sp.eye(2), [[1, 0]], [0], start=[0, 1]), "lies on a crease"),
        (lambda: fold(sp.eye(2), [[1, 0], [2, 0]], [0, 0], start=[1, 1]), "twice"),
        (lambda: FoldedMap.build(sp.eye(2), [[1, 0]], [0, 0], [[1, 0]]), "give as many of each"),
        (lambda: FoldedMap.build(sp.eye(2), [[1, 0]], [0], [[0.5, 0]]), "directions holds 0.5"),
        (lambda: from_fold([[1, 0]]).torch(torch.zeros(3)), "last axis"),
        (lambda: normal_form(FoldedMap.build(2 * sp.eye(2), [[1, 0]], None, [[1, 0]])), "does not fold"),
        (lambda: normal_form(FoldedMap.build(sp.eye(2), [[1, 0]], None, [[1, 0]])), "not a mirror"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(make, text):
    with pytest.raises(ValueError, match=text):
        make()


# ---------------------------------------------------------------- one family: folds


@pytest.mark.parametrize("name", ["abs", "maxmin", "householder", "zigzag"])
@pytest.mark.parametrize("dim", [2, 4])
def test_orthogonal_activations_are_folds(name, dim):
    folded = from_activation(name, dim)
    assert folded.failures() == []
    x = points(dim)
    torch.testing.assert_close(folded.torch(x), get(name)(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(folded.torch(x.float()), get(name)(x.float()), rtol=0, atol=1e-4)
    form = normal_form(folded)
    sample = sp.Matrix([sp.Rational(7 * k + 3, 4) * (-1) ** k for k in range(dim)])
    assert all(sign(entry) == 0 for entry in form(sample) - folded(sample))


def test_relu_is_no_fold():
    assert from_activation("relu").failures() and from_activation("leaky_relu").failures()


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_two_modified_layers_are_folds(n, dtype):
    source = random.Random(n)
    A, B, b = rotation(source, n), rotation(source, n), matrix(source, n, 1)
    tensors = [torch.tensor(m.tolist(), dtype=dtype) for m in (A, B, b)]
    x = points(n, dtype=dtype)
    one, two = from_fold(A[: n - 1, :], b[: n - 1, :]), from_modified_feedforward(A, B, b)
    for folded, layer in (
        (one, Fold(n, n - 1, dtype=dtype)),
        (two, ModifiedFeedForward(n, dtype=dtype)),
    ):
        rows = folded.G.rows
        layer.set_weights(A=tensors[0][:rows], b=tensors[2][:rows, 0])
        if folded is two:
            layer.set_weights(B=tensors[1])
        torch.testing.assert_close(folded.torch(x), layer(x).detach(), rtol=1e-4, atol=10 * TOLERANCE[dtype])
        assert folded.failures() == [] and isometry_error(folded, x) < TOLERANCE[dtype]
        assert normal_form(folded).Q.T * normal_form(folded).Q == sp.eye(n)
        near = folded.torch(x) - folded.torch(x.flip(0))
        assert (near.norm(dim=1) <= (x - x.flip(0)).norm(dim=1) + TOLERANCE[dtype] * 10).all()


def test_patches_to_draw():
    folded = fold_pencil(degrees(0, 45, 90, 135))
    patches = folded.patches()
    assert len(patches) == 8
    for patch in patches:  # each image is congruent to its polygon, and neighbours are turned over
        sides = np.linalg.norm(np.diff(patch.polygon, axis=0), axis=1)
        np.testing.assert_allclose(np.linalg.norm(np.diff(patch.image, axis=0), axis=1), sides, atol=1e-12)
        points_in = torch.tensor(patch.polygon)
        torch.testing.assert_close(folded.torch(points_in), torch.tensor(patch.image), rtol=0, atol=1e-12)
    assert sum(patch.orientation for patch in patches) == 0
