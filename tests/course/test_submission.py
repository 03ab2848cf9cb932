"""Files of any name and state: what is found in them, and whose they are."""

import ast

import pytest
from sample_course import SECRET, WHOLE, notebook, right, sample

from pso_lib.course.submission import find_files, is_blank, read_submission, stamp, whose


def found_in(tmp_path, text, name="a.py", names=("f",)):
    path = tmp_path / name
    path.write_text(text)
    one = read_submission(path)
    answers, cells = one.definitions(names)
    return one, answers, cells


def ran(cells, name, *arguments):
    """What the worker would make of the cells, here."""
    space = {}
    for _, source, numbers in cells:
        body = ast.parse(source).body
        exec(compile(ast.Module([body[n] for n in numbers], []), "cells", "exec"), space)
    return space[name](*arguments)


@pytest.mark.parametrize(
    "text, value",
    [
        ("def f(x):\n    return x + 1", 4),
        ("import torch\nONE = torch.ones(2)[0]\nTWO = ONE.double() + 1\ndef f(x):\n    return x + float(TWO) - 1", 4),
        (
            "import numpy as np\nprod = np.prod\na, b = 2**0, -(1)\ndef f(x):\n    return x + a * prod([1])",
            4,
        ),
        (
            "from mpmath import *\nmp.dps = 400\nc = mpf(3)\ndef f(x):\n    return x + int(mp.dps == 400 and c / 3)",
            4,
        ),
        ("from math import floor as down\nstep = down(1.5)\nstep += 0\ndef f(x):\n    return x + step", 4),
        ("def g(x):\n    return x + 1\nf = g", 4),
        ("import functools\ndef g(a, x):\n    return a + x\nf = functools.partial(g, 1)", 4),
        (
            "TABLE = {k: k**2 for k in range(3)}\nL = sorted(TABLE)\nL.append(7)\ndef f(x):\n    return x + TABLE[1]",
            4,
        ),
        ("import torch\ntorch.set_default_dtype(torch.get_default_dtype())\ndef f(x):\n    return x + 1", 4),
        ("import math\nSTEP = 1\nprint(undefined)\ndef g(x): return x\ndef f(x):\n    return g(x) + STEP", 4),
        ("f = lambda x: x + 1", 4),
        ("!pip install x\n%time\nx = !ls\nhelp?\ndef f(x):\n    return x + 1", 4),
        ("%%time\ndef f(x):\n    return x + 1", 4),
        ("def f(x):\n    ...\n\ndef f(x):\n    return x + 1", 4),
        ("def f(x):\n    return x + 1\n\ndef f(x):\n    '''The starter, pasted again.'''", 4),
        ("def f(x):\n    return x + 1\n\ndef f(x):\n    return  x+1  # twice the same", 4),
        ("def broken(:\n    pass\n\ndef f(x):\n    return x + 1", 4),
        ("def f(x):\n    y = (x\n % 5)\n    return y + 1", 4),
        (
            "class K:\n    one = 1\ndef f(x: Missing) -> Missing:\n    return x + K.one",
            4,
        ),
        ("\ufeffdef f(x):\r\n    return x + 1\r\n", 4),
    ],
)
def test_the_answer_is_found_by_its_name(tmp_path, text, value):
    text = text.replace(": Missing", "").replace(" -> Missing", "")
    _, answers, cells = found_in(tmp_path, text)
    assert not answers["f"].problem and ran(cells, "f", 3) == value
    _, answers, cells = found_in(tmp_path, notebook("1 / 0", text.lstrip("\ufeff"), "f.train()"), "any name.ipynb")
    assert not answers["f"].problem and ran(cells, "f", 3) == value


@pytest.mark.parametrize(
    "text, said",
    [
        ("def g(x):\n    return x", "no function `f`"),
        ("def fold_it(x):\n    return x", "no function `f`"),
        ("def f(x):\n    ...", "no answer yet"),
        ("def f(x):\n    '''What it does.'''\n    pass", "no answer yet"),
        ("def f(x):\n    return None", "no answer yet"),
        (
            "def f(x):\n    return 1\ndef f(x):\n    return 2",
            "your file, line 1 and your file, line 3, and they differ",
        ),
        ("def f(x):\n    return (1", "is not Python"),
        ("if True:\n    def f(x):\n        return 1", "at the left margin"),
        ("class A:\n    def f(self):\n        return 1", "at the left margin"),
    ],
)
def test_what_is_no_answer_is_said(tmp_path, text, said):
    assert said in found_in(tmp_path, text)[1]["f"].problem


def test_a_name_that_is_nearly_right_is_named(tmp_path):
    answers = found_in(tmp_path, "def signed_distence(x):\n    return x", names=["signed_distance"])[1]
    assert "Did you mean 'signed_distence'?" in answers["signed_distance"].problem


