"""Published data sets: fetched, unpacked once, checked."""

import gzip
import hashlib
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torchvision
from image_samples import write_idx
from local_server import serving

from pso_lib.data import image_sources, load
from pso_lib.data.download import unpack
from pso_lib.errors import DataError

PLAY = b"Speak, speak. " * 10


@pytest.fixture
def server(monkeypatch, tmp_path):
    yield from serving(monkeypatch, tmp_path)


def everything_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def mnist(server, monkeypatch, tmp_path):
    """Tiny MNIST files, on the server compressed, as if they were the published ones."""
    raw = write_idx(tmp_path / "published")
    published = {}
    for name in image_sources._PUBLISHED["mnist"]:
        data = (raw / name).read_bytes()
        published[name] = image_sources._File(-1, len(data), hashlib.md5(data).hexdigest())
        server.files[f"{name}.gz"] = gzip.compress(data)
    monkeypatch.setitem(image_sources._PUBLISHED, "mnist", published)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [server.url + "down/", server.url])
    return server, raw


def test_mnist_is_unpacked_as_it_comes(mnist, tmp_path):
    server, raw = mnist
    assert load("mnist").description == "MNIST, 50/20 subset"
    assert everything_under(tmp_path / "root") == [f"MNIST/raw/{name}" for name in everything_under(raw)]
    assert all((tmp_path / "root/MNIST/raw" / file.name).read_bytes() == file.read_bytes() for file in raw.iterdir())


def test_mnist_by_many_at_once(mnist):
    with ThreadPoolExecutor(9) as pool:
        assert list(pool.map(lambda _: load("mnist").description, range(9))) == ["MNIST, 50/20 subset"] * 9


def test_mnists_archives_need_no_network(mnist, tmp_path):
    server, _ = mnist
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, data in server.files.items():
        (raw / name).write_bytes(data)
    assert load("mnist", download=False).description == "MNIST, 50/20 subset" and server.asked == []


def test_a_truncated_archive_is_named(mnist, tmp_path):
    server, _ = mnist
    name = "t10k-images-idx3-ubyte.gz"
    server.files[name] = server.files[name][:-30]
    with pytest.raises(DataError, match=f"{name} gave .* bytes; expected 136"):
        load("mnist")
    assert not (tmp_path / "root/MNIST/raw/t10k-images-idx3-ubyte").exists()


def test_a_folder_is_unpacked_whole_and_once(tmp_path):
    archive = tmp_path / "data.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("data/a", "data/b"):
            member = tarfile.TarInfo(name)
            member.size = len(PLAY)
            tar.addfile(member, io.BytesIO(PLAY))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: unpack(archive, "data"), range(8)))
    assert everything_under(tmp_path) == ["data.tar.gz", "data/a", "data/b"]
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises((EOFError, tarfile.TarError)):
        unpack(archive, "other")


def test_cifar10_is_fetched_checked_and_unpacked(server, monkeypatch, tmp_path):
    kind, packed = torchvision.datasets.CIFAR10, io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo(f"{kind.base_folder}/data_batch_1")
        tar.addfile(member, io.BytesIO(b""))
    data = packed.getvalue()
    server.files["cifar.tar.gz"] = data
    monkeypatch.setattr(kind, "url", server.url + "cifar.tar.gz")
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(data).hexdigest())
    monkeypatch.setattr(image_sources, "_CIFAR_SIZE", len(data))
    with pytest.raises(
        DataError, match="data_batch_1 has 0 bytes and another MD5"
    ):  # as the real one's batches are checked
        load("cifar10")
    assert everything_under(tmp_path / "root") == [f"{kind.base_folder}/data_batch_1", kind.filename]
    server.files["cifar.tar.gz"] = data[:-1]
    (tmp_path / "root" / kind.filename).write_bytes(b"damaged")
    (tmp_path / "root" / kind.base_folder / "data_batch_1").unlink()
    (tmp_path / "root" / kind.base_folder).rmdir()
    with pytest.raises(DataError, match=f"gave {len(data) - 1} bytes; expected {len(data)}"):
        load("cifar10")
    with pytest.raises(DataError, match="Ways out"):
        load("cifar10", download=False)
