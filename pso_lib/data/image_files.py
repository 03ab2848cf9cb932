"""Labelled pictures in files: class folders on disk or inside a tar, and idx files.

Everything is read into ``Raw``: one uint8 tensor of pixels and one of labels. A tar is read in
place, without unpacking it. What cannot be read raises ``DataError`` naming the file and the remedy.
"""

import io
import math
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from pso_lib.errors import DataError

__all__ = [
    "Raw",
    "balanced",
    "check_idx",
    "check_limit",
    "class_folders",
    "cut",
    "read_pictures",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


class Raw(NamedTuple):
    """One split: ``pixels`` (N, c, h, w) uint8 and ``labels`` (N,) int64."""

    pixels: torch.Tensor
    labels: torch.Tensor


class Listing(NamedTuple):
    """Pictures not yet read: split -> class -> file names, in order, and how to get a file's bytes."""

    splits: dict[str, dict[str, list[str]]]
    read: Callable[[str], bytes]


def balanced(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Positions of ``count`` examples, the first ones of each class, equally many per class.

    No randomness: going round the classes, each gives its next example until ``count`` are taken;
    a class that has run out is passed over. In this order every prefix is balanced too.
    """
    classes = np.asarray(labels)
    by_class = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[by_class], classes[by_class])
    rank = np.empty(len(classes), dtype=np.int64)
    rank[by_class] = np.arange(len(classes)) - starts  # an example's place within its class
    return torch.from_numpy(np.lexsort((classes, rank))[:count])


def check_limit(limit: int | None, available: int, classes: int, split: str) -> None:
    """Raise ``ValueError`` unless a split of ``available`` images can be cut to ``limit``."""
    if limit is not None and limit > available:
        raise ValueError(
            f"limit={limit:,} exceeds the {split} split's {available:,} images; lower it, or give "
            "limit=(train, test) with None for a whole split."
        )
    if limit is not None and limit < classes:
        raise ValueError(f"limit={limit} is below the {classes} classes of the {split} split; raise it.")


def cut(raw: Raw, limit: int | None, split: str) -> Raw:
    """The split cut to ``limit`` examples, by ``balanced``, in their old order."""
    check_limit(limit, len(raw.labels), len(raw.labels.unique()), split)
    if limit is None or limit == len(raw.labels):
        return raw
    keep = balanced(raw.labels, limit).sort().values
    return Raw(raw.pixels[keep], raw.labels[keep])


# ------------------------------------------------------------------------------------------ idx files


def check_idx(path: Path, axes: int, remedy: str) -> int:
    """Check an idx file of bytes (http://yann.lecun.com/exdb/mnist) against its own header.

    ``axes`` is 3 for images, 1 for labels. Returns the number of entries; raises ``DataError``.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(4 * (axes + 1))
    if len(header) < 4 * (axes + 1):
        raise DataError(f"{path} has {size:,} bytes; an idx header alone has {4 * (axes + 1)}. {remedy}")
    magic, *shape = struct.unpack(f">{axes + 1}I", header)
    if magic != 0x0800 + axes:
        raise DataError(
            f"{path} ({size:,} bytes) does not start as an idx file of {axes}-axis bytes: magic number "
            f"{magic}, expected {0x0800 + axes}. {remedy}"
        )
    expected = len(header) + math.prod(shape)
    if size != expected:
        raise DataError(
            f"{path} has {size:,} bytes, but its header promises {' x '.join(map(str, shape))}, "
            f"that is {expected:,} bytes: it is {'truncated' if size < expected else 'damaged'}. {remedy}"
        )
    return shape[0]


# -------------------------------------------------------------------------------------- class folders


def class_folders(path: Path) -> Listing:
    """List the pictures of a folder, or of a tar file read in place.

    The layout is ``train/<class>/*.png`` and ``test/<class>/*.png``, or ``<class>/*.png`` alone, which
    gives one split named "all". A single folder around it is passed through. Hidden files, and files
    that are no pictures by their name, are left out.
    """
    tree, read = _tar_tree(path) if path.is_file() else _folder_tree(path)
    while len(inner := _folders(tree)) == 1 and not _split_names(tree) and _folders(*inner.values()):
        (tree,) = inner.values()
    if _split_names(tree):
        for split in ("train", "test"):
            if split not in tree:
                raise DataError(
                    f"{path} holds no {split!r} split beside its other one; expected "
                    "train/<class>/ and test/<class>/. Add it, or load the split that is there as a folder "
                    "of its own: test images are then held out of it."
                )
        splits = {split: _classes(tree[split], f"{path} ({split})") for split in ("train", "test")}
        if one_sided := sorted(set(splits["train"]) ^ set(splits["test"])):
            raise DataError(
                f"{path}: the classes {one_sided[:5]} stand in only one of train and test; "
                "both must hold the same class folders."
            )
    else:
        splits = {"all": _classes(tree, str(path))}
    return Listing(splits, read)


def _folders(tree: dict) -> dict[str, dict]:
    return {name: inner for name, inner in tree.items() if isinstance(inner, dict)}


def _split_names(tree: dict) -> list[str]:
    """Which of train and test are folders of folders; a class of pictures may be named "train" too."""
    return [name for name in ("train", "test") if name in tree and _folders(_folders(tree).get(name, {}))]


def _classes(tree: dict, where: str) -> dict[str, list[str]]:
    classes = {name: _pictures(inner) for name, inner in sorted(_folders(tree).items())}
    layout = "expected train/<class>/*.png and test/<class>/*.png, or <class>/*.png"
    if not classes or not any(classes.values()):
        raise DataError(f"{where} holds no class folder with pictures; {layout} ({', '.join(SUFFIXES)}).")
    if empty := [name for name, files in classes.items() if not files]:
        raise DataError(f"{where}: class folder {empty[0]!r} holds no pictures; {layout}. Fill or remove it.")
    if len(classes) == 1:
        raise DataError(
            f"{where} holds one class only, {list(classes)[0]!r}; a classifier needs two or more. {layout}."
        )
    return classes


def _pictures(tree: dict) -> list[str]:
    return [tree[n] for n in sorted(tree) if isinstance(tree[n], str) and n.lower().endswith(SUFFIXES)]


def _folder_tree(folder: Path, depth: int = 4) -> tuple[dict, Callable[[str], bytes]]:
    tree: dict = {}
    for entry in folder.iterdir():
        if entry.name.startswith((".", "__MACOSX")):
            continue
        if not entry.name.lower().endswith(SUFFIXES) and entry.is_dir():
            tree[entry.name] = _folder_tree(entry, depth - 1)[0] if depth else {}
        else:
            tree[entry.name] = str(entry)
    return tree, lambda name: Path(name).read_bytes()


def _tar_tree(path: Path) -> tuple[dict, Callable[[str], bytes]]:
    size, remedy = path.stat().st_size, "Copy it again from where it came from."
    tree: dict = {}
    places: dict[str, tuple[int, int]] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // 512) * 512
                parts = [part for part in member.name.split("/") if part not in ("", ".")]
                if not member.isfile() or any(part.startswith((".", "__MACOSX")) for part in parts):
                    continue
                node = tree
                for part in parts[:-1]:
                    node = node.setdefault(part, {})
                node[parts[-1]] = member.name
                places[member.name] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path} ({size:,} bytes) is truncated, or no uncompressed tar file: {error}. {remedy}"
        ) from error
    content = np.memmap(path, mode="r")
    if content[end : end + 1024].tobytes() != bytes(1024):  # tarfile itself takes a cut between two members for the end
        raise DataError(f"{path} has {size:,} bytes and no end-of-archive mark after {end:,}: truncated. {remedy}")

    def read(name: str) -> bytes:
        offset, length = places[name]
        return content[offset : offset + length].tobytes()

    return tree, read


# ------------------------------------------------------------------------------------------- decoding


def read_pictures(listing: Listing, split: str, limit: int | None = None, size: tuple[int, int] | None = None) -> Raw:
    """Decode the pictures of one split; ``limit`` is applied first, so nothing is decoded in vain.

    The classes take turns, so that any first N rows are balanced.

    Grey pictures give one channel, colour three; among colour pictures grey ones are repeated to
    three. ``size`` (h, w) resizes; without it all pictures must have one size.
    """
    classes = listing.splits[split]
    names = [name for files in classes.values() for name in files]
    labels = torch.repeat_interleave(torch.tensor([len(files) for files in classes.values()]))
    check_limit(limit, len(names), len(classes), split)
    keep = balanced(labels, len(names) if limit is None else limit)
    names, labels = [names[i] for i in keep.tolist()], labels[keep]
    pixels = [_decode(name, listing.read, size) for name in names]
    for name, picture in zip(names, pixels, strict=True):
        if picture.shape[:2] != pixels[0].shape[:2]:
            (h, w), (h0, w0) = picture.shape[:2], pixels[0].shape[:2]
            raise DataError(
                f"pictures of different sizes: {names[0]} is {h0} x {w0}, {name} is {h} x {w} "
                f"(height x width). Give size=({h0}, {w0}) to resize all, or resize the files."
            )
    if len({picture.shape[2] for picture in pixels}) > 1:
        pixels = [np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in pixels]
    stacked = np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2))
    return Raw(torch.from_numpy(stacked), labels)


def _decode(name: str, read: Callable[[str], bytes], size: tuple[int, int] | None) -> np.ndarray:
    data = b""
    try:
        data = read(name)
        with Image.open(io.BytesIO(data)) as file:
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"its mode {file.mode!r} is not 8 bits a channel; convert it")
            picture = file.convert("L" if file.mode in ("1", "L", "LA") else "RGB")
            if size is not None:
                picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            array = np.asarray(picture)
    except Exception as error:  # PIL raises many kinds, from SyntaxError to DecompressionBombError
        raise DataError(
            f"cannot read the picture {name} ({len(data):,} bytes): {error}. Replace or remove this file."
        ) from error
    return array.reshape(*array.shape[:2], -1)  # (h, w, c)
