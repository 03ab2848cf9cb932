"""Train E networks of one shape at once: one stack of weights, the backward pass written by hand.

    ensemble = Ensemble(networks)
    histories = ensemble.train(images, steps=500, lr=[1e-3] * 5, generators=[...])
    ensemble.unstack()              # the networks now hold the trained weights

Each network goes the way ``pso_lib.train.loop.train`` would send it alone with Adam, its own rate and its
own generator. A layer is eight matrix products over a stack; everything between them happens in place.

On a CPU the networks are cut into groups of a few. One thread takes one group through many steps before it
turns to the next: its weights and Adam's moments then stay in the cache, and no two threads ever wait for each
other inside a step. On a CUDA device all networks form one group, and a step is one CUDA graph.
"""

import math
import numbers
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pso_lib.errors import (
    checked,
    device_of,
    require_attributes,
    require_dtype,
    require_finite,
    require_labels,
    require_positive_int,
    require_shape,
    require_tensor,
)
from pso_lib.nn.init import layers_of
from pso_lib.nn.networks import DeepNetwork
from pso_lib.train.loop import LOOK, History, _batches, _check_fit, _check_numbers, hits
from pso_lib.train.optimizers import require_betas
from pso_lib.train.progress import bar
from pso_lib.train.stackable import require_plain_surroundings, require_same_outputs, require_stackable
from pso_lib.train.stacked import Adam, Buffers, Group, views

__all__ = ["Ensemble"]

GROUP = 5  # networks in a group on a CPU: enough to hide the cost of a call, few enough for the cache
WORKERS = 4  # threads that hold groups; with more, Python's lock would bind
CHUNK = 20  # layers between two calls of Adam: their gradients are still in the cache then


