"""The same assignment for other graders: a source for nbgrader, tests for otter, a gradebook for Canvas.

nbgrader and otter run a student's notebook from top to bottom and judge it in the same process, so a student's code can
reach the oracle there, and nbgrader's feedback shows it: `grade` is the one that keeps them apart. Neither knows who
handed in; all get one variant, drawn from a secret of the export's own, so that the variants of `make` stay unknown.
Where they give points, they give those of `grade`.
"""

import ast
import base64
import csv
import functools
import hashlib
import hmac
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pso_lib.course.assignment import Assignment, CourseError, Exercise, filled, read
from pso_lib.course.notebook import make, write_notebook

__all__ = ["export", "require", "score"]


def export(
    assignment: Assignment,
    to: str,
    out: Path,
    secret: bytes,
    *,
    table: Path | None = None,
    roster: dict[str, dict[str, str]] | None = None,
) -> list[Path]:
    """Write what the other grader reads; returns the files.

    nbgrader: ``source/NAME/NAME.ipynb``, for ``nbgrader generate_assignment NAME`` in that course's folder.
    otter: ``student/NAME.ipynb``, and ``autograder/`` with a test for each exercise, for ``otter generate -t tests``.
    canvas: ``NAME.canvas.csv``, from the table of grades, for *Gradebook › Import*; the roster's columns ``name``,
    ``id``, ``sis user id``, ``sis login id`` and ``section`` are used where it has them.

    Raises:
        CourseError: for canvas, there is no table, or a student has two lines in it.
    """
    if to != "canvas":
        secret = own_secret(secret, assignment.name)
    if to == "nbgrader":
        return [_nbgrader(assignment, out, secret)]
    if to == "otter":
        return _otter(assignment, out, secret)
    if to == "canvas":
        return [_canvas(assignment, out, table or Path("grades.csv"), roster or {})]
    raise CourseError(f"--to {to!r} is no grader that is known: nbgrader, otter or canvas.")


def own_secret(secret: bytes, name: str) -> bytes:
    """What the exported assignment's variant is drawn from, in place of the secret: it says nothing of that."""
    return hmac.new(secret, b"export\x00" + name.encode("utf8", "surrogateescape"), hashlib.sha256).digest()


# ---- what their tests call ----
def packed(assignment: Assignment, secret: bytes) -> str:
    """The assignment and the secret as one word."""
    files = {name: (assignment.folder / name).read_text("utf8") for name in ("assignment.md", "public.py", "oracle.py")}
    whole = json.dumps({"name": assignment.name, "secret": secret.hex(), "files": files})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("assignment.json"), whole, zipfile.ZIP_DEFLATED)  # without a date
    return base64.b64encode(buffer.getvalue()).decode()


@functools.cache
def _unpacked(word: str) -> tuple[Assignment, bytes]:
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(word))) as archive:
        whole = json.loads(archive.read("assignment.json"))
    folder = Path(tempfile.mkdtemp(prefix="pso-course-")) / whole["name"]
    folder.mkdir()
    for name, text in whole["files"].items():
        (folder / name).write_text(text, encoding="utf8")
    return read(folder), bytes.fromhex(whole["secret"])


def score(word: str, name: str, space: dict[str, Any]) -> float:
    """The points of one answer, for nbgrader, which takes a cell's number as points; the mistakes are printed."""
    assignment, secret = _unpacked(word)
    one = assignment.exercises[name]
    cases = assignment.cases(secret, "", name)
    verdicts = [_verdict(one, case, space.get(name)) for case in cases]
    for case, verdict in zip(cases, verdicts, strict=True):
        print(f"{case.what}: {verdict.message or 'right'}")
    whole = sum(case.weight for case in cases)
    return round(one.points * sum(c.weight * v.share for c, v in zip(cases, verdicts, strict=True)) / whole, 2)


def require(word: str, name: str, number: int, function: Callable | None) -> None:
    """Raise ``AssertionError`` with the mistake's name unless a case is right; for otter, which counts whole cases."""
    assignment, secret = _unpacked(word)
    case = assignment.cases(secret, "", name)[number]
    verdict = _verdict(assignment.exercises[name], case, function)
    if verdict.share < 1:
        raise AssertionError(f"{case.what}: {verdict.message}") from None


def _verdict(one: Exercise, case: Any, function: Callable | None) -> Any:
    from pso_lib.course.judging import judged
    from pso_lib.course.wire import Unplain, decoded, encoded

    if function is None:
        return judged(case, {"error": "missing"}, one)[0]
    try:
        calls = case.arguments if case.each else [case.arguments]
        values = [function(*decoded(encoded(tuple(arguments)))) for arguments in calls]
        if any(value is None for value in values):
            return judged(case, {"error": "none"}, one)[0]
        found = [encoded(value) for value in values]
    except Unplain as error:
        return judged(case, {"error": "unplain", "text": str(error)}, one)[0]
    except NotImplementedError:  # nbgrader's place for an answer
        return judged(case, {"error": "blank"}, one)[0]
    except Exception as error:
        return judged(case, {"error": "raised", "text": f"{type(error).__name__}: {error}"}, one)[0]
    return judged(case, {"value": found if case.each else found[0]}, one)[0]


