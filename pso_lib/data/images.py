"""Images, normalised and flattened, held as one tensor on the device.

    images = load("mnist")          # or "fashion-mnist", "cifar10", "digits", or a folder
    images.train_x                  # (60000, 784)

A data set is looked for under ``root=``, else the environment variable ``PSO_DATA``, else
``~/.cache/pso_lib``, and downloaded there when it is absent. Nothing is ever replaced
by something else: what is missing raises ``DataError``, and ``Images.description`` says what was read.
"""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pso_lib.data.download import data_root, known_name
from pso_lib.data.image_files import Raw, cut
from pso_lib.data.image_sources import read_cifar10, read_digits, read_folder, read_mnist
from pso_lib.errors import DataError, checked, require_int, require_positive_int, require_shape
from pso_lib.scale import scale

__all__ = ["NAMES", "Images", "for_scale", "load"]

NAMES = ("mnist", "fashion-mnist", "cifar10", "digits")
_OFFICIAL = {
    "mnist": (60_000, 10_000),
    "fashion-mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "digits": (1_437, 360),
}


@dataclass(frozen=True, eq=False)
class Images:
    """A data set in memory. Rows are images: (c, h, w) flattened to d = c h w numbers.

    Pixels were scaled to [0, 1]; then each channel had the training split's mean subtracted and was
    divided by its standard deviation (``mean`` and ``std``, one number per channel).
    """

    train_x: torch.Tensor  # (N, d)
    train_y: torch.Tensor  # (N,) int64
    test_x: torch.Tensor  # (M, d)
    test_y: torch.Tensor  # (M,) int64
    classes: int
    shape: tuple[int, int, int]  # (c, h, w)
    description: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to(self, device=None, dtype: torch.dtype | None = None) -> "Images":
        """The same images on another device, or in another floating dtype."""
        _require_floating(dtype)
        return replace(
            self,
            train_x=self.train_x.to(device=device, dtype=dtype),
            test_x=self.test_x.to(device=device, dtype=dtype),
            train_y=self.train_y.to(device=device),
            test_y=self.test_y.to(device=device),
        )

    @property
    def _title(self) -> str:
        return self.description.rpartition(", ")[0]

    @checked
    def hold_out(self, count: int, seed: int = 0) -> "Images":
        """Validation split: ``count`` training images, drawn by ``seed``, become the test part.

        The test images are gone from the result, so a learning rate chosen on it has not seen them.
        The normalisation stays that of the whole training split.
        """
        count = require_positive_int("count", count)
        total = len(self.train_y)
        if count >= total:
            raise ValueError(f"count={count:,} leaves nothing to train on; it must be below {total:,}.")
        draw = torch.Generator().manual_seed(require_int("seed", seed))
        order = torch.randperm(total, generator=draw, device="cpu")
        held = order[:count].to(self.train_y.device)
        kept = order[count:].sort().values.to(self.train_y.device)
        return replace(
            self,
            train_x=self.train_x[kept],
            train_y=self.train_y[kept],
            test_x=self.train_x[held],
            test_y=self.train_y[held],
            description=f"{self._title}, {total - count:,}/{count:,} held out of training",
        )

    @checked
    def pictures(self, x: torch.Tensor) -> torch.Tensor:
        """Undo the normalisation, for drawing: rows (..., d) to pictures (..., c, h, w) in [0, 1]."""
        require_shape("x", x, math.prod(self.shape))
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None] for v in (self.mean, self.std))
        return (x.unflatten(-1, self.shape) * std + mean).clamp(0, 1)


