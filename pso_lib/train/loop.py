"""A plain training loop for any network on images held as one tensor.

    history = train(network, images, steps=500, lr=1e-3, generator=torch.Generator().manual_seed(0))

Minibatches are rows of a tensor on the device, the loss stays there until it is asked for, and a
run that diverges stops and says so instead of raising.
"""

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pso_lib.data import Images
from pso_lib.errors import (
    checked,
    device_of,
    nearest,
    require_attributes,
    require_choice,
    require_finite,
    require_labels,
    require_positive,
    require_positive_int,
)
from pso_lib.modes import evaluating, modes_kept
from pso_lib.train.optimizers import BY_NAME, fused
from pso_lib.train.progress import bar

__all__ = ["History", "accuracy", "hits", "train"]

LOOK = 25  # steps between two looks at whether the loss is still finite: one transfer each


@dataclass
class History:
    """What a run did.

    ``loss[i]`` is the minibatch loss of step i + 1, before its update. ``test_accuracy[j]`` was
    measured after ``steps[j]`` updates (0: before the first). A run is ``diverged`` when its loss, or
    at the end a weight, was no longer finite: at step ``diverged_at``, where ``loss`` ends too.
    """

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    diverged: bool = False
    diverged_at: int | None = None
    seconds: float = 0.0

    @property
    def final_accuracy(self) -> float:
        """The last test accuracy; NaN for a run that diverged."""
        return math.nan if self.diverged else self.test_accuracy[-1]


@checked(but=("images",))  # whatever has the four tensors
def train(
    network: nn.Module,
    images: Images,
    *,
    steps: int,
    lr: float,
    batch: int = 128,
    generator: torch.Generator | None = None,
    optimizer: str = "adam",
    eval_every: int | None = None,
    at_eval: Callable[[int, nn.Module], None] | None = None,
    progress: bool | None = None,
    **options,
) -> History:
    """Train in place with cross-entropy; an epoch is a new permutation without its incomplete last batch.

    In a network in training mode each part keeps its mode, so that a BatchNorm frozen by ``eval()`` stays frozen; one
    in evaluation mode is trained in training mode throughout. Afterwards each module has its own mode again.

    Args:
        images: anything with train_x (N, d), train_y (N,), test_x, test_y; on the network's device.
        generator: draws the permutations; the global one if None. With it, and the same weights, a
            run repeats itself exactly on the same machine.
        optimizer: a name in ``pso_lib.train.optimizers.BY_NAME``; ``options`` go to it (momentum=, weight_decay=, …).
        eval_every: measure test accuracy at step 0, every so many steps, and at the end; None: at the end.
        at_eval: called as ``at_eval(step, network)`` at each of these, to look at the network.
        progress: show a bar; None: in a notebook, once it has taken some seconds.

    Returns a ``History``. Raises ``ValueError`` for bad arguments, non-finite weights or inputs, and
    a network and images that do not fit together; divergence is reported, not raised.
    """
    require_attributes("images", images, "train_x", "train_y", "test_x", "test_y")
    x, y = images.train_x, images.train_y
    steps, batch, eval_every = _check_numbers(steps, [lr], batch, eval_every, len(y))
    device_of(generator)
    _check_fit(network, images)
    update = _make_optimizer(network, optimizer, lr, options)
    history, started = History(), time.perf_counter()
    losses = torch.full((steps,), math.nan, device=x.device)
    looked = 0  # the loss of the first `looked` steps is known to be finite

    def evaluate(step: int) -> None:
        history.steps.append(step)
        history.test_accuracy.append(accuracy(network, images.test_x, images.test_y))
        if at_eval is not None:
            at_eval(step, network)

    with modes_kept(network):
        if not network.training:
            network.train()
        if eval_every:
            evaluate(0)
        for step, rows in enumerate(
            bar(_batches(len(y), batch, steps, generator, x.device), total=steps, show=progress), start=1
        ):
            loss = cross_entropy(network(x[rows]), y[rows])
            update.zero_grad()
            loss.backward()
            update.step()
            losses[step - 1] = loss.detach()  # stays on the device: no waiting for the GPU at each step

            at_end = step == steps
            evaluates = at_end or (eval_every and step % eval_every == 0)
            if evaluates or step % LOOK == 0:
                bad = (~torch.isfinite(losses[looked:step])).nonzero()
                if len(bad):
                    history.diverged_at = looked + int(bad[0]) + 1
                elif at_end and not all(torch.isfinite(p).all() for p in network.parameters()):
                    history.diverged_at = step
                if history.diverged_at is not None:
                    history.diverged = True
                    break
                looked = step
            if evaluates:
                evaluate(step)
    history.loss = losses[: history.diverged_at or steps].tolist()
    history.seconds = time.perf_counter() - started
    return history


