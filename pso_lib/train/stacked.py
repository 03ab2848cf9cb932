"""One training step of a stack of networks, forward and backward by hand: the engine behind ``pso_lib.train.ensemble``.

Shapes: g networks, N rows of a batch each, width n, h units. The weights of a network are one row of a matrix,
in the order of ``network.parameters()``, so that Adam is one call; ``views`` cuts them into (g, h, n) stacks.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pso_lib.nn.activations import Activation, PiecewiseAffine, Smooth

__all__ = ["Adam", "Buffers", "Group", "Rule", "rule", "views"]

_aten = torch.ops.aten
_CAPTURING = threading.Lock()  # torch records one graph at a time in a process


@dataclass(frozen=True)
class Rule:
    """An activation as two kernels that write where they are told.

    ``forward(z, s)`` writes s; ``backward(d, z, s)`` turns the gradient d at s into that at z, in place.
    ``in_place``: s may be z itself, as backward reads s alone.
    """

    name: str
    forward: Callable
    backward: Callable
    in_place: bool


def rule(activation: Activation) -> Rule:
    """The kernels of an activation. Raises ``ValueError`` for one that has none here, as a subclass of its own."""
    if type(activation) is PiecewiseAffine and activation.kinks == (0,) and activation.constant == 0:
        left, right = (float(slope) for slope in activation.slopes)
        if (left, right) == (0.0, 1.0):
            return Rule(
                "relu",
                lambda z, s: z.relu_(),
                lambda d, z, s: _aten.threshold_backward.grad_input(d, s, 0, grad_input=d),
                True,
            )
        if (left, right) == (-1.0, 1.0):
            return Rule("abs", lambda z, s: torch.abs(z, out=s), lambda d, z, s: d.mul_(z.sign_()), False)
        if right == 1.0:
            return Rule(
                f"leaky_relu({left:g})",
                lambda z, s: _aten.leaky_relu.out(z, left, out=s),
                lambda d, z, s: _aten.leaky_relu_backward.grad_input(d, z, left, False, grad_input=d),
                False,
            )
    if type(activation) is Smooth and activation._function in _SMOOTH:
        return _SMOOTH[activation._function]
    name = getattr(activation, "name", type(activation).__name__)
    raise ValueError(
        f"activation {name!r} has no kernels here; use relu, leaky_relu, abs, tanh, gelu or silu, or train the "
        "networks one by one with training.train."
    )


def _from_input(name: str) -> Rule:
    """A smooth activation whose derivative torch takes at z."""
    forward, backward = getattr(_aten, name).out, getattr(_aten, f"{name}_backward").grad_input
    return Rule(name, lambda z, s: forward(z, out=s), lambda d, z, s: backward(d, z, grad_input=d), False)


_SMOOTH: dict[Callable, Rule] = {
    torch.tanh: Rule(
        "tanh", lambda z, s: z.tanh_(), lambda d, z, s: _aten.tanh_backward.grad_input(d, s, grad_input=d), True
    ),
    functional.gelu: _from_input("gelu"),
    functional.silu: _from_input("silu"),
}


class Buffers:
    """All that a step of g networks on batches of N writes, allocated once."""

    def __init__(self, ensemble, g: int, N: int, chunk: int):
        layer, L, n = ensemble.layer, ensemble.depth, ensemble.dim

        def empty(*shape, dtype=ensemble.weights.dtype):
            return torch.zeros(shape, dtype=dtype, device=ensemble.weights.device)

        self.rows, self.x = empty(g, N, dtype=torch.int64), empty(g, N, ensemble.inputs)
        self.y, self.minus_one = empty(g, N, 1, dtype=torch.int64), empty(g, N, 1) - 1
        self.log_p, self.d_logits = empty(g, N, ensemble.classes), empty(g, N, ensemble.classes)
        self.picked, self.loss = empty(g, N, 1), empty(g)
        self.states = list(empty(L + 1, g, N, n))  # what enters each layer, and what leaves the last
        textbook = layer.outer == "identity" and layer.alpha == 0 and layer.beta == 1
        self.after = self.states[1:] if textbook else list(empty(L, g, N, layer.hidden))
        self.before = self.after if rule(layer.activation).in_place else list(empty(L, g, N, layer.hidden))
        self.d_state, self.d_units = empty(g, N, n), empty(g, N, layer.hidden)
        self.chunk = min(chunk, L)  # layers whose gradients there is room for
        per_layer = sum(p.numel() for p in layer.parameters())
        ends = ensemble.count - L * per_layer
        self.gradient = empty(g, self.chunk * per_layer + ends)
        self.spans = [  # (from, to) in the weights, and where the gradient begins
            (first * per_layer, min(first + self.chunk, L) * per_layer, 0) for first in range(0, L, self.chunk)
        ]
        self.spans.append((L * per_layer, ensemble.count, self.chunk * per_layer))


class Group:
    """Networks start … start + g of an ensemble, and their step."""

    def __init__(self, ensemble, start: int, buffers: Buffers, adam=None, images=None):
        self.layer, self.depth, self.buffers, self.images = ensemble.layer, ensemble.depth, buffers, images
        self.members = range(start, start + len(buffers.loss))
        self.columns = slice(start, self.members.stop)
        self.weights = views(ensemble, ensemble.weights[self.columns], ensemble.depth)
        self.gradients = views(ensemble, buffers.gradient, buffers.chunk)
        self.rule, self.adam = rule(self.layer.activation), adam
        self.graph: torch.cuda.CUDAGraph | None = None
        if adam is not None:
            self.stopped = torch.zeros_like(buffers.loss, dtype=torch.float32)  # 1.0: leave these weights alone
            self.count = torch.zeros((), dtype=torch.float32, device=buffers.loss.device)  # as the kernel reads it
            self.updates = adam.prepare(self)

    @torch.no_grad()
    def run(self, draws: list, losses: Tensor, first: int, last: int) -> None:
        """Steps first + 1 … last."""
        if self.buffers.loss.is_cuda and self.graph is None:
            self.graph = self._capture()
        for step in range(first, last):
            torch.stack([next(draws[e]) for e in self.members], out=self.buffers.rows)
            self._step() if self.graph is None else self.graph.replay()
            losses[step, self.columns] = self.buffers.loss

    def _step(self) -> None:
        u = self.buffers
        torch.index_select(self.images.train_x, 0, u.rows.view(-1), out=u.x.view(-1, u.x.shape[-1]))
        torch.index_select(self.images.train_y, 0, u.rows.view(-1), out=u.y.view(-1))
        self.count.add_(1)
        self.forward_and_back()

    def _capture(self) -> "torch.cuda.CUDAGraph":
        """One step as a CUDA graph. While the kernels warm up, Adam is told to leave everything alone.

        On the weights' device, which need not be the current one: elsewhere nothing would be recorded.
        """
        with torch.cuda.device(self.buffers.loss.device), _CAPTURING:
            self.stopped.fill_(1)  # before the other stream starts from here
            # of a pool of its own: no other thread works on this stream
            side, graph = torch.cuda.Stream(priority=-1), torch.cuda.CUDAGraph()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._step()
            torch.cuda.current_stream().wait_stream(side)
            # records, and runs nothing; other threads go on with what they do
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                self._step()
            self.stopped.zero_(), self.count.zero_()
        return graph

    def forward_and_back(self) -> None:
        """Loss and gradients at buffers.x, buffers.y; each chunk of gradients goes to Adam, if there is one."""
        u, (layers, (lift, lift_b), (readout, readout_b)) = self.buffers, self.weights
        alpha, beta, tied = self.layer.alpha, self.layer.beta, self.layer.outer == "tied"
        torch.baddbmm(lift_b, u.x, lift.mT, out=u.states[0])
        for l, (A, B, b) in enumerate(layers):
            x, z, s, out = u.states[l], u.before[l], u.after[l], u.states[l + 1]
            torch.bmm(x, A.mT, out=z) if b is None else torch.baddbmm(b, x, A.mT, out=z)
            self.rule.forward(z, s)
            if B is not None:
                torch.baddbmm(x, s, B, beta=alpha, alpha=beta, out=out)
            elif out is not s:
                torch.mul(s, beta, out=out).add_(x, alpha=alpha)
        h, log_p, d_logits = u.states[-1], u.log_p, u.d_logits
        torch.baddbmm(readout_b, h, readout.mT, out=d_logits)
        _aten._log_softmax.out(d_logits, 2, False, out=log_p)
        torch.mean(torch.gather(log_p, 2, u.y, out=u.picked), (1, 2), out=u.loss).neg_()
        if self.adam is not None:
            self.stopped.logical_or_(~u.loss.isfinite())
        torch.exp(log_p, out=d_logits).scatter_add_(2, u.y, u.minus_one).div_(h.shape[1])

        d_layers, (d_lift, d_lift_b), (d_readout, d_readout_b) = self.gradients
        d, other = u.d_state, u.d_units
        torch.bmm(d_logits.mT, h, out=d_readout)
        torch.sum(d_logits, 1, keepdim=True, out=d_readout_b)
        torch.bmm(d_logits, readout, out=d)
        for l in reversed(range(self.depth)):
            (A, B, b), (dA, dB, db), x, z, s = layers[l], d_layers[l % u.chunk], u.states[l], u.before[l], u.after[l]
            if B is not None:
                dz = other.baddbmm_(d, B.mT, beta=0, alpha=beta)
            else:  # in place where nothing else needs d
                dz = d.mul_(beta) if alpha == 0 else torch.mul(d, beta, out=other)
            self.rule.backward(dz, z, s)
            torch.bmm(dz.mT, x, out=dA)
            if B is not None:
                dB.baddbmm_(s.mT, d, beta=1 if tied else 0, alpha=beta)
            if b is not None:
                torch.sum(dz, 1, keepdim=True, out=db)
            if dz is d:
                d, other = torch.bmm(dz, A, out=other), d
            else:
                d.baddbmm_(dz, A, beta=alpha)
            if l % u.chunk == 0:
                self._update(l // u.chunk)
        torch.bmm(d.mT, u.x, out=d_lift)
        torch.sum(d, 1, keepdim=True, out=d_lift_b)
        self._update(-1)

    def _update(self, span: int) -> None:
        if self.adam is not None:
            for lists, options in self.updates[span]:
                self.adam.kernel(*lists, **options)


class Adam:
    """torch.optim.Adam's own kernel, called per network: it takes one rate, and one flag that says "skip"."""

    def __init__(self, ensemble, rates: list[float], betas: tuple[float, float], eps: float):
        self.weights, self.rates = ensemble.weights, rates
        self.first, self.second = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.options: dict[str, Any] = {"beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": 0.0}
        self.options |= {"amsgrad": False, "maximize": False, "grad_scale": None}
        self.kernel: Callable[..., None] = torch._fused_adam_
        try:
            one = [torch.zeros_like(self.weights[0, :16])]
            count = [torch.ones((), dtype=torch.float32, device=one[0].device)]
            self.kernel(one, one, one, one, [], count, lr=1.0, found_inf=torch.ones_like(count[0]), **self.options)
        except (RuntimeError, NotImplementedError):  # not on this device or version of torch
            self.kernel = _plain_adam

    def prepare(self, group: Group) -> list[list[tuple]]:
        """For each span of the weights, the arguments of each network's call."""
        u = group.buffers

        def call(i: int, e: int, first: int, last: int, at: int) -> tuple:
            rows = (self.weights[e, first:last], u.gradient[i, at : at + last - first])
            moments = (self.first[e, first:last], self.second[e, first:last])
            options = {"lr": self.rates[e], "found_inf": group.stopped[i], **self.options}
            return [*([row] for row in (*rows, *moments)), [], [group.count]], options

        return [[call(i, e, *span) for i, e in enumerate(group.members)] for span in u.spans]


