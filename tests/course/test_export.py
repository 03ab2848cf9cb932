"""The assignment as nbgrader, otter and Canvas read it; with the graders themselves where they are installed."""

import ast
import base64
import csv
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from sample_course import SECRET, SOLUTIONS, WHOLE, right, sample

from pso_lib.course.assignment import CourseError
from pso_lib.course.export import export, own_secret, packed, require, score
from pso_lib.course.notebook import make


def answers(**changed):
    """The functions of the solution for all, in a name space as a notebook has it."""
    space = {}
    exec(right(""), space)
    return space | changed


def test_points_are_those_of_the_grader_and_mistakes_are_named(capsys):
    word = packed(sample(), SECRET)
    assert {name: score(word, name, answers()) for name in WHOLE} == WHOLE
    assert packed(sample(), SECRET) == word  # the same every time
    wrong = answers(signed_distance=lambda x, n, b: float(n @ x - b), fold=lambda x, n: None)
    capsys.readouterr()
    assert score(word, "signed_distance", wrong) == 1 and score(word, "fold", wrong) == 0
    said = capsys.readouterr().out
    assert "without the division by the length" in said and "it returns None" in said
    assert score(word, "pieces", {}) == score(word, "pieces", {"pieces": lambda creases: 1 / 0}) == 0
    assert score(word, "pieces", {"pieces": lambda creases: sample}) == 0
    require(word, "pieces", 2, lambda creases: len(set(creases)) + 1)
    with pytest.raises(AssertionError, match="creases that coincide: off by one"):
        require(word, "pieces", 2, lambda creases: len(set(creases)))


def test_what_is_exported_does_not_hold_the_secret_and_judges_its_own_variant(tmp_path):
    paths = [path for to in ("nbgrader", "otter") for path in export(sample(), to, tmp_path, SECRET)]
    words = {word for path in paths for word in re.findall(r"UEsDB[\w+/=]+", path.read_text())}
    assert len(words) == 1
    (word,) = words
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(word))) as archive:
        whole = archive.read("assignment.json").decode()
    assert SECRET.hex() not in whole and SECRET.decode() not in whole
    space: dict = {}
    for cell in make(sample(), own_secret(SECRET, "s1"), solutions=SOLUTIONS)["cells"]:
        if "".join(cell["source"]).startswith(("VARIANT", "def activation")):
            exec("".join(cell["source"]), space)
    assert score(word, "activation", space) == WHOLE["activation"]


def test_nbgraders_blank_is_no_answer(capsys):
    def fold(x, normal):
        # YOUR CODE HERE
        raise NotImplementedError()

    assert score(packed(sample(), SECRET), "fold", {"fold": fold}) == 0
    assert "no answer yet" in capsys.readouterr().out


def test_arguments_are_copies():
    word = packed(sample(), SECRET)

    def spoils(x, normal):
        found = answers()["fold"](x.clone(), normal)
        x.zero_()
        return found

    assert score(word, "fold", {"fold": spoils}) == 4


def test_nbgraders_source_has_places_hidden_tests_and_points(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    (path,) = export(sample(), "nbgrader", tmp_path, SECRET)
    assert path == tmp_path / "source" / "s1" / "s1.ipynb"
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    marks = [cell.metadata.nbgrader for cell in book.cells if "nbgrader" in cell.metadata]
    assert len({mark.grade_id for mark in marks}) == len(marks) == 2 * len(WHOLE) + 1
    assert sum(mark.points for mark in marks if mark.grade) == 20
    for cell in book.cells:
        if cell.metadata.get("nbgrader", {}).get("solution") and cell.cell_type == "code":
            assert cell.source.count("### BEGIN SOLUTION") == 1 and ast.get_docstring(ast.parse(cell.source).body[0])
        elif "export import score" in cell.source:
            assert cell.source.index("### BEGIN HIDDEN") < cell.source.index("score(") < cell.source.index("### END")


def test_otters_tests_add_up(tmp_path):
    paths = export(sample(), "otter", tmp_path, SECRET)
    tests = [path for path in paths if path.parent.name == "tests"]
    assert [path.stem for path in tests] == list(WHOLE)
    for path in tests:
        tree = ast.parse(path.read_text())
        points = [
            keyword.value.value
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
            for keyword in node.decorator_list[0].keywords
            if keyword.arg == "points"
        ]
        assert sum(points) == pytest.approx(WHOLE[path.stem], abs=1e-5)


def test_canvas(tmp_path):
    table = tmp_path / "grades.csv"
    table.write_text("file,student,total\na.ipynb,ada,17.5\nb.ipynb,bob,3\n")
    roster = {"ada": {"student": "ada", "name": "Lovelace, Ada", "id": "77", "section": "2"}}
    (path,) = export(sample(), "canvas", tmp_path, b"", table=table, roster=roster)
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][:5] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"] and rows[0][5] == sample().title
    assert rows[1] == ["    Points Possible", "", "", "", "", "20"]
    assert rows[2] == ["Lovelace, Ada", "77", "", "ada", "2", "17.5"] and rows[3][3:] == ["bob", "", "3"]
    table.write_text("file,student,total\na.ipynb,ada,17.5\nb.ipynb,ada,3\n")
    with pytest.raises(CourseError, match="ada has two lines, a.ipynb and b.ipynb"):
        export(sample(), "canvas", tmp_path, b"", table=table)
    with pytest.raises(CourseError, match="Grade first"):
        export(sample(), "canvas", tmp_path, b"", table=tmp_path / "none.csv")
    with pytest.raises(CourseError, match="no grader that is known"):
        export(sample(), "moodle", tmp_path, b"")