def test_an_old_notebook_and_one_whose_sources_are_lists(tmp_path):
    old = '{"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code", "input": ["def f(x):\\n", " return x"]}]}]}'
    assert ran(found_in(tmp_path, old, "a.ipynb")[2], "f", 3) == 3
    odd = '{"cells": [null, 3, {"cell_type": "code"}, {"cell_type": "code", "source": 5}, {"cell_type": "raw"}]}'
    assert "no function" in found_in(tmp_path, odd, "b.ipynb")[1]["f"].problem


def test_training_and_downloads_are_left_out(tmp_path):
    text = "import os\nW = train()\nos.system('true')\nfor n in range(3):\n    pass\ndef f(x):\n    return x\nf(3)"
    _, _, cells = found_in(tmp_path, text)
    assert [numbers for _, _, numbers in cells] == [[0, 4]]


@pytest.mark.parametrize(
    "line",
    [
        "W = train(3)", "W = list(map(train, [3]))", "W = [train(k) for k in range(3)]", "W = fit(3)", "W = nn.fit()",
        "run = train\nW = run(3)", "run = lambda: train(3)\nW = run()", "W = np.vectorize(train)([3])", "W = open('w')",
        "half = functools.partial(train, 3)\nW = half()", "for W in range(3): pass", "print(W := 3)",
        "try:\n    W = 3\nexcept ValueError:\n    pass", "if True:\n    def W(x):\n        return x",
    ],
)  # fmt: skip
def test_what_could_train_is_left_out_and_the_place_is_known(tmp_path, line):
    text = "import functools\nimport numpy as np\nfrom pso_lib import fit, nn\ndef train(x):\n    return x\n" + line
    found, _, cells = found_in(tmp_path, text)
    assert found.left_out().get("W", "").startswith("your file, line ")
    last = len(ast.parse(text).body) - 1
    assert last not in cells[0][2]


@pytest.mark.parametrize("body, blank", [("...", True), ("'''Doc.'''", True), ("return 0", False), ("x = 1", False)])
def test_blank(body, blank):
    assert is_blank(ast.parse(f"def f(x):\n    {body}").body[0]) is blank


def test_files_of_every_name_are_found_and_others_are_told(tmp_path):
    for name in ("a.ipynb", "b c/Hausarbeit (3).PY", ".ipynb_checkpoints/a.ipynb", "notes.pdf", "__pycache__/a.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "link.py").symlink_to(tmp_path / "a.ipynb")
    files, others = find_files(tmp_path)
    assert [path.name for path in files] == ["a.ipynb", "Hausarbeit (3).PY"]
    assert [path.name for path in others] == ["notes.pdf"]


def owner(tmp_path, text, name="x.ipynb", roster=("ada", "bob", "ada2")):
    path = tmp_path / name
    path.write_text(text)
    return whose(read_submission(path), sample(), SECRET, roster)


def test_whose_it_is(tmp_path):
    marked = notebook(right("ada"))
    assert owner(tmp_path, marked) == ("ada", "ada", [])
    assert owner(tmp_path, notebook("x = 1", student="bob")) == ("bob", "bob", [])
    assert owner(tmp_path, notebook("x = 1"), "A1-ada (2).ipynb") == ("ada", "ada", [])
    assert owner(tmp_path, notebook("x = 1"), "hw_ada2.ipynb") == ("ada2", "ada2", [])
    student, variant, remarks = owner(tmp_path, notebook("x = 1"), "adamant.ipynb")
    assert (student, variant) == ("adamant", "") and "guessed" in remarks[0]
    assert owner(tmp_path, notebook(right("")), "bob.ipynb") == ("bob", "", [])  # the notebook for all
    assert "named for bob, but made for ada" in owner(tmp_path, marked, "bob.ipynb")[2]
    assert "zoe is not on the roster" in owner(tmp_path, notebook(right("zoe")))[2]


def test_a_stamp_cannot_be_written_by_a_student(tmp_path):
    forged = stamp("s1", "bob", b"not the secret")
    student, variant, remarks = owner(tmp_path, notebook(f"# {forged}"), "ada.ipynb")
    assert (student, variant) == ("ada", "ada") and "not made with this secret" in remarks[0]
    other = stamp("s2", "bob", SECRET)
    assert "is a notebook of assignment s2" in owner(tmp_path, notebook(f"# {other}"))[2]
    both = notebook(right("ada"), f"# {stamp('s1', 'bob', SECRET)}")
    assert "bears the stamps of ada, bob" in owner(tmp_path, both)[2]


def test_odd_students_survive_the_stamp(tmp_path):
    for student in ("Ada Lovelace", "müller", "a/b", "=cmd()"):
        assert owner(tmp_path, notebook("x = 1", student=student), roster=None)[:2] == (student, student)


def test_the_solutions_are_found_whole(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(right())
    answers, _ = read_submission(path).definitions(WHOLE)
    assert not any(answer.problem for answer in answers.values())
