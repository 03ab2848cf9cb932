"""A process for code that nobody has read: without network, with few files, and with limits on time and memory.

bubblewrap   bwrap: sees Python, its packages and a scratch folder in memory, nothing else
unshare      the same by util-linux alone: name spaces, a root of bound folders, no capabilities
plain        a child with limits, for systems that allow neither; it sees the network and your files

The first that works here is taken.
"""

import functools
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pso_lib
from pso_lib.course.assignment import CourseError
from pso_lib.course.wire import receive, send

__all__ = ["MODES", "Worker", "WorkerEnded", "choose", "why_not"]

MODES = ("bubblewrap", "unshare", "plain")
START = 120.0  # seconds to import torch on a slow disk
SCRATCH = 256 * 2**20  # bytes of files in memory

BOOT = "import sys; sys.path[:0] = {paths!r}; from pso_lib.course.worker import main; main({alone})"

TRIAL = "import sys; sys.path[:0] = {paths!r}; import pso_lib.course.worker; print('works')"

# A root of bound folders, by mount and chroot; without capabilities afterwards, so that it stays read-only.
ENTER = """\
set -e
still() { # read-only; with the flags that the system may have locked
    mount -o remount,bind,ro "$1" 2>/dev/null || mount -o remount,bind,ro,nosuid,nodev "$1"
}
root=$1; size=$2; count=$3; shift 3
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir -p "$root/dev" "$root/proc" "$root/tmp"
mount -t tmpfs -o "mode=1777,size=$size" tmpfs "$root/tmp" # before the folders, some of which may lie in /tmp
while [ "$count" -gt 0 ]; do
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
    still "$root$1"
    shift; count=$((count - 1))
done
for device in null zero random urandom; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t proc proc "$root/proc"
mount -o remount,bind,ro,nosuid,nodev,noexec "$root/proc" # where root writes /proc/sys, without any rights here
still "$root"
exec chroot "$root" setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""


class WorkerEnded(Exception):
    """The process is gone, or does not answer; a new one can go on."""


def _folders() -> tuple[list[str], list[str]]:
    """What Python needs to see, and the paths to import from."""
    package = str(Path(pso_lib.__file__).resolve().parent)
    paths = [str(Path(package).parent)]
    paths += [path for path in sys.path if path.endswith(("site-packages", "dist-packages")) and os.path.isdir(path)]
    system = ["/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/alternatives"]
    wanted = [*system, sys.prefix, sys.base_prefix, sys.exec_prefix, *paths[1:], package]
    seen: list[str] = []
    for folder in wanted:
        inside = any(Path(folder).resolve().is_relative_to(done) for done in seen if not done.startswith("/lib"))
        if os.path.isdir(folder) and not (inside and folder not in system):
            seen.append(folder)
    return list(dict.fromkeys(seen)), paths


def _environment(home: str) -> dict[str, str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLBACKEND": "agg",
        "TQDM_DISABLE": "1",
        **threads,
    }


def _python(code: str) -> list[str]:
    return [os.path.abspath(sys.executable), "-I", "-c", code]


def _command(mode: str, code: str, home: str) -> list[str]:
    folders, _ = _folders()
    if mode == "bubblewrap":
        binds = [part for folder in folders for part in ("--ro-bind", folder, folder)]
        settings = [part for key, value in _environment("/tmp").items() for part in ("--setenv", key, value)]
        limits = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        places = ["--proc", "/proc", "--dev", "/dev", "--size", str(SCRATCH), "--tmpfs", "/tmp"]
        return [
            "bwrap",
            *limits,
            "--clearenv",
            *settings,
            *places,  # before the folders, some of which may lie in /tmp
            *binds,
            "--chdir",
            "/tmp",
            "--remount-ro",
            "/",
            "--remount-ro",
            "/proc",
            *_python(code),
        ]
    if mode == "unshare":
        spaces = ["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--ipc", "--uts", "--kill-child"]
        inside = ["sh", "-c", ENTER, "sh", home, str(SCRATCH), str(len(folders)), *folders]
        settings = [f"{key}={value}" for key, value in _environment("/tmp").items()]
        return ["unshare", *spaces, *inside, "/usr/bin/env", "-i", *settings, *_python(code)]
    return _python(code)


@functools.cache
def why_not(mode: str) -> str:
    """Why this system cannot have the mode, with Python, torch and this library inside; "" if it can."""
    if not sys.platform.startswith("linux"):
        return "it needs Linux; grade there, or in a container"
    tools = {"bubblewrap": ["bwrap"], "unshare": ["unshare", "setpriv", "chroot", "mount"], "plain": []}[mode]
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if missing := [tool for tool in tools if shutil.which(tool, path=path) is None]:
        return f"{', '.join(missing)} is not installed"
    home = tempfile.mkdtemp()
    try:
        command = _command(mode, TRIAL.format(paths=_folders()[1]), home)
        environment = _environment(home) if mode == "plain" else {"PATH": path}
        done = subprocess.run(command, capture_output=True, text=True, timeout=START, env=environment, cwd="/")
        return "" if done.stdout == "works\n" else " ".join(done.stderr.split())[-300:] or "it fails"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def choose(mode: str | None = None) -> str:
    """The mode asked for, or the first that works here. ``CourseError`` if it does not."""
    for one in MODES if mode is None else [mode]:
        if not why_not(one):
            return one
    raise CourseError(f"--sandbox {mode or 'plain'} does not work here: {why_not(mode or 'plain')}. {__doc__}")


class Worker:
    """One sandbox: ``ask`` it, and ``close`` it."""

    def __init__(self, mode: str):
        self.mode = mode
        self.home = tempfile.mkdtemp(prefix="pso-course-")
        _, paths = _folders()
        code = BOOT.format(paths=paths, alone=mode != "plain")
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            _command(mode, code, self.home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=self.home,
            env=_environment(self.home) if mode == "plain" else {"PATH": path},
            start_new_session=True,
            bufsize=0,
        )
        self.buffer = bytearray()
        self._receive(START)

    def ask(self, request: dict, seconds: float) -> dict:
        """The worker's answer. ``WorkerEnded`` if none comes in time; the worker is closed then."""
        assert self.process.stdin is not None
        try:
            send(self.process.stdin.fileno(), {**request, "few_processes": self.mode != "plain"})
        except OSError as error:
            self.close()
            raise WorkerEnded("the process ended") from error
        return self._receive(seconds)

    def _receive(self, seconds: float) -> Any:
        assert self.process.stdout is not None
        until = time.monotonic() + seconds
        while True:
            try:
                if (message := receive(self.buffer)) is not None:
                    return message
            except ValueError as error:
                self.close()
                raise WorkerEnded("the process wrote garbage") from error
            left = until - time.monotonic()
            ready = left > 0 and select.select([self.process.stdout], [], [], left)[0]
            piece = os.read(self.process.stdout.fileno(), 2**20) if ready else b""
            if not piece:
                self.errors.seek(0)
                said = self.errors.read()[-300:].decode(errors="replace").strip()
                self.close()
                raise WorkerEnded(f"the process {'ended' if ready else 'did not answer in time'} {said}".strip())
            self.buffer += piece

    def close(self) -> None:
        """End the process, and all that it has started."""
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                stream.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
