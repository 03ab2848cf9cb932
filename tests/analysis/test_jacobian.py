"""Exact Jacobians against independent ways to compute them; kinks found; memory bounded."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from pso_lib.analysis import jacobian as jac
from pso_lib.analysis.spectrum import isometry_error, stable_rank
from pso_lib.nn.activations import zigzag
from pso_lib.nn.init import seeded
from pso_lib.nn.layers import FeedForward, Fold
from pso_lib.nn.networks import deep_network, plain_network

ACTIVATIONS = ["relu", "leaky_relu", "abs", "zigzag", "maxmin", "householder", "tanh", "gelu", "silu"]


def points(count: int, n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, n, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_jacobian_equals_finite_differences(activation):
    network = plain_network(3, 6, activation=activation, generator=seeded(), dtype=torch.float64)
    x, h = points(4, 6), 1e-6
    steps = h * torch.eye(6, dtype=torch.float64)
    differences = torch.stack([(network(p + steps) - network(p - steps)) / (2 * h) for p in x]).mT
    torch.testing.assert_close(jac.jacobian(network, x), differences, rtol=1e-6, atol=1e-7)


def test_both_modes_and_every_chunk_agree():
    network = deep_network(4, 8, inputs=12, classes=3, generator=seeded(), dtype=torch.float64)
    x = points(7, 12)
    by_rows = torch.stack([torch.autograd.functional.jacobian(network, p) for p in x])
    for chunk in (1, 3, None):
        torch.testing.assert_close(jac.jacobian(network, x, chunk_size=chunk), by_rows)  # reverse: 3 < 12
        torch.testing.assert_close(  # forward: 8 -> 8
            jac.jacobian(network.trunk, network.lift(x).detach(), chunk_size=chunk) @ network.lift.weight,
            torch.stack([torch.autograd.functional.jacobian(lambda p: network.trunk(network.lift(p)), p) for p in x]),
        )


def test_jacobian_keeps_no_graph_and_no_hook():
    network = deep_network(2, 4, generator=seeded(), dtype=torch.float64)
    assert not jac.jacobian(network, points(3, 4)).requires_grad
    assert not any(m._forward_pre_hooks for m in network.modules())


def test_cumulative_jacobians_are_products():
    network = deep_network(5, 4, layer="residual", generator=seeded(), dtype=torch.float64)
    x = points(3, 4)
    G = jac.cumulative_jacobians(network, x)
    assert G.shape == (5, 3, 4, 4)
    product, h = torch.eye(4, dtype=torch.float64).expand(3, 4, 4), x
    for layer, got in zip(network.layers, G, strict=True):
        product = jac.jacobian(layer, h) @ product
        h = layer(h).detach()
        torch.testing.assert_close(got, product)
    torch.testing.assert_close(jac.spectrum_by_depth(network, x)[-1], torch.linalg.svdvals(G[-1]))


@pytest.mark.parametrize("depth", [5, 50, 200])
def test_folds_stay_isometric_at_any_depth(depth):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        network = deep_network(depth, 64, layer="fold", generator=seeded(depth), dtype=dtype)
        J, mask = jac.jacobian(network, points(5, 64).to(dtype), on_kink="flag")
        assert isometry_error(J[~mask]).max() < tolerance


def test_stable_rank_and_isometry_error():
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))).item() == pytest.approx(1.5)
    assert stable_rank(torch.eye(5)).item() == 5
    assert stable_rank(1e-30 * torch.eye(5)).item() == 5  # no underflow
    assert isometry_error(torch.diag(torch.tensor([1.0, 2.0]))).item() == 3
    assert isometry_error(torch.eye(5)[:, :3]).item() == 0
    with pytest.raises(ValueError, match="zero matrix"):
        stable_rank(torch.zeros(2, 3, 3))


@pytest.mark.parametrize("inputs", [None, 7])
def test_gradient_norms(inputs):
    network = deep_network(3, 5, inputs=inputs, classes=4, generator=seeded(), dtype=torch.float64)
    x, y = points(6, inputs or 5), torch.tensor([0, 1, 2, 3, 0, 1])
    norms = jac.gradient_norms(network, x, y)
    assert norms.shape == (4, 6)
    for row in range(6):  # one example at a time, by plain autograd
        h = (network.lift(x[row]) if inputs else x[row]).detach().requires_grad_()
        loss = nn.functional.cross_entropy(network.readout(network.trunk(h)), y[row])
        torch.testing.assert_close(norms[0, row], torch.autograd.grad(loss, h)[0].norm())


def test_gradient_norms_of_folds_do_not_depend_on_the_layer():
    network = deep_network(200, 16, layer="fold", inputs=9, classes=3, generator=seeded(), dtype=torch.float64)
    norms = jac.gradient_norms(network, points(5, 9), torch.tensor([0, 1, 2, 0, 1]))
    torch.testing.assert_close(norms, norms[-1:].expand_as(norms), rtol=1e-12, atol=0)


# Kinks


def test_kink_distance_of_one_layer_is_the_distance_to_a_line():
    layer = FeedForward(2, 3, generator=seeded(), dtype=torch.float64)
    layer.set_weights(A=torch.tensor([[3.0, 4], [0, 1], [1, 0]]), b=torch.tensor([-5.0, 10, 10]))
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(jac.kink_margin(layer, x), torch.tensor([5.0, 13.0], dtype=torch.float64))
    torch.testing.assert_close(jac.kink_distance(layer, x), torch.tensor([1.0, 4.0], dtype=torch.float64))


@pytest.mark.parametrize("activation", ["relu", "maxmin", zigzag((-1, "1/2", 2))])
def test_kink_distance_is_where_the_jacobian_first_changes(activation):
    """No direction leaves the region sooner than the distance says, and one leaves it just then."""
    network = plain_network(3, 6, activation=activation, generator=seeded(2), dtype=torch.float64)
    directions = nn.functional.normalize(points(200, 6, seed=3), dim=1)
    for p in points(5, 6):
        distance = jac.kink_distance(network, p[None])[0]
        J = jac.jacobian(network, p[None])
        inside = jac.jacobian(network, p + 0.999 * distance * directions, on_kink="ignore")
        torch.testing.assert_close(inside, J.expand_as(inside), rtol=0, atol=1e-10)
        gradient = _nearest_gradient(network, p)
        ends = torch.stack([p + s * 1.001 * distance * gradient for s in (1, -1)])
        moved = jac.jacobian(network, ends, on_kink="ignore")
        assert (moved - J).abs().amax((1, 2)).max() > 1e-6


def _nearest_gradient(network, p):
    p = p.clone().requires_grad_()
    heights, h = [], p
    for layer in network.layers:
        heights.append(layer.activation.kink_offset(layer.preactivation(h)))
        h = layer(h)
    gradients = [torch.autograd.grad(z, p, retain_graph=True)[0] for z in torch.cat(heights)]
    distances = [
        abs(z.item()) / g.norm().item() if g.norm() > 1e-9 else torch.inf
        for z, g in zip(torch.cat(heights), gradients, strict=True)
    ]
    best = gradients[min(range(len(distances)), key=distances.__getitem__)]
    return best / best.norm()


@pytest.mark.parametrize("activation", ["relu", "abs", "maxmin"])
def test_inputs_on_a_kink_are_refused_or_flagged(activation):
    layer = FeedForward(2, outer="identity", activation=activation, dtype=torch.float64)
    layer.set_weights(A=torch.eye(2))
    x = torch.tensor([[1.0, 2.0], [1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    on_kink = torch.tensor([False, True, False] if activation == "maxmin" else [False, False, True])
    with pytest.raises(ValueError, match=r"1 of 3 inputs lie on a kink.*rows \[\d\].*on_kink=\"flag\""):
        jac.jacobian(layer, x)
    J, mask = jac.jacobian(layer, x, on_kink="flag")
    assert torch.equal(mask, on_kink) and J.shape == (3, 2, 2)
    assert jac.jacobian(layer, x, on_kink="ignore").shape == (3, 2, 2)


def test_a_kink_missed_by_rounding_alone_is_still_found():
    layer = FeedForward(2, 1, activation="abs", dtype=torch.float64)
    layer.set_weights(A=torch.tensor([[0.1, 0.3]], dtype=torch.float64), b=torch.tensor([-0.6], dtype=torch.float64))
    x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)  # 0.1 * 3 + 0.3 - 0.6 is 5e-17, not 0
    assert jac.kink_margin(layer, x) > 0
    assert jac.jacobian(layer, x, on_kink="flag")[1].item()


def test_units_fed_by_dead_units_are_no_kink():
    """A projection onto an orthant has pre-activations that are exactly 0 without a crease there."""
    network = deep_network(3, 4, outer="tied", orthogonal="start", generator=seeded(), dtype=torch.float64)
    for layer in network.layers:
        layer.set_weights(A=network.layers[0].A.detach())
    x = points(10, 4)
    assert jac.kink_margin(network, x).median() < 1e-12
    assert jac.kink_distance(network, x).min() > 1e-6
    J = jac.jacobian(network, x)  # not refused
    torch.testing.assert_close(J, jac.jacobian(network.layers[0], x), rtol=0, atol=1e-12)


def test_torch_modules_are_seen_too():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU6()).double()
    nn.init.eye_(network[0].weight)
    nn.init.zeros_(network[0].bias)
    x = torch.tensor([[1.0, 6.0], [1.0, 2.0]], dtype=torch.float64)
    assert jac.jacobian(network, x, on_kink="flag")[1].tolist() == [True, False]
    torch.testing.assert_close(jac.kink_distance(network, x), torch.tensor([0.0, 1.0], dtype=torch.float64))


def test_smooth_networks_have_no_kink():
    network = plain_network(2, 3, activation="tanh", generator=seeded(), dtype=torch.float64)
    assert torch.isinf(jac.kink_distance(network, points(2, 3))).all()
    assert torch.isinf(jac.kink_margin(network, points(2, 3))).all()


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda: jac.jacobian(Fold(3), torch.zeros(3)), ["(3,)", "x[None]"]),
        (lambda: jac.jacobian(Fold(3), torch.zeros(0, 3)), ["N >= 1"]),
        (lambda: jac.jacobian(Fold(3), torch.ones(1, 3).long()), ["int64", "double"]),
        (lambda: jac.jacobian(Fold(3), torch.full((1, 3), torch.nan)), ["x holds 3 non-finite"]),
        (lambda: jac.jacobian(Fold(3), torch.ones(1, 3), on_kink="rise"), ["Did you mean 'raise'"]),
        (lambda: jac.jacobian(lambda x: x.sum(), torch.ones(1, 3)), ["it must give (m,)"]),
        (lambda: jac.cumulative_jacobians(deep_network(2, 4), torch.ones(1, 3)), ["(1, 3)", "4"]),
        (lambda: jac.singular_values(torch.full((2, 2), torch.inf)), ["non-finite"]),
    ],
)
def test_bad_input_names_the_remedy(call, parts):
    with pytest.raises(ValueError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


def test_non_finite_weights_are_named():
    network = deep_network(2, 3, generator=seeded())
    with torch.no_grad():
        network.layers[1].A[0, 0] = torch.nan
    with pytest.raises(ValueError, match="layers.1.A"):
        jac.jacobian(network, torch.ones(1, 3))


def test_memory_stays_bounded():
    """1,000 inputs, n = 64, L = 200: within 2 GB, everything included."""
    script = (
        "import resource, torch; from pso_lib import deep_network, jacobian;"
        "g = torch.Generator().manual_seed(0); network = deep_network(200, 64, layer='fold', generator=g);"
        "J, _ = jacobian(network, torch.randn(1000, 64, generator=g), on_kink='flag'); "
        "assert J.shape == (1000, 64, 64);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert int(out.stdout) * 1024 < 2e9


# Training through a Jacobian


@pytest.mark.parametrize("classes", [None, 2])
def test_a_penalty_on_the_jacobian_trains(classes):
    """Its gradient by the weights, against finite differences; in forward mode (6 to 6) and in reverse (6 to 2)."""
    network = deep_network(2, 6, classes=classes, activation="tanh", generator=seeded(), dtype=torch.float64)
    x, W, h = points(3, 6), network.layers[0].A, 1e-6

    def penalty():
        return isometry_error(jac.jacobian(network, x, create_graph=True).mT).sum()

    penalty().backward()
    for i, j in ((0, 0), (3, 5)):
        with torch.no_grad():
            W[i, j] += h
            up = penalty()
            W[i, j] -= 2 * h
            down = penalty()
            W[i, j] += h
        assert W.grad[i, j].item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-5, abs=1e-8)
    assert W.grad.abs().max() > 1e-3


def test_the_default_is_detached_and_the_values_are_the_same():
    network = deep_network(2, 6, generator=seeded(), dtype=torch.float64)
    with_graph = jac.jacobian(network, points(3, 6), create_graph=True)
    without = jac.jacobian(network, points(3, 6))
    assert with_graph.requires_grad and not without.requires_grad and torch.equal(with_graph, without)


# Blocks without gradient, and operations that have one mode only


@pytest.mark.parametrize("outputs", [2, 6, 9])
def test_what_is_computed_without_gradient_is_a_constant_whatever_the_shape(outputs):
    A = points(outputs, 6, seed=4)

    def f(p):
        with torch.no_grad():
            constant = (p**2).sum()
        return constant * (A @ p) + p.detach().sum()

    x = points(3, 6)
    expected = (x**2).sum(1)[:, None, None] * A
    torch.testing.assert_close(jac.jacobian(f, x), expected)


class Square(torch.autograd.Function):
    """The square, written without a forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


