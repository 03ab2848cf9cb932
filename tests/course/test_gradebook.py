"""The roster, lateness, the table of grades and what stays in it."""

import csv
from datetime import datetime

import pytest
from sample_course import WHOLE, sample

from pso_lib.course.assignment import CourseError
from pso_lib.course.gradebook import Late, read_roster, write_grades
from pso_lib.course.grading import Graded


def graded(file="a.ipynb", student="ada", **points):
    given = WHOLE | points
    results = {
        name: {"points": given[name], "out_of": WHOLE[name], "problem": "", "cases": [], "remarks": []}
        for name in WHOLE
    }
    return Graded(file, f"digest of {file}", student, student, results=results)


def table(path):
    with open(path, newline="", encoding="utf8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_every_exercise_and_a_place_for_what_is_graded_by_hand(tmp_path):
    path = tmp_path / "grades.csv"
    write_grades(path, sample(), [graded(fold=2.5)], Late(), {})
    (row,) = table(path)
    assert list(row) == ["file", "student", *WHOLE, "In your own words", "by_hand", "total", "late", "note", "remarks"]
    assert row["fold"] == "2.5" and row["total"] == "16.5" and row["In your own words"] == ""


def test_points_by_hand_are_kept_when_graded_again(tmp_path):
    path = tmp_path / "grades.csv"
    write_grades(path, sample(), [graded(), graded("=b.ipynb", "bob")], Late(), {})
    text = path.read_text().replace("4,4,4,3,3,,,18", '4,4,4,3,3,"1,5",,18')
    path.write_text("\ufeff" + text)  # a spreadsheet saves it so
    write_grades(path, sample(), [graded(train=0), graded("=b.ipynb", "bob"), graded("c.py", "cy")], Late(), {})
    rows = table(path)
    assert [row["In your own words"] for row in rows] == ["1.5", "1.5", ""]
    assert [row["total"] for row in rows] == ["16.5", "19.5", "18"]


def test_what_an_appeal_has_changed_is_kept_and_the_total_follows(tmp_path):
    path = tmp_path / "grades.csv"
    late = Late("10%/day", "1970-01-01T00:00+00:00")
    write_grades(path, sample(), [graded(), graded("b.py", "bob")], late, {"b.py": 60.0}, ["cy", "dee"])
    text = path.read_text().replace("a.ipynb,ada,4,4,4,3,3,,,18,,", "a.ipynb,ada,4,4,4,3,3,,-2.5,18,,=looked at it")
    text = text.replace("b.py,bob,4,4,4,3,3,,,16.2,0.9,", "b.py,bob,4,4,4,3,3,1,1,16.2,0.9,")
    path.write_text(text.replace(",cy,0,0,0,0,0,,,0,,", ",cy,0,0,0,0,0,,5,0,,ill"))
    for _ in range(2):  # a minus and a note's = stay harmless, and are read again
        write_grades(path, sample(), [graded(), graded("b.py", "bob")], late, {"b.py": 60.0}, ["cy", "dee"])
    rows = table(path)
    assert [row["total"] for row in rows] == ["15.5", "18", "5", "0"]
    assert [row["by_hand"] for row in rows] == ["'-2.5", "1", "5", ""]
    assert [row["note"] for row in rows] == ["'=looked at it", "", "ill", ""]
    write_grades(path, sample(), [graded("c.py", "cy")], Late(), {})
    assert table(path)[0]["total"] == "23" and table(path)[0]["note"] == "ill"
    path.write_text(path.read_text().replace(",5,23", ",on appeal,23"))
    with pytest.raises(CourseError, match="'on appeal' under 'by_hand'.*words under 'note'"):
        write_grades(path, sample(), [graded("c.py", "cy")], Late(), {})


@pytest.mark.parametrize("given", ["many", "3", "-1"])
def test_points_by_hand_that_are_none_stop_before_anything_is_lost(tmp_path, given):
    path = tmp_path / "grades.csv"
    write_grades(path, sample(), [graded()], Late(), {})
    path.write_text(before := path.read_text().replace("4,4,4,3,3,,,18", f"4,4,4,3,3,{given},,18"))
    with pytest.raises(CourseError, match="a.ipynb has .* write points from 0 to 2"):
        write_grades(path, sample(), [graded()], Late(), {})
    assert path.read_text() == before


def test_a_name_is_no_formula_of_the_spreadsheet(tmp_path):
    path = tmp_path / "grades.csv"
    write_grades(path, sample(), [graded("=cmd|x.py", '@SUM(A1)"\n'), graded("\udcff.py", "ok")], Late(), {})
    rows = table(path)
    assert rows[0]["file"] == "'=cmd|x.py" and rows[0]["student"].startswith("'@") and len(rows) == 2


def test_duplicates_are_told(tmp_path):
    one, two, other = graded("a.py"), graded("b.py"), graded("c.py", "cy")
    other.digest = one.digest
    write_grades(tmp_path / "g.csv", sample(), [one, two, other], Late(), {"a.py": 20.0, "b.py": 10.0})
    rows = table(tmp_path / "g.csv")
    assert "one of 2 files of ada; the last changed is a.py" in rows[1]["remarks"]
    assert "the same file as c.py" in rows[0]["remarks"] and "the same file as a.py" in rows[2]["remarks"]


def test_late():
    late = Late("10%/day", "2027-01-31T18:00", {"bob": {"due": "2027-02-02"}, "cy": {"due": ""}})
    at = lambda text: datetime.fromisoformat(text).timestamp()  # noqa: E731
    assert late.of("ada", at("2027-01-31T18:00")) == (1.0, "")
    assert late.of("cy", at("2027-01-31T18:01")) == (0.9, "late by 1 day")
    assert late.of("ada", at("2027-02-02T17:00")) == (pytest.approx(0.8), "late by 2 days")
    assert late.of("ada", at("2027-06-01")) == (0.0, "late by 121 days")
    assert late.of("bob", at("2027-02-02T23:00")) == (1.0, "")  # a date without a time is over at its end
    assert Late().of("ada", at("2027-06-01")) == (1.0, "")
    assert Late("none", "2027-01-31").of("ada", at("2027-02-01T12:00")) == (1.0, "late by 1 day")


def test_late_points_count_less(tmp_path):
    late = Late("10%/day", "1970-01-01T00:00+00:00")
    write_grades(tmp_path / "g.csv", sample(), [graded()], late, {"a.ipynb": 3600.0})
    (row,) = table(tmp_path / "g.csv")
    assert row["total"] == "16.2" and row["late"] == "0.9" and "late by 1 day" in row["remarks"]


@pytest.mark.parametrize(
    "given, said",
    [
        (("10 percent",), "is no policy"),
        (("10%/day",), "needs a date"),
        (("10%/day", "tomorrow"), "'tomorrow' is no date"),
        (("none", None, {"ada": {"due": "soon"}}), "due of ada: 'soon' is no date"),
    ],
)
def test_what_is_no_policy(given, said):
    with pytest.raises(CourseError, match=said):
        Late(*given)


def test_the_roster(tmp_path):
    path = tmp_path / "roster.csv"
    path.write_text("\ufeffName, Student ,due\nAda,ada,\nBob, bob ,2027-02-02\n,,\n")
    assert read_roster(path) == {
        "ada": {"name": "Ada", "student": "ada", "due": ""},
        "bob": {"name": "Bob", "student": "bob", "due": "2027-02-02"},
    }


@pytest.mark.parametrize(
    "content, said",
    [
        (b"name\nada\n", "under a heading `student`"),
        (b"", "heading"),
        (b"student\na\na\n", "names a twice"),
        (b"student\n\xff\n", "UTF-8"),
    ],
)
def test_what_is_no_roster(tmp_path, content, said):
    (tmp_path / "roster.csv").write_bytes(content)
    with pytest.raises(CourseError, match=said):
        read_roster(tmp_path / "roster.csv")
    with pytest.raises(CourseError, match="--roster .*: No such file"):
        read_roster(tmp_path / "none.csv")
