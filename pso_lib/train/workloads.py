"""The three networks whose training is made unstable, behind one interface.

    workload = transformer_workload(text)            # or mlp_workload(images), cnn_workload(images)
    model = workload.model(seed)
    batch = workload.batch(generator)
    workload.loss(model, batch).backward()
    workload.evaluate(model)                     # {"loss": …, "accuracy": …}

A Transformer on characters, a deep MLP and a residual CNN on images: the latter two because an
instability that only a Transformer shows would be the Transformer's, not training's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pso_lib.data import Images
from pso_lib.data.text import Text
from pso_lib.errors import checked, device_of, nearest, require_finite, require_labels, require_positive_int
from pso_lib.modes import evaluating
from pso_lib.nn.convnet import ConvNet
from pso_lib.nn.init import seeded
from pso_lib.nn.networks import plain_network
from pso_lib.nn.transformer import GPT, next_token_loss

__all__ = ["Workload", "cnn_workload", "image_workload", "mlp_workload", "transformer_workload"]


@dataclass(frozen=True, eq=False)
class Workload:
    """What a training run needs to know of its network and data.

    Attributes:
        name: "transformer", "mlp" or "cnn".
        build: ``build(generator, **options)`` is a fresh network; see ``model``.
        batch: ``batch(generator)`` draws a batch.
        loss: ``loss(model, batch)`` is its mean cross-entropy in nats, a scalar with a gradient.
        measure: ``measure(model)`` on held-out data; see ``evaluate``.
        description: data and network, in words.
        options: names of the options ``model`` takes.
        floor: a loss below it counts as equal to it when an explosion is looked for: where the loss can
            come near 0, half as much again as its minimum is nothing.
    """

    name: str
    build: Callable[..., nn.Module]
    batch: Callable[[torch.Generator], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    measure: Callable[[nn.Module], dict[str, float]]
    description: str
    options: tuple[str, ...] = field(default=())
    floor: float = 0.0

    def model(self, seed: int, **options) -> nn.Module:
        """A fresh network whose start is drawn by ``seed`` alone. ``ValueError`` for an option it does not have."""
        for option in options:
            if option not in self.options:
                raise ValueError(
                    f"the {self.name} has no option {option!r}; it has {', '.join(self.options) or 'none'}."
                    f"{nearest(option, self.options)} Leave this arm out for the {self.name}."
                )
        return self.build(seeded(seed), **options)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean cross-entropy ("loss"), for images also "accuracy", on held-out data; without gradients."""
        with evaluating(model), torch.no_grad():
            return self.measure(model)


# ------------------------------------------------------------------------------------------ the workloads


@checked
def transformer_workload(
    text: Text,
    *,
    batch: int = 16,
    context: int = 64,
    width: int = 128,
    layers: int = 5,
    heads: int = 4,
    windows: int = 256,
    device=None,
    **options,
) -> Workload:
    """A ``GPT`` on characters; 1.0 M parameters by default. ``options`` go to it, and may be set per model.

    ``windows``: how many windows of the validation text are looked at.
    """
    given = {"batch": batch, "context": context, "width": width, "layers": layers, "heads": heads, "windows": windows}
    batch, context, width, layers, heads, windows = (require_positive_int(*size) for size in given.items())
    if width % heads:
        raise ValueError(f"width={width} is not a multiple of heads={heads}; each head gets an equal part.")
    if context >= len(text.val):
        raise ValueError(
            f"context={context:,} leaves no window in the {len(text.val):,} validation characters; lower it."
        )
    held_out = text.windows(context, windows).to(device)
    sizes = (len(text.vocabulary), context, width, layers, heads)

    def build(generator, **more) -> GPT:
        return GPT(*sizes, generator=generator, device=device, **options | more)

    def measure(model) -> dict[str, float]:
        losses = [next_token_loss(model, part) * len(part) for part in held_out.split(64)]
        return {"loss": float(sum(losses)) / len(held_out)}

    return Workload(
        "transformer",
        build,
        lambda generator: text.batch(batch, context, generator).to(device),
        next_token_loss,
        measure,
        f"{text.description}; {options.get('norm', 'pre')}-norm Transformer, {layers} layers of width {width}, context "
        f"{context}, batch {batch}",
        ("norm", "qk_norm", "tied", "std"),
    )