def test_an_operation_without_forward_mode():
    x = points(3, 4)
    torch.testing.assert_close(jac.jacobian(Square.apply, x), torch.diag_embed(2 * x))
    network = nn.Sequential(nn.ReLU(), Apply(Square.apply))
    positive = x.abs() + 0.1
    torch.testing.assert_close(jac.jacobian(network, positive), torch.diag_embed(2 * positive))
    network = nn.Sequential(Apply(Square.apply), nn.Threshold(1.0, 0.0))
    torch.testing.assert_close(
        jac.kink_distance(network, positive), _first((1 - x2) / (2 * r) for r, x2 in _rows(positive))
    )


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _rows(x):
    return [(row, row**2) for row in x]


def _first(distances):
    return torch.stack([d.abs().min() for d in distances])


class Tokens(nn.Module):
    """Attention on four tokens of width 4, seen as a map of R^16."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        h = x.unflatten(-1, (4, 4))
        return self.inner(h if h.ndim == 3 else h[None]).reshape(x.shape)


def fused(h):
    h = h[:, None]
    return nn.functional.scaled_dot_product_attention(h, h, h, is_causal=True)[:, 0]


@pytest.mark.parametrize(
    "inner", [Apply(fused), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation=nn.GELU())]
)
def test_attention(inner):
    network, x = Tokens(inner).double().eval(), points(3, 16)
    fast = torch.backends.mha.get_fastpath_enabled()
    expected = torch.stack([torch.autograd.functional.jacobian(network, p) for p in x])
    torch.testing.assert_close(jac.jacobian(network, x), expected)
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_modules_that_know_batches_only():
    network = nn.Sequential(nn.BatchNorm1d(3), nn.PReLU(3)).double().eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([0.5, -1, 2]))
    x = torch.tensor([[-1.0, -1, 1], [1, 1, -1]], dtype=torch.float64)
    scale = (1 + 1e-5) ** -0.5
    expected = torch.tensor([[0.5, -1, 1], [1, 1, 2]], dtype=torch.float64) * scale
    torch.testing.assert_close(jac.jacobian(network, x), torch.diag_embed(expected))


# Kinks of torch's modules


class MyReLU(nn.ReLU):
    pass


INF = torch.inf


@pytest.mark.parametrize(
    "module, x, margin",
    [
        (nn.ReLU(), [1.0, -3], 1),
        (MyReLU(), [1.0, -3], 1),
        (nn.ReLU6(), [5.0, 8], 1),
        (nn.Hardtanh(-2, 3), [-1.5, 8], 0.5),
        (nn.LeakyReLU(0.1), [1.0, -3], 1),
        (nn.LeakyReLU(1.0), [1.0, -3], INF),  # a straight line
        (nn.PReLU(), [1.0, -3], 1),
        (nn.RReLU().eval(), [1.0, -3], 1),
        (nn.Threshold(2.0, 0.0), [1.5, 9], 0.5),
        (nn.Softshrink(0.5), [0.75, -4], 0.25),
        (nn.Softshrink(0.0), [0.75, -4], INF),
        (nn.Hardshrink(0.5), [-0.75, 4], 0.25),
        (nn.Hardsigmoid(), [2.0, -9], 1),
        (nn.Hardswish(), [-2.0, -9], 1),
        (nn.ELU(0.5), [1.0, -3], 1),
        (nn.ELU(), [1.0, -3], INF),  # its derivative is continuous
        (nn.SELU(), [1.0, -3], 1),
        (nn.CELU(0.5), [1.0, -3], INF),
        (nn.GELU(), [1.0, -3], INF),
    ],
)
def test_kinks_of_torchs_modules(module, x, margin):
    """The margin as told; and a derivative that jumps just where it is said to."""
    module, x = nn.Sequential(module).double(), torch.tensor([x], dtype=torch.float64)
    assert jac.kink_margin(module, x).item() == margin
    assert jac.kink_distance(module, x).item() == margin
    if margin < INF:
        step = torch.tensor([[margin, 0], [-margin, 0]], dtype=torch.float64)
        jumps = [
            (jac.jacobian(module, x + (1 + e) * step, on_kink="ignore") - jac.jacobian(module, x, on_kink="ignore"))
            for e in (-1e-7, 1e-7)
        ]
        assert (jumps[1] - jumps[0]).abs().max() > 0.05
        assert jac.jacobian(module, x + step, on_kink="flag")[1].any()


def test_a_channel_of_slope_one_has_no_kink():
    module = nn.PReLU(3).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([1.0, 0.25, 1]))
    x = torch.tensor([[0.0, 2, 0], [1, -3, 0.5]], dtype=torch.float64)
    assert jac.kink_margin(module, x).tolist() == [2, 3] and jac.kink_distance(module, x).tolist() == [2, 3]
    pictures = torch.tensor([[[0.0, 0], [2, 5], [0, 0]]], dtype=torch.float64)  # (1, 3, 2): channels second
    assert jac.kink_margin(module, pictures).item() == 2


def test_an_activation_called_by_keyword_or_in_place():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.act(input=2 * x)

    x = torch.tensor([[1.0, -3]], dtype=torch.float64)
    assert jac.kink_margin(Network(), x).item() == 2 and jac.kink_distance(Network(), x).item() == 1


@pytest.mark.parametrize("scale", [1e-150, 1e-6, 1.0, 1e6, 1e150])
@pytest.mark.parametrize("gain", [1e-6, 1.0, 1e6])
def test_a_kink_is_found_at_any_scale_of_inputs_and_weights(scale, gain):
    """0.1 * 3 + 0.3 - 0.6 is 5e-17, not 0; and a point a thousandth away is never on it."""
    layer = FeedForward(2, 1, activation="abs", dtype=torch.float64)
    A = torch.tensor([[0.1, 0.3]], dtype=torch.float64)
    layer.set_weights(A=gain * A, b=torch.tensor([-0.6 * gain * scale], dtype=torch.float64))
    x = scale * torch.tensor([[3.0, 1.0], [3.003, 1.0]], dtype=torch.float64)
    assert jac.jacobian(layer, x, on_kink="flag")[1].tolist() == [True, False]


# The same points are refused everywhere


@pytest.mark.parametrize(
    "call",
    [
        lambda n, x, **o: jac.jacobian(n.trunk, x, **o),
        lambda n, x, **o: jac.cumulative_jacobians(n, x, **o),
        lambda n, x, **o: jac.spectrum_by_depth(n, x, **o),
        lambda n, x, **o: jac.gradient_norms(n, x, torch.zeros(len(x), dtype=torch.long), **o),
    ],
)
def test_inputs_on_a_kink_are_refused_by_all(call):
    network = plain_network(2, 2, generator=seeded(), dtype=torch.float64)
    network.layers[0].set_weights(A=torch.eye(2))
    network.layers[1].set_weights(A=torch.eye(2), b=-1.0)
    x = torch.tensor([[2.0, 3.0], [1.0, 3.0], [0.0, 3.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"2 of 3 inputs lie on a kink"):
        call(network, x)
    found, mask = call(network, x, on_kink="flag")
    assert mask.tolist() == [False, True, True]
    assert torch.equal(call(network, x, on_kink="ignore"), found)
    call(network, x[:1])
    with pytest.raises(ValueError, match="Did you mean"):
        call(network, x, on_kink="ignor")


# Precision


def test_half_precision_has_a_spectrum():
    M = points(4, 3).bfloat16()
    assert jac.singular_values(M).dtype == torch.float32
    torch.testing.assert_close(jac.singular_values(M), torch.linalg.svdvals(M.double()).float())
    assert 1 <= stable_rank(M) <= 3


@pytest.mark.parametrize(
    "call",
    [
        lambda n, x: jac.jacobian(n, x),
        lambda n, x: jac.cumulative_jacobians(n, x),
        lambda n, x: jac.gradient_norms(n, x, torch.zeros(len(x), dtype=torch.long)),
        lambda n, x: jac.kink_margin(n, x),
        lambda n, x: jac.kink_distance(n, x),
        lambda n, x: jac.jacobian(nn.Sequential(nn.Linear(4, 4)), x),
    ],
)
def test_two_precisions_are_named_with_the_remedy(call):
    network = plain_network(2, 4, generator=seeded())
    with pytest.raises(ValueError, match=r"x is torch.float64, the weights are torch.float32; pass x.to"):
        call(network, points(3, 4))


def test_what_vmap_does_not_know_is_done_row_by_row():
    """RReLU, in evaluation a LeakyReLU of the mean slope; also where it is trained through."""
    network = nn.Sequential(nn.Linear(4, 5), nn.RReLU(0.1, 0.3), nn.Linear(5, 4)).double().eval()
    same = nn.Sequential(network[0], nn.LeakyReLU(0.2), network[2])
    x = points(3, 4)
    J = jac.jacobian(network, x, create_graph=True)
    torch.testing.assert_close(J, jac.jacobian(same, x, create_graph=True))
    by_rows, direct = (
        torch.autograd.grad(jac.jacobian(n, x, create_graph=True).square().sum(), network[0].weight)
        for n in (network, same)
    )
    torch.testing.assert_close(by_rows, direct)
    with pytest.raises(RuntimeError, match="random"):
        jac.jacobian(nn.functional.dropout, x)  # no function, no Jacobian


@pytest.mark.parametrize(
    "part, words",
    [
        (nn.Dropout(), r"'0', a Dropout in training mode, draws random numbers: .* model.eval\(\) first"),
        (nn.BatchNorm1d(4), "'0', a BatchNorm1d in training mode, normalises by the whole batch"),
        (nn.BatchNorm1d(4, track_running_stats=False).eval(), "without running statistics"),
        (nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1), "'0.self_attn', a MultiheadAttention in training mode"),
    ],
)
@pytest.mark.parametrize("call", [jac.jacobian, jac.kink_distance])
def test_rows_that_are_not_apart_have_no_jacobian(call, part, words):
    with pytest.raises(ValueError, match=words):
        call(nn.Sequential(part), points(3, 4))


def test_a_point_taken_for_something_else_goes_through_a_batch_of_one():
    """A picture of height 4 with 4 channels looks to GroupNorm, without its batch axis, like four examples."""
    network = nn.Sequential(nn.Unflatten(-1, (4, 4, 2)), nn.GroupNorm(2, 4), nn.Flatten(-3)).double()
    x = points(3, 32)
    expected = torch.stack([torch.autograd.functional.jacobian(lambda p: network(p[None])[0], p) for p in x])
    torch.testing.assert_close(jac.jacobian(network, x), expected)


def test_a_module_that_knows_points_only_is_taken_at_its_word():
    A = points(4, 3)
    x = points(2, 3, seed=5)
    torch.testing.assert_close(jac.jacobian(Apply(lambda p: A @ p), x), A.expand(2, 4, 3))
