"""The checks of the chapters find what they are there to find: a good miniature chapter, broken in each way."""

import copy

import nbformat
import pytest
import structure

import book

ALT = "A square cut by a dashed diagonal, and the triangle it becomes"
RESULT = {"output_type": "execute_result", "data": {"text/plain": "1"}, "metadata": {}, "execution_count": 1}
LEMMA = ":::{prf:lemma} Mirror\n:label: lem-mini\n\n$x = \\mathbb{R}$\n:::\n\n"
PICTURE = {"output_type": "display_data", "data": {"image/png": "aGVsbG8="}, "metadata": {}}


def exercise(number):
    return [
        f":::{{exercise}} Task\n:label: ex-mini-{number}\n\nDo it.\n:::\n\n"
        f":::{{solution-start}} ex-mini-{number}\n:label: sol-mini-{number}\n:class: dropdown\n:::\n\nSo.",
        ("print('done')", [stream("done\n")], {}),
        ":::{solution-end}\n:::",
    ]


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


@pytest.fixture
def good():
    """A chapter without a fault."""
    figure = {"mystnb": {"figure": {"caption": "A fold.", "name": "fig-mini"}, "image": {"alt": ALT}}}
    parts = [
        "(ch-mini)=\n# Mini\n\n> **Question.** Why?",
        ("import math", [], {}),
        ("plt.show()", [PICTURE], figure),
        "**Before you read on:** guess.\n\n:::{prf:lemma} Mirror\n:label: lem-mini\n\n$x = \\mathbb{R}$\n:::\n\n"
        + "word " * 1600,
        ("x = 1\nx", [RESULT], {}),
        "## What we saw\n\n## Where it breaks\n\n## Exercises",
        *(part for number in (1, 2, 3) for part in exercise(number)),
        "## References",
    ]
    cells = []
    for part in parts:
        if isinstance(part, str):
            cells.append(nbformat.v4.new_markdown_cell(part))
        else:
            source, outputs, metadata = part
            cell = nbformat.v4.new_code_cell(source, execution_count=1, metadata=metadata)
            cell.outputs = [nbformat.from_dict(output) for output in outputs]
            cells.append(cell)
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata = nbformat.from_dict({book.RECORD_KEY: {"scale": "quick"}})
    notebook.metadata[book.RECORD_KEY]["sha256"] = book.fingerprint(notebook, "quick")
    return notebook


def test_good_chapter_has_no_complaint(good):
    assert [c for check in structure.CHECKS.values() for c in check(good)] == []


def replace(old, new):
    def breaking(notebook):
        hit = [cell for cell in notebook.cells if old in cell.source]
        assert hit, f"the miniature holds no {old!r}"
        hit[0].source = hit[0].source.replace(old, new, 1)

    return breaking


def code(number, **changes):
    def breaking(notebook):
        cell = structure.code_cells(notebook)[number]
        for key, value in changes.items():
            setattr(cell, key, nbformat.from_dict(value))

    return breaking


BREAKINGS = [
    ("shape", replace("(ch-mini)=\n", ""), "label (ch-"),
    ("shape", replace("# Mini", "# Mini\n\n# Second"), "2 titles"),
    ("shape", replace("**Question.**", "Question."), "Question"),
    ("shape", replace("**Before you read on:**", "Guess:"), "prediction"),
    ("shape", replace("## What we saw", "## Summary"), "What we saw"),
    ("shape", replace("## Where it breaks", ""), "Where it breaks"),
    ("shape", replace("## What we saw\n\n## Where it breaks", "## Where it breaks\n\n## What we saw"), "another order"),
    ("exercises", replace("{exercise} Task\n:label: ex-mini-1", "{note} Task"), "2 exercises"),
    (
        "exercises",
        replace("{solution-start} ex-mini-2", "{solution-start} ex-other"),
        "no solution for the exercise ex-mini-2",
    ),
    ("exercises", replace(":class: dropdown", ":class: open"), "not collapsed"),
    ("exercises", code(4, source=""), "no executed cell in the solution of ex-mini-2"),
    ("lengths", code(0, source="a = 1\n" * 26), "26 lines"),
    ("lengths", lambda nb: [code(n, source="a = 1\n" * 11)(nb) for n in range(4)], "most should"),
    ("lengths", replace("word " * 1600, ""), "words"),
    ("lengths", replace("word", "word " * 3500), "words"),
    ("outputs", code(2, outputs=[]), "no output is stored"),
    ("outputs", code(1, outputs=[]), "no output is stored"),
    ("outputs", code(0, execution_count=None), "never executed"),
    ("outputs", code(0, metadata={"tags": ["nbval-check-output"]}), "tagged nbval-check-output"),
    ("outputs", code(3, outputs=[{"output_type": "error", "ename": "E", "evalue": "v", "traceback": []}]), "an error"),
    ("outputs", code(3, outputs=[stream("a warning", "stderr")]), "stderr"),
    ("outputs", code(3, outputs=[stream("/home/someone/data")]), "path of a machine"),
    ("outputs", code(3, outputs=[stream("<function f at 0x7f0123456789>")]), "memory address"),
    ("figures", code(1, metadata={}), "without caption"),
    ("figures", code(1, outputs=[PICTURE, PICTURE]), "2 figures"),
    ("figures", code(1, outputs=[]), "no figure is stored"),
    ("figures", replace("word", "![](a.png) word"), "alternative text"),
    ("sources", replace(LEMMA, LEMMA.replace(":::", "```")), "backtick fence"),
    ("sources", replace(":label: lem-mini", ""), "lemma without a :label:"),
    ("sources", replace("\\mathbb{R}", "\\R"), "macro"),
    ("sources", replace("import math", "import math  # /home/anna/data"), "path of a machine"),
    ("staleness", replace("import math", "import cmath"), "changed since"),
    ("staleness", lambda nb: nb.metadata.pop(book.RECORD_KEY), "never recorded"),
    ("staleness", lambda nb: nb.metadata[book.RECORD_KEY].update(scale="smoke"), "changed since"),
    ("staleness", lambda nb: nb.metadata.update(widgets={}), "widgets"),
]


@pytest.mark.parametrize("check, breaking, message", BREAKINGS, ids=[f"{b[0]}-{n}" for n, b in enumerate(BREAKINGS)])
def test_broken_chapter_is_found(good, check, breaking, message):
    broken = copy.deepcopy(good)
    breaking(broken)
    complaints = structure.CHECKS[check](broken)
    assert any(message in complaint for complaint in complaints), complaints


def test_a_list_of_imported_names_is_no_long_cell(good):
    names = ",\n    ".join(f"name_{n}" for n in range(30))
    structure.code_cells(good)[0].source = f"from math import (\n    {names},\n)\nimport cmath"
    assert structure.lengths(good) == []


@pytest.mark.parametrize(
    "source, expected",
    [
        ("x = 1", False),
        ("x = 1\nx", True),
        ("x + 1;", False),
        ("...", False),
        ("print(1)", True),
        ("for i in range(3):\n    print(i)", True),
        ("def f():\n    print(1)", False),
        ("values.append(1)", False),
        ("answer = ...\ncheck('name', answer)", True),
    ],
)
def test_what_certainly_shows_something(source, expected):
    assert structure.shows(source) is expected


def test_words_counts_prose_alone():
    text = "(a)=\n# Two words\n\n:::{note}\n:label: x\none $a + b$ two\n:::\n\n```python\nnot counted\n```"
    assert structure.words(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])) == 5
