"""Data sets: read as they stand, described honestly, refused with the remedy. Nothing is downloaded."""

import io
import os
import struct
import tarfile
import time
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from pso_lib import image_files, image_sources
from pso_lib.data import DataError, data_root, for_scale, load

SAMPLE = Path(os.environ.get("PSO_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def sample(relative: str):
    """Skip unless the sample data root holds this file."""
    there = (SAMPLE / relative).exists()
    return pytest.mark.skipif(not there, reason=f"no {relative} under PSO_DATA or ../shared/data")


@pytest.fixture(autouse=True)
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


# ------------------------------------------------------------------------------- the sample data root


@sample("MNIST/raw")
def test_mnist_as_it_stands():
    images = load("mnist", root=SAMPLE)
    assert images.description == "MNIST, 60,000/10,000"
    assert images.train_x.shape == (60_000, 784) and images.test_x.shape == (10_000, 784)
    assert images.shape == (1, 28, 28) and images.classes == 10
    assert images.train_y[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert images.test_y[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert images.mean[0] == pytest.approx(0.1307, abs=1e-4) and images.std[0] == pytest.approx(0.3081, abs=1e-4)
    assert abs(images.train_x.mean()) < 1e-4 and abs(images.train_x.std() - 1) < 1e-4


@sample("FashionMNIST/raw")
def test_the_fashion_subset_says_so():
    images = load("Fashion_MNIST", root=SAMPLE)
    assert images.description == "Fashion-MNIST, 4,443/1,813 subset"
    assert images.class_names[9] == "Ankle boot"


@sample("cifar10-jpeg.tar")
def test_cifar10_straight_from_the_tar():
    images = load("cifar10", root=SAMPLE, limit=(200, 100))
    assert images.description == "CIFAR-10 (JPEG copy), 200/100 subset"
    assert images.shape == (3, 32, 32) and images.class_names[:2] == ("airplane", "automobile")
    assert images.train_y.bincount().tolist() == [20] * 10
    assert images.train_y[:10].tolist() == list(range(10))  # the classes take turns


# ---------------------------------------------------------------------------------- digits and scales


def test_digits():
    images = load("digits")
    assert images.description == "digits (scikit-learn), 1,437/360"
    assert images.train_x.shape == (1437, 64) and images.shape == (1, 8, 8)
    pixels = images.pictures(images.train_x)
    assert pixels.shape == (1437, 1, 8, 8) and pixels.min() == 0 and abs(pixels.max() - 1) < 1e-6
    torch.testing.assert_close(images.pictures(images.train_x[0]) * 16, (pixels[0] * 16).round(), atol=1e-4, rtol=0)


def test_for_scale(monkeypatch, tmp_path):
    write_idx(tmp_path / "root")
    assert for_scale("mnist").description.startswith("MNIST")
    monkeypatch.setenv("PSO_SCALE", "smoke")
    images = for_scale("mnist", limit=20_000, dtype=torch.float64)
    assert images.description.startswith("digits") and images.train_x.dtype == torch.float64
    with pytest.raises(ValueError, match="Did you mean 'mnist'"):
        for_scale("mnits")


# --------------------------------------------------------------------------------- idx files, tiny ones


def test_idx_values_and_normalisation(tmp_path):
    raw = write_idx(tmp_path)
    images = load("mnist", root=tmp_path, dtype=torch.float64)
    assert images.description == "MNIST, 50/20 subset"
    pixels = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(50, 6) / 255
    assert images.mean[0] == pytest.approx(pixels.mean(), rel=1e-12)
    assert images.std[0] == pytest.approx(pixels.std(), rel=1e-12)
    expected = torch.from_numpy((pixels - pixels.mean()) / pixels.std())
    torch.testing.assert_close(images.train_x, expected, rtol=0, atol=1e-12)


def test_root_comes_from_the_setting(tmp_path, monkeypatch):
    write_idx(tmp_path / "root", "FashionMNIST")
    assert load("fashion-mnist").description == "Fashion-MNIST, 50/20 subset"
    monkeypatch.delenv("PSO_DATA")
    assert data_root() == Path("~/.cache/pso_lib").expanduser()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        data_root(tmp_path / "file")


def test_limit_is_balanced_and_in_file_order(tmp_path):
    write_idx(tmp_path)
    whole, images = load("mnist", root=tmp_path), load("mnist", root=tmp_path, limit=(30, None))
    assert images.description == "MNIST, 30/20 subset"
    assert images.train_y.tolist() == whole.train_y[:30].tolist()
    assert load("mnist", root=tmp_path, limit=(23, 10)).train_y.bincount().tolist() == [3, 3, 3] + [2] * 7
    labels = torch.tensor([0] * 8 + [1, 1, 2])  # a class that runs out is passed over
    assert labels[image_files.balanced(labels, 8)].tolist() == [0, 1, 2, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "limit, message",
    [
        (51, "limit=51 exceeds the train split's 50 images"),
        ((50, 21), "exceeds the test split's 20 images"),
        (5, "below the 10 classes"),
        (0, "limit must be an integer of at least 1"),
        ((1, 2, 3), r"a pair \(train, test\)"),
        (2.5, "limit must be an integer"),
    ],
)
def test_bad_limits(tmp_path, limit, message):
    write_idx(tmp_path)
    with pytest.raises(ValueError, match=message):
        load("mnist", root=tmp_path, limit=limit)


def damage(name, change):
    def apply(raw):
        path = raw / name
        path.write_bytes(change(path.read_bytes()))

    return apply


@pytest.mark.parametrize(
    "change, message",
    [
        (damage("train-images-idx3-ubyte", lambda b: b[:-7]), r"has 309 bytes.* 50 x 3 x 2.*316 bytes.*truncated"),
        (damage("t10k-images-idx3-ubyte", lambda b: b[:10]), r"has 10 bytes; an idx header alone has 16"),
        (damage("t10k-labels-idx1-ubyte", lambda b: b""), r"has 0 bytes"),
        (damage("train-labels-idx1-ubyte", lambda b: b + b"x"), r"has 59 bytes.*58 bytes.*damaged"),
        (damage("train-images-idx3-ubyte", lambda b: b"<html>" + b[6:]), r"magic number \d+, expected 2051"),
        (damage("train-labels-idx1-ubyte", lambda b: struct.pack(">2I", 0x801, 2) + b"aa"), "50 images.* 2 labels"),
        (damage("t10k-labels-idx1-ubyte", lambda b: b[:-1] + b"\x0b"), "holds the label 11, expected 0 to 9"),
    ],
)
def test_damaged_idx_files(tmp_path, change, message):
    change(write_idx(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        load("mnist", root=tmp_path)
    assert "Delete" in str(caught.value) and str(tmp_path) in str(caught.value)


# ------------------------------------------------------------------------------------------- download


@pytest.mark.parametrize(
    "name, title", [("mnist", "MNIST"), ("fashion-mnist", "Fashion-MNIST"), ("cifar10", "CIFAR-10")]
)
def test_absent_without_a_network(tmp_path, name, title):
    with pytest.raises(DataError, match=f"^{title} is not in .*no network.*root=.*PSO_DATA.*digits") as caught:
        load(name)
    assert str(tmp_path / "root") in str(caught.value)
    assert not (tmp_path / "root").exists()  # nothing half-made is left behind


def test_a_network_that_never_answers_fails_quickly(monkeypatch):
    monkeypatch.setattr(image_sources, "PATIENCE", 0.2)
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: time.sleep(5))
    start = time.monotonic()
    with pytest.raises(DataError, match="no answer within 0.2 s"):
        load("mnist")
    assert time.monotonic() - start < 3


def test_download_false_never_asks(monkeypatch):
    monkeypatch.setattr(image_sources, "_silence", lambda urls: pytest.fail("asked the network"))
    with pytest.raises(DataError, match="download=False"):
        load("cifar10", download=False)


def test_a_download_lands_under_the_root(monkeypatch, tmp_path):
    monkeypatch.setattr(image_sources, "_silence", lambda urls: "")
    monkeypatch.setattr(
        torchvision.datasets.MNIST, "download", lambda self: self._check_exists() or write_idx(self.root)
    )
    assert load("mnist", root=tmp_path / "new").description == "MNIST, 50/20 subset"


def test_a_download_that_breaks_off(monkeypatch):
    monkeypatch.setattr(image_sources, "_silence", lambda urls: "")

    def break_off(self):
        raise TimeoutError("timed out")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", break_off)
    with pytest.raises(DataError, match="TimeoutError: timed out.*Ways out"):
        load("cifar10")


# -------------------------------------------------------------------------------------------- CIFAR-10


def write_cifar(root: Path, monkeypatch) -> Path:
    """torchvision's own layout, four images a file; its sums of the real files are exchanged for these."""
    import hashlib
    import pickle

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


# --------------------------------------------------------------------------------------------- Images


def test_hold_out_is_made_of_training_images_only():
    images = load("digits")
    held = images.hold_out(200, seed=3)
    assert held.description == "digits (scikit-learn), 1,237/200 held out of training"
    both = torch.cat([held.train_x, held.test_x])
    assert both.shape == images.train_x.shape
    assert torch.equal(both.sum(1).sort().values, images.train_x.sum(1).sort().values)
    assert torch.equal(held.test_x, images.hold_out(200, seed=3).test_x)
    assert not torch.equal(held.test_x, images.hold_out(200, seed=4).test_x)
    for bad in (0, 1437, 2.0):
        with pytest.raises(ValueError, match="count"):
            images.hold_out(bad)


def test_device_and_dtype():
    images = load("digits").to(device="cpu", dtype=torch.float64)
    assert images.train_x.dtype == images.test_x.dtype == torch.float64 and images.train_y.dtype == torch.int64
    assert load("digits", dtype=torch.bfloat16).train_x.dtype == torch.bfloat16
    assert load("digits", device="meta").test_x.device.type == "meta"
    for use in (lambda: load("digits", dtype=torch.int64), lambda: images.to(dtype=torch.uint8)):
        with pytest.raises(ValueError, match="floating torch dtype"):
            use()
