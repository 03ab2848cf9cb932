"""Starts that persist, the persistent subspace, and the bounds that it sets the gradient."""

import pytest
import torch

from pso_lib.analysis.persistence import (
    coherence,
    gradient_bounds,
    layer_jacobians,
    persistent_dimension,
    persistent_subspace,
    separation,
)
from pso_lib.nn import init
from pso_lib.nn.activations import PiecewiseAffine
from pso_lib.nn.init import seeded
from pso_lib.nn.layers import Fold, Residual
from pso_lib.nn.networks import DeepNetwork, deep_network, plain_network

N = 16


def point(seed: int = 1, n: int = N) -> torch.Tensor:
    return torch.randn(n, generator=seeded(seed), dtype=torch.float64)


def started(start, depth=50, seed=0, kind="feedforward", n=N, beta=None, outer="free", **options) -> DeepNetwork:
    g = seeded(seed)
    layer_options = {} if beta is None else {"beta": beta}
    network = deep_network(depth, n, layer=kind, outer=outer, generator=g, dtype=torch.float64, **layer_options)
    start(network, generator=g, **options)
    return network


def active(network, x, isometric: int) -> int:
    """Units of the shared part that fire at x."""
    return int((network.layers[0].preactivation(x)[:isometric] > 0).sum())


# The starts


@pytest.mark.parametrize("depth", [5, 50, 200])
def test_shared_type_a_carries_its_active_units(depth):
    network, x = started(init.shared_orthogonal_, depth), point()
    found = persistent_subspace(network, x)
    assert found.dimension == active(network, x, N)
    Q = network.layers[0].A.detach()
    declared = Q[network.layers[0].preactivation(x) > 0].T  # the rows q_i with q_i x > 0
    torch.testing.assert_close(found.basis @ found.basis.T, declared @ declared.T, rtol=0, atol=1e-10)


def test_shared_type_a_is_a_projection():
    layer = started(init.shared_orthogonal_, 1).layers[0]
    x = torch.randn(50, N, generator=seeded(2), dtype=torch.float64)
    torch.testing.assert_close(layer(layer(x)), layer(x), rtol=0, atol=1e-13)
    # the metric projection onto {x : Qx >= 0}: no point of the cone is nearer
    cone = torch.randn(500, N, generator=seeded(3), dtype=torch.float64).abs() @ layer.A
    assert ((x - layer(x)).norm(dim=1) <= torch.cdist(x, cone).amin(1) + 1e-12).all()


@pytest.mark.slow
@pytest.mark.parametrize("depth", [5, 50, 200])
@pytest.mark.parametrize("start", [init.block_, init.projection_])
@pytest.mark.parametrize("k", [1, 5, N - 1])
def test_type_a_block_and_projection(start, k, depth):
    network, x = started(start, depth, k=k), point()
    assert persistent_dimension(network, x[None]).item() == active(network, x, N - k)


@pytest.mark.slow
@pytest.mark.parametrize("start", [init.block_, init.projection_])
@pytest.mark.parametrize("k", [0, 1, 5, N - 1])
@pytest.mark.parametrize("blocks, beta", [("orthogonal", -1.0), ("orthogonal", -2.0), ("he", 1.0)])
def test_type_b_block_and_projection(start, k, blocks, beta):
    network = started(start, 200, kind="residual", beta=beta, k=k, blocks=blocks)
    expected = N if k == 0 or beta == -2.0 else N - k
    found = persistent_subspace(network, point()).dimension
    # at beta = -1 the branch projects: directions whose units never fire persist as well
    assert found == expected if beta != -1.0 else N - k <= found < N or k == 0


@pytest.mark.parametrize("k", [0, 5])
def test_the_declared_subspace_is_isometric_layer_by_layer(k):
    """Also where the complement explodes: type B, He blocks, beta = +1."""
    network = started(init.projection_, 200, kind="residual", beta=1.0, k=k)
    found = persistent_subspace(network, point())
    J = layer_jacobians(network, point()[None])[:, 0]
    for layer in range(200):
        V = found.carried[layer]
        assert ((J[layer] @ V).T @ (J[layer] @ V) - torch.eye(V.shape[1], dtype=torch.float64)).abs().max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("depth", [5, 50, 200])
