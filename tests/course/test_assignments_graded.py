"""The assignments through the whole machinery: notebooks out, files in, one sandbox each."""

import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pso_lib.course.assignment import read
from pso_lib.course.grading import grade
from pso_lib.course.notebook import make, solution_source

ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS = Path(__file__).parent / "solutions"
NAMES = sorted(
    path.stem for path in SOLUTIONS.glob("*.py") if (ROOT / "assignments" / path.stem / "oracle.py").exists()
)
SECRET = b"of the tests through all"
ATTACKS = [
    "import os; os._exit(0)",
    "raise SystemExit(0)",
    "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
    "return [bytearray(10**9) for _ in range(99)]",
    "while True: pass",
]
EARNS_NOTHING = [
    "import sys; return [f.f_locals for f in (sys._getframe(1), sys._getframe(2))]",
    "import pso_lib.checks as c; c.require_close = c.wrong = lambda *a, **k: None; return object",
    "return float('nan')",
    "return 'right'",
    "return {'no': 'answer'}",
]


def replaced(text: str, name: str, body: str) -> str:
    text = re.sub(rf"^def {name}\(", f"def _right_{name}(", text, flags=re.M)
    lines = "\n".join("    " + line for line in body.split("; "))
    return f"{text}\n\ndef {name}(*arguments):\n{lines}\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_right_earns_all_blank_nothing_and_attacks_cost_their_own(tmp_path, name):
    assignment = read(name, ROOT / "assignments")
    whole = {exercise: one.points for exercise, one in assignment.exercises.items()}
    text = solution_source(assignment, SECRET, SOLUTIONS / f"{name}.py", "ada")
    ast.parse(text)
    (tmp_path / "in").mkdir()

    def write(file, content):
        (tmp_path / "in" / file).write_text(content)

    write("right.ipynb", json.dumps(make(assignment, SECRET, "ada", solutions=SOLUTIONS / f"{name}.py")))
    write("blank.ipynb", json.dumps(make(assignment, SECRET, "ada")))
    nothing, attacked = text, text
    spared = next(iter(whole))  # it comes first when asked, and last in the file
    for number, exercise in enumerate(whole):
        nothing = replaced(nothing, exercise, EARNS_NOTHING[number % len(EARNS_NOTHING)])
        if exercise != spared:
            attacked = replaced(attacked, exercise, ATTACKS[number % len(ATTACKS)])
    write("attacked.py", attacked)
    write("nothing.py", nothing)
    sooner = {
        exercise: replace(one, seconds=one.seconds if exercise == spared else 1.0)
        for exercise, one in assignment.exercises.items()
    }
    hostile = replace(assignment, exercises=sooner)  # who loops is not to be waited for
    found = {}
    for of, files in ((assignment, ["right.ipynb", "blank.ipynb"]), (hostile, ["attacked.py", "nothing.py"])):
        paths = [tmp_path / "in" / file for file in files]
        graded = grade(of, paths, tmp_path / "in", SECRET, tmp_path / "out", jobs=2)
        found |= {one.file: one for one in graded}
    points = {
        file: {exercise: result["points"] for exercise, result in one.results.items()} for file, one in found.items()
    }
    assert points["right.ipynb"] == whole, found["right.ipynb"].results
    assert points["blank.ipynb"] == dict.fromkeys(whole, 0)
    assert points["nothing.py"] == dict.fromkeys(whole, 0)
    assert points["attacked.py"] == dict.fromkeys(whole, 0) | {spared: whole[spared]}
    assert not any(result["remarks"] for one in found.values() for result in one.results.values())
