"""Other authors' cures for depth, as arms of the experiments on depth: the same ends, batches, rates and choice.

What the ensemble engine computes is a ``Start`` like any other. Here are the layers that it does not compute; they
are trained one network at a time by ``pso_lib.train.loop``, whose steps are the engine's.

SkipInit (De and Smith 2020) without a normalisation that it would replace, and with its scalar started at 0, is
ReZero: x + s F(x). It has no arm of its own.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp
from torch.nn.functional import linear
from torch.nn.utils import parametrizations

from pso_lib.experiments import starts
from pso_lib.experiments.starts import Start
from pso_lib.nn.init import gaussian, layers_of, seeded
from pso_lib.nn.layers import Layer
from pso_lib.nn.networks import DeepNetwork

__all__ = [
    "Fixup",
    "FoldStep",
    "KeptFolds",
    "NormedLayer",
    "Penalised",
    "PreNorm",
    "ReZero",
    "alone",
    "network",
    "prepare",
]


class _Branch(nn.Module):
    """B^T relu(A x + b), (…, n) to (…, n), with a layer's weights at the start."""

    def __init__(self, layer: Layer):
        super().__init__()
        assert layer.b is not None
        self.dim = layer.dim
        self.A, self.B, self.b = (nn.Parameter(w.detach().clone()) for w in (layer.A, layer.B, layer.b))

    def branch(self, x: Tensor) -> Tensor:
        return torch.relu(linear(x, self.A, self.b)) @ self.B


class ReZero(_Branch):
    """x + s B^T relu(A x + b), s trained from 0 (Bachlechner et al. 2021)."""

    def __init__(self, layer: Layer):
        super().__init__(layer)
        self.scale = nn.Parameter(torch.zeros_like(self.b[0]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)


class PreNorm(_Branch):
    """x + B^T relu(A LN(x) + b): the Transformer's MLP (Xiong et al. 2020), LN of Ba, Kiros and Hinton (2016)."""

    def __init__(self, layer: Layer):
        super().__init__(layer)
        self.norm = nn.LayerNorm(layer.dim, dtype=layer.A.dtype, device=layer.A.device)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self.norm(x))


class NormedLayer(nn.Module):
    """relu(LN(A x + b)), without a skip connection (Ba, Kiros and Hinton 2016)."""

    def __init__(self, layer: Layer):
        super().__init__()
        assert layer.b is not None
        self.dim = layer.dim
        self.A, self.b = nn.Parameter(layer.A.detach().clone()), nn.Parameter(layer.b.detach().clone())
        self.norm = nn.LayerNorm(layer.dim, dtype=layer.A.dtype, device=layer.A.device)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(linear(x, self.A, self.b)))


class Fixup(nn.Module):
    """x + s B^T (relu(A (x + b1) + b2) + b3) + b4, the four b and s numbers (Zhang, Dauphin and Ma 2019).

    A is He's over sqrt(depth), which is L^(-1/(2m - 2)) for the m = 2 matrices of a branch; B = 0, s = 1, b = 0.
    """

    def __init__(self, layer: Layer, depth: int):
        super().__init__()
        self.dim = layer.dim
        self.A = nn.Parameter(layer.A.detach() / math.sqrt(depth))
        self.B = nn.Parameter(torch.zeros_like(layer.B.detach()))
        self.scale = nn.Parameter(torch.ones_like(self.A[0, 0]))
        self.shifts = nn.Parameter(torch.zeros_like(self.A[0, :1]).repeat(4))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, fourth = self.shifts.unbind()
        units = torch.relu(linear(x + first, self.A) + second)
        return x + self.scale * ((units + third) @ self.B) + fourth