@pytest.mark.parametrize(
    "kind, start, options",
    [
        ("feedforward", init.shared_orthogonal_, {}),
        ("residual", init.shared_orthogonal_, {"beta": -2.0}),
        ("residual", init.shared_orthogonal_, {"beta": -1.0}),
        ("feedforward", init.block_, {"k": 5, "blocks": "orthogonal"}),
        ("feedforward", init.projection_, {"k": 5, "blocks": "orthogonal"}),
        ("residual", init.block_, {"k": 5, "blocks": "orthogonal", "beta": -1.0}),
        ("residual", init.projection_, {"k": 5, "blocks": "orthogonal", "beta": -2.0}),
    ],
)
def test_non_expansive_starts_are_isometric_on_their_subspace(depth, kind, start, options):
    network = started(start, depth, kind=kind, **options)
    J = layer_jacobians(network, point()[None])[:, 0]
    G = torch.eye(N, dtype=torch.float64)
    V = persistent_subspace(network, point()).basis
    for step in J:
        G = step @ G
        assert torch.linalg.matrix_norm(step, 2) < 1 + 1e-12
        assert (G.T @ (G @ V) - V).abs().max() < 1e-12
    ones = int((torch.linalg.svdvals(G) > 1 - 1e-9).sum())
    assert V.shape[1] == ones  # all |J| <= 1: the dimension counts the singular values 1


def test_shared_residual_limits():
    x = point()
    assert persistent_dimension(started(init.shared_orthogonal_, kind="residual", beta=-2.0), x[None]).item() == N
    network = started(init.shared_orthogonal_, kind="residual", beta=-1.0)
    assert persistent_dimension(network, x[None]).item() == N - active(network, x, N)