@checked
def load(
    name: str | os.PathLike = "mnist",
    root: str | os.PathLike | None = None,
    device=None,
    dtype: torch.dtype = torch.float32,
    *,
    limit: int | tuple[int | None, int | None] | None = None,
    download: bool = True,
    size: int | tuple[int, int] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Images:
    """Load a data set: one of ``NAMES``, or the path of a folder (or uncompressed tar) of class folders.

    Args:
        name: "mnist", "fashion-mnist", "cifar10", "digits", or a path that holds
            ``train/<class>/*.png`` and ``test/<class>/*.png``, or ``<class>/*.png`` alone.
        root: where data sets live; see ``data_root``. Not used for "digits" and paths.
        device: where the images go; torch's default device if None.
        limit: how many images per split, a number or (train, test): the first ones of each class,
            equally many per class as far as they go, in file order; no randomness. The normalisation
            is that of the training images kept. Pictures beyond the limit are not decoded.
        download: False never touches the network.
        size: (h, w), or one number for both, to resize pictures; image folders only.
        test_fraction, seed: the held-out share of each class, where a folder has no test split.

    In folders and tars the classes take turns, so that any first N rows are balanced.
    "cifar10" prefers torchvision's own files; else it reads ``cifar10-jpeg.tar`` in place, or the
    folder ``cifar10/``, under the root, and the description says so. "digits" are scikit-learn's 8 x 8
    digits; the last 360 in file order are the test split.

    Raises:
        DataError: absent and not downloadable, truncated, damaged, or not class folders of images.
        ValueError: an unknown name, a limit beyond the split, a bad ``size`` or ``dtype``.
    """
    _require_floating(dtype)
    key = _key(name)
    sides = None
    if size is not None:
        if key is not None:
            raise ValueError(f"size= resizes image folders; {key!r} has its own size. Leave size out.")
        height, width = _pair("size", size, "one number for both sides, or a pair (h, w)")
        sides = require_positive_int("size", height), require_positive_int("size", width)
    limits = _limits(limit)
    device = torch.empty(0).device if device is None else device
    with torch.device("cpu"):  # files are read there, whatever torch's default device is
        if key is None:
            train, test, names, title = read_folder(Path(name).expanduser(), limits, sides, test_fraction, seed)
        elif key == "digits":
            train, test, names, title = read_digits()
        elif key == "cifar10":
            train, test, names, title = read_cifar10(data_root(root), limits, download)
        else:
            train, test, names, title = read_mnist(key, data_root(root), download)
        train, test = cut(train, limits[0], "train"), cut(test, limits[1], "test")
        counts = len(train.labels), len(test.labels)
        whole = counts == _OFFICIAL.get(key or "", counts) and limits == (None, None)
        description = f"{title}, {counts[0]:,}/{counts[1]:,}{'' if whole else ' subset'}"
        full_scale = 16 if key == "digits" else 255
        return _normalised(train, test, tuple(names), description, full_scale, device, dtype)


def for_scale(name: str | os.PathLike = "mnist", **options) -> Images:
    """The bundled digits at scale ``smoke`` (no download), else ``load(name, **options)``.

    At ``smoke`` the name is still checked, and ``device`` and ``dtype`` hold; other options speak of
    the real data set and are left aside. ``description`` says which one it is.
    """
    if scale() != "smoke":
        return load(name, **options)
    _key(name)
    return load("digits", **{k: v for k, v in options.items() if k in ("device", "dtype")})


# ---------------------------------------------------------------------------------- names and limits


def _key(name) -> str | None:
    """The known name meant by ``name``, or None for a path."""
    return known_name(name, NAMES, Path.exists, "folder of class folders")


def _limits(limit) -> tuple[int | None, int | None]:
    pair = _pair("limit", limit, "one number for both splits, or a pair (train, test)")
    train, test = (None if number is None else require_positive_int("limit", number) for number in pair)
    return train, test


def _pair(argument: str, given, what: str) -> tuple:
    """Two values, or one for both."""
    pair = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    if len(pair) != 2:
        raise ValueError(f"{argument}={given!r} must be {what}.")
    return pair


def _require_floating(dtype: torch.dtype | None) -> None:
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype={dtype!r} must be a floating torch dtype, such as torch.float32.")


# ------------------------------------------------------------------------------------- normalisation


def _normalised(train: Raw, test: Raw, names, description: str, full_scale: int, device, dtype) -> Images:
    mean, std = _statistics(train.pixels)
    if not any(std):
        raise DataError(f"{description}: all training pixels are equal; there is nothing to learn.")
    std = [s or 1.0 for s in std]  # a channel that never changes becomes 0
    work = torch.promote_types(dtype, torch.float32)  # half precision is rounded once, at the end
    shift, width = (torch.tensor(v, dtype=work, device=device)[:, None, None] for v in (mean, std))

    channels, height, breadth = train.pixels.shape[1:]

    def rows(pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.to(device).to(work)  # (N, c, h, w); bytes travel, not floats
        return x.sub_(shift).div_(width).flatten(1).to(dtype)

    return Images(
        train_x=rows(train.pixels),
        train_y=train.labels.to(device),
        test_x=rows(test.pixels),
        test_y=test.labels.to(device),
        classes=len(names),
        shape=(channels, height, breadth),
        description=description,
        class_names=names,
        mean=tuple(m / full_scale for m in mean),
        std=tuple(s / full_scale for s in std),
    )


def _statistics(pixels: torch.Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, from exact integer sums: equal on every machine."""
    count = pixels[:, 0].numel()
    total = torch.zeros(pixels.shape[1], dtype=torch.int64)
    squares = torch.zeros_like(total)
    for chunk in pixels.split(4096):  # (<= 4096, c, h, w): little memory beyond the bytes themselves
        total += chunk.sum((0, 2, 3), dtype=torch.int64)
        squares += chunk.to(torch.int32).square_().sum((0, 2, 3), dtype=torch.int64)
    mean = [int(t) / count for t in total]
    # count * squares - total^2 in Python's integers: zero exactly for a constant channel
    std = [math.sqrt(count * int(q) - int(t) ** 2) / count for t, q in zip(total, squares, strict=True)]
    return mean, std