def _plain_adam(weights, gradients, firsts, seconds, _, counts, *, lr, beta1, beta2, eps, found_inf, **others) -> None:
    """The same in torch operations."""
    p, g, m, v, t = weights[0], gradients[0], firsts[0], seconds[0], counts[0].to(weights[0].dtype)
    one, two = (-torch.expm1(t * math.log(beta)) for beta in (beta1, beta2))  # 1 - beta^t, without cancellation
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    p.copy_(torch.where(found_inf > 0, p, p - lr / one * m / (v.sqrt() / two.sqrt() + eps)))


def views(ensemble, flat: Tensor, depth: int) -> tuple:
    """The parts of (g, P) as views: [(A, B, b) of each layer], (lift, bias), (readout, bias); biases (g, 1, n)."""
    layer, at = ensemble.layer, 0

    def take(rows: int, columns: int) -> Tensor:
        nonlocal at
        at += rows * columns
        return flat[:, at - rows * columns : at].unflatten(1, (rows, columns))

    layers = []
    for _ in range(depth):
        A = take(layer.hidden, layer.dim)
        B = take(layer.hidden, layer.dim) if layer.has_own_B else A if layer.outer == "tied" else None
        layers.append((A, B, take(1, layer.hidden) if layer.b is not None else None))
    n, d, c = ensemble.dim, ensemble.inputs, ensemble.classes
    return layers, (take(n, d), take(1, n)), (take(c, n), take(1, c))
