"""What resembles is found through new names, numbers and forms; what is merely the same task is not."""

import ast

import pytest
from sample_course import SAMPLE, SECRET, right, sample

from pso_lib.course.similar import similar, tokens
from pso_lib.course.submission import stamp

RENAMED = """\
def activation(value: float) -> float:
    "My own words."
    knots, rates = [1, 2], [3, 4, 5]

    def up(value):
        s = rates[7] * value
        for k, a, b in zip(knots, rates, rates[3:], strict=False):
            s += (b - a) * max(9, value - k)
        return s

    return up(value) - up(5)
"""
OWN = """\
import numpy as np

def activation(z):
    edges = np.array([-1.0, 2.0])
    heights = np.interp(z, edges, edges ** 2)
    if z < edges[0]:
        heights -= 0.5 * (edges[0] - z)
    elif z > edges[-1]:
        heights += 3 * (z - edges[-1])
    return float(heights)
"""


def only(name, text):
    """One function of a file of answers, so that the others have no say."""
    return "\n".join(ast.unparse(node) for node in ast.parse(text).body if getattr(node, "name", name) == name)


def pairs(folder, files, **options):
    for name, text in files.items():
        (folder / name).write_text(text)
    return similar(sample(), sorted(folder.iterdir()), folder, **options)


def test_a_renamed_copy_is_found_and_an_own_answer_is_not(tmp_path):
    base = only("activation", right()).replace(
        "VARIANT['activation']['creases'], VARIANT['activation']['slopes']", "[1, 2], [3, 4, 5]"
    )
    found = pairs(tmp_path, {"a.py": base, "b.py": RENAMED, "c.py": OWN})
    assert [(pair.one, pair.other) for pair in found] == [("a.py", "b.py")]
    assert found[0].by_exercise["activation"] == pytest.approx(1, abs=0.05)


def test_a_helper_under_another_name_counts(tmp_path):
    a = "def total(z, knots):\n    s = 0\n    for k in knots:\n        s += max(0, z - k) * 2\n    return s\n"
    a += "def activation(z):\n    return total(z, [1, 2])\n"
    found = pairs(tmp_path, {"a.py": a, "b.py": a.replace("total", "mine").replace("knots", "q")})
    assert found[0].share == 1


def test_public_solutions_are_compared_by_what_they_do(tmp_path):
    (tmp_path / "in").mkdir()
    public = tmp_path / "book.py"
    public.write_text(RENAMED.replace("def activation", "def from_the_book"))
    found = pairs(tmp_path / "in", {"a.py": RENAMED.replace("knots", "x"), "c.py": OWN}, public=[public])
    assert [(pair.one, pair.other) for pair in found] == [("a.py", str(public))]


def test_files_with_one_students_stamp_are_told_as_such_and_last(tmp_path):
    mark = f"# {stamp('s1', 'ada', SECRET)}\n"
    found = pairs(tmp_path, {"a.py": mark + RENAMED, "a (2).py": mark + RENAMED, "c.py": RENAMED.replace("knots", "k")})
    assert [pair.student for pair in found] == ["", "", "ada"]
    assert {found[2].one, found[2].other} == {"a.py", "a (2).py"}


def test_what_the_class_has_in_common_is_the_tasks(tmp_path):
    files = {f"{n}.py": right() for n in range(9)}
    assert pairs(tmp_path, files) == []
    own = {"copy 0.py": OWN, "copy 1.py": OWN.replace("edges", "e").replace("heights", "total")}
    found = pairs(tmp_path, own)
    assert [(pair.one, pair.other) for pair in found] == [("copy 0.py", "copy 1.py")]


def test_short_answers_and_starters_say_nothing(tmp_path):
    assert (
        pairs(tmp_path, {f"{n}.py": "def pieces(creases):\n    return len(set(creases)) + 1" for n in range(2)}) == []
    )
    assert pairs(tmp_path, {"x.py": (SAMPLE / "s1" / "public.py").read_text(), "y.ipynb": "{"}) == []


def test_tokens_are_blind_to_names_constants_types_and_docstrings():
    one = ast.parse("def f(x: int) -> int:\n    'doc'\n    total: int = 1\n    return torch.sum(x) + total")
    two = ast.parse("def g(value):\n    t = 99\n    return torch.sum(value) + t")
    assert list(tokens(one)) == list(tokens(two))
    assert list(tokens(ast.parse("torch.sum(x)"))) != list(tokens(ast.parse("torch.prod(x)")))