class FoldStep(nn.Module):
    """x - t W^T relu(W x + b): from the identity, t = 0, over a projection, 1, to a fold, 2.

    The layer of 1-Lipschitz residual networks (Murari, Furuya and Schönlieb 2025), with the t trained from 2 and put
    back into [0, 2] before each use. There W stays orthogonal; here it is orthogonal at the start alone.
    """

    def __init__(self, layer: Layer):
        super().__init__()
        assert layer.b is not None
        self.dim = layer.dim
        self.W, self.b = nn.Parameter(layer.A.detach().clone()), nn.Parameter(layer.b.detach().clone())
        self.step = nn.Parameter(torch.full_like(self.b[0], 2.0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.step.clamp_(0, 2)
        return x - self.step * (torch.relu(linear(x, self.W, self.b)) @ self.W)


class KeptFolds(nn.Module):
    """Folds x - 2 Q^T relu(Q x + b) whose Q stay orthogonal, by Cayley's map around their start.

    The Jacobian is orthogonal throughout training. All Q are one (L, n, n) parameter, since a linear system for each
    at each step would take longer than the step.
    """

    def __init__(self, network: DeepNetwork):
        super().__init__()
        self.dim = network.dim
        self.lift, self.readout = _ends(network)
        start = torch.stack([layer.A.detach() for layer in layers_of(network)])  # (L, n, n)
        self.Q = nn.Parameter(start.clone())
        parametrizations.orthogonal(self, "Q", orthogonal_map="cayley")
        setattr(self, "Q", start)  # noqa: B010 (the base point keeps the start: trivialisation)
        self.b = nn.Parameter(torch.zeros_like(start[..., 0]))

    def trunk(self, h: Tensor) -> Tensor:
        for Q, b in zip(self.Q.unbind(), self.b.unbind(), strict=True):
            h = h - 2 * torch.relu(linear(h, Q, b)) @ Q
        return h

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.trunk(self.lift(x)))


class _With(torch.autograd.Function):
    """The logits, and a penalty whose gradient goes along: what is trained is the loss plus the penalty."""

    @staticmethod
    def forward(ctx, logits: Tensor, penalty: Tensor) -> Tensor:
        ctx.save_for_backward(penalty)
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (penalty,) = ctx.saved_tensors
        return gradient, torch.ones_like(penalty)


class Penalised(nn.Module):
    """A network trained with ``strength`` times the mean of |J^T J v - v|^2 / n beside its loss.

    J is the Jacobian of the layers together at ``rows`` states of the batch, v standard normal, drawn by ``seed``. It
    is the regularisation for an orthogonal Jacobian, without ever forming one. Evaluation is the network's own.
    """

    def __init__(self, network: DeepNetwork, seed: int, strength: float = 1.0, rows: int = 16):
        super().__init__()
        self.network, self.strength, self.rows, self.generator = network, strength, rows, seeded(seed)
        self.dim = network.dim

    def penalty(self, h: Tensor) -> Tensor:
        """Of states h (N, n)."""
        v = torch.randn(h.shape, generator=self.generator, dtype=h.dtype).to(h.device)
        pushed = jvp(self.network.trunk, (h,), (v,))[1]
        pull = vjp(self.network.trunk, h)[1]
        (back,) = pull(pushed)
        return (back - v).square().mean()

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return self.network(x)
        lift, readout = _ends(self.network)
        h = lift(x)
        penalty = self.strength * self.penalty(h[: self.rows].detach())
        return _With.apply(readout(self.network.trunk(h)), penalty)


def _shallow(network: DeepNetwork, inputs: int, classes: int, generator: torch.Generator) -> nn.Module:
    """One hidden layer, as wide as makes it equal in parameters to the deep network."""
    count = sum(p.numel() for p in network.parameters())
    width = round((count - classes) / (inputs + classes + 1))
    first, last = nn.Linear(inputs, width), nn.Linear(width, classes)
    with torch.no_grad():
        first.weight.copy_(gaussian(width, inputs, math.sqrt(2 / inputs), generator))
        last.weight.copy_(gaussian(classes, width, 1 / math.sqrt(width), generator))
        first.bias.zero_(), last.bias.zero_()
    return nn.Sequential(first, nn.ReLU(), last).to(next(network.parameters()))


def _ends(network: DeepNetwork) -> tuple[nn.Linear, nn.Linear]:
    lift, readout = network.lift, network.readout
    assert isinstance(lift, nn.Linear) and isinstance(readout, nn.Linear)
    return lift, readout


def _each(make: Callable[[Layer], nn.Module]) -> Callable[[DeepNetwork], DeepNetwork]:
    return lambda base: DeepNetwork([make(layer) for layer in layers_of(base)], base.lift, base.readout)


def _fixup(base: DeepNetwork) -> nn.Module:
    network = _each(lambda layer: Fixup(layer, base.depth))(base)
    nn.init.zeros_(_ends(network)[1].weight)  # as there, so that the first gradient is that of the readout alone
    return network


# init of an arm: that of the DeepNetwork whose weights are taken over, and what is made of it
_rivals: dict[str, tuple[dict, Callable[..., nn.Module]]] = {
    "rezero": ({"init": "he"}, _each(ReZero)),
    "pre_norm": ({"init": "he"}, _each(PreNorm)),
    "layer_norm": ({"init": "he", "outer": "identity"}, _each(NormedLayer)),
    "fixup": ({"init": "he"}, _fixup),
    "fold_step": ({"init": "independent_folds"}, _each(FoldStep)),
    "constraint_shared": ({"init": "shared"}, KeptFolds),
    "constraint_independent": ({"init": "independent_folds"}, KeptFolds),
    "penalty_shared": ({"init": "shared"}, Penalised),
    "penalty_independent": ({"init": "independent_folds"}, Penalised),
    "shallow": ({"init": "he"}, _shallow),
}


def alone(arm: Start) -> bool:
    """Whether the arm's networks are trained one by one: the engine does not compute them."""
    return arm.init in _rivals or arm.activation == "maxmin"


def network(arm: Start, depth: int, width: int, inputs: int, classes: int, seed: int, **options) -> nn.Module:
    """The network of any arm: ``starts.build``, and the rivals. The same seed gives the same lift and readout."""
    if arm.init not in _rivals:
        return starts.build(arm, depth, width, inputs, classes, seed, **options)
    changes, make = _rivals[arm.init]
    base = starts.build(replace(arm, **changes), depth, width, inputs, classes, seed, **options)
    if make is _shallow:
        return _shallow(base, inputs, classes, seeded(seed))
    return make(base, seed) if make is Penalised else make(base)


@torch.no_grad()
def prepare(arm: Start, network: nn.Module, x: Tensor) -> None:
    """What a start wants to see images for, x (N, d); of the arms here, LSUV alone.

    Layer-sequential unit variance (Mishkin and Matas 2016): from the first layer on, A is divided by the standard
    deviation of A x over units and images. The layers' A must be orthogonal, and b zero.
    """
    if arm.init != "lsuv":
        return
    assert isinstance(network, DeepNetwork)
    h = _ends(network)[0](x)
    for layer in layers_of(network):
        layer.A.div_(layer.preactivation(h).std())
        h = layer(h)
