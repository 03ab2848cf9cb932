"""The sample assignment, and submissions to it: what the tests of the course machinery share."""

import json
from dataclasses import replace
from pathlib import Path

from pso_lib.course.assignment import read
from pso_lib.course.notebook import solution_source
from pso_lib.course.sandbox import MODES, why_not
from pso_lib.course.submission import stamp

SAMPLE = Path(__file__).parent / "course" / "sample"
SOLUTIONS = SAMPLE / "solutions" / "s1.py"
SECRET = b"a secret for the tests"
WHOLE = {"signed_distance": 4, "fold": 4, "activation": 4, "pieces": 3, "train": 3}
BRIEF = {name: points for name, points in WHOLE.items() if name != "train"}
REASONS = {mode: why_not(mode) for mode in MODES}

# One way to be wrong for each exercise, the points that it keeps, and what the student is told.
NAIVE = {
    "signed_distance": ("return float(normal @ x - offset)", 1, "without the division by the length of the normal"),
    "fold": ("return x", 0.0, ""),
    "activation": ("return 0.0", 1, "your answer is too"),
    "pieces": ("return len(set(creases))", 0, "off by one"),
    "train": ("return 0.93", 0, "return a dict with accuracy, W and b"),
}
STARTS = {
    "signed_distance": "def signed_distance(x, normal, offset):",
    "fold": "def fold(x, normal):",
    "activation": "def activation(z):",
    "pieces": "def pieces(creases):",
    "train": "def train(seed):",
}


def sample():
    return read("s1", SAMPLE)


def brief():
    """The sample without the exercise that trains, which takes longest."""
    whole = sample()
    return replace(whole, exercises={name: one for name, one in whole.exercises.items() if name != "train"})


def right(student: str = "ada") -> str:
    """The reference solutions as a file of this student's."""
    return solution_source(sample(), SECRET, SOLUTIONS, student)


def with_answers(student: str = "ada", head: str = "", **bodies: str) -> str:
    """The solutions, with some functions' bodies replaced; the first of two answers of one name is taken out."""
    text = right(student)
    for name, body in bodies.items():
        text = text.replace(STARTS[name], f"def _right_{name}{STARTS[name].partition(name)[2]}")
        lines = "\n".join("    " + line for line in body.splitlines())
        text += f"\n\n{STARTS[name]}\n{lines}\n"
    return head + "\n" + text


def notebook(*sources: str, student: str | None = None) -> str:
    cells = [{"cell_type": "code", "source": source, "metadata": {}, "outputs": []} for source in sources]
    metadata = {} if student is None else {"pso_course": stamp("s1", student, SECRET)}
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells})
