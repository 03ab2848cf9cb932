"""Derivatives row by row: both modes, blocks without gradient, attention, batches, what cannot be batched."""

import pytest
import torch
from torch import nn

from pso_lib.analysis import jacobian as jac
from pso_lib.nn.init import seeded
from pso_lib.nn.networks import deep_network


def points(count: int, n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, n, generator=seeded(seed), dtype=torch.float64)


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
