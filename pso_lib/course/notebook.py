"""The student's notebook, and the solutions' for the instructor. Plain JSON: making one needs no Jupyter."""

import ast
import json
import re
from pathlib import Path
from typing import Any

from pso_lib.course.assignment import Assignment, CourseError, filled
from pso_lib.course.submission import stamp, variants_mark

__all__ = ["make", "solution_source", "student_source"]

REPOSITORY = "https://github.com/folded-space/folded-space"

BADGE = """\
[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/{to})
{how}"""

SETUP = f"""\
# @title Set-up: takes pso_lib from where it is installed; elsewhere (Colab) fetches it. Run this first.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("pso_lib") is None:
    small = [name for name in ("pooch", "sympy", "tqdm") if importlib.util.find_spec(name) is None]
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    for what in [["--no-deps", "git+{REPOSITORY}"], *([small] if small else [])]:
        if subprocess.run([*pip, *what]).returncode:
            raise SystemExit("pip failed. Is there a network? Then run this cell again.")
    importlib.invalidate_caches()
import pso_lib

print("pso_lib", pso_lib.__version__)"""

CHECKS = '''\
# @title Public checks. Leave this cell as it is: it says whose notebook this is.
# {stamp}
# {mark}
{source}

VARIANTS = {variants}


def check(function):
    """Say whether an answer passes the public check of its exercise."""
    from pso_lib.checks import Unanswered, Wrong
    from pso_lib.checks._core import is_blank
    from pso_lib.course.submission import unseen

    name = getattr(function, "__name__", "")
    if name not in CHECKS:
        return print(f"· {{name}}: there is no public check; it is judged when you hand it in")
    points, one = CHECKS[name]
    try:
        if is_blank(function):
            raise Unanswered
        for used in unseen(function, globals().get("In", ())):
            print(f"! {{name}} uses {{used}}, which grading does not have: what gives it is not run. Give it inside.")
        print(f"✓ {{name}}: {{one(function, VARIANTS[name])}} (public checks only: {public:g} of {points:g} points)")
    except (Unanswered, NotImplementedError):
        print(f"· {{name}}: no answer yet: replace the ...")
    except Wrong as error:
        print(f"✗ {{name}}: {{error}}")
    except Exception as error:
        print(f"✗ {{name}}: it raises {{type(error).__name__}}: {{error}}")'''

FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["hide-input"]}


def make(
    assignment: Assignment,
    secret: bytes,
    student: str = "",
    *,
    solutions: Path | None = None,
    colab: str | None = None,
) -> dict[str, Any]:
    """A notebook as JSON (nbformat 4.5) for one student; "" for all.

    Args:
        solutions: a file of reference solutions: they stand in place of the starters.
        colab: the address on GitHub, owner/repository/blob/…, where the notebook will lie, for its badge.

    Raises:
        CourseError: a placeholder has no value, or a solution is missing.
    """
    variants = assignment.variants(secret, student)
    answers = solution_parts(assignment, solutions, variants) if solutions else {}
    mark = stamp(assignment.name, student, secret)
    title = f"# {assignment.title}{' · solutions' if solutions else ''}"
    how = "" if colab else "In Colab: *File › Upload notebook*, and choose this file."
    badge = BADGE.format(to=f"github/{colab}" if colab else "", how=how).strip()
    cells = [_markdown("\n\n".join([title, badge]))]
    cells += [_part(kind, filled(text, {}, "the text above the first section")) for kind, text in assignment.intro]
    public = sum(points for points, _ in assignment.public.values())
    note = (
        f"*{assignment.points:g} points. The public checks below cover {public:g} of them: they are there to find "
        "slips, and passing them is not yet a full answer. Answers are found by the name of their function: keep it, "
        "define it once, at the left margin of a cell. Grading takes the functions, classes and imports of the "
        "notebook, and assignments and settings that call nothing but Python, NumPy, torch, mpmath and their like "
        "(`EPS = 10**-12`, `A = torch.eye(2)`, `mp.dps = 50`). What loops, trains, plots or calls your own functions "
        "outside of them is not run for grading.*"
    )
    source = filled_checks(assignment, mark, variants_mark(variants, secret), variants, public)
    cells += [_markdown(note), _code(SETUP, FOLDED), _code(source, FOLDED)]
    if "" in answers:
        cells.append(_code(answers[""], {}))
    for section in assignment.sections:
        variant = variants.get(section.name, {})
        points = f" ({section.points:g} point{'s' * (section.points != 1)})" if section.points is not None else ""
        cells.append(_markdown(f"## {filled(section.title, variant, 'a heading')}{points}"))
        for kind, text in section.parts:
            text = filled(text, variant, f"assignment.md, {section.title!r}")
            cells.append(_part(kind, answers[section.name] if kind == "starter" and answers else text))
            if kind == "starter":
                cells.append(_code(f"check({section.name})", {}))
        if section.rubric:
            lines = [f"- {points:g}: {criterion}" for points, criterion in section.rubric]
            cells += [_markdown("\n".join(["Graded by hand:", "", *lines])), _markdown("*Your answer:*")]
    for number, cell in enumerate(cells):
        cell["id"] = f"{assignment.name}-{number}"[-64:]
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "pso_course": mark,
    }
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


