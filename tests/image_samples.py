"""Tiny data sets for the tests: idx files, pictures, class folders, tars. Nothing is downloaded."""

import io
import struct
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No test may reach the network or the reader's own cache; a network that is down answers at once."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("the tests have no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("PSO_DATA", str(tmp_path / "root"))
    monkeypatch.delenv("PSO_SCALE", raising=False)


def write_idx(root: Path, kind: str = "MNIST", counts=(50, 20)) -> Path:
    """Tiny MNIST files of 3 x 2 pixels; labels 0 … 9 in turn."""
    raw = root / kind / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for split, n in zip(("train", "t10k"), counts, strict=True):
        pixels, labels = draw.integers(0, 256, (n, 3, 2), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, n, 3, 2) + pixels.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, n) + labels.tobytes())
    return raw


def picture(value, size=(4, 3), mode="L", kind="PNG") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, value).save(out, kind)
    return out.getvalue()


def noise(kind: str) -> bytes:
    out, draw = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (60, 60), dtype=np.uint8)).save(out, kind)
    return out.getvalue()


def write_classes(folder: Path, classes=("ant", "bee"), count=5, **kind) -> Path:
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            grey = 100 * c + 10 * i
            value = grey if kind.get("mode", "L") == "L" else (grey, 0, 255 - grey)
            (folder / name / f"{i}.png").write_bytes(picture(value, **kind))
    return folder


def write_tar(path: Path, names: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def tiny_tar(path: Path) -> Path:
    names = {
        f"cifar10/{split}/{name}/{i}.jpg": picture((40 * i, 90 * c, 7), (32, 32), "RGB", "JPEG")
        for split, n in (("train", 4), ("test", 2))
        for c, name in enumerate(("cat", "dog"))
        for i in range(n)
    }
    return write_tar(path, names | {"cifar10/README": b"not a picture"})