class Ensemble:
    """E networks of one shape, stacked.

    Args:
        networks: ``DeepNetwork`` objects with lift and readout, equal in depth, dim, hidden, alpha, beta,
            activation (relu, leaky_relu, abs, tanh, gelu or silu), outer, bias, dtype and device. Their weights
            are copied; ``unstack`` writes them back.

    Attributes:
        weights: (E, P), a row per network, in the order of ``network.parameters()``, padded to a multiple of 16.

    Raises:
        TypeError, ValueError: no or unlike networks, and what this engine does not know: other layers or
            activations, ``orthogonal="always"`` and other parametrisations, subclasses and objects with methods of
            their own, hooks, further parameters or buffers, weights that are shared, overlap, or are frozen or not
            finite. In the end the stack must compute what the networks do, part by part, on a few rows.
        RuntimeError: under autocast, and while torch holds hooks for every module or optimiser; so do ``gradients``
            and ``train``.
    """

    @checked
    def __init__(self, networks: Sequence[DeepNetwork]):
        self.networks = list(networks)
        require_stackable(self.networks)
        first = self.networks[0]
        self.layout = {name: p.shape for name, p in first.named_parameters()}
        lift, readout = first.lift, first.readout
        assert isinstance(lift, nn.Linear) and isinstance(readout, nn.Linear)  # require_stackable has seen to it
        self.layer, self.depth, self.dim = layers_of(first)[0], first.depth, first.dim
        self.inputs, self.classes = lift.in_features, readout.out_features
        self.count = sum(p.numel() for p in first.parameters())
        like = lift.weight
        # rows begin at multiples of 64 bytes
        self.weights = torch.zeros(len(self), math.ceil(self.count / 16) * 16, dtype=like.dtype, device=like.device)
        self.restack()

    def __len__(self) -> int:
        return len(self.networks)

    @torch.no_grad()
    def restack(self) -> None:
        """Copy the networks' weights into the stack, after they were changed from outside."""
        require_plain_surroundings(self.weights.device)
        require_stackable(self.networks)
        rows = [torch.cat([p.reshape(-1) for p in network.parameters()]) for network in self.networks]
        for index, row in enumerate(rows):
            require_finite(f"networks[{index}]", row)
        for row, to in zip(rows, self.weights, strict=True):
            to[: self.count].copy_(row)
        require_same_outputs(self)

    @torch.no_grad()
    def unstack(self) -> list[DeepNetwork]:
        """Write the weights back into the networks, and return these."""
        for index, network in enumerate(self.networks):
            if {name: p.shape for name, p in network.named_parameters()} != self.layout:
                raise ValueError(f"networks[{index}] has other parameters than when it was stacked; undo that first.")
        sizes = [shape.numel() for shape in self.layout.values()]
        for row, network in zip(self.weights, self.networks, strict=True):
            for piece, parameter in zip(row[: self.count].split(sizes), network.parameters(), strict=True):
                parameter.copy_(piece.view_as(parameter))
        return self.networks

    def _layer(self, h: Tensor, A: Tensor, B: Tensor | None, b: Tensor | None) -> Tensor:
        """One layer of every network, (E, N, n) to the same."""
        s = self.layer.activation(torch.bmm(h, A.mT) if b is None else torch.baddbmm(b, h, A.mT))
        s = (s if B is None else torch.bmm(s, B)).mul_(self.layer.beta)
        return s if self.layer.alpha == 0 else s.add_(h, alpha=self.layer.alpha)

    @checked
    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """What every network makes of x: (N, d) or (E, N, d) to (E, N, classes)."""
        self._require_points(x)
        layers, (lift, lift_b), (readout, readout_b) = views(self, self.weights, self.depth)
        h = torch.baddbmm(lift_b, x.expand(len(self), *x.shape[-2:]), lift.mT)
        for weights in layers:
            h = self._layer(h, *weights)
        return torch.baddbmm(readout_b, h, readout.mT)

    def _require_points(self, x: Tensor) -> None:
        require_tensor("x", x)
        shape = tuple(x.shape)
        if x.ndim not in (2, 3) or shape[-1] != self.inputs or (x.ndim == 3 and len(x) != len(self)):
            raise ValueError(
                f"x has shape {shape}; it must be (N, {self.inputs}), or ({len(self)}, N, {self.inputs}) with rows for "
                "each network."
            )
        require_dtype("x", x, self.weights.dtype)

    @checked
    @torch.no_grad()
    def accuracy(self, x: Tensor, y: Tensor, *, chunk: int = 512) -> Tensor:
        """The share of rows of x (N, d) whose largest output is at y (N,), per network: (E,), float64.

        A row with a NaN counts as wrong.
        """
        require_tensor("x", x)
        if x.ndim != 2:
            raise ValueError(f"x has shape {tuple(x.shape)}; it must be (N, {self.inputs}), the same rows for all.")
        require_shape("x", x, self.inputs)
        require_labels("y", y, len(x), self.classes, of="x")
        chunk = require_positive_int("chunk", chunk)
        right = torch.zeros(len(self), dtype=torch.int64, device=x.device)
        for rows, labels in zip(x.split(chunk), y.split(chunk), strict=True):
            right += hits(self.logits(rows), labels).sum(-1)
        return (right.cpu() if x.device.type == "mps" else right).double() / len(y)  # MPS has no float64

    @checked
    @torch.no_grad()
    def gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Loss (E,), and per network the gradient of each parameter by name, for x (N, d) or (E, N, d), y alike."""
        self._require_points(x)
        require_plain_surroundings(x.device)
        shape = (len(self), x.shape[-2])
        if tuple(y.shape) not in (shape[1:], shape):
            raise ValueError(
                f"x has {shape[1]} rows and y has shape {tuple(y.shape)}; it must be {shape[1:]}, or {shape} for each "
                "network its own."
            )
        require_labels("y", y.reshape(-1), y.numel(), self.classes)
        group = Group(self, 0, Buffers(self, *shape, self.depth))
        group.buffers.x.copy_(x.expand(*shape, -1)), group.buffers.y.copy_(y.expand(shape)[..., None])
        group.forward_and_back()
        sizes = [shape.numel() for shape in self.layout.values()]
        rows = [row[: self.count].split(sizes) for row in group.buffers.gradient]
        return group.buffers.loss, [
            {name: piece.view(size) for (name, size), piece in zip(self.layout.items(), row, strict=True)}
            for row in rows
        ]

    @checked
    @torch.no_grad()
    def train(
        self,
        images,
        *,
        steps: int,
        lr: float | Sequence[float] | Tensor,
        batch: int = 128,
        generators: Sequence[torch.Generator | None] | None = None,
        eval_every: int | None = None,
        at_eval: Callable[[int, "Ensemble"], None] | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        progress: bool | None = None,
    ) -> list[History]:
        """Train all networks with Adam and cross-entropy; one ``History`` for each.

        Args are those of ``training.train``, with one rate per network (or one number for all) and one
        generator per network. A network whose loss is not finite keeps the weights it has from then on; its
        history says at which step. ``at_eval`` is called as ``at_eval(step, ensemble)``.
        """
        require_attributes("images", images, "train_x", "train_y", "test_x", "test_y")
        rates = _rates(lr, len(self))
        _check_adam(betas, eps)
        steps, batch, eval_every = _check_numbers(steps, rates, batch, eval_every, len(images.train_y))
        _check_training(self, images, generators)
        started, histories, every = time.perf_counter(), [History() for _ in self.networks], eval_every or steps
        if eval_every:
            _evaluate(self, images, histories, 0, at_eval)
        run = _Run(self, images, steps, rates, batch, generators or [None] * len(self), betas, eps)
        with _flushed_denormals(), run.pool, bar(total=steps, show=progress) as shown:
            for mark in sorted({*range(LOOK, steps, LOOK), *range(every, steps, every), steps}):
                done = run.done
                run.advance(mark)
                _look(run.losses, self.weights, histories, done, mark, mark == steps)
                shown.update(mark - done)
                if all(history.diverged for history in histories):
                    break
                if mark % every == 0 or mark == steps:
                    _evaluate(self, images, histories, mark, at_eval)
        for history, row in zip(histories, run.losses.T.tolist(), strict=True):
            history.loss = row[: history.diverged_at or steps]
            history.seconds = time.perf_counter() - started
        return histories


class _Run:
    """A training under way: the groups, who works on them, and the losses so far (steps, E)."""

    def __init__(self, ensemble: Ensemble, images, steps: int, rates, batch: int, generators, betas, eps):
        E, device = len(ensemble), ensemble.weights.device
        self.threads, self.done = torch.get_num_threads(), 0
        on_cpu = device.type == "cpu"  # elsewhere one stack fills the device
        self.workers = min(self.threads, WORKERS, E) if on_cpu else 1
        share = E / self.workers
        size = math.ceil(share / math.ceil(share / GROUP)) if on_cpu else E
        adam = Adam(ensemble, rates, betas, eps)
        self.losses = torch.full((steps, E), math.nan, dtype=ensemble.weights.dtype, device=device)
        self.draws = [_batches(len(images.train_y), batch, steps, generator, device) for generator in generators]
        self.queues: list[list[Group]] = [[] for _ in range(self.workers)]
        buffers: dict[tuple[int, int], Buffers] = {}  # a worker's groups take turns with the same ones
        for index, start in enumerate(range(0, E, size)):
            worker, count = index % self.workers, min(size, E - start)
            if (worker, count) not in buffers:
                chunk = CHUNK if on_cpu else ensemble.depth
                buffers[worker, count] = Buffers(ensemble, count, batch, chunk)
            self.queues[worker].append(Group(ensemble, start, buffers[worker, count], adam, images))
        self.pool = ThreadPoolExecutor(self.workers)

    def advance(self, mark: int) -> None:
        """Go on to step ``mark``: each group walks there alone, so nothing waits inside a step."""

        def work(queue: list[Group]) -> None:
            torch.set_flush_denormal(True)  # the setting belongs to the thread
            for group in queue:
                group.run(self.draws, self.losses, self.done, mark)

        torch.set_num_threads(max(1, self.threads // self.workers))  # the workers are the parallelism
        try:
            list((self.pool.map if self.workers > 1 else map)(work, self.queues))
        finally:
            torch.set_num_threads(self.threads)
        self.done = mark


@contextmanager
def _flushed_denormals():
    """Numbers below float32's smallest normal one, 1e-38, count as 0 on this thread.

    Gradients that vanish with depth end there, and a CPU multiplies such numbers some ten times slower.
    """
    before = (torch.tensor(1e-40, device="cpu") * 1).item() == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _look(losses: Tensor, weights: Tensor, histories: list[History], done: int, mark: int, at_end: bool) -> None:
    """Note who diverged in the steps done + 1 … mark: one transfer."""
    bad = ~torch.isfinite(losses[done:mark])  # (steps, E)
    first = torch.where(bad.any(0), bad.to(torch.int8).argmax(0) + done + 1, 0).tolist()
    broken = (~torch.isfinite(weights)).any(1).tolist() if at_end else [False] * len(histories)
    for history, step, without_weights in zip(histories, first, broken, strict=True):
        if not history.diverged and (step or without_weights):
            history.diverged, history.diverged_at = True, step or mark


def _evaluate(ensemble: Ensemble, images, histories: list[History], step: int, at_eval) -> None:
    shares = ensemble.accuracy(images.test_x, images.test_y).tolist()
    for history, share in zip(histories, shares, strict=True):
        if not history.diverged:
            history.steps.append(step)
            history.test_accuracy.append(share)
    if at_eval is not None:
        at_eval(step, ensemble)


def _check_adam(betas, eps) -> None:
    require_betas(betas)
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite number, 0 or above, got {eps!r}; Adam's own is 1e-8.")


def _rates(lr, count: int) -> list[float]:
    rates = lr.tolist() if isinstance(lr, Tensor) else lr
    if not isinstance(rates, numbers.Real | Sequence) or isinstance(rates, str):
        raise ValueError(f"lr must be a number, or one per network, got {lr!r}.")
    rates = [rates] * count if isinstance(rates, numbers.Real) else list(rates)
    if len(rates) != count:
        raise ValueError(f"lr has {len(rates)} rates for {count} networks; give one number, or one per network.")
    return rates


def _check_training(ensemble, images, generators) -> None:
    require_plain_surroundings(ensemble.weights.device)
    require_stackable(ensemble.networks)  # hooks may have come since
    _check_fit(ensemble.networks[0], images)
    for index, row in enumerate(ensemble.weights):
        require_finite(f"weights of network {index}", row)
    if generators is None:
        return
    if len(generators) != len(ensemble):
        raise ValueError(
            f"generators has {len(generators)} entries for {len(ensemble)} networks; give one generator per network, "
            "or None for torch's global one."
        )
    own = [g for g in generators if g is not None and device_of(g)]
    if len({id(g) for g in own}) < len(own):
        raise ValueError(
            "generators holds one generator twice; two networks would tear its numbers apart. Give each its own; "
            "for equal minibatches seed them alike."
        )
