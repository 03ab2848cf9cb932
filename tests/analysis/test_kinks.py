"""Kinks: how far away they are, which units have one, and where a Jacobian is refused for them."""

import pytest
import torch
from torch import nn

from pso_lib.analysis import jacobian as jac
from pso_lib.nn.activations import zigzag
from pso_lib.nn.init import seeded
from pso_lib.nn.layers import FeedForward
from pso_lib.nn.networks import deep_network, plain_network


def points(count: int, n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, n, generator=seeded(seed), dtype=torch.float64)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight", [1e4, 1e9, 1e30])
def test_a_unit_beside_a_far_steeper_one_has_its_kink(weight, dtype):
    """(w x_1, x_2) at (1, 0): on the second unit's kink, however large w is."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU()).to(dtype)
    with torch.no_grad():
        network[0].weight.copy_(torch.diag(torch.tensor([weight, 1.0])))
    x = torch.tensor([[1.0, 0.0], [1.0, 0.5]], dtype=dtype)
    assert jac.kink_distance(network, x).tolist() == [0, 0.5]
    with pytest.raises(ValueError, match="1 of 2 inputs lie on a kink"):
        jac.jacobian(network, x)


@pytest.mark.parametrize("dtype, gain", [(torch.float32, 0.03), (torch.float64, 1e-6)])
def test_a_late_unit_has_its_kink_though_gradients_have_vanished(dtype, gain):
    """Twenty contractions, to 1e-30 and 1e-120, whose squares are no numbers any more; then |z - its value at x|."""
    layers = [nn.Linear(3, 3) for _ in range(20)]
    network = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())), nn.Linear(3, 1), nn.ReLU())
    network.to(dtype)
    x = points(1, 3).to(dtype)
    with torch.no_grad():
        for i, layer in enumerate(layers):
            layer.weight.copy_(gain * torch.linalg.qr(points(3, 3, seed=i))[0])
            layer.bias.zero_()
        network[-2].bias.zero_()
        network[-2].bias.copy_(-network[:-1](x)[0])
    assert jac.kink_margin(network, x).item() == 0
    assert jac.jacobian(network, x, on_kink="flag")[1].tolist() == [True]
    assert jac.jacobian(network, x + 1, on_kink="flag")[1].tolist() == [False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("depth, n", [(3, 4), (3, 64), (60, 16)])
def test_dead_units_of_any_depth_are_no_kinks(depth, n, dtype):
    """Rounding that layers with the same weights leave adds up: the units of the second are exactly 0, or kept."""
    network = deep_network(depth, n, outer="tied", orthogonal="start", generator=seeded(1), dtype=dtype)
    for layer in network.layers:
        layer.set_weights(A=network.layers[0].A.detach())
    x = points(10, n).to(dtype)
    first = (x @ network.layers[0].A.detach().T).abs().amin(1)  # its rows have length 1
    torch.testing.assert_close(jac.kink_distance(network, x), first, rtol=1e-3, atol=0)
    assert not jac.jacobian(network, x, on_kink="flag")[1].any()