def test_looks_linear_is_an_instance():
    for depth in (1, 50, 200):
        network = started(init.looks_linear_, depth, outer="identity")
        assert persistent_dimension(network, point()[None]).item() == N // 2
    states = network.states(point()[None])
    z = [state[:, : N // 2] - state[:, N // 2 :] for state in states[1:]]  # (z+, z-) stands for z
    O = network.layers[1].A.detach()[: N // 2, : N // 2]
    torch.testing.assert_close(z[1], z[0] @ O.T)


@pytest.mark.parametrize("start", ["he", "orthogonal"])
def test_ordinary_starts_have_no_persistent_subspace(start):
    network = plain_network(50, 64, start=start, generator=seeded(), dtype=torch.float64)
    x = torch.randn(3, 64, generator=seeded(1), dtype=torch.float64)
    assert persistent_dimension(network, x).tolist() == [0, 0, 0]


def test_limits_of_k():
    shared, block = started(init.shared_orthogonal_), started(init.block_, k=0)
    for a, b in zip(shared.parameters(), block.parameters(), strict=True):
        assert torch.equal(a, b)
    ordinary = started(init.block_, k=N)
    assert not torch.equal(ordinary.layers[0].A, ordinary.layers[1].A)
    assert persistent_dimension(ordinary, point()[None]).item() == 0


@pytest.mark.parametrize("start", [init.shared_orthogonal_, init.block_, init.projection_])
def test_the_generator_decides(start):
    options = {} if start is init.shared_orthogonal_ else {"k": 4}
    first, again, other = (started(start, seed=s, **options).layers[0].A for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda: init.block_(deep_network(2, 4), 5), ["k", "0 to the width 4", "5"]),
        (lambda: init.block_(deep_network(2, 4), 1.0), ["1.0"]),
        (lambda: init.block_(deep_network(2, 4), 2, blocks="hee"), ["Did you mean 'he'"]),
        (lambda: init.shared_orthogonal_(plain_network(2, 4)), ['outer="free"']),
        (lambda: init.block_(deep_network(2, 4, outer="tied"), 2), ["tied", "k=2"]),
        (lambda: init.shared_orthogonal_(deep_network(2, 4, hidden=3)), ["hidden == dim == 4"]),
        (lambda: init.looks_linear_(plain_network(2, 5)), ["even"]),
        (lambda: init.looks_linear_(deep_network(2, 4, layer="residual")), ["type A"]),
        (lambda: persistent_subspace(deep_network(2, 4), torch.ones(2, 4)), ["(2, 4)", "one input"]),
        (lambda: separation(deep_network(2, 4), torch.ones(1, 4)), ["N >= 2"]),
    ],
)
def test_bad_input_names_the_remedy(call, parts):
    with pytest.raises(ValueError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


def test_dimensions_are_those_of_the_first_layers_alone():
    network = deep_network(6, N, outer="tied", orthogonal="start", generator=seeded(), dtype=torch.float64)
    found = persistent_subspace(network, point())
    alone = [persistent_subspace(DeepNetwork(network.layers[:depth]), point()).dimension for depth in range(1, 7)]
    assert found.dimensions == (N, *alone) and N > alone[0] > alone[-1] == found.dimension


def test_the_dimension_is_at_least_the_width_less_what_each_layer_gives_up():
    layers = [Residual(N, 2, beta=-1.0, outer="tied", orthogonal="start", generator=seeded(s)) for s in range(12)]
    network, x = DeepNetwork(layers).double(), point()
    for layer in network.layers:  # float64 rows, so that the residual is a projection
        layer.set_weights(A=torch.linalg.qr(layer.A.detach().T)[0].T)
    given_up = (torch.linalg.svdvals(layer_jacobians(network, x[None])[:, 0]) < 0.5).sum(1)
    found = persistent_subspace(network, x).dimensions
    for depth in range(13):
        assert found[depth] == max(0, N - int(given_up[:depth].sum()))  # independent draws: with equality


# The bounds on the gradient


@pytest.mark.parametrize(
    "kind, beta, blocks", [("feedforward", None, "he"), ("residual", -1.0, "orthogonal"), ("residual", 1.0, "he")]
)
def test_gradient_bounds(kind, beta, blocks):
    network = started(init.projection_, 20, kind=kind, beta=beta, k=5, blocks=blocks)
    x = torch.randn(5, N, generator=seeded(4), dtype=torch.float64)
    bounds = gradient_bounds(network, x, torch.randn(5, N, generator=seeded(5), dtype=torch.float64))
    assert (bounds.lower > 0.1).all()
    assert (bounds.lower <= bounds.value * (1 + 1e-9)).all()
    assert (bounds.value[bounds.no_layer_stretches] <= bounds.upper[bounds.no_layer_stretches] * (1 + 1e-9)).all()
    assert bounds.no_layer_stretches.all() == (blocks == "orthogonal")


def test_the_upper_bound_needs_its_hypothesis():
    network = started(init.projection_, 50, kind="residual", beta=1.0, k=5)
    x = torch.randn(3, N, generator=seeded(4), dtype=torch.float64)
    bounds = gradient_bounds(network, x, torch.randn(3, N, generator=seeded(5), dtype=torch.float64))
    assert not bounds.no_layer_stretches.any() and (bounds.value > 10 * bounds.upper).all()


def test_bounds_are_tight_for_folds():
    network = deep_network(20, N, layer="fold", generator=seeded(), dtype=torch.float64)
    x, g = (torch.randn(3, N, generator=seeded(s), dtype=torch.float64) for s in (6, 7))
    bounds = gradient_bounds(network, x, g)
    torch.testing.assert_close(bounds.lower, bounds.upper)
    torch.testing.assert_close(bounds.value, bounds.upper)


def test_every_layer_isometric_somewhere_and_nothing_persists():
    """Two layers that each keep a line, not the same one."""
    first, second = (Fold(2, orthogonal="no", dtype=torch.float64) for _ in "ab")
    first.set_weights(A=torch.tensor([[1.0, 0], [0, 0]]) / 2**0.5)  # x_1 -> 0 for x_1 > 0, keeps x_2
    second.set_weights(A=torch.tensor([[0.0, 0], [0, 1]]) / 2**0.5)
    x = torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert persistent_subspace(DeepNetwork([first]), x).dimension == 1
    assert persistent_subspace(DeepNetwork([second]), x).dimension == 1
    assert persistent_subspace(DeepNetwork([first, second]), x).dimension == 0


@pytest.mark.parametrize("gain, stretches", [(1.2, True), (1.02, False)])
def test_stretches_compound_over_the_layers(gain, stretches):
    """Ten layers of |J| = gain: 6.2 together, or 1.22, which a tolerance of 0.3 allows."""
    network = deep_network(10, 4, outer="free", generator=seeded(), dtype=torch.float64)
    for layer in network.layers:
        layer.set_weights(A=torch.eye(4), B=gain * torch.eye(4))
    x, g = torch.ones(1, 4, dtype=torch.float64), torch.randn(1, 4, generator=seeded(1), dtype=torch.float64)
    bounds = gradient_bounds(network, x, g, tolerance=0.3)
    assert bounds.no_layer_stretches.item() != stretches
    assert bounds.value.item() == pytest.approx(gain**10 * g.norm().item())
    assert (bounds.value <= 1.3 * bounds.upper).item() != stretches


def test_a_point_on_a_kink_has_no_persistent_subspace():
    """Two folds of the plane, at (1, 0): on the crease of the first unit; and beside it."""
    network = deep_network(2, 2, layer="fold", generator=seeded(), dtype=torch.float64)
    for layer in network.layers:
        layer.set_weights(A=torch.tensor([[0.0, 1], [1, 0]]) * layer.A.detach().norm(dim=1).max())
    x = torch.tensor([[1.0, 0], [1, 0.5]], dtype=torch.float64)
    for call in (
        persistent_dimension,
        lambda *a: persistent_subspace(a[0], a[1][0]),
        lambda n, x: gradient_bounds(n, x, x),
    ):
        with pytest.raises(ValueError, match=r"1 of \d inputs lie on a kink"):
            call(network, x)
    found, mask = persistent_dimension(network, x, on_kink="flag")
    assert mask.tolist() == [True, False] and found[1] == 2
    assert persistent_subspace(network, x[0], on_kink="ignore").dimension == found[0]
    assert persistent_subspace(network, x[1]).dimension == 2


# Between inputs


def test_separation_and_coherence_tell_shared_from_independent_folds():
    x = torch.randn(12, 64, generator=seeded(8), dtype=torch.float64)
    independent = deep_network(100, 64, layer="fold", generator=seeded(), dtype=torch.float64)
    shared = started(init.shared_orthogonal_, 100, n=64, kind="residual", beta=-2.0)
    assert separation(independent, x)[-1] < 0.2 < 0.5 < separation(shared, x)[-1]
    projected = started(init.projection_, 100, n=64, kind="residual", beta=-1.0, k=8, blocks="orthogonal")
    assert coherence(projected, x)[-1] > 0.9 and coherence(independent, x)[-1].abs() < 0.1


def isometric_on_carried(n: int, d: int, depth: int, complement: float, g: torch.Generator):
    """Layer Jacobians (depth, n, n), isometric on carried subspaces of dimension d and anything elsewhere; V and U."""
    V = carried = init.haar(n, d, g)
    J = []
    for _ in range(depth):
        after = init.haar(n, d, g)
        rest = torch.eye(n, dtype=torch.float64) - carried @ carried.T
        J.append(after @ carried.T + init.gaussian(n, n, complement / n**0.5, g) @ rest)
        carried = after
    return torch.stack(J), V, carried


@pytest.mark.parametrize("complement", [0.0, 0.3, 3.0])
def test_the_lower_bound_needs_no_strong_subspace(complement):
    """At every layer, whatever the layers do off V; and with V in place of U it is false."""
    g, broken = seeded(), 0
    for _ in range(200):
        n, d, depth = (int(torch.randint(*bounds, (), generator=g)) for bounds in ((3, 12), (1, 3), (1, 6)))
        J, V, U = isometric_on_carried(n, d, depth, complement, g)
        gradient = init.gaussian(n, 1, 1.0, g)[:, 0]
        floor, wrong_floor = (U.T @ gradient).norm(), (V.T @ gradient).norm()
        for step in J.flip(0):
            gradient = step.T @ gradient
            assert gradient.norm() >= floor * (1 - 1e-12)
        broken += bool(gradient.norm() < wrong_floor)
        if complement == 0.0:
            torch.testing.assert_close(gradient.norm(), floor)  # the bound is attained
    assert broken > 0 or complement > 1


def test_an_isometric_subspace_need_not_be_strong():
    """diag(2, 1/2) keeps the length of (1, 2) by luck; where nothing stretches, luck is excluded."""
    M, v = torch.diag(torch.tensor([2.0, 0.5])), torch.tensor([1.0, 2.0])
    assert (M @ v).norm() == v.norm() and not torch.equal(M.T @ (M @ v), v)
    g = seeded(1)
    for _ in range(50):  # largest singular value 1: kept lengths are eigenvectors of M^T M
        left, right = init.haar(6, 6, g), init.haar(6, 6, g)
        s = torch.rand(6, generator=g, dtype=torch.float64)
        s[:3] = 1.0
        M = left * s @ right
        v = right[:3].T @ init.gaussian(3, 1, 1.0, g)[:, 0]
        torch.testing.assert_close((M @ v).norm(), v.norm())
        torch.testing.assert_close(M.T @ (M @ v), v)
        other = v + 0.1 * right[4]
        assert (M @ other).norm() < other.norm()


# What a tolerance means


def rational_network(seed: int, depth: int = 4):
    """Layers relu(A x) of width 4 with exact entries: mirrors, turns by (3/5, 4/5), one gain of 10^4 or 1/1000."""
    import sympy as sp

    g, matrices = seeded(seed), []
    turn = sp.diag(sp.Matrix([[3, -4], [4, 3]]) / 5, 1, 1)
    for place in range(depth):
        order = torch.randperm(4, generator=g).tolist()
        P = sp.Matrix(4, 4, lambda i, j, order=order: int(order[i] == j))
        sizes = [sp.Integer(1)] * 3 + [(sp.Integer(1), sp.Integer(10) ** 4, sp.Rational(1, 1000))[place % 3]]
        matrices.append(sp.diag(*sizes) * P * (turn if torch.rand((), generator=g) < 0.5 else sp.eye(4)))
    layers = [plain_network(1, 4, dtype=torch.float64).layers[0] for _ in matrices]
    for layer, A in zip(layers, matrices, strict=True):
        layer.set_weights(A=torch.tensor(A.tolist(), dtype=torch.float64))
    return DeepNetwork(layers), matrices


@pytest.mark.parametrize("seed", range(30))
def test_exact_rationals_agree(seed):
    """The null space of all G_l^T G_l - I, in fractions: also with gains of 10^4, which hide nothing."""
    import sympy as sp

    network, matrices = rational_network(seed)
    h = sp.Matrix([3, 5, 7, 11]) * sp.Rational(1, 8)
    x, G, conditions = torch.tensor([float(v) for v in h], dtype=torch.float64), sp.eye(4), []
    for A in matrices:
        z = A * h
        J = sp.diag(*[int(bool(v > 0)) for v in z]) * A
        h, G = J * h, J * G
        conditions.append(G.T * G - sp.eye(4))
    exact = 4 - sp.Matrix.vstack(*conditions).rank()
    assert persistent_subspace(network, x).dimension == exact


def gains(*rows) -> DeepNetwork:
    """Layers that multiply coordinates, one row of gains a layer."""
    layers = []
    for row in rows:
        layer = plain_network(1, len(row), dtype=torch.float64).layers[0]
        layer.set_weights(A=torch.diag(torch.tensor(row, dtype=torch.float64)))
        layers.append(layer)
    return DeepNetwork(layers)


def test_one_large_gain_makes_no_dead_direction_persistent():
    network = gains([1e4, 0.0, 1.0, 0.5])
    for tolerance in (1e-8, 0.1):
        assert persistent_subspace(network, torch.ones(4, dtype=torch.float64), tolerance=tolerance).dimension == 1


def test_a_tolerance_holds_for_all_layers_together():
    """1.08 is within a tenth of 1, its square is not; a gain and its inverse cancel, but not for the layer between."""
    network, x = gains([1.04, 1.08, 3.0, 0.97], [1.04, 1.08, 1 / 3, 0.97]), torch.ones(4, dtype=torch.float64)
    found = persistent_subspace(network, x, tolerance=0.1)
    assert found.dimensions == (4, 3, 2)
    assert persistent_subspace(network, x, tolerance=0.01).dimension == 0


@pytest.mark.parametrize("tolerance", [1e-8, 1e-3, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_the_subspace_satisfies_the_definition_at_its_tolerance(tolerance, seed):
    """Singular values of each G_l on V, and each layer's condition, on networks a little off a start that persists."""
    network, g = started(init.shared_orthogonal_, 12, seed=seed), seeded(seed + 100)
    for layer in network.layers:
        for weight in (layer.A, layer.B):
            weight.data += 0.003 * torch.randn(N, N, generator=g, dtype=torch.float64)
    x = point(seed + 7)
    found = persistent_subspace(network, x, tolerance=tolerance)
    assert found.dimension > 0 or tolerance < 0.1
    G = torch.eye(N, dtype=torch.float64)
    for J, U in zip(layer_jacobians(network, x[None])[:, 0], found.carried, strict=False):
        if U.shape[1] == 0:  # nothing is claimed, and older torch has no norm of nothing
            break
        R = torch.linalg.svd(G)[0][:, : torch.linalg.matrix_rank(G)]
        assert (
            torch.linalg.matrix_norm(R.T @ (J.T @ J - torch.eye(N, dtype=torch.float64)) @ U, 2)
            <= (1 + tolerance * 1.001) ** 2 - 1
        )
        G = J @ G
        s = torch.linalg.svdvals(G @ found.basis)
        assert ((s - 1).abs() <= tolerance * 1.001).all()


def test_float32_keeps_what_float64_keeps():
    network, x = started(init.shared_orthogonal_, 50), point()
    exact = persistent_subspace(network, x).dimension
    assert persistent_subspace(network.float(), x.float()).dimension == exact > 0


@pytest.mark.parametrize(
    "tolerance, dtype, parts",
    [
        (float("nan"), torch.float64, ["finite number", "nan"]),
        (0, torch.float64, ["above 0"]),
        (True, torch.float64, ["True"]),
        ("0.1", torch.float64, ["'0.1'"]),
        (1.5, torch.float64, ["below 1", "1.5"]),
        (1e-8, torch.float32, ["1e-08", "float64"]),
        (None, torch.bfloat16, ["bfloat16", "double()"]),
    ],
)
def test_a_tolerance_that_says_nothing_is_refused(tolerance, dtype, parts):
    network = started(init.shared_orthogonal_, 2).to(dtype)
    with pytest.raises(ValueError) as caught:
        persistent_subspace(network, point().to(dtype), tolerance=tolerance)
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_measures_between_inputs_know_no_scale(size):
    """Far below and above where float32 can be squared."""
    network = gains([1.0, 0.5, 0.25, 0.1]).float()
    x = torch.rand(5, 4, generator=seeded(3)) + 0.1
    torch.testing.assert_close(separation(network, size * x), separation(network, x))
    tiny = gains([size, 0.5 * size, 0.25 * size, 0.1 * size]).float()
    torch.testing.assert_close(coherence(tiny, x), coherence(network, x))


def test_equal_rows_have_no_separation():
    with pytest.raises(ValueError, match="equal rows"):
        separation(gains([1.0, 1.0]), torch.ones(2, 2, dtype=torch.float64))


def test_one_steep_layer_does_not_loosen_the_others():
    """After a gain of 1e8 in one direction, a shear: (1, 0) is sent to (1, 0), but its condition is off by 1."""
    layers = [plain_network(1, 2, dtype=torch.float64).layers[0] for _ in "ab"]
    layers[0].set_weights(A=torch.diag(torch.tensor([1.0, 1e8], dtype=torch.float64)))
    layers[1].set_weights(A=torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64))
    assert persistent_dimension(DeepNetwork(layers), torch.ones(1, 2, dtype=torch.float64)).item() == 0


@pytest.mark.parametrize("gain", [10.0, 1e3, 1e4, 1e6])
def test_an_exploding_complement_hides_no_direction(gain):
    """A mirrored diagonal (1, gain, 1/2): its first axis persists at any depth, to rounding."""
    H = torch.eye(3, dtype=torch.float64) - 2 / 3
    M = H @ torch.diag(torch.tensor([1.0, gain, 0.5], dtype=torch.float64)) @ H
    linear = PiecewiseAffine("linear", kinks=(), slopes=(1,))
    network = plain_network(20, 3, activation=linear, dtype=torch.float64)
    for layer in network.layers:
        layer.set_weights(A=(M + M.T) / 2)
    tolerance = max(1e-8, 1e-13 * gain)  # M itself is known to rounding times its size
    assert persistent_subspace(network, torch.ones(3, dtype=torch.float64), tolerance=tolerance).dimension == 1