@checked
def mlp_workload(
    images: Images, *, batch: int = 64, depth: int = 12, width: int = 128, held_out: int = 1024, **options
) -> Workload:
    """The textbook network ReLU(Ax + b) on images, He's start; ``options`` go to ``plain_network``.

    ``held_out``: how many test images are looked at, the first ones.
    """
    depth, width = require_positive_int("depth", depth), require_positive_int("width", width)
    x = images.train_x
    like: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
    classes, inputs = images.classes, x.shape[1]

    def build(generator, **more) -> nn.Module:
        more = like | options | more
        return plain_network(depth, width, inputs=inputs, classes=classes, generator=generator, **more)

    kind = f"MLP, {depth} layers of width {width}"
    options_of = ("start", "activation", "ends")
    return image_workload("mlp", images, build, batch=batch, held_out=held_out, kind=kind, options=options_of)


@checked
def cnn_workload(
    images: Images, *, batch: int = 64, blocks: int = 4, width: int = 16, held_out: int = 1024, **options
) -> Workload:
    """A ``ConvNet`` on images; ``options`` go to it: norm="none" leaves it without normalisation."""
    blocks, width = require_positive_int("blocks", blocks), require_positive_int("width", width)
    x = images.train_x
    like: dict[str, Any] = {"dtype": x.dtype, "device": x.device}

    def build(generator, **more) -> ConvNet:
        more = like | options | more
        return ConvNet(images.shape, images.classes, blocks, width, generator=generator, **more)

    norm = options.get("norm", "group")
    kind = f"residual CNN, {blocks} blocks of {width} channels, " + (f"{norm} norm" if norm != "none" else "no norm")
    return image_workload("cnn", images, build, batch=batch, held_out=held_out, kind=kind, options=("norm",))


def image_workload(
    name: str,
    images: Images,
    build: Callable[..., nn.Module],
    *,
    batch: int,
    held_out: int,
    kind: str,
    options: tuple[str, ...] = (),
    chunk: int = 256,
) -> Workload:
    """Networks that classify images (N, d): batches drawn with replacement, measured on the first ``held_out`` test
    images, ``chunk`` at a time. ``kind``: the network in words. Other arguments as in ``Workload``."""
    batch, held_out = require_positive_int("batch", batch), require_positive_int("held_out", held_out)
    x, y = images.train_x, images.train_y
    for part in ("train", "test"):
        require_finite(f"images.{part}_x", getattr(images, f"{part}_x"))
        require_labels(
            f"images.{part}_y", getattr(images, f"{part}_y"), len(getattr(images, f"{part}_x")), images.classes
        )
    test_x, test_y = images.test_x[:held_out], images.test_y[:held_out]

    def draw(generator) -> tuple[Tensor, Tensor]:
        where = device_of(generator, y.device)
        rows = torch.randint(len(y), (batch,), generator=generator, device=where).to(y.device)
        return x[rows], y[rows]

    def measure(model) -> dict[str, float]:
        logits = torch.cat([model(part) for part in test_x.split(chunk)])
        right = (logits.argmax(-1) == test_y) & logits.isfinite().all(-1)
        return {"loss": float(cross_entropy(logits, test_y)), "accuracy": int(right.sum()) / len(right)}

    return Workload(
        name,
        build,
        draw,
        lambda model, drawn: cross_entropy(model(drawn[0]), drawn[1]),
        measure,
        f"{images.description}; {kind}, batch {batch}",
        options,
        floor=0.1 * math.log(images.classes),
    )


# ------------------------------------------------------------------------------------------- the CNN