# ---- nbgrader ----
def _nbgrader(assignment: Assignment, out: Path, secret: bytes) -> Path:
    book = make(assignment, secret)
    word = packed(assignment, secret)
    rubrics = iter(assignment.rubrics)
    cells: list[dict] = []
    for cell in book["cells"]:
        source = "".join(cell["source"])
        name = next((name for name in assignment.exercises if source == f"check({name})"), None)
        defined = _one_function(source) if cell["cell_type"] == "code" else None
        if defined in assignment.exercises:
            cell["source"] = _with_region(source).splitlines(keepends=True)
            cell["metadata"]["nbgrader"] = _mark(defined, cell, solution=True)
        elif source == "*Your answer:*":
            section = next(rubrics)
            cell["metadata"]["nbgrader"] = _mark(f"by-hand-{len(cells)}", cell, solution=True, points=section.points)
        cells.append(cell)
        if name is not None:
            hidden = (
                f"# Points for {name}\n### BEGIN HIDDEN TESTS\nfrom pso_lib.course.export import score\n\n"
                f'score("{word}", "{name}", globals())\n### END HIDDEN TESTS'
            )
            test = {**cell, "source": hidden.splitlines(keepends=True), "metadata": {}, "id": f"test-{name}"[:64]}
            test["metadata"]["nbgrader"] = _mark(f"test-{name}", test, points=assignment.exercises[name].points)
            cells.append(test)
    path = out / "source" / assignment.name / f"{assignment.name}.ipynb"
    write_notebook({**book, "cells": cells}, path)
    return path


def _one_function(source: str) -> str | None:
    try:
        names = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    except SyntaxError:
        return None
    return names[0] if len(names) == 1 else None


def _with_region(source: str) -> str:
    """The starter with nbgrader's marks around the place of the answer."""
    lines = source.splitlines()
    function = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    last = function.body[-1]
    indent = " " * last.col_offset
    start, end = last.lineno - 1, last.end_lineno or last.lineno
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant) and isinstance(last.value.value, str):
        start = end  # nothing but a docstring
    return "\n".join(
        [*lines[:start], f"{indent}### BEGIN SOLUTION", f"{indent}...", f"{indent}### END SOLUTION", *lines[end:]]
    )


def _mark(grade_id: str, cell: dict, *, solution: bool = False, points: float | None = None) -> dict:
    graded = {"points": points} if points is not None else {}
    return {
        "schema_version": 3,
        "grade": points is not None,
        "solution": solution,
        "locked": not solution,
        "task": False,
        "cell_type": cell["cell_type"],
        "grade_id": grade_id,
        **graded,
    }


# ---- otter ----
OTTER = """\
from otter.test_files import test_case

from pso_lib.course.export import require

OK_FORMAT = False

name = "{name}"
points = {points}

WORD = "{word}"
"""

OTTER_CASE = """

@test_case(points={points}, hidden=True, name={what!r})
def test_{number}({name}):
    require(WORD, "{name}", {number}, {name})
"""


def _otter(assignment: Assignment, out: Path, secret: bytes) -> list[Path]:
    word = packed(assignment, secret)
    book = make(assignment, secret)
    paths = [out / "student" / f"{assignment.name}.ipynb"]
    write_notebook(book, paths[0])
    for name, one in assignment.exercises.items():
        cases = assignment.cases(secret, "", name)
        whole = sum(case.weight for case in cases)
        text = OTTER.format(name=name, points=one.points, word=word)
        for number, case in enumerate(cases):
            points = round(one.points * case.weight / whole, 6)
            text += OTTER_CASE.format(name=name, number=number, points=points, what=f"{number + 1}: {case.what}")
        paths.append(out / "autograder" / "tests" / f"{name}.py")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_text(text, encoding="utf8")
    requirements = out / "autograder" / "requirements.txt"
    requirements.write_text("pso_lib @ git+https://github.com/folded-space/folded-space\n", encoding="utf8")
    return [*paths, requirements]


# ---- Canvas ----
def _canvas(assignment: Assignment, out: Path, table: Path, roster: dict[str, dict[str, str]]) -> Path:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise CourseError(f"--csv {table}: {error.strerror}. Grade first: it is what `grade` writes.") from error
    columns = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", filled(assignment.title, {}, "the title")]
    lines = [["    Points Possible", "", "", "", "", f"{assignment.points:g}"]]
    seen: dict[str, str] = {}
    for row in rows:
        student = row["student"].removeprefix("'")
        if student in seen:
            raise CourseError(
                f"{table}: {student} has two lines, {seen[student]} and {row['file']}; move the file that does "
                "not count out of the folder, and grade once more."
            )
        seen[student] = row["file"]
        about = roster.get(student, {})
        login = about.get("sis login id", student)
        known = [
            about.get("name", student),
            about.get("id", ""),
            about.get("sis user id", ""),
            login,
            about.get("section", ""),
        ]
        lines.append([*known, row["total"]])
    path = out / f"{assignment.name}.canvas.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf8", errors="backslashreplace") as file:
        csv.writer(file).writerows([columns, *lines])
    return path