def filled_checks(assignment: Assignment, stamped: str, mark: str, variants: dict, public: float) -> str:
    """The folded cell: the checks' source, the variant, and ``check``."""
    used = {name: variants[name] for name in assignment.public}
    _require_plain(used)
    source = assignment.public_source.strip()
    public_part = {"public": public, "points": assignment.points}
    return CHECKS.format(stamp=stamped, mark=mark, source=source, variants=repr(used), **public_part)


def _require_plain(variants: dict) -> None:
    try:
        if ast.literal_eval(repr(variants)) == variants:
            return
    except (ValueError, SyntaxError):
        pass
    raise CourseError("oracle.py: a variant must be plain data: numbers, strings, lists, tuples and dicts of these.")


def student_source(assignment: Assignment, secret: bytes, student: str = "") -> str:
    """The starters as a Python file, as a student would hand in who answers nothing."""
    variants = assignment.variants(secret, student)
    starters = [filled(assignment.starter(name), variants[name], name) for name in assignment.exercises]
    return "\n\n".join([f"# {stamp(assignment.name, student, secret)}", *starters, ""])


def solution_source(assignment: Assignment, secret: bytes, solutions: Path, student: str = "") -> str:
    """The reference solutions as a Python file, for one student's variant."""
    variants = assignment.variants(secret, student)
    _require_plain(variants)
    text = solutions.read_text(encoding="utf8")
    return f"# {stamp(assignment.name, student, secret)}\nVARIANT = {variants!r}\n\n{text}"


def solution_parts(assignment: Assignment, solutions: Path, variants: dict) -> dict[str, str]:
    """The solutions' source by exercise; under "", what they share."""
    text = solutions.read_text(encoding="utf8")
    _require_plain(variants)
    lines = text.splitlines()
    parts: dict[str, str] = {}
    shared = [f"VARIANT = {variants!r}"]
    for node in ast.parse(text).body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        part = "\n".join(lines[first - 1 : node.end_lineno])
        if isinstance(node, ast.FunctionDef) and node.name in assignment.exercises:
            parts[node.name] = part
        else:
            shared.append(part)
    if missing := [name for name in assignment.exercises if name not in parts]:
        raise CourseError(f"{solutions} has no solution of {', '.join(missing)}.")
    return {"": "\n".join(shared), **parts}


def _part(kind: str, text: str) -> dict:
    return _markdown(text) if kind == "markdown" else _code(text, {})


def _markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(text: str, metadata: dict) -> dict:
    source = text.splitlines(keepends=True)
    return {"cell_type": "code", "metadata": dict(metadata), "source": source, "execution_count": None, "outputs": []}


def write_notebook(notebook: dict, path: Path) -> None:
    """Write it, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf8")
    fresh.replace(path)


def file_name(assignment: Assignment, student: str) -> str:
    """The name of a student's notebook."""
    return re.sub(r"[^\w.-]+", "_", f"{assignment.name}-{student}" if student else assignment.name) + ".ipynb"
