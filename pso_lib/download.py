"""The folder data sets live in, and the download into it.

A download is tried only after a quick look whether the network answers, so that a machine without
one fails in seconds, with the way out.
"""

import contextlib
import hashlib
import os
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from pso_lib.errors import DataError

__all__ = ["data_root", "fetch_file", "obtain", "silence"]

PATIENCE = 8.0  # seconds to wait for the network's first answer; a stalled download gets four times that


def data_root(root: str | os.PathLike | None = None) -> Path:
    """The folder data sets live in: ``root``, else ``PSO_DATA``, else ``~/.cache/pso_lib``."""
    given = Path(root or os.environ.get("PSO_DATA") or "~/.cache/pso_lib").expanduser()
    if given.is_file():
        raise DataError(f"the data root {given} is a file; give a folder as root= or in PSO_DATA.")
    return given


def obtain(
    title: str, root: Path, allowed: bool, urls: list[str], fetch: Callable[[], object], layout: str, instead: str
) -> None:
    """Let ``fetch`` bring a data set into ``root``; any failure becomes one ``DataError``.

    ``urls``: addresses of which one must answer first. ``layout`` ends the sentence "a folder …" of the
    error, ``instead`` is the call that needs no download.
    """
    why = "download=False" if not allowed else silence(urls)
    if not why:
        try:
            with _stall_limit(4 * PATIENCE):
                fetch()
            return
        except Exception as error:  # URLError, RuntimeError, PermissionError, TimeoutError, …
            why = f"{type(error).__name__}: {error}"
    raise DataError(
        f"{title} is not in {root} and could not be downloaded there ({why}). Ways out: point root=, or the "
        f"environment variable PSO_DATA, at a folder {layout}; or load it once on a machine with a network and "
        f"copy that folder here; or use {instead}, which needs no download."
    )


def fetch_file(url: str, target: Path, size: int, sha256: str) -> None:
    """Download one file of known size and SHA-256 sum: the whole right file stands there, or none.

    Raises:
        DataError: what came has another size or sum.
    """
    with urllib.request.urlopen(url, timeout=4 * PATIENCE) as answer:
        data = answer.read(size + 1)  # never more than that of an address that serves something else
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DataError(
            f"{url} gave {'more than ' if len(data) > size else ''}{min(len(data), size):,} bytes with the SHA-256 sum "
            f"{found[:12]}…; expected {size:,} bytes with {sha256[:12]}…"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def silence(urls: list[str]) -> str:
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


@contextlib.contextmanager
def _stall_limit(seconds: float):
    """torchvision opens its connections without a timeout; give them one, and the old one back."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
