"""The inside of the sandbox: one process for a submission, which forks a child for each exercise.

It holds no truth and no points. It imports torch once and then answers requests on its standard input: which cells to
take which definitions from, which function to call, with which arguments. Each child has a pipe of its own; whatever a
student's code writes there, kills or prints costs its own exercise. ``sandbox`` starts this process and reads it.
"""

import __future__

import ast
import contextlib
import ctypes
import math
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from typing import Any, NoReturn

import numpy as np
import torch

from pso_lib.course.wire import Unplain, decoded, encoded, receive, send

__all__ = ["main"]

PRINTED = 4096  # bytes kept of what an exercise prints
FILE_SIZE = 16 * 2**20  # bytes a file may have
OPEN_FILES = 128
PATIENCE = 3  # seconds of the clock for one of computing: the machine may be busy
PROCESSES = 128
SETTING = 2.0  # seconds of computing for all that a file assigns and sets outside its functions


def main(alone: bool) -> None:
    """Answer requests until standard input ends.

    Args:
        alone: in a name space of processes of its own, so that all others there may be killed.
    """
    alone = alone and os.getpid() < 5
    _prctl(4, 0)  # not dumpable: children can neither trace this process nor open its files under /proc
    _prctl(36, 1)  # orphans come here, to be ended
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    torch.set_num_threads(1)
    send(outgoing, {"ready": True})
    buffer = bytearray()
    while piece := os.read(incoming, 2**20):
        buffer += piece
        while (request := receive(buffer)) is not None:
            send(outgoing, _answer(request, alone, (incoming, outgoing)))


def _prctl(*what: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(*what, 0, 0, 0)


def _answer(request: dict, alone: bool, private: tuple[int, ...]) -> dict:
    """Every case of one exercise. A child that dies is followed by another, which goes on with the next case."""
    cases, until = len(request["cases"]), time.monotonic() + PATIENCE * request["seconds"]
    results: list[Any] = []
    printed = bytearray()
    while len(results) < cases:
        folder = tempfile.mkdtemp()
        try:
            end = _child(request, results, until, printed, folder, private)
        finally:
            _sweep(alone)
            shutil.rmtree(folder, ignore_errors=True)
        if end == "time":
            results += [{"error": "time"}] * (cases - len(results))
        elif end:
            results.append({"error": "ended", "text": end})
    return {"results": results, "printed": printed.decode(errors="replace")}


def _child(request: dict, results: list, until: float, printed: bytearray, folder: str, private: tuple) -> str:
    """Fork, and read results as they come. Returns "" when all are there, "time", or how the child ended."""
    data, data_end = os.pipe()
    log, log_end = os.pipe()
    child = os.fork()
    if child == 0:
        for descriptor in (*private, data, log):
            os.close(descriptor)
        _run(request, len(results), data_end, log_end, folder)
    os.close(data_end)
    os.close(log_end)
    buffer, open_ends, ended = bytearray(), [data, log], ""
    try:
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return "time"
            ready, _, _ = select.select(open_ends, [], [], min(left, 0.05 if ended else 0.5))
            for descriptor in ready:
                piece = os.read(descriptor, 2**16)
                if not piece:
                    open_ends.remove(descriptor)
                elif descriptor == log:
                    printed += piece[: max(0, PRINTED - len(printed))]
                else:
                    buffer += piece
            while (message := receive(buffer)) is not None:
                if isinstance(message, dict) and message.pop("case", None) == len(results):
                    results.append(message)
                if len(results) == len(request["cases"]):
                    return ""
            if ended and not ready:
                return ended
            ended = ended or _ended(child)
    except ValueError:
        return "wrote where only the grader's child may write"
    finally:
        os.close(data)
        os.close(log)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)


def _ended(child: int) -> str:
    with contextlib.suppress(ChildProcessError):
        found, status = os.waitpid(child, os.WNOHANG)
        return _how(status) if found else ""
    return "ended"


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        if name == "SIGXCPU":
            return "time"
        return f"ended the process ({name})"
    return f"ended the process (exit status {os.WEXITSTATUS(status)})"


