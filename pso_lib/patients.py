"""The three networks whose training is made unstable, behind one interface.

    task = transformer_task(text)            # or mlp_task(images), cnn_task(images)
    model = task.model(seed)
    batch = task.batch(generator)
    task.loss(model, batch).backward()
    task.evaluate(model)                     # {"loss": …, "accuracy": …}

A Transformer on characters, a deep MLP and a residual CNN on images: the latter two because an
instability that only a Transformer shows would be the Transformer's, not training's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, relu

from pso_lib import init
from pso_lib.data import Images
from pso_lib.errors import (
    device_of,
    nearest,
    require_choice,
    require_dtype,
    require_finite,
    require_labels,
    require_positive_int,
    require_shape,
)
from pso_lib.gpt import GPT, next_token_loss
from pso_lib.modes import evaluating
from pso_lib.networks import plain_network
from pso_lib.text import Text

__all__ = ["ConvBlock", "ConvNet", "Task", "cnn_task", "hidden_matrices", "mlp_task", "transformer_task"]


WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before a name


@dataclass(frozen=True, eq=False)
class Task:
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
    batch: Callable[[torch.Generator], object]
    loss: Callable[[nn.Module, object], Tensor]
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
        return self.build(torch.Generator().manual_seed(seed), **options)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean cross-entropy ("loss"), for images also "accuracy", on held-out data; without gradients."""
        with evaluating(model), torch.no_grad():
            return self.measure(model)


def hidden_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights between first and last layer, by name: what methods for hidden matrices act on.

    Parameters with two axes or more (kernels have four) below ``model.blocks`` or ``model.layers``, also where
    ``DistributedDataParallel`` or ``torch.compile`` wraps the model. Embeddings, lift and head are left out.
    """
    found = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.ndim >= 2 and _unwrapped(name).startswith(("blocks.", "layers."))
    }
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no matrix below .blocks or .layers; put its hidden layers into an "
            "nn.ModuleList of one of these names."
        )
    return found


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


# ------------------------------------------------------------------------------------------ the patients


def transformer_task(
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
) -> Task:
    """A ``GPT`` on characters; 1.0 M parameters by default. ``options`` go to it, and may be set per model.

    ``windows``: how many windows of the validation text are looked at.
    """
    batch = require_positive_int("batch", batch)
    held_out = text.windows(context, windows).to(device)
    sizes = (len(text.vocabulary), context, width, layers, heads)

    def build(generator, **more) -> GPT:
        return GPT(*sizes, generator=generator, device=device, **options | more)

    def measure(model) -> dict[str, float]:
        losses = [next_token_loss(model, part) * len(part) for part in held_out.split(64)]
        return {"loss": float(sum(losses)) / len(held_out)}

    return Task(
        "transformer",
        build,
        lambda generator: text.batch(batch, context, generator).to(device),
        next_token_loss,
        measure,
        f"{text.description}; {options.get('norm', 'pre')}-norm Transformer, {layers} layers of width {width}, context "
        f"{context}, batch {batch}",
        ("norm", "qk_norm", "tied", "std"),
    )


def mlp_task(
    images: Images, *, batch: int = 64, depth: int = 12, width: int = 128, held_out: int = 1024, **options
) -> Task:
    """The textbook network ReLU(Ax + b) on images, He's start; ``options`` go to ``plain_network``.

    ``held_out``: how many test images are looked at, the first ones.
    """
    x = images.train_x
    classes, inputs = images.classes, x.shape[1]

    def build(generator, **more) -> nn.Module:
        kind = {"dtype": x.dtype, "device": x.device}
        return plain_network(
            depth, width, inputs=inputs, classes=classes, generator=generator, **kind, **options | more
        )

    kind = f"MLP, {depth} layers of width {width}"
    return _image_task("mlp", images, build, batch, held_out, kind, ("start", "activation", "ends"))


def cnn_task(
    images: Images, *, batch: int = 64, blocks: int = 4, width: int = 16, held_out: int = 1024, **options
) -> Task:
    """A ``ConvNet`` on images; ``options`` go to it: norm="none" leaves it without normalisation."""
    x = images.train_x

    def build(generator, **more) -> ConvNet:
        more = {"dtype": x.dtype, "device": x.device} | options | more
        return ConvNet(images.shape, images.classes, blocks, width, generator=generator, **more)

    norm = options.get("norm", "group")
    kind = f"residual CNN, {blocks} blocks of {width} channels, " + (f"{norm} norm" if norm != "none" else "no norm")
    return _image_task("cnn", images, build, batch, held_out, kind, ("norm",))


def _image_task(name: str, images: Images, build, batch: int, held_out: int, kind: str, options) -> Task:
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
        logits = torch.cat([model(part) for part in test_x.split(256)])
        right = (logits.argmax(-1) == test_y) & logits.isfinite().all(-1)
        return {"loss": float(cross_entropy(logits, test_y)), "accuracy": float(right.double().mean())}

    return Task(
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


class ConvBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), (B, c, h, w) to the same shape; 3 x 3 kernels (He et al. 2016, v2)."""

    def __init__(self, width: int, norm: str):
        super().__init__()
        self.norm1, self.norm2 = _group_norm(width, norm), _group_norm(width, norm)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(relu(self.norm2(self.conv1(relu(self.norm1(x))))))


