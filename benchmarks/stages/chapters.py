"""The code of the chapters that use a GPU, as plain Python: no Jupyter, figures drawn into nothing, assertions kept."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from stages.report import Options, Report, say

__all__ = ["TRAINS", "cells", "run", "run_cells"]

ROOT = Path(__file__).resolve().parents[2]
TRAINS = r"\bcuda\b|\blive\("  # what a chapter says that uses a GPU where there is one, as in tools/colab.py
SHORT = "depth-and-time"  # the one that --smoke runs
SLOW = 5.0  # seconds from which a cell is named


def cells(chapter: Path) -> list[str]:
    """The source of its code cells."""
    notebook = json.loads(chapter.read_text(encoding="utf8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cells(chapter: Path) -> None:
    """In this process, as the module ``__main__``; says how long it took, and which cells took long."""
    namespace: dict = {"__name__": "__main__"}
    begin = time.monotonic()
    for number, source in enumerate(cells(chapter)):
        start = time.monotonic()
        try:
            exec(compile(source, f"{chapter.name}, code cell {number}", "exec"), namespace)
        except BaseException:
            print(f"in code cell {number}:\n{source}", file=sys.stderr)
            raise
        if (taken := time.monotonic() - start) >= SLOW:
            print(f"  cell {number}: {taken:.1f} s", flush=True)
        if plots := sys.modules.get("matplotlib.pyplot"):
            plots.close("all")
    print(f"seconds: {time.monotonic() - begin:.1f}", flush=True)


def run(options: Options, report: Report) -> bool:
    """Each chapter in a process of its own; what the time does not allow is left out, and said."""
    environment = os.environ | {
        "MPLBACKEND": "Agg",
        "PSO_SCALE": "smoke" if options.smoke else "quick",
        "PSO_STRICT": "1",
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    if options.device.type == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    wanted = [path for path in sorted((ROOT / "book").glob("*.ipynb")) if re.search(TRAINS, "\n".join(cells(path)))]
    wanted = [path for path in wanted if not options.only or options.only in path.stem]
    good, end = True, time.monotonic() + 60 * options.minutes
    if options.smoke and not options.only:
        wanted = [path for path in wanted if path.stem == SHORT]
    for path in wanted:
        left = end - time.monotonic()
        if left <= 0:
            say(f"left out: {path.stem}, the minutes are over")
            report.add(path.stem, {"ok": None})
            continue
        begin = time.monotonic()
        code = f"import sys; sys.path[:0] = {[str(ROOT / 'benchmarks')]!r}\n"
        code += f"from pathlib import Path\nfrom stages.chapters import run_cells\nrun_cells(Path({str(path)!r}))"
        try:
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=ROOT / "book",
                env=environment,
                capture_output=True,
                text=True,
                timeout=left,
            )
            ok, printed, problem = done.returncode == 0, done.stdout, done.stderr
        except subprocess.TimeoutExpired:
            ok, printed, problem = None, "", "not done when the minutes were over"
        seconds, good = time.monotonic() - begin, good and ok is not False
        slow = [line.strip() for line in printed.splitlines() if re.fullmatch(r" +cell \d+: [\d.]+ s", line)]
        state = {True: "ok    ", False: "FAILED", None: "cut   "}[ok]
        say(f"{state} {path.stem:32} {seconds:6.1f} s  {'; '.join(slow)}")
        if not ok:
            say("\n".join(problem.splitlines()[-12:]))
        report.add(path.stem, {"ok": ok, "seconds": seconds, "cells": slow, "problem": "" if ok else problem[-4000:]})
    return good
