"""The folder data sets live in, and the download into it.

A download is tried only after a quick look whether the network answers, so that a machine without one fails in
seconds, with the way out. It is given up when it crawls; and a file stands in its place whole and checked, or not at
all, however many processes fetch it at once (pooch: a temporary file each, a checksum, one renaming).
"""

import os
import queue
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from pso_lib.errors import DataError, nearest

__all__ = ["data_root", "fetch_file", "known_name", "obtain", "silence", "unpack"]

PATIENCE = 8.0  # seconds to wait for the network's first answer; a download gets four times that to begin
SLOWEST = 20_000  # bytes per second that a download must come by after that


def data_root(root: str | os.PathLike | None = None) -> Path:
    """The folder data sets live in: ``root``, else ``PSO_DATA``, else ``~/.cache/pso_lib``."""
    given = Path(root or os.environ.get("PSO_DATA") or "~/.cache/pso_lib").expanduser()
    if given.is_file():
        raise DataError(f"the data root {given} is a file; give a folder as root= or in PSO_DATA.")
    return given


def known_name(name, names: Sequence[str], is_there: Callable[[Path], bool], what: str) -> str | None:
    """Which of ``names`` is meant, be it in capitals or without dashes; None for the path of a ``what`` that is there.

    Raises:
        DataError: a path with nothing there.
        ValueError: neither a known name nor a path.
        TypeError: not a string or path.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"name must be one of {names}, or a path, got {name!r}.")
    for known in names if isinstance(name, str) else ():
        if _bare(str(name)) == _bare(known):
            return known
    if str(name) and is_there(Path(name).expanduser()):
        return None
    if isinstance(name, os.PathLike) or os.sep in str(name):
        raise DataError(f"{name} does not exist; give the path of a {what}, or one of {names}.")
    raise ValueError(
        f"name={name!r} is unknown, and nothing of this path exists; choose one of {', '.join(map(repr, names))}, or "
        f"the path of a {what}.{nearest(name, names)}"
    )


def _bare(name: str) -> str:
    return name.lower().translate(str.maketrans("", "", "-_ "))


def obtain(
    title: str, root: Path, allowed: bool, urls: Sequence[str], fetch: Callable[[], object], layout: str, instead: str
) -> None:
    """Let ``fetch`` bring a data set into ``root``; any failure becomes one ``DataError``.

    ``urls``: addresses of which one must answer first. ``layout`` ends the sentence "a folder …" of the
    error, ``instead`` is the call that needs no download.
    """
    why = "download=False" if not allowed else silence(urls)
    if not why:
        try:
            fetch()
            return
        except Exception as error:  # URLError, ValueError, PermissionError, TimeoutError, …
            why = f"{type(error).__name__}: {error}"
    raise DataError(
        f"{title} is not in {root} and could not be downloaded there ({why}). Ways out: point root=, or the "
        f"environment variable PSO_DATA, at a folder {layout}; or load it once on a machine with a network and "
        f"copy that folder here; or use {instead}, which needs no download."
    )


def fetch_file(urls: Sequence[str], target: Path, size: int, known_hash: str, *, gunzip: bool = False) -> None:
    """Download one file from the first address that gives it; the whole right file stands there, or none.

    Args:
        size: of the file in bytes; known_hash: its checksum, "sha256:…" or "md5:…".
        gunzip: the addresses give it compressed; size and checksum are those of the file itself.

    Raises:
        DataError, ValueError: what came has another size, or another checksum.
        TimeoutError, OSError: it came too slowly, or not at all, or cannot be written.
    """
    import pooch  # 0.1 s, for who downloads

    for last, url in enumerate(urls, start=1 - len(urls)):
        try:
            pooch.retrieve(
                url,
                known_hash,
                fname=target.name,
                path=target.parent,
                downloader=lambda url, output, _: _receive(url, Path(output), size, gunzip),
            )
            return
        except Exception:
            if not last:
                raise


def _receive(url: str, output: Path, size: int, gunzip: bool) -> None:
    """Write what an address gives, as it comes, and never more than it should."""
    inflate = zlib.decompressobj(31) if gunzip else None
    begun, received, written = time.monotonic(), 0, 0
    with urllib.request.urlopen(url, timeout=4 * PATIENCE) as answer, output.open("wb") as file:
        while chunk := answer.read1(1 << 16):  # what is there, be it one byte
            received += len(chunk)
            data = chunk if inflate is None else inflate.decompress(chunk)
            written += len(data)
            if written > size:
                raise DataError(f"{url} gave more than {size:,} bytes; expected {size:,}")
            file.write(data)
            elapsed = time.monotonic() - begun
            if elapsed > 4 * PATIENCE + received / SLOWEST:
                raise TimeoutError(f"{url} gave {received:,} bytes in {elapsed:.0f} s; that would take too long")
    if written != size:
        raise DataError(f"{url} gave {written:,} bytes; expected {size:,}")
    output.chmod(0o644)  # a data root may be shared; temporary files are their owner's alone


def unpack(archive: Path, folder: str) -> None:
    """Unpack the one ``folder`` that a tar holds beside it: the whole folder stands there, or none."""
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".unpacking.") as temporary:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        try:
            os.rename(Path(temporary) / folder, archive.parent / folder)
        except OSError:
            if not (archive.parent / folder).is_dir():  # else another process was faster
                raise


def silence(urls: Sequence[str]) -> str:
    """Why none of the addresses answers within ``PATIENCE`` seconds; "" as soon as one does.

    In threads, because looking up a name may hang past any timeout; urllib, because it knows proxies.
    """
    answers: queue.Queue[str] = queue.Queue()

    def ask(url: str) -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
            answers.put("")
        except urllib.error.HTTPError:
            answers.put("")  # an answer all the same; the download will say what is wrong
        except Exception as error:
            answers.put(f"no network: {error}")

    for url in urls:
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    why, end = "", time.monotonic() + PATIENCE
    for _ in urls:
        try:
            why = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            return f"no network: no answer within {PATIENCE:g} s"
        if not why:
            return ""
    return why
