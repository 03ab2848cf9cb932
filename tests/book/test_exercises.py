"""Every exercise of every chapter: its form, and that its solution passes after the chapter's first cell alone."""

import functools
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field

import labels
import pytest

import book
from pso_lib.checks import known
from pso_lib.checks._core import _registry

FIRST_LINE = re.compile(r"(?P<stars>★{1,3}) · (?P<minutes>\d+) minutes\.")
CHECK = re.compile(r"\bcheck\(\s*\"([\w/-]+)\"")
DRIVER = """
import contextlib, io, json, sys, traceback
import matplotlib
matplotlib.use("Agg")
first, exercises = json.load(sys.stdin)
start, found = {"__name__": "__main__"}, {}
exec(first, start)
for label, cells in exercises.items():
    names, found[label] = dict(start), []
    for cell in cells:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            try:
                exec(cell, names)
            except Exception:
                print(traceback.format_exc())
        found[label].append(shown.getvalue())
print(json.dumps(found))
"""


@dataclass
class Exercise:
    """One exercise: its box, and its cells by where they stand."""

    label: str
    text: str = ""
    starter: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    solution: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of its check."""
        return CHECK.search(self.starter[-1])[1]


@functools.cache
def exercises(chapter) -> dict[str, Exercise]:
    """Those of a chapter by label, in order."""
    found: dict[str, Exercise] = {}
    label = place = None
    for cell in book.read(chapter).cells:
        if cell.cell_type == "code":
            if place:
                getattr(found[label], place).append(cell.source)
            continue
        for kind, block in labels.blocks(cell.source.splitlines()):
            if kind != "directive":
                continue
            if block.name == "exercise":
                label, place = block.options["label"], "starter"
                found[label] = Exercise(label, "\n".join(block.body).strip())
            elif block.name == "dropdown" and place == "starter":
                found[label].hints.append(block.argument)
            elif block.name == "solution-start":
                place = "solution"
            elif block.name == "solution-end":
                place = None
    return found


@functools.cache
def shown(chapter) -> dict[str, list[str]]:
    """What starter and solution of each exercise print, after the first code cell, in a fresh process."""
    first = next(cell.source for cell in book.read(chapter).cells if cell.cell_type == "code")
    cells = {label: ["\n".join(e.starter), "\n\n".join(e.solution)] for label, e in exercises(chapter).items()}
    run = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([first, cells]),
        env=os.environ | {"PSO_STRICT": "1", "PSO_SCALE": "smoke"},
        capture_output=True,
        text=True,
        cwd=book.ROOT,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


ALL = [(chapter, label) for chapter in book.chapters() for label in exercises(chapter)]


@pytest.mark.parametrize("chapter, label", ALL, ids=[label for _, label in ALL])
def test_an_exercise_stands_by_itself(chapter, label):
    one = exercises(chapter)[label]
    head = FIRST_LINE.match(one.text)
    assert head, f"the box starts with stars and minutes, such as ★★ · 15 minutes., not {one.text[:40]!r}"
    assert f'check("{one.name}"' in one.text, "the box names its check"
    assert one.name in known(book.name_of(chapter))
    assert _registry[one.name].points == len(head["stars"]), "the points are the stars"
    assert 1 <= len(one.hints) <= 3 and one.hints == [f"Hint {i}" for i in range(1, len(one.hints) + 1)]
    assert all(len(line) <= 80 for cell in one.starter for line in cell.splitlines())
    assert "answer" not in re.findall(r"(?m)^(?:def )?(\w+)", "\n".join(one.starter)), "a blank has its own name"
    blank, solved = shown(chapter)[label]
    assert blank == f"· {one.name}: no answer yet: replace the ...\n"
    assert f"✓ {one.name}: " in solved and "Traceback" not in solved


@pytest.mark.parametrize("chapter", book.chapters(), ids=[book.name_of(chapter) for chapter in book.chapters()])
def test_each_check_belongs_to_one_exercise(chapter):
    assert sorted(e.name for e in exercises(chapter).values()) == known(book.name_of(chapter))