class ConvNet(nn.Module):
    """A small residual CNN: rows (B, c h w) to logits (B, classes).

    A 3 x 3 convolution to ``width`` channels (every second pixel where a side has 20 or more), blocks (the picture is
    halved after the first half of them), the mean over the picture, an affine head. Kernels start from He's normal law.

    Args:
        shape: (c, h, w) of a picture.
        norm: "group" (Wu and He 2018, groups of 4 channels or fewer) or "none": then the mean square of the state
            grows by a constant factor with each block, and large learning rates are not forgiven.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        blocks: int = 4,
        width: int = 16,
        *,
        norm: str = "group",
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device=None,
    ):
        super().__init__()
        classes, blocks, width = (
            require_positive_int(argument, size)
            for argument, size in {"classes": classes, "blocks": blocks, "width": width}.items()
        )
        require_choice("norm", norm, ("group", "none"))
        self.shape = tuple(shape)
        stride = 2 if min(self.shape[1:]) >= 20 else 1
        with init.building(device):
            self.stem = nn.Conv2d(shape[0], width, 3, stride=stride, padding=1, bias=False)
            self.blocks = nn.ModuleList(ConvBlock(width, norm) for _ in range(blocks))
            self.norm = _group_norm(width, norm)
            self.head = nn.Linear(width, classes)
        self.to(dtype=dtype, device=device)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    fan_in = module.weight[0].numel()
                    draw = init.gaussian(module.out_channels, fan_in, math.sqrt(2 / fan_in), generator)
                    module.weight.copy_(draw.view_as(module.weight))
            self.head.weight.copy_(init.gaussian(classes, width, 1 / math.sqrt(width), generator))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(relu(self.norm(self.states(x)[-1])).mean((-2, -1)))

    def states(self, x: Tensor) -> list[Tensor]:
        """What enters the first block and what leaves each: blocks + 1 tensors (B, width, h', w')."""
        require_shape("x", x, math.prod(self.shape))
        require_dtype("x", x, self.head.bias.dtype)
        states = [self.stem(x.unflatten(-1, self.shape))]
        for number, block in enumerate(self.blocks, start=1):
            h = block(states[-1])
            states.append(avg_pool2d(h, 2) if number == len(self.blocks) // 2 and min(h.shape[-2:]) > 1 else h)
        return states


def _group_norm(width: int, norm: str) -> nn.Module:
    if norm == "none":
        return nn.Identity()
    return nn.GroupNorm(math.gcd(width, max(1, width // 4)), width)
