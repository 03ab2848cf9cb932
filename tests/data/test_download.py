"""Downloads from a server on this machine: whole and checked or not at all, in bounded time, many at once."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_server import serving

from pso_lib.data import download, text
from pso_lib.data.download import fetch_file, known_name
from pso_lib.data.text import load_text
from pso_lib.errors import DataError

PLAY = b"Speak, speak. " * 10


@pytest.fixture
def server(monkeypatch, tmp_path):
    yield from serving(monkeypatch, tmp_path)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def everything_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def play(server, monkeypatch):
    """Tiny Shakespeare is PLAY, and this server has it."""
    server.files["input.txt"] = PLAY
    monkeypatch.setattr(text, "_URL", server.url + "input.txt")
    monkeypatch.setattr(text, "_SHA256", hashlib.sha256(PLAY).hexdigest())
    monkeypatch.setattr(text, "_SIZE", len(PLAY))
    return server


def test_a_download_lands_whole_under_the_root(play, tmp_path):
    assert load_text().description == "Tiny Shakespeare, 126/14 characters"
    assert everything_under(tmp_path / "root") == ["tinyshakespeare/input.txt"]
    assert (tmp_path / "root/tinyshakespeare/input.txt").stat().st_mode & 0o777 == 0o644
    load_text()
    assert len(play.asked) == 1


@pytest.mark.parametrize(
    "sent, found",
    [
        (b"<html>", "gave 6 bytes; expected 140"),
        (PLAY + b"!", "gave more than 140 bytes"),
        (PLAY[:-1] + b"!", "SHA256 hash"),
        (None, "HTTP Error 404"),
        (lambda file: [file.write(b"x" * 1000) for _ in range(100_000)], "gave more than 140 bytes"),
    ],
)
def test_a_download_of_something_else_leaves_nothing(play, tmp_path, sent, found):
    play.files["input.txt"] = sent
    with pytest.raises(DataError, match=f"(?is){found}.*Ways out"):
        load_text()
    assert everything_under(tmp_path / "root") == []


def test_a_server_that_trickles_is_given_up(play, monkeypatch, tmp_path):
    """A byte every 20 ms never lets a connection time out: the whole has a limit."""

    def trickle(file):
        for byte in PLAY * 100:
            file.write(bytes([byte]))
            time.sleep(0.02)

    play.files["input.txt"] = trickle
    monkeypatch.setattr(download, "PATIENCE", 0.1)
    begun = time.monotonic()
    with pytest.raises(DataError, match="TimeoutError: .* gave .* bytes in .* too long.*Ways out"):
        load_text()
    assert time.monotonic() - begun < 2 and everything_under(tmp_path / "root") == []


def test_slow_but_steady_is_fast_enough(server, monkeypatch, tmp_path):
    """The limit grows with what has come."""
    monkeypatch.setattr(download, "PATIENCE", 0.05)
    monkeypatch.setattr(download, "SLOWEST", 10_000)
    data = bytes(range(250)) * 40

    def steady(file):
        for start in range(0, len(data), 1000):
            file.write(data[start : start + 1000])
            time.sleep(0.03)  # 33 kB/s, longer in all than the patience for the beginning

    server.files["data"] = steady
    fetch_file([server.url + "data"], tmp_path / "data", len(data), sha256(data))
    assert (tmp_path / "data").read_bytes() == data


def test_the_next_address_is_tried(server, tmp_path):
    server.files |= {"bad": b"nonsense", "good": PLAY}
    urls = [server.url + name for name in ("absent", "bad", "good")]
    fetch_file(urls, tmp_path / "play", len(PLAY), sha256(PLAY))
    assert (tmp_path / "play").read_bytes() == PLAY and server.asked == ["/absent", "/bad", "/good"]
    with pytest.raises(DataError, match="gave 8 bytes"):  # the last one's reason
        fetch_file(urls[:2], tmp_path / "other", len(PLAY), sha256(PLAY))


def test_many_at_once(play, tmp_path):
    """Each finds the file whole, whoever brought it."""

    def slowly(file):
        for start in range(0, len(PLAY), 20):
            file.write(PLAY[start : start + 20])
            time.sleep(0.01)

    play.files["input.txt"] = slowly
    with ThreadPoolExecutor(18) as pool:
        found = list(pool.map(lambda _: load_text().description, range(18)))
    assert found == ["Tiny Shakespeare, 126/14 characters"] * 18
    assert everything_under(tmp_path / "root") == ["tinyshakespeare/input.txt"]


def test_a_known_name_however_written_or_a_path_that_is_there(tmp_path):
    names = ("fashion-mnist", "digits")
    for written in ("fashion-mnist", "FashionMNIST", "fashion_mnist", "Fashion MNIST"):
        assert known_name(written, names, Path.exists, "folder") == "fashion-mnist"
    assert known_name(tmp_path, names, Path.exists, "folder") is None
    assert known_name(str(tmp_path), names, Path.is_dir, "folder") is None
    for path in (tmp_path / "digits", f"{tmp_path}/digits"):
        with pytest.raises(DataError, match="digits does not exist; give the path of a folder, or one of"):
            known_name(path, names, Path.exists, "folder")
    with pytest.raises(DataError):
        known_name(tmp_path, names, Path.is_file, "file")
    with pytest.raises(ValueError, match="unknown.*Did you mean 'digits'"):
        known_name("digitz", names, Path.exists, "folder")
    with pytest.raises(TypeError, match="got 5"):
        known_name(5, names, Path.exists, "folder")
