"""What the mirror lemma implies for whole networks: neighbours, distances, gradients, stacks of folds."""

import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pso_lib.analysis.jacobian import gradient_norms
from pso_lib.exact.hinges import hinged_layer
from pso_lib.exact.regions import facets, regions
from pso_lib.exact.symbolic import reflection
from pso_lib.nn.layers import Layer
from pso_lib.nn.networks import DeepNetwork, deep_network

DTYPES = [(torch.float64, 1e-12), (torch.float32, 1e-4)]
SIZES = {"n": st.integers(2, 12), "depth": st.integers(1, 12), "seed": st.integers(0, 10_000)}


def folds(n, depth, seed, dtype, hidden=None):
    g = torch.Generator().manual_seed(seed)
    network = deep_network(depth, n, layer="fold", hidden=hidden, generator=g, dtype=dtype)
    for layer in network.layers:
        layer.set_weights(b=torch.randn(layer.hidden, generator=g))
    return network, g


def half_hearted(n, depth, seed):
    """The same with a jump that is no mirror: -2.5 in place of -2."""
    g = torch.Generator().manual_seed(seed)
    options = {"alpha": 1.0, "beta": -2.5, "outer": "tied", "orthogonal": "start", "dtype": torch.float64}
    return DeepNetwork([Layer(n, generator=g, **options) for _ in range(depth)]), g


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 9), seed=st.integers(0, 10_000))
def test_a_search_for_neighbours_finds_the_same_map_or_its_mirror(n, seed):
    g = torch.Generator().manual_seed(seed)
    Q1 = torch.linalg.qr(torch.randn(50, n, n, generator=g, dtype=torch.float64)).Q
    a = torch.nn.functional.normalize(torch.randn(50, n, 1, generator=g, dtype=torch.float64), dim=1)
    Q2 = torch.randn(50, n, n, generator=g, dtype=torch.float64)
    for _ in range(100):  # the nearest matrix that agrees on the crease; the nearest orthogonal one
        U, _, Vt = torch.linalg.svd(Q1 + (Q2 - Q1) @ a @ a.mT)
        Q2 = U @ Vt
    mirror = Q1 @ (torch.eye(n, dtype=torch.float64) - 2 * a @ a.mT)
    distances = torch.stack([(Q2 - Q1).abs().amax((1, 2)), (Q2 - mirror).abs().amax((1, 2))])
    assert distances.amin(0).max() < 1e-12


@pytest.mark.parametrize("dtype, tolerance", DTYPES)
@settings(max_examples=15, deadline=None)
@given(**SIZES)
def test_folding_never_increases_a_distance(dtype, tolerance, n, depth, seed):
    network, g = folds(n, depth, seed, dtype, hidden=1 + seed % n)
    x, y = torch.randn(2, 100, n, generator=g, dtype=dtype)
    with torch.no_grad():
        assert ((network(x) - network(y)).norm(dim=1) <= (1 + tolerance) * (x - y).norm(dim=1) + tolerance).all()


@pytest.mark.parametrize("dtype, tolerance", DTYPES)
@settings(max_examples=15, deadline=None)
@given(**SIZES)
def test_gradient_norms_are_equal_at_every_layer(dtype, tolerance, n, depth, seed):
    network, g = folds(n, depth, seed, dtype, hidden=1 + seed % n)
    x, y = torch.randn(8, n, generator=g, dtype=dtype), torch.randint(n, (8,), generator=g)
    norms = gradient_norms(network, x, y)
    # A confident softmax has a gradient of rounding errors only; the statement is relative to what there is.
    assert ((norms - norms[-1]).abs() <= 10 * tolerance * norms[-1] + torch.finfo(dtype).tiny).all()


def test_both_fail_without_the_mirror():
    network, g = half_hearted(6, 5, seed=0)
    x = torch.randn(200, 6, generator=g, dtype=torch.float64)
    step = 1e-6 * torch.randn(200, 6, generator=g, dtype=torch.float64)
    with torch.no_grad():
        assert ((network(x + step) - network(x)).norm(dim=1) > 1.1 * step.norm(dim=1)).any()
    norms = gradient_norms(network, x, torch.zeros(200, dtype=torch.long))
    assert (norms[0] / norms[-1] - 1).abs().max() > 0.1


UNIT = [("3/5", "4/5"), ("5/13", "-12/13"), ("8/17", "15/17"), ("-7/25", "24/25"), ("1", "0"), ("0", "1")]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(UNIT), st.integers(-3, 3)), min_size=2, max_size=4))
def test_a_stack_of_folds_is_folded_paper(creases):
    layers = [hinged_layer([list(a)], [sp.Rational(b, 7)], alpha=1, beta=-2) for a, b in creases]
    found = regions(layers)
    for piece in found:
        assert piece.J.T * piece.J == sp.eye(2)
    for crease in facets(found):
        first, second = found[crease.first].J, found[crease.second].J
        assert second == first or second == first * reflection(crease.normal)
    assert sum(piece.area for piece in found) == 4


def test_a_stack_with_one_jump_that_is_no_mirror_is_not():
    layers = [hinged_layer([["3/5", "4/5"]], [0], alpha=1, beta=-2), hinged_layer([[1, 0]], [0], alpha=1, beta=-1)]
    found = regions(layers)
    jumps = [(found[c.first].J, found[c.second].J, c.normal) for c in facets(found)]
    assert any(K != J and K != J * reflection(normal) for J, K, normal in jumps)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_a_smooth_plane_network_of_both_orientations_has_a_point_where_it_crushes(seed):
    """det J takes both signs, so it vanishes somewhere on the way, and there a singular value is 0."""
    g = torch.Generator().manual_seed(seed)
    A, b, B = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((8, 2), (8,), (8, 2)))

    def J(x):
        return B.T @ torch.diag(1 - torch.tanh(A @ x + b) ** 2) @ A

    points = torch.randn(200, 2, generator=g, dtype=torch.float64)
    dets = torch.stack([torch.linalg.det(J(x)) for x in points])
    if not (dets.max() > 1e-6 and dets.min() < -1e-6):
        return
    low, high = points[dets.argmin()], points[dets.argmax()]
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if torch.linalg.det(J(middle)) < 0 else (low, middle)
    assert torch.linalg.svdvals(J(low)).min() < 1e-9
