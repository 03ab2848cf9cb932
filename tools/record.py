"""Execute chapters for the record: run every cell, store the outputs, leave no accident of the run behind.

    python tools/record.py                      every chapter of _toc.yml
    python tools/record.py book/mirrors.ipynb   one chapter
    python tools/record.py --only-stale         those whose code changed since the last record
    python tools/record.py --check              say which are stale, run nothing
    python tools/record.py --verify             run, write nothing, say which outputs would differ

The code is formatted by ruff first. The scale is ``quick`` unless PSO_SCALE says otherwise. A second run with
unchanged code leaves an empty diff.
A chapter that fails leaves its file as it was. How long a slow cell took is kept in the notebook's metadata, for the
plain edition to say; a time that is not far from the one that stands there changes nothing.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat

import book

ROOT = book.ROOT
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}
KEPT_CELL_METADATA = ("mystnb", "tags")
WIDGETS = ("application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json")
SLOW = 10  # seconds
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{6,}")


class ChapterFailed(Exception):
    """A chapter cannot be recorded; the text names the cell and what it said."""


def cell_id(cell, seen: dict) -> str:
    """An id that depends on the cell's text alone, so that converting a chapter again changes no id."""
    key = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
    seen[key] = seen.get(key, 0) + 1
    return key if seen[key] == 1 else f"{key}-{seen[key]}"


def tidy(notebook, scale: str, took: dict[int, float] | None = None, before: dict[str, int] | None = None):
    """Keep what the reader sees, drop what the run left: times, widgets, warnings on stderr, editor settings.

    ``took``: seconds of each cell by its place; ``before``: those on record, by the cell's id.
    """
    seen: dict[str, int] = {}
    number = 0
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in KEPT_CELL_METADATA if cell.metadata.get(key)}
        cell.id = cell_id(cell, seen)
        cell.pop("attachments", None) if not cell.get("attachments") else None
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            cell.outputs = [tidied(output, number) for output in cell.outputs if output.get("name") != "stderr"]
    record: dict = {"scale": scale, "sha256": book.fingerprint(notebook, scale)}
    if slow := slow_cells(notebook, took or {}, before or {}):
        record["seconds"] = slow
    notebook.metadata = {"kernelspec": KERNELSPEC, "language_info": LANGUAGE, book.RECORD_KEY: record}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def slow_cells(notebook, took: dict[int, float], before: dict[str, int]) -> dict[str, int]:
    """Seconds of the cells that take long, to five; what stands on record stays where the new time is like it."""
    found = {}
    for place, seconds in took.items():
        key = notebook.cells[place].id
        old = before.get(key)
        if old and 2 / 3 < seconds / old < 3 / 2:
            found[key] = old
        elif seconds >= SLOW:
            found[key] = 5 * round(seconds / 5)
    return found


def tidied(output, number: int):
    """One output without transient parts; widgets and memory addresses are refused."""
    output.pop("transient", None)
    if "data" in output:
        if any(kind in output.data for kind in WIDGETS):
            raise ChapterFailed(
                f"code cell {number} shows a widget, which the book cannot show offline. "
                "Use `from tqdm import tqdm` rather than tqdm.auto, and no ipywidgets."
            )
        output.metadata = {k: v for k, v in output.get("metadata", {}).items() if k != "widgets"}
    if output.output_type == "execute_result":
        output.execution_count = number
    texts = [output.get("text", "")] + [v for v in output.get("data", {}).values() if isinstance(v, str)]
    if any(ADDRESS.search(text) for text in texts):
        raise ChapterFailed(
            f"code cell {number} shows a memory address, which differs in every run. "
            "Print something else, or end the cell's last line with a semicolon."
        )
    return output


def formatted(notebook, path: Path):
    """The notebook with its code formatted as ruff formats the rest of the project; what ruff finds is printed."""
    if not shutil.which("ruff"):
        return notebook
    text, name = nbformat.writes(notebook), str(path if path.is_relative_to(ROOT) else ROOT / "book" / path.name)
    run = partial(subprocess.run, capture_output=True, text=True, cwd=ROOT)
    done = run(["ruff", "format", "--stdin-filename", name, "-"], input=text)
    if done.returncode:
        raise ChapterFailed(f"ruff cannot read it: {done.stderr.strip()}")
    found = run(["ruff", "check", "--output-format", "concise", "--stdin-filename", name, "-"], input=done.stdout)
    if found.returncode:
        print("   " + found.stdout.strip().replace("\n", "\n   "))
    return nbformat.reads(done.stdout, as_version=4)


