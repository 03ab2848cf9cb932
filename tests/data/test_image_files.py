"""Pictures in class folders, in a tar, and CIFAR-10 in its three layouts; what is damaged is named."""

import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from image_samples import no_network, noise, picture, tiny_tar, write_classes  # noqa: F401

from pso_lib.data import DataError, load

pytestmark = pytest.mark.usefixtures("no_network")

# -------------------------------------------------------------------------------------------- CIFAR-10


def write_cifar(root: Path, monkeypatch) -> Path:
    """torchvision's own layout, four images a file; its sums of the real files are exchanged for these."""
    kind, folder = torchvision.datasets.CIFAR10, root / torchvision.datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)

    def put(name, content):
        (folder / name).write_bytes(data := pickle.dumps(content))
        return hashlib.md5(data).hexdigest()

    pixels = np.arange(4 * 3072, dtype=np.int64).astype(np.uint8).reshape(4, 3072)
    batch = {"data": pixels, "labels": [0, 1, 2, 3]}
    monkeypatch.setattr(kind, "train_list", [[f"data_batch_{i}", put(f"data_batch_{i}", batch)] for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [["test_batch", put("test_batch", batch)]])
    names = {"label_names": [f"class {i}" for i in range(10)]}
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": put(kind.meta["filename"], names)})
    return folder


def test_torchvisions_cifar10_is_preferred(monkeypatch, tmp_path):
    tiny_tar(tmp_path / "cifar10-jpeg.tar")
    folder = write_cifar(tmp_path, monkeypatch)
    images = load("cifar10", root=tmp_path)
    assert images.description == "CIFAR-10, 20/4 subset" and images.classes == 10
    pixels = (images.pictures(images.train_x[1]).flatten() * 255).round()
    assert pixels[:5].tolist() == [0, 1, 2, 3, 4]  # channel after channel
    (folder / "data_batch_3").write_bytes(b"short")
    with pytest.raises(DataError, match=r"data_batch_3 has 5 bytes.*MD5.*Delete the folder"):
        load("cifar10", root=tmp_path)


def test_cifar10_from_a_tar_or_its_folder(tmp_path):
    tar = tiny_tar(tmp_path / "cifar10-jpeg.tar")
    images = load("cifar-10", root=tmp_path)
    assert images.description == "CIFAR-10 (JPEG copy), 8/4 subset" and images.class_names == ("cat", "dog")
    assert images.train_y.tolist() == [0, 1] * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cifar10-jpeg.tar"]  # nothing was unpacked
    other = tmp_path / "unpacked"
    with tarfile.open(tar) as archive:
        archive.extractall(other, filter="data")
    again = load("cifar10", root=other)
    assert again.description == images.description and torch.equal(again.train_x, images.train_x)


@pytest.mark.parametrize("keep", ["100 bytes", "half a picture", "no end mark", "half an end mark"])
def test_a_truncated_tar(tmp_path, keep):
    tar = tiny_tar(tmp_path / "cifar10-jpeg.tar")
    data = tar.read_bytes()
    end = -(-len(data.rstrip(b"\0")) // 512) * 512  # of the last member
    cut = {"100 bytes": 100, "half a picture": 5 * 512, "no end mark": end, "half an end mark": end + 512}[keep]
    tar.write_bytes(data[:cut])
    with pytest.raises(DataError, match=r"cifar10-jpeg.tar.*bytes.*truncated.*Copy it again"):
        load("cifar10", root=tmp_path)


def test_a_tar_that_is_none(tmp_path):
    (tmp_path / "pets.tar").write_bytes(b"not a tar" * 1000)
    with pytest.raises(DataError, match="no uncompressed tar file"):
        load(tmp_path / "pets.tar")


# -------------------------------------------------------------------------------------- class folders


def test_folder_with_both_splits(tmp_path):
    write_classes(tmp_path / "pets" / "train")
    write_classes(tmp_path / "pets" / "test", count=3)
    (tmp_path / "pets" / "train" / "ant" / ".DS_Store").write_text("")
    (tmp_path / "pets" / "train" / "ant" / "notes.txt").write_text("")
    images = load(tmp_path / "pets", dtype=torch.float64)
    assert images.description == "pets, 10/6" and images.class_names == ("ant", "bee")
    assert images.shape == (1, 3, 4) and images.train_x.shape == (10, 12)
    assert images.train_y.tolist() == [0, 1] * 5
    assert (images.pictures(images.train_x)[:, 0, 0, 0] * 255).round().tolist()[:4] == [0, 100, 10, 110]
    assert load(str(tmp_path / "pets"), limit=(4, 2)).description == "pets, 4/2 subset"


def test_one_folder_is_split_by_seed(tmp_path):
    folder = write_classes(tmp_path / "pets", count=10)
    first, again, other = (load(folder, seed=s) for s in (0, 0, 1))
    assert first.description == "pets, 16/4" and first.test_y.bincount().tolist() == [2, 2]
    assert torch.equal(first.test_x, again.test_x) and not torch.equal(first.test_x, other.test_x)
    rows = {tuple(r) for r in first.pictures(first.train_x).flatten(1).mul(255).round().tolist()}
    held = {tuple(r) for r in first.pictures(first.test_x).flatten(1).mul(255).round().tolist()}
    assert len(rows) == 16 and len(held) == 4 and not rows & held
    assert load(folder, test_fraction=0.5).description == "pets, 10/10"
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        load(folder, test_fraction=1.0)


def test_colour_grey_and_a_constant_channel(tmp_path):
    folder = write_classes(tmp_path / "pets", mode="RGB")
    (folder / "ant" / "grey.png").write_bytes(picture(0))
    images = load(folder)
    assert images.shape == (3, 3, 4) and images.std[1] == 1 / 255 and not images.pictures(images.train_x)[:, 1].any()
    assert torch.isfinite(images.train_x).all()


def put(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    "change, message",
    [
        (put("bee/9.png", b"not a picture"), r"bee/9.png \(13 bytes\).*Replace or remove"),
        (put("bee/9.png", noise("PNG")[:1500]), r"bee/9.png \(1,500 bytes\).*Replace or remove"),
        (put("bee/9.jpg", noise("JPEG")[:600]), r"bee/9.jpg \(600 bytes\).*Replace or remove"),
        (put("bee/9.png", b""), r"bee/9.png \(0 bytes\)"),
        (put("bee/9.png", picture(5, (5, 3))), r"different sizes: .*3 x 4.*3 x 5.*size=\(3, 4\)"),
        (put("bee/9.png", picture(5, mode="I;16")), "mode 'I;16' is not 8 bits"),
        (lambda f: (f / "cow").mkdir(), "class folder 'cow' holds no pictures"),
        (lambda f: [p.unlink() for p in f.glob("*/*")], "holds no class folder with pictures; expected"),
        (lambda f: [*(p.unlink() for p in f.glob("bee/*")), (f / "bee").rmdir()], "one class only, 'ant'"),
        (lambda f: [p.unlink() for p in sorted(f.glob("bee/*"))[1:]], r"'bee' has 1 picture\(s\), too few"),
        (lambda f: write_classes(f / "train"), "no 'test' split"),
        (lambda f: [write_classes(f / "train"), write_classes(f / "test", ("ant", "cow"))], r"\['bee', 'cow'\]"),
        (lambda f: [p.write_bytes(picture(7)) for p in f.glob("*/*")], "all training pixels are equal"),
    ],
)
def test_bad_folders(tmp_path, change, message):
    folder = write_classes(tmp_path / "pets")
    change(folder)
    with pytest.raises(DataError, match=message):
        load(folder)


def test_size_resizes_a_folder_only(tmp_path):
    folder = write_classes(tmp_path / "pets")
    put("bee/9.png", picture(5, (9, 9)))(folder)
    assert load(folder, size=(2, 5)).shape == (1, 2, 5) and load(folder, size=6).shape == (1, 6, 6)
    with pytest.raises(ValueError, match="size= resizes image folders"):
        load("digits", size=6)
    with pytest.raises(ValueError, match="size must be an integer"):
        load(folder, size=0)


def test_empty_and_absent_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no class folder"):
        load(tmp_path / "empty")
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "absent")


@pytest.mark.parametrize(
    "given, meant", [("fasion-mnist", "fashion-mnist"), ("cifar-100", "cifar10"), ("digit", "digits")]
)
def test_unknown_names(given, meant):
    with pytest.raises(ValueError, match=f"is unknown.*Did you mean '{meant}'"):
        load(given)