def _sweep(alone: bool) -> None:
    """End whatever the child has left behind."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        if alone:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(-1, signal.SIGKILL)
        with contextlib.suppress(OSError):
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                for process in file.read().split():
                    os.kill(int(process), signal.SIGKILL)
        try:
            found, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not found:
            time.sleep(0.005)


# ---- the child ----
def _run(request: dict, first: int, data: int, log: int, folder: str) -> NoReturn:
    try:
        os.setsid()
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.chdir(folder)
        sys.stdout = open(1, "w", buffering=1, closefd=False, errors="replace")
        sys.stderr = open(2, "w", buffering=1, closefd=False, errors="replace")
        me = os.getpid()
        _limit(request)
        function, reason = _function(request)
        for number in range(first, len(request["cases"])):
            result = reason or _case(function, request["cases"][number])
            if os.getpid() != me:  # a copy that the student's code has made
                os._exit(0)
            sys.stdout.flush()
            _tell(data, number, result)
    except BaseException:
        os.write(log, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(1)


def _tell(data: int, number: int, result: dict) -> None:
    try:
        send(data, {"case": number, **result})
    except (Unplain, MemoryError) as error:
        send(data, {"case": number, "error": "unplain", "text": str(error)})


def _limit(request: dict) -> None:
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    for kind, most in (
        (resource.RLIMIT_AS, taken + request["megabytes"] * 2**20),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        *([(resource.RLIMIT_NPROC, PROCESSES)] if request["few_processes"] else []),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    seconds = math.ceil(request["seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2))  # SIGXCPU, then SIGKILL


def _function(request: dict) -> tuple[Any, dict | None]:
    """The student's function, from definitions alone; or why there is none. Definitions that fail are passed over."""
    space: dict[str, Any] = {"__name__": "submission", "__builtins__": __builtins__}
    failed: dict | None = None
    _seed()
    signal.signal(signal.SIGVTALRM, _enough)
    left = SETTING
    for where, source, numbers in request["cells"]:
        tree = ast.parse(source)
        for number in numbers:
            node = tree.body[number]
            part = ast.Module([node], [])
            timed = not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)
            try:
                if timed:
                    signal.setitimer(signal.ITIMER_VIRTUAL, left)
                flags = __future__.annotations.compiler_flag  # a type that is not imported does no harm
                exec(compile(part, where, "exec", flags=flags, dont_inherit=True), space)
            except BaseException as error:
                traceback.print_exc()
                if getattr(node, "name", None) == request["function"]:
                    failed = _raised(error)
            finally:
                rest = signal.setitimer(signal.ITIMER_VIRTUAL, 0)[0]
                left = max(rest, 1e-3) if timed else left
    if request["function"] in space:
        return space[request["function"]], None
    return None, failed or {"error": "missing"}


def _enough(*_: Any) -> NoReturn:
    raise TimeoutError(f"assignments and settings outside the functions took more than {SETTING:g} seconds")


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def _case(function: Any, case: dict) -> dict:
    try:
        calls = decoded(case["calls"])
        values = []
        for arguments in calls:
            _seed()
            value = function(*arguments)
            if value is None or value is Ellipsis:
                return {"error": "none" if value is None else "blank"}
            values.append(encoded(value))
        return {"value": values if case["each"] else values[0]}
    except Unplain as error:
        return {"error": "unplain", "text": str(error)}
    except MemoryError:
        return {"error": "memory"}
    except BaseException as error:
        if "allocate memory" in str(error) or "enough memory" in str(error):
            return {"error": "memory"}
        traceback.print_exc()
        return _raised(error)


def _raised(error: BaseException) -> dict:
    """What an exception says, and on which line of the student's cells it came."""
    text = f"{type(error).__name__}: {str(error)[:300]}".rstrip(": ")
    places = [f"{f.filename}, line {f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
    own = [place for place in places if place.startswith("cell ") or place.startswith("your file")]
    return {"error": "raised", "text": text + (f" ({own[-1]})" if own else "")}
