"""Train E networks of one shape at once: one stack of weights, the backward pass written by hand.

    ensemble = Ensemble(networks)
    histories = ensemble.train(images, steps=500, lr=[1e-3] * 5, generators=[...])
    ensemble.unstack()              # the networks now hold the trained weights

Each network goes the way ``pso_lib.training.train`` would send it alone with Adam, its own rate and its
own generator. A layer is eight matrix products over a stack; everything between them happens in place.

On a CPU the networks are cut into groups of a few. One thread takes one group through many steps before it
turns to the next: its weights and Adam's moments then stay in the cache, and no two threads ever wait for each
other inside a step. On a CUDA device all networks form one group, and a step is one CUDA graph.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm

from pso_lib.errors import require_finite
from pso_lib.layers import Layer
from pso_lib.networks import DeepNetwork
from pso_lib.stacked import Adam, Buffers, Group, rule, views
from pso_lib.training import LOOK, History, _batches, _check_fit, _check_numbers

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
            activations, ``orthogonal="always"``, frozen or non-finite weights.
    """

    def __init__(self, networks: Sequence[DeepNetwork]):
        self.networks = list(networks)
        _check_networks(self.networks)
        first = self.networks[0]
        self.layer, self.depth, self.dim = first.layers[0], first.depth, first.dim
        self.inputs, self.classes = first.lift.in_features, first.readout.out_features
        self.count = sum(p.numel() for p in first.parameters())
        like = first.lift.weight
        # rows begin at multiples of 64 bytes
        self.weights = torch.zeros(len(self), math.ceil(self.count / 16) * 16, dtype=like.dtype, device=like.device)
        self.restack()

    def __len__(self) -> int:
        return len(self.networks)

    @torch.no_grad()
    def restack(self) -> None:
        """Copy the networks' weights into the stack, after they were changed from outside."""
        for index, network in enumerate(self.networks):
            row = parameters_to_vector(network.parameters())
            require_finite(f"networks[{index}]", row)
            self.weights[index, : self.count].copy_(row)

    @torch.no_grad()
    def unstack(self) -> list[DeepNetwork]:
        """Write the weights back into the networks, and return these."""
        for row, network in zip(self.weights, self.networks, strict=True):
            vector_to_parameters(row[: self.count].clone(), network.parameters())
        return self.networks

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """What every network makes of x: (N, d) or (E, N, d) to (E, N, classes)."""
        layers, (lift, lift_b), (readout, readout_b) = views(self, self.weights, self.depth)
        h = torch.baddbmm(lift_b, x.expand(len(self), *x.shape[-2:]), lift.mT)
        for A, B, b in layers:
            s = self.layer.activation(torch.bmm(h, A.mT) if b is None else torch.baddbmm(b, h, A.mT))
            s = (s if B is None else torch.bmm(s, B)).mul_(self.layer.beta)
            h = s if self.layer.alpha == 0 else s.add_(h, alpha=self.layer.alpha)
        return torch.baddbmm(readout_b, h, readout.mT)

    @torch.no_grad()
    def accuracy(self, x: Tensor, y: Tensor, *, chunk: int = 512) -> Tensor:
        """The share of rows of x (N, d) whose largest output is at y (N,), per network: (E,), float64.

        A row with a NaN counts as wrong.
        """
        if len(x) != len(y) or len(y) == 0:
            raise ValueError(f"x has {len(x)} rows and y {len(y)} labels; give equally many, at least one.")
        right = torch.zeros(len(self), dtype=torch.float64, device=x.device)
        for rows, labels in zip(x.split(chunk), y.split(chunk), strict=True):
            logits = self.logits(rows)
            right += ((logits.argmax(-1) == labels) & ~logits.isnan().any(-1)).sum(-1)
        return right / len(y)

    @torch.no_grad()
    def gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Loss (E,), and per network the gradient of each parameter by name, for x (N, d) or (E, N, d)."""
        shape = (len(self), x.shape[-2])
        group = Group(self, 0, Buffers(self, *shape, self.depth))
        group.buffers.x.copy_(x.expand(*shape, -1)), group.buffers.y.copy_(y.expand(shape)[..., None])
        group.forward_and_back()
        named = [(name, p.shape) for name, p in self.networks[0].named_parameters()]
        rows = [row[: self.count].split([s.numel() for _, s in named]) for row in group.buffers.gradient]
        return group.buffers.loss, [
            {name: piece.view(size) for (name, size), piece in zip(named, row, strict=True)} for row in rows
        ]

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
        progress: bool = False,
    ) -> list[History]:
        """Train all networks with Adam and cross-entropy; one ``History`` for each.

        Args are those of ``training.train``, with one rate per network (or one number for all) and one
        generator per network. A network whose loss is not finite keeps the weights it has from then on; its
        history says at which step. ``at_eval`` is called as ``at_eval(step, ensemble)``.
        """
        rates = _rates(lr, len(self))
        _check_training(self, images, steps, rates, batch, generators, eval_every)
        started, histories, every = time.perf_counter(), [History() for _ in self.networks], eval_every or steps
        if eval_every:
            _evaluate(self, images, histories, 0, at_eval)
        run = _Run(self, images, steps, rates, batch, generators or [None] * len(self), betas, eps)
        with _flushed_denormals(), run.pool, tqdm(total=steps, unit="step", disable=not progress) as bar:
            for mark in sorted({*range(LOOK, steps, LOOK), *range(every, steps, every), steps}):
                done = run.done
                run.advance(mark)
                _look(run.losses, self.weights, histories, done, mark, mark == steps)
                bar.update(mark - done)
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
        self.workers = 1 if device.type == "cuda" else min(self.threads, WORKERS, E)
        share = E / self.workers
        size = E if device.type == "cuda" else math.ceil(share / math.ceil(share / GROUP))
        adam = Adam(ensemble, rates, betas, eps)
        self.losses = torch.full((steps, E), math.nan, dtype=ensemble.weights.dtype, device=device)
        self.draws = [_batches(len(images.train_y), batch, steps, generator, device) for generator in generators]
        self.queues: list[list[Group]] = [[] for _ in range(self.workers)]
        buffers: dict[tuple[int, int], Buffers] = {}  # a worker's groups take turns with the same ones
        for index, start in enumerate(range(0, E, size)):
            worker, count = index % self.workers, min(size, E - start)
            if (worker, count) not in buffers:
                chunk = ensemble.depth if device.type == "cuda" else CHUNK
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
    before = (torch.tensor(1e-40) * 1).item() == 0.0
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


def _rates(lr, count: int) -> list[float]:
    rates = lr.tolist() if isinstance(lr, Tensor) else lr
    rates = [rates] * count if isinstance(rates, (int, float)) else list(rates)
    if len(rates) != count:
        raise ValueError(f"lr has {len(rates)} rates for {count} networks; give one number, or one per network.")
    return rates


def _check_training(ensemble, images, steps, rates, batch, generators, eval_every) -> None:
    for rate in rates:
        _check_numbers(steps, rate, batch, eval_every, len(images.train_y))
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
    own = [g for g in generators if g is not None]
    if len({id(g) for g in own}) < len(own):
        raise ValueError(
            "generators holds one generator twice; two networks would tear its numbers apart. Give each its own; "
            "for equal minibatches seed them alike."
        )


def _check_networks(networks: list) -> None:
    if not networks:
        raise ValueError("networks is empty; give at least one DeepNetwork.")
    for index, network in enumerate(networks):
        shape = _signature(index, network)
        if index == 0:
            first = shape
        for part, given in shape.items():
            if given != first[part]:
                raise ValueError(
                    f"networks[{index}] has {part} {given}, networks[0] has {first[part]}; an ensemble is of one "
                    "shape. Build them alike, or make one Ensemble for each shape."
                )


def _signature(index: int, network) -> dict:
    """What must agree between the networks; raises for what no ensemble can train."""
    name = f"networks[{index}]"
    if not isinstance(network, DeepNetwork):
        raise TypeError(f"{name} is a {type(network).__name__}; give DeepNetwork objects, as deep_network makes them.")
    for end in ("lift", "readout"):
        if not isinstance(getattr(network, end), torch.nn.Linear) or getattr(network, end).bias is None:
            raise ValueError(f"{name} has no affine {end}; build it with inputs= and classes=.")
    kinds = []
    for place, layer in enumerate(network.layers):
        where = f"{name}.layers[{place}]"
        if not isinstance(layer, Layer):
            raise TypeError(f"{where} is a {type(layer).__name__}, not a pso_lib Layer; use training.train for it.")
        if layer.orthogonal == "always":
            raise ValueError(
                f'{where} has orthogonal="always"; its weights are no plain matrices. Make the layer with '
                'orthogonal="start", or use training.train.'
            )
        kind = {key: getattr(layer, key) for key in ("dim", "hidden", "alpha", "beta", "outer")}
        kinds.append({**kind, "bias": layer.b is not None, "activation": rule(layer.activation).name})
        if kinds[-1] != kinds[0]:
            raise ValueError(f"{where} is {layer!r}, its first layer {network.layers[0]!r}; all layers must be alike.")
    parameters = list(network.parameters())
    if not all(p.requires_grad for p in parameters):
        raise ValueError(f"{name} has frozen parameters; unfreeze them with requires_grad_(), or use training.train.")
    kinds_of = {(p.dtype, p.device) for p in parameters}
    if len(kinds_of) > 1:
        raise ValueError(f"{name} mixes dtypes or devices, {kinds_of}; move it with network.to(...).")
    dtype, device = kinds_of.pop()
    ends = {"inputs": network.lift.in_features, "classes": network.readout.out_features}
    return {"depth": network.depth, **kinds[0], **ends, "dtype": dtype, "device": device}
