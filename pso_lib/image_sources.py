"""Where the book's image data sets come from: torchvision, a tar, class folders, scikit-learn.

Each reader returns (train, test, class names, title).
"""

from pathlib import Path

import numpy as np
import torch

from pso_lib.download import obtain
from pso_lib.errors import DataError
from pso_lib.image_files import Raw, check_idx, check_limit, class_folders, read_pictures

__all__ = ["read_cifar10", "read_digits", "read_folder", "read_mnist"]

Source = tuple[Raw, Raw, list[str], str]
Limits = tuple[int | None, int | None]
_IN_PLACE = "that holds it in torchvision's layout", "load('digits')"


def read_mnist(key: str, root: Path, download: bool) -> Source:
    """MNIST or Fashion-MNIST from torchvision's files ``root/MNIST/raw``, ``root/FashionMNIST/raw``."""
    from torchvision import datasets  # 1.5 s to import: only who needs it waits

    kind, title = {
        "mnist": (datasets.MNIST, "MNIST"),
        "fashion-mnist": (datasets.FashionMNIST, "Fashion-MNIST"),
    }[key]
    folder = root / kind.__name__ / "raw"
    archives = [folder / name for name, _ in kind.resources]
    files = [archive.with_suffix("") for archive in archives]  # train images, train labels, t10k …
    if not all(file.is_file() for file in files):
        local = all(file.is_file() or archive.is_file() for file, archive in zip(files, archives, strict=True))
        urls = [] if local else [mirror + kind.resources[0][0] for mirror in kind.mirrors]
        obtain(title, root, download, urls, lambda: kind(root, download=True), *_IN_PLACE)
    remedy = f"Delete this file and load {title} again: it is then downloaded anew."
    counts = [check_idx(file, axes, remedy) for file, axes in zip(files, (3, 1, 3, 1), strict=True)]
    splits = []
    for i, train in ((0, True), (2, False)):
        if counts[i] != counts[i + 1] or counts[i] == 0:
            raise DataError(
                f"{files[i]} holds {counts[i]:,} images, {files[i + 1]} holds {counts[i + 1]:,} labels; "
                f"expected equally many, and some. Delete both and load {title} again: they are then downloaded anew."
            )
        data = kind(root, train=train, download=False)
        if int(data.targets.max()) >= len(kind.classes):
            raise DataError(f"{files[i + 1]} holds the label {int(data.targets.max())}, expected 0 to 9. {remedy}")
        splits.append(Raw(data.data.unsqueeze(1), data.targets.long()))
    return splits[0], splits[1], list(kind.classes), title


def read_cifar10(root: Path, limits: Limits, download: bool) -> Source:
    """CIFAR-10: torchvision's files, else ``cifar10-jpeg.tar`` or the folder ``cifar10``, else a download."""
    from torchvision.datasets import CIFAR10

    if not (root / CIFAR10.base_folder).is_dir():
        for copy in (root / "cifar10-jpeg.tar", root / "cifar10"):
            if copy.exists():
                lossy = copy.is_file() or any(copy.glob("train/*/*.jp*g"))
                train, test, names, _ = read_folder(copy, limits)
                return train, test, names, f"CIFAR-10 ({'JPEG copy' if lossy else 'copy in class folders'})"
        urls = [] if (root / CIFAR10.filename).is_file() else [CIFAR10.url]
        obtain("CIFAR-10", root, download, urls, lambda: CIFAR10(root, download=True), *_IN_PLACE)
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
        train, test = {}, {}
        for name, files in listing.splits["all"].items():
            count = max(1, round(test_fraction * len(files)))
            if count >= len(files):
                raise DataError(
                    f"{path}: class {name!r} has {len(files)} picture(s), too few to hold out "
                    f"the share test_fraction={test_fraction}. Add some, or lay out train/ and test/ yourself."
                )
            held = set(torch.randperm(len(files), generator=draw)[:count].tolist())
            train[name] = [file for i, file in enumerate(files) if i not in held]
            test[name] = [file for i, file in enumerate(files) if i in held]
        listing = listing._replace(splits={"train": train, "test": test})
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
