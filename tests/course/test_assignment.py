"""An assignment's three files: read, found to agree, and drawn anew for each student."""

import shutil

import pytest
from sample_course import SAMPLE, SECRET, WHOLE, sample

from pso_lib.course.assignment import CourseError, filled, read, variant_rng


def test_the_sample_is_read():
    one = sample()
    assert one.title == "S1 · Folding a line" and one.points == 20
    assert {name: exercise.points for name, exercise in one.exercises.items()} == WHOLE
    assert [section.points for section in one.sections] == [None, 4, 4, 4, 3, 3, 2]
    assert one.rubrics[0].rubric == ((1.0, "names two points with one image"), (1.0, "says where it is"))
    assert [kind for kind, _ in one.sections[5].parts] == ["markdown", "starter", "helper"]
    assert one.starter("fold").startswith("def fold(x, normal):")


def test_variants_differ_in_structure_and_are_a_students_own():
    one = sample()
    drawn = [one.variants(SECRET, f"student {n}")["activation"] for n in range(30)]
    assert {variant["count"] for variant in drawn} == {2, 3}
    assert len({str(variant) for variant in drawn}) > 25
    assert one.variants(SECRET, "ada") == one.variants(SECRET, "ada") != one.variants(b"another", "ada")
    arguments = [[case.arguments for case in one.cases(SECRET, name, "pieces")][1] for name in ("ada", "ada", "bob")]
    assert arguments[0] == arguments[1] != arguments[2]


def test_names_that_run_together_draw_different_numbers():
    assert variant_rng(b"key", "ab", "c").random() != variant_rng(b"key", "a", "bc").random()


def test_placeholders_are_filled_or_refused():
    assert filled("slope {{a}} and {b}", {"a": [1, 2]}, "here") == "slope [1, 2] and {b}"
    with pytest.raises(CourseError, match="here: {{c}} is no key of the variant, which has a"):
        filled("{{c}}", {"a": 1}, "here")


@pytest.mark.parametrize(
    "file, old, new, said",
    [
        ("assignment.md", "# S1 · Folding a line", "", "must begin with its title"),
        ("assignment.md", "## Fold (4 points)", "## Fold", r"write `## Fold \(4 points\)`"),
        ("assignment.md", "## Fold (4 points)", "## Fold (5 points)", "'fold' must be an Exercise of 5 points"),
        (
            "assignment.md",
            "def pieces(creases):",
            "def parts(creases):",
            "'parts' is in assignment.md but not in oracle",
        ),
        ("assignment.md", "def pieces(creases):", "def pieces(creases:", "the starter is not Python"),
        ("assignment.md", "```python helper\nprint", "```python\nprint", "one `python` block with one function"),
        ("assignment.md", "1: says where it is", "2: says where it is", "whose points add up to 2"),
        ("assignment.md", "1: says where it is", "says where it is", "rubric block"),
        ("assignment.md", "1: says where it is\n```", "1: says where it is", "is not closed"),
        (
            "oracle.py",
            '    "train": Exercise',
            '    "trained": Exercise',
            "'train' is in assignment.md but not in oracle",
        ),
        ("oracle.py", "EXERCISES = {", "THEM = {", "must define EXERCISES"),
        ("public.py", '"fold": (4, _fold)', '"fold": (5, _fold)', "at most its points"),
        ("public.py", "def _fold(", "def fold(", "which are the students' names"),
        ("public.py", "CHECKS = {", "CHECK = {", "must define CHECKS"),
    ],
)
def test_files_that_do_not_agree_are_refused(tmp_path, file, old, new, said):
    shutil.copytree(SAMPLE / "s1", tmp_path / "s1")
    path = tmp_path / "s1" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new).replace("_fold)", "fold)" if new == "def fold(" else "_fold)"))
    with pytest.raises(CourseError, match=said):
        read("s1", tmp_path)


def test_an_assignment_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    with pytest.raises(CourseError, match="no assignment '7' in .* it holds s1. --assignments"):
        read("7", SAMPLE)
    with pytest.raises(CourseError, match="it holds none"):
        read("7", tmp_path)
    assert read(SAMPLE / "s1").name == "s1"


def test_another_oracle_has_another_digest(tmp_path):
    own = tmp_path / "oracle.py"
    own.write_text((SAMPLE / "s1" / "oracle.py").read_text() + "\n# stricter\n")
    assert read("s1", SAMPLE, oracle=own).digest != sample().digest
