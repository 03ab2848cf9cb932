"""Where the book's image data sets come from: torchvision, a tar, class folders, scikit-learn.

Each reader returns (train, test, class names, title).
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pso_lib.data.download import fetch_file, obtain, unpack
from pso_lib.data.image_files import Raw, check_idx, check_limit, class_folders, read_pictures
from pso_lib.errors import DataError

__all__ = ["read_cifar10", "read_digits", "read_folder", "read_mnist"]

Source = tuple[Raw, Raw, list[str], str]
Limits = tuple[int | None, int | None]
_IN_PLACE = "that holds it in torchvision's layout", "load('digits')"


class _File(NamedTuple):
    """A file of MNIST's kind as published, uncompressed."""

    entries: int  # images or labels
    size: int  # bytes
    md5: str


def _published(*md5: str) -> dict[str, _File]:
    names = (f"{split}-{what}-ubyte" for split in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
    sizes = ((60_000, 47_040_016), (60_000, 60_008), (10_000, 7_840_016), (10_000, 10_008))
    return {name: _File(*size, sum_) for name, size, sum_ in zip(names, sizes, md5, strict=True)}


_PUBLISHED = {
    "mnist": _published(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion-mnist": _published(
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}
_CIFAR_SIZE = 170_498_071


def read_mnist(key: str, root: Path, download: bool) -> Source:
    """MNIST or Fashion-MNIST from torchvision's files ``root/MNIST/raw``, ``root/FashionMNIST/raw``.

    A file with as many entries as the published one must be the published one, by its checksum; smaller ones are a
    subset, whose contents cannot be checked.
    """
    from torchvision import datasets  # 1.5 s to import: only who needs it waits

    kind, title = {
        "mnist": (datasets.MNIST, "MNIST"),
        "fashion-mnist": (datasets.FashionMNIST, "Fashion-MNIST"),
    }[key]
    published, folder = _PUBLISHED[key], root / kind.__name__ / "raw"
    files = [folder / name for name in published]  # train images, train labels, t10k …
    if missing := [file for file in files if not file.is_file()]:
        urls = {file: _addresses(file, kind.mirrors) for file in missing}
        remote = [urls[file] for file in missing if not urls[file][0].startswith("file:")]

        def fetch() -> None:
            for file in missing:
                as_published = published[file.name]
                fetch_file(urls[file], file, as_published.size, f"md5:{as_published.md5}", gunzip=True)

        obtain(title, root, download or not remote, remote[0] if remote else [], fetch, *_IN_PLACE)
    remedy = f"Delete this file and load {title} again: it is then downloaded anew."
    counts = [check_idx(file, axes, remedy) for file, axes in zip(files, (3, 1, 3, 1), strict=True)]
    splits = []
    for i, train in ((0, True), (2, False)):
        if counts[i] != counts[i + 1] or counts[i] == 0:
            raise DataError(
                f"{files[i]} holds {counts[i]:,} images, {files[i + 1]} holds {counts[i + 1]:,} labels; "
                f"expected equally many, and some. Delete both and load {title} again: they are then downloaded anew."
            )
        for file, count in zip(files[i : i + 2], counts[i : i + 2], strict=True):
            _check_published(file, count, published[file.name], title, remedy)
        data = kind(root, train=train, download=False)
        if int(data.targets.max()) >= len(kind.classes):
            raise DataError(f"{files[i + 1]} holds the label {int(data.targets.max())}, expected 0 to 9. {remedy}")
        splits.append(Raw(data.data.unsqueeze(1), data.targets.long()))
    return splits[0], splits[1], list(kind.classes), title


def _addresses(file: Path, mirrors: list[str]) -> list[str]:
    """Of a compressed file: beside where it should stand, or on the network."""
    archive = file.with_name(f"{file.name}.gz")
    return [archive.resolve().as_uri()] if archive.is_file() else [mirror + archive.name for mirror in mirrors]


def _check_published(file: Path, count: int, published: _File, title: str, remedy: str) -> None:
    if count != published.entries:
        return
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != published.md5:
        raise DataError(
            f"{file} has as many entries as {title}'s own, but the MD5 sum {found} in place of {published.md5}: other "
            f"pixels, or labels in another order. {remedy} To use it as it is, save its pictures in class folders and "
            "load that folder by its path."
        )


def read_cifar10(root: Path, limits: Limits, download: bool) -> Source:
    """CIFAR-10: torchvision's files, else ``cifar10-jpeg.tar`` or the folder ``cifar10``, else a download."""
    from torchvision.datasets import CIFAR10

    if not (root / CIFAR10.base_folder).is_dir():
        for copy in (root / "cifar10-jpeg.tar", root / "cifar10"):
            if copy.exists():
                lossy = copy.is_file() or any(copy.glob("train/*/*.jp*g"))
                train, test, names, _ = read_folder(copy, limits)
                return train, test, names, f"CIFAR-10 ({'JPEG copy' if lossy else 'copy in class folders'})"
        archive = root / CIFAR10.filename
        there = archive.is_file()

        def fetch() -> None:
            if download:  # an archive that is damaged too
                fetch_file([CIFAR10.url], archive, _CIFAR_SIZE, f"md5:{CIFAR10.tgz_md5}")
            unpack(archive, CIFAR10.base_folder)

        obtain("CIFAR-10", root, download or there, [] if there else [CIFAR10.url], fetch, *_IN_PLACE)
    try:
        splits = [CIFAR10(root, train=train, download=False) for train in (True, False)]
    except RuntimeError as error:
        raise DataError(_damage(CIFAR10, root)) from error
    train, test = (Raw(torch.from_numpy(s.data.transpose(0, 3, 1, 2).copy()), torch.tensor(s.targets)) for s in splits)
    return train, test, list(splits[0].classes), "CIFAR-10"


def _damage(kind, root: Path) -> str:
    from torchvision.datasets.utils import check_integrity

    folder = root / kind.base_folder
    for name, md5 in [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]:
        path = folder / name
        if not check_integrity(path, md5):
            found = f"has {path.stat().st_size:,} bytes and another MD5 sum" if path.is_file() else "is absent"
            return (
                f"{path} {found}; expected a file with the MD5 sum {md5}. Delete the folder {folder} and "
                "load CIFAR-10 again: it is then downloaded anew."
            )
    return f"torchvision cannot read {folder}. Delete it and load CIFAR-10 again."


def read_digits() -> Source:
    """The 1,797 digits inside scikit-learn, 8 x 8, values 0 to 16; the last 360 are the test split."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the digits are part of scikit-learn, which is not installed: pip install scikit-learn."
        ) from error
    digits = load_digits()
    pixels = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    train, test = Raw(pixels[:-360], labels[:-360]), Raw(pixels[-360:], labels[-360:])
    return train, test, [str(d) for d in range(10)], "digits (scikit-learn)"


def read_folder(
    path: Path,
    limits: Limits = (None, None),
    size: tuple[int, int] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Source:
    """A folder, or an uncompressed tar, of class folders; without a test split one is drawn by ``seed``."""
    listing, title = class_folders(path), path.resolve().stem if path.is_file() else path.resolve().name
    if "all" in listing.splits:
        if not 0 < test_fraction < 1:
            raise ValueError(f"test_fraction={test_fraction!r} must lie strictly between 0 and 1.")
        draw = torch.Generator().manual_seed(seed)
        kept, held_out = {}, {}
        for name, files in listing.splits["all"].items():
            count = max(1, round(test_fraction * len(files)))
            if count >= len(files):
                raise DataError(
                    f"{path}: class {name!r} has {len(files)} picture(s), too few to hold out "
                    f"the share test_fraction={test_fraction}. Add some, or lay out train/ and test/ yourself."
                )
            held = set(torch.randperm(len(files), generator=draw)[:count].tolist())
            kept[name] = [file for i, file in enumerate(files) if i not in held]
            held_out[name] = [file for i, file in enumerate(files) if i in held]
        listing = listing._replace(splits={"train": kept, "test": held_out})
    for split, limit in zip(("train", "test"), limits, strict=True):  # before the slow part
        classes = listing.splits[split]
        check_limit(limit, sum(map(len, classes.values())), len(classes), split)
    train, test = (read_pictures(listing, s, n, size) for s, n in zip(("train", "test"), limits, strict=True))
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        if train.pixels.shape[2:] != test.pixels.shape[2:]:
            raise DataError(
                f"{path}: training pictures are {tuple(train.pixels.shape[2:])}, test pictures "
                f"{tuple(test.pixels.shape[2:])} (height, width). Give size=(h, w) to resize all."
            )
        train, test = (raw._replace(pixels=raw.pixels.expand(-1, 3, -1, -1)) for raw in (train, test))
    return train, test, list(listing.splits["train"]), title
