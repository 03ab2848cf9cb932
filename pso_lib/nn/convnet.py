"""A small residual network on images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from pso_lib.errors import checked, require_choice, require_dtype, require_positive_int, require_shape
from pso_lib.nn import init

__all__ = ["ConvBlock", "ConvNet"]


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

    @checked
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
        if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) != 3:
            raise ValueError(f"shape must be three integers (c, h, w), got {shape!r}.")
        self.shape = tuple(require_positive_int("shape", side) for side in shape)
        stride = 2 if min(self.shape[1:]) >= 20 else 1
        with init.building(device):
            self.stem = nn.Conv2d(self.shape[0], width, 3, stride=stride, padding=1, bias=False)
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
