"""The student's notebook runs from top to bottom, holds no solution, and is the student's own."""

import ast
import json

import pytest
from sample_course import SECRET, SOLUTIONS, WHOLE, sample

from pso_lib.course.assignment import CourseError
from pso_lib.course.notebook import make, solution_source, student_source, write_notebook
from pso_lib.course.submission import read_submission, whose


def source(cell):
    return "".join(cell["source"])


def run(book, capsys, skip=("subprocess",)):
    """Run the code cells here, as a kernel would; what they print."""
    space = {}
    for cell in book["cells"]:
        if cell["cell_type"] == "code" and not any(word in source(cell) for word in skip):
            exec(compile(source(cell), "cell", "exec"), space)
    return capsys.readouterr().out


@pytest.mark.parametrize("student", ["", "ada", "Ada Lovelace"])
def test_it_is_a_notebook(student, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    book = make(sample(), SECRET, student)
    nbformat.validate(nbformat.from_dict(book))
    write_notebook(book, tmp_path / "x" / "a.ipynb")
    found = read_submission(tmp_path / "x" / "a.ipynb")
    assert whose(found, sample(), SECRET, None)[:2] == (student or "a", student)
    answers, _ = found.definitions(WHOLE)
    assert all(answers[name].blank for name in WHOLE)


def test_it_says_what_the_public_checks_cover_and_holds_no_oracle():
    text = json.dumps(make(sample(), SECRET, "ada"), ensure_ascii=False)
    assert "cover 8 of them" in text and "colab-badge" in text and "Graded by hand" in text
    assert "{{" not in text.replace("{{type", "") and "distance_cases" not in text and SECRET.decode() not in text
    assert "def rising" not in text and "VARIANT[" not in text


def test_the_variant_stands_in_headings_prose_and_starters():
    variant = sample().variants(SECRET, "ada")["activation"]
    cells = [source(cell) for cell in make(sample(), SECRET, "ada")["cells"]]
    assert f"## An activation with {variant['count']} creases (4 points)" in cells
    assert sum(variant["creases_text"] in cell for cell in cells) == 2


def test_the_checks_say_blank_wrong_and_right(capsys):
    said = run({"cells": [c for c in make(sample(), SECRET, "ada")["cells"] if "print(train" not in source(c)]}, capsys)
    assert "· fold: no answer yet" in said and "· pieces: there is no public check" in said
    book = make(sample(), SECRET, "ada", solutions=SOLUTIONS)
    said = run(book, capsys)
    assert "✓ signed_distance: two to the right of the crease (public checks only: 8 of 20 points)" in said
    for cell in book["cells"]:
        cell["source"] = source(cell).replace("- offset) / normal.norm()", "+ offset) / normal.norm()")
    assert "✗ signed_distance" in run(book, capsys)
    for cell in book["cells"]:
        cell["source"] = source(cell).replace("+ offset) / normal.norm()", "+ nothing)")
    assert "✗ signed_distance: it raises NameError" in run(book, capsys)


def test_the_checks_name_what_grading_does_not_have(capsys):
    book = make(sample(), SECRET, "ada", solutions=SOLUTIONS)
    ran = ["import torch\nEPS = 10**-12\nfor LIMIT in range(3):\n    pass", "%matplotlib inline"]
    cells = next(source(cell) for cell in book["cells"] if "def check(" in source(cell))
    space = {"In": ran}
    exec(cells + "\n" + ran[0] + "\ndef fold(x, normal):\n    return x[LIMIT:] + EPS\ncheck(fold)", space)
    said = capsys.readouterr().out
    assert "! fold uses LIMIT, which grading does not have" in said and "EPS" not in said and "✗ fold" in said


def test_the_folded_cell_and_the_badge_of_a_notebook_on_github():
    book = make(sample(), SECRET, "", colab="me/course/blob/main/s1.ipynb")
    assert "research.google.com/github/me/course/blob/main/s1.ipynb" in source(book["cells"][0])
    folded = [cell for cell in book["cells"] if cell["metadata"].get("cellView") == "form"]
    assert len(folded) == 2 and "def _fold(" in source(folded[1])


def test_sources_for_tests_and_instructors():
    blank = student_source(sample(), SECRET, "ada")
    assert [node.name for node in ast.parse(blank).body] == list(WHOLE)
    assert "VARIANT = {" in solution_source(sample(), SECRET, SOLUTIONS, "ada")


def test_a_missing_solution_is_named(tmp_path):
    (tmp_path / "s.py").write_text("def fold(x, normal):\n    return x\n")
    with pytest.raises(CourseError, match="has no solution of signed_distance, activation, pieces, train"):
        make(sample(), SECRET, solutions=tmp_path / "s.py")
