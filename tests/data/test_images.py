"""Data sets: read as they stand, described honestly, refused with the remedy. Nothing is downloaded."""

import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from image_samples import no_network, write_idx  # noqa: F401

from pso_lib.data import DataError, data_root, download, for_scale, image_files, load
from pso_lib.data.text import load_text
from pso_lib.nn.networks import plain_network
from pso_lib.nn.transformer import GPT
from pso_lib.train.ensemble import Ensemble
from pso_lib.train.loop import train
from pso_lib.train.workloads import cnn_workload

pytestmark = pytest.mark.usefixtures("no_network")

SAMPLE = Path(os.environ.get("PSO_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def sample(relative: str):
    """Skip unless the sample data root holds this file."""
    there = (SAMPLE / relative).exists()
    return pytest.mark.skipif(not there, reason=f"no {relative} under PSO_DATA or ../shared/data")


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
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: time.sleep(5))
    start = time.monotonic()
    with pytest.raises(DataError, match="no answer within 0.2 s"):
        load("mnist")
    assert time.monotonic() - start < 3


def test_download_false_never_asks(monkeypatch):
    monkeypatch.setattr(download, "silence", lambda urls: pytest.fail("asked the network"))
    with pytest.raises(DataError, match="download=False"):
        load("cifar10", download=False)


def test_files_of_the_published_size_must_be_the_published_files(tmp_path):
    """Pixels or labels changed, the counts as they should be: not MNIST, and not to be called so."""
    for kind, name in (("MNIST", "mnist"), ("FashionMNIST", "fashion-mnist")):
        raw = write_idx(tmp_path, kind, counts=(60_000, 20))
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte has as many entries.*MD5.*class folders"):
            load(name, root=tmp_path)
        assert raw.is_dir()


@sample("MNIST/raw")
@pytest.mark.parametrize(
    "name, change",
    [
        ("train-labels-idx1-ubyte", lambda data: data[:8] + data[8:][::-1]),
        ("t10k-labels-idx1-ubyte", lambda data: data[:8] + data[9:] + data[8:9]),
        ("t10k-images-idx3-ubyte", lambda data: data[:16] + bytes(28 * 28) + data[16 + 28 * 28 :]),
    ],
)
def test_mnist_with_permuted_labels_or_a_blank_picture_is_refused(tmp_path, name, change):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (SAMPLE / "MNIST" / "raw").iterdir():
        if file.name == name:
            (raw / name).write_bytes(change(file.read_bytes()))
        else:
            (raw / file.name).symlink_to(file.resolve())
    with pytest.raises(DataError, match=f"{name} has as many entries as MNIST's own"):
        load("mnist", root=tmp_path)


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


def test_meta_as_the_default_device(tmp_path):
    """Files are read on the CPU; what is made for it holds the numbers it always held."""
    images, network = (
        load("digits"),
        lambda: plain_network(2, 8, inputs=64, classes=10, device="cpu", generator=seeded()),
    )
    wanted = train(network(), images, steps=3, lr=1e-3, generator=seeded()).loss
    task = cnn_workload(images, blocks=1, width=4)
    measured, held = task.evaluate(task.model(0)), images.hold_out(20)
    model = GPT(5, 4, 8, 1, 2, generator=seeded())
    torch.set_default_device("meta")
    try:
        again = load("digits", device="cpu")
        assert torch.equal(again.train_x, images.train_x) and torch.equal(again.hold_out(20).test_x, held.test_x)
        assert load("digits").train_x.is_meta and load_text("topics").train.is_meta
        assert load_text("topics", device="cpu").train.device.type == "cpu"
        assert train(network(), again, steps=3, lr=1e-3, generator=seeded()).loss == wanted
        (history,) = Ensemble([network()]).train(again, steps=3, lr=1e-3, generators=[seeded()])
        assert history.loss == pytest.approx(wanted, rel=1e-5)
        task = cnn_workload(again, blocks=1, width=4)
        assert task.evaluate(task.model(0)) == measured
        same = GPT(5, 4, 8, 1, 2, generator=seeded(), device="cpu")
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
        empty = GPT(5, 4, 8, 1, 2)
        assert empty.head.weight is empty.tokens.weight and empty.head.weight.is_meta
    finally:
        torch.set_default_device(None)


def test_pictures_of_integers():
    """Rows that were rounded and stored as integers: mean and deviation must not be rounded with them."""
    images = load("digits")
    rows = images.train_x[:5].round()
    torch.testing.assert_close(images.pictures(rows.to(torch.int64)), images.pictures(rows))


def test_device_and_dtype():
    images = load("digits").to(device="cpu", dtype=torch.float64)
    assert images.train_x.dtype == images.test_x.dtype == torch.float64 and images.train_y.dtype == torch.int64
    assert load("digits", dtype=torch.bfloat16).train_x.dtype == torch.bfloat16
    assert load("digits", device="meta").test_x.device.type == "meta"
    for use in (lambda: load("digits", dtype=torch.int64), lambda: images.to(dtype=torch.uint8)):
        with pytest.raises(ValueError, match="floating torch dtype"):
            use()