@checked
def accuracy(network: nn.Module, x: torch.Tensor, y: torch.Tensor, *, chunk: int = 2048) -> float:
    """The share of rows of x (N, d) whose largest output is at y (N,); a row with a NaN counts as wrong.

    In evaluation mode, without gradients, ``chunk`` rows at a time; the mode is put back afterwards.

    Raises:
        ValueError: y is not (N,) integers from 0 up, a label has no output, the outputs are not (N, classes).
    """
    if x.ndim < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (N, d), a row per example.")
    require_labels("y", y, len(x), of="x")
    chunk, most = require_positive_int("chunk", chunk), int(y.max())
    right = torch.zeros((), dtype=torch.int64, device=y.device)
    with evaluating(network), torch.no_grad():
        for rows, labels in zip(x.split(chunk), y.split(chunk), strict=True):
            logits = network(rows)
            _check_logits(logits, rows, most + 1)
            right += hits(logits, labels).sum()
    return int(right) / len(y)


def hits(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Whether the largest of the logits (…, classes) is at the label (…,); not where one is NaN."""
    return (logits.argmax(-1) == labels) & ~logits.isnan().any(-1)


def _check_logits(logits: torch.Tensor, x: torch.Tensor, classes: int) -> None:
    if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < classes:
        raise ValueError(
            f"network maps {tuple(x.shape)} to {tuple(logits.shape)}, but the labels need ({len(x)}, {classes}) "
            f"or wider, one output per class in y. Build it with classes={classes}."
        )


def _batches(total: int, batch: int, steps: int, generator, device):
    """Yield ``steps`` tensors of ``batch`` row numbers: epoch after epoch of a permutation."""
    per_epoch = total // batch
    for step in range(steps):
        place = step % per_epoch
        if place == 0:  # drawn where the generator lives, then moved once an epoch
            where = generator.device if generator is not None else device
            order = torch.randperm(total, generator=generator, device=where).to(device)
        yield order[place * batch : (place + 1) * batch]


def _make_optimizer(network: nn.Module, name: str, lr: float, options: dict) -> torch.optim.Optimizer:
    require_choice("optimizer", name, BY_NAME)
    make = BY_NAME[name]
    known = [p for p in inspect.signature(make).parameters if p not in ("params", "lr", "self")]
    for option in options:
        if option not in known:
            own = [p for p, kind in inspect.signature(train).parameters.items() if kind.kind == kind.KEYWORD_ONLY]
            raise TypeError(
                f"train has no argument {option!r}, nor has the optimizer {name!r}; it knows "
                f"{', '.join(known)}.{nearest(option, own + known)}"
            )
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("network has no parameter to train; build one with weights, or unfreeze some.")
    if "fused" in known and not {"fused", "foreach", "differentiable"} & options.keys():
        return fused(make, parameters, lr=lr, **options)
    return make(parameters, lr=lr, **options)


def _check_numbers(steps, rates, batch, eval_every, total: int) -> tuple[int, int, int | None]:
    """The whole numbers as Python's own."""
    steps, batch = require_positive_int("steps", steps), require_positive_int("batch", batch)
    if eval_every is not None:
        eval_every = require_positive_int("eval_every", eval_every)
    for rate in rates:
        require_positive("lr", rate)
    if batch > total:
        raise ValueError(f"batch={batch:,} exceeds the {total:,} training images; lower batch.")
    return steps, batch, eval_every


def _check_fit(network: nn.Module, images: Images) -> None:
    x, y = images.train_x, images.train_y
    for name, weight in [*network.named_parameters(), *network.named_buffers()]:
        if weight.device != x.device:
            raise ValueError(
                f"network parameter {name!r} is on {weight.device}, the images are on {x.device}; "
                f"move one: images.to({str(weight.device)!r}) or network.to({str(x.device)!r})."
            )
        if weight.is_floating_point():
            require_finite(f"network parameter {name!r}", weight.detach())
    first = next(network.parameters(), None)
    if first is not None and first.dtype != x.dtype:
        raise ValueError(f"the network is {first.dtype}, the images are {x.dtype}; use images.to(dtype={first.dtype}).")
    require_finite("images.train_x", x)
    require_finite("images.test_x", images.test_x)
    for part in ("train", "test"):
        rows, labels = getattr(images, f"{part}_x"), getattr(images, f"{part}_y")
        require_labels(f"images.{part}_y", labels, len(rows))
        if labels.dtype != torch.int64:
            raise ValueError(f"images.{part}_y is {labels.dtype}; cross-entropy wants int64: {part}_y.long().")
    with evaluating(network), torch.no_grad():  # so that the probe leaves batch statistics and random numbers alone
        logits = network(x[:2])
    _check_logits(logits, x[:2], int(max(y.max(), images.test_y.max())) + 1)