def execute(path: Path, scale: str, timeout: int):
    """Run one chapter in a fresh kernel whose working directory is the chapter's folder; and each cell's seconds."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = formatted(book.read(path), path)
    took: dict[int, float] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name=KERNELSPEC["name"],
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=40"],  # the kernel's own warnings say nothing about the chapter
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=lambda cell, cell_index: took.update({cell_index: -time.monotonic()}),
        on_cell_executed=lambda cell, cell_index, execute_reply: took.update(
            {cell_index: took[cell_index] + time.monotonic()}
        ),
    )
    environment = {**os.environ, "PSO_SCALE": scale, "TQDM_DISABLE": "1", "PSO_STRICT": "1", "PYTHONHASHSEED": "0"}
    # One thread: sums over threads are added in an order that depends on their number, and on a busy
    # machine two threads that wait for each other are far slower than one.
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise ChapterFailed(f"{failing_cell(notebook)}\n{plain(error.traceback)}") from None
    except CellTimeoutError:
        raise ChapterFailed(f"{failing_cell(notebook)}\ntook longer than {timeout} s") from None
    except DeadKernelError:
        raise ChapterFailed(f"{failing_cell(notebook)}\nthe kernel died (out of memory?)") from None
    return notebook, took


def failing_cell(notebook) -> str:
    """The last cell that started, as a listing."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    errors = [c for c in code if any(o.output_type == "error" for o in c.outputs)]
    started = [c for c in code if c.execution_count is not None or c.outputs]
    cell = (errors or started[-1:] or code[:1])[0]
    listing = "\n".join(f"    {line}" for line in cell.source.splitlines())
    return f"code cell {code.index(cell) + 1} of {len(code)}:\n{listing}"


def plain(text: str) -> str:
    """Without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def warnings_of(notebook) -> list[str]:
    """What the run wrote to stderr: dropped from the record, told to the author."""
    return [
        f"code cell {number}: {plain(output.text).strip().splitlines()[-1]}"
        for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1)
        for output in cell.outputs
        if output.get("name") == "stderr" and output.text.strip()
    ]


def differing(old, new) -> list[int]:
    """The numbers of the code cells whose outputs differ."""
    pairs = zip(*([c for c in nb.cells if c.cell_type == "code"] for nb in (old, new)), strict=True)
    return [number for number, (a, b) in enumerate(pairs, 1) if a.outputs != b.outputs]


def record(path: Path, scale: str, timeout: int, verify: bool = False) -> float:
    """Record one chapter; return the seconds it took. Raises ``ChapterFailed`` and then writes nothing."""
    start = time.perf_counter()
    notebook, took = execute(path, scale, timeout)
    seconds = time.perf_counter() - start
    for line in warnings_of(notebook):
        print(f"   warning, dropped: {line}")
    before = book.read(path).metadata.get(book.RECORD_KEY, {}).get("seconds", {})
    notebook = tidy(notebook, scale, took, before)
    if not verify:
        book.write(notebook, path)
    elif cells := differing(book.read(path), notebook):
        raise ChapterFailed(f"other outputs than those stored, in code cells {cells}")
    return seconds


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", type=Path, help="notebooks; none means every chapter of _toc.yml")
    parser.add_argument("--only-stale", action="store_true", help="skip chapters whose code has not changed")
    parser.add_argument("--check", action="store_true", help="run nothing; fail if a chapter is stale")
    parser.add_argument("--verify", action="store_true", help="run, write nothing; fail if an output would differ")
    parser.add_argument("--timeout", type=int, default=900, help="seconds a single cell may take (900)")
    options = parser.parse_args(arguments)

    chosen = [path.resolve() for path in options.chapters] or book.chapters()
    scale, failed = book.default_scale(), 0
    for path in chosen:
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        if not path.is_file():
            print(f"{name}: no such file")
            failed += 1
            continue
        stale = book.is_stale(book.read(path))
        recorded_scale = book.read(path).metadata.get(book.RECORD_KEY, {}).get("scale")
        if not stale and recorded_scale != scale and not options.check:
            stale = f"was recorded at {recorded_scale}"
        if options.check:
            print(f"{name}: {stale or 'up to date'}")
            failed += bool(stale)
            continue
        if options.only_stale and not stale:
            print(f"{name}: up to date")
            continue
        print(f"{name}: running at {scale} …", flush=True)
        try:
            seconds = record(path, scale, options.timeout, options.verify)
        except ChapterFailed as error:
            print(f"{name}: FAILED, the file is as it was; {error}", flush=True)
            failed += 1
            continue
        print(f"{name}: {seconds:.1f} s, {'as stored' if options.verify else 'recorded'}", flush=True)
    if failed and options.check:
        print("Record them again: python tools/record.py --only-stale")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