# ---- the graders themselves: .ci/lane graders ----
def needs(package):
    missing = importlib.util.find_spec(package) is None
    assert not (missing and os.environ.get("PSO_REQUIRE_GRADERS") == "1"), f"{package} is not installed"
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: .ci/lane graders has it")


def tool(name, *words, cwd):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run([name, *words], cwd=cwd, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def answered(book, **bodies):
    """The notebook with the solutions in its cells, some replaced."""
    solved = {
        "".join(cell["source"]).partition("(")[0]: "".join(cell["source"])
        for cell in make(sample(), own_secret(SECRET, "s1"), solutions=SOLUTIONS)["cells"]
        if cell["cell_type"] == "code"
    }
    shared = next(text for text in solved.values() if text.startswith("VARIANT"))
    for cell in book["cells"]:
        start = "".join(cell["source"]).partition("(")[0]
        if cell["cell_type"] == "code" and start.startswith("def ") and start in solved:
            name = start.removeprefix("def ")
            cell["source"] = bodies.get(name, shared + "\n\n" + solved[start])
    return book


WRONG = {"signed_distance": "def signed_distance(x, normal, offset):\n    return float(normal @ x - offset)"}


@pytest.mark.slow
@needs("nbgrader")
def test_nbgrader_releases_and_grades_it(tmp_path):
    export(sample(), "nbgrader", tmp_path, SECRET)
    (tmp_path / "nbgrader_config.py").write_text("c = get_config()\nc.CourseDirectory.course_id = 'folds'\n")
    tool("nbgrader", "generate_assignment", "s1", "--create", cwd=tmp_path)
    released = json.loads((tmp_path / "release/s1/s1.ipynb").read_text())
    text = json.dumps(released)
    assert "score(" not in text and "BEGIN" not in text and text.count("YOUR CODE HERE") >= len(WHOLE)
    for student, bodies in (("ada", {}), ("bob", WRONG), ("cy", None)):
        place = tmp_path / "submitted" / student / "s1" / "s1.ipynb"
        place.parent.mkdir(parents=True)
        book = json.loads(json.dumps(released))
        place.write_text(json.dumps(book if bodies is None else answered(book, **bodies)))
    tool("nbgrader", "autograde", "s1", cwd=tmp_path)
    tool("nbgrader", "export", "--to", "grades.csv", cwd=tmp_path)
    with open(tmp_path / "grades.csv", newline="") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    assert {name: float(row["score"]) for name, row in rows.items()} == {"ada": 18, "bob": 15, "cy": 0}
    assert float(rows["ada"]["max_score"]) == 20
    tool("nbgrader", "generate_feedback", "s1", cwd=tmp_path)
    assert "without the division" in (tmp_path / "feedback/bob/s1/s1.html").read_text()


@pytest.mark.slow
@needs("otter")
def test_otter_grades_it(tmp_path):
    export(sample(), "otter", tmp_path, SECRET)
    tool("otter", "generate", "-t", "tests", "-o", "autograder.zip", cwd=tmp_path / "autograder")
    student = json.loads((tmp_path / "student" / "s1.ipynb").read_text())
    for name, bodies, points in (("ada", {}, 18), ("bob", WRONG, 15)):
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(answered(json.loads(json.dumps(student)), **bodies)))
        (tmp_path / name).mkdir()
        tool("otter", "run", "-a", "autograder/autograder.zip", "-o", name, f"{name}.ipynb", cwd=tmp_path)
        results = json.loads((tmp_path / name / "results.json").read_text())
        found = sum(test["score"] for test in results["tests"] if test.get("score"))
        assert found == pytest.approx(points, abs=1e-4)
