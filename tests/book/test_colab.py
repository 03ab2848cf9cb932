"""The Colab edition: plain Markdown, code that compiles, a set-up cell that runs."""

import os
import re
import subprocess
import sys

import colab
import labels
import nbformat
import pytest

import book

TARGETS = {
    "thm-a": labels.Target("Theorem", "3.1", "Rigid $x$", "mirrors", "thm-a"),
    "eq-a": labels.Target("Equation", "3.2", "", "mirrors", "equation-eq-a"),
    "fig-a": labels.Target("Fig.", "3.1", "", "mirrors", "fig-a"),
    "ex-a": labels.Target("Exercise", "3.1", "", "mirrors", "ex-a"),
    "sec-a": labels.Target("Section", "", "Where it folds", "mirrors", "sec-a"),
}
TITLES = {"mirrors": "Mirrors", "bibliography": "Bibliography"}


@pytest.fixture
def converter():
    made = colab.Converter("mini", TARGETS, TITLES)
    made.references = {"one2017": ("One et al.", "2017"), "two2020": ("Two", "2020")}
    return made


# where a GPU is of use; Colab's are scarce, so no other chapter asks for one
TRAINING = {
    "building-the-layers",
    "starts-that-persist",
    "depth-from-5-to-200",
    "how-robust-is-it",
    "necessary-and-enough",
    "smoothing-a-spectrum",
    "how-large-a-learning-rate",
    "depth-and-time",
}

HOME = f"{book.published_url()}/book"


@pytest.mark.parametrize(
    "source, expected",
    [
        (":::{prf:theorem} Rigid\n:label: thm-a\n\nLet $x$.\n:::", "**Theorem 3.1 (Rigid).** Let $x$."),
        (":::{prf:theorem}\n:label: thm-a\n\n- a\n- b\n:::", "**Theorem 3.1.**\n\n- a\n- b"),
        (":::{prf:proof}\nSo it is.\n:::", "*Proof.* So it is. ∎"),
        (":::{prf:proof}\n$$\nx\n$$ (eq-a)\n:::", "*Proof.*\n\n$$\nx \\tag{3.2}\n$$\n\n∎"),
        ("::::{note}\n:::{tip}\nin\n:::\nout\n::::", "**Note.** **Tip.** in\n\nout"),
        (":::{admonition} Cost\n:class: tip\n20 s\n:::", "**Cost.** 20 s"),
        (":::{dropdown} More\nhidden\n:::", "<details><summary>More</summary>\n\nhidden\n\n</details>"),
        (":::{admonition} More\n:class: dropdown\nx\n:::", "<details><summary>More</summary>\n\nx\n\n</details>"),
        (":::{exercise} Try\n:label: ex-a\n\nDo.\n:::", "**Exercise 3.1 (Try).** Do."),
        ("$$\na = b\n$$ (eq-a)", "$$\na = b \\tag{3.2}\n$$"),
        ("$$ a $$ (eq-a)", "$$\na \\tag{3.2}\n$$"),
        ("$$\na\n$$", "$$\na\n$$"),
        ("(sec-a)=\n## Where it folds", "## Where it folds"),
        ("{prf:ref}`thm-a`", f"[Theorem 3.1]({HOME}/mirrors.html#thm-a)"),
        ("{prf:ref}`this one <thm-a>`", f"[this one]({HOME}/mirrors.html#thm-a)"),
        ("{eq}`eq-a`", f"[(3.2)]({HOME}/mirrors.html#equation-eq-a)"),
        ("{numref}`fig-a`", f"[Fig. 3.1]({HOME}/mirrors.html#fig-a)"),
        ("{numref}`Picture %s <fig-a>`", f"[Picture 3.1]({HOME}/mirrors.html#fig-a)"),
        ("{ref}`sec-a`", f"[Where it folds]({HOME}/mirrors.html#sec-a)"),
        ("{ref}`ex-a`", f"[Exercise 3.1]({HOME}/mirrors.html#ex-a)"),
        ("{doc}`mirrors`", f"[Mirrors]({HOME}/mirrors.html)"),
        ("[there](mirrors.ipynb#thm-a)", f"[there]({HOME}/mirrors.html#thm-a)"),
        ("{cite:t}`one2017`", f"[One et al. (2017)]({HOME}/bibliography.html)"),
        (
            "{cite:p}`one2017,two2020`",
            f"([One et al., 2017]({HOME}/bibliography.html); [Two, 2020]({HOME}/bibliography.html))",
        ),
        ("{math}`x^2`", "$x^2$"),
        ("a[^1]\n\n[^1]: Note.", "a<sup>1</sup>\n\n<sup>1</sup> Note."),
        ("```python\n:::{note}\n```", "```python\n:::{note}\n```"),
        ("<!-- hidden -->seen", "seen"),
    ],
)
def test_construct_becomes_plain(converter, source, expected):
    plain = converter.markdown(source)
    assert plain == expected
    assert colab.leftovers(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(plain)])) == []


@pytest.mark.parametrize(
    "source, message",
    [
        (":::{mermaid}\na\n:::", "{mermaid} has no plain form"),
        ("{unheard}`x`", "{unheard} has no plain form"),
        ("{prf:ref}`thm-b`", "'thm-b', which no page defines"),
        ("{doc}`nowhere`", "names no page"),
        ("{cite:t}`three`", "not in book/references.bib"),
    ],
)
def test_unknown_construct_is_refused(converter, source, message):
    with pytest.raises(colab.Unknown, match=re.escape(message)):
        converter.markdown(source)


@pytest.mark.parametrize("left", [":::{note}", "see {ref}`x`", "```{note}", "(sec-a)=", "$$ (eq-a)", "  :::"])
def test_leftovers_are_found(left):
    assert colab.leftovers(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(left)]))


def test_gated_solution_folds_away(converter):
    gate = ":::{solution-start} ex-a\n:label: sol-a\n:class: dropdown\n:::\n\nBecause."
    cells = converter.cells(
        [
            nbformat.v4.new_markdown_cell("Before.\n\n" + gate),
            nbformat.v4.new_code_cell("1 + 1", outputs=[nbformat.v4.new_output("stream", text="2")]),
            nbformat.v4.new_markdown_cell(":::{solution-end}\n:::\n\nAfter."),
            nbformat.v4.new_code_cell("2 + 2"),
        ]
    )
    assert [cell.source for cell in cells] == [
        "Before.",
        "<details><summary>Solution of Exercise 3.1</summary>\n\nBecause.\n\n</details>",
        "# @title Solution of Exercise 3.1\n1 + 1",
        "After.",
        "2 + 2",
    ]
    assert cells[2].outputs == [] and cells[2].metadata["cellView"] == "form"
    assert cells[4].metadata == {}


def test_caption_stands_under_its_figure(converter):
    metadata = {"mystnb": {"figure": {"caption": "Fold, see {eq}`eq-a`.", "name": "fig-a"}, "image": {"alt": "Paper"}}}
    cells = converter.cells([nbformat.v4.new_code_cell("draw()", metadata=metadata)])
    assert cells[0].metadata == {}
    assert cells[1].source.startswith("**Fig. 3.1.** Fold, see [(3.2)](")
    assert cells[1].source.endswith("<small>In words: Paper</small>")


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    """The Colab edition of the book as it is."""
    return colab.write_edition(tmp_path_factory.mktemp("colab"))


def test_edition_is_whole_clean_and_compiles(edition):
    assert [path.name for path in edition] == [path.name for path in book.chapters()]
    for path in edition:
        notebook = book.read(path)
        assert colab.leftovers(notebook) == []
        assert (notebook.metadata.get("accelerator") == "GPU") == (path.stem in TRAINING)
        assert notebook.cells[1].source == colab.setup_source()
        for cell in notebook.cells:
            if cell.cell_type == "code":
                compile(cell.source, path.name, "exec")


def test_edition_keeps_every_code_cell(edition):
    for path, copy in zip(book.chapters(), edition, strict=True):
        code = [cell.source for cell in book.read(path).cells if cell.cell_type == "code"]
        kept = [cell.source for cell in book.read(copy).cells if cell.cell_type == "code"][1:]
        assert [re.sub(r"\A# @title .*\n", "", source) for source in kept] == code


@pytest.mark.parametrize("folder", ["book", "."])
def test_setup_cell_runs_in_a_clone_without_an_installation(folder):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-c", colab.setup_source()],
        cwd=book.ROOT / folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(r"pso_lib \d[\w.+]* · torch \d[\w.]* · .+ · scale \w+\n", run.stdout)


def test_setup_cell_never_moves_what_is_installed():
    source = colab.setup_source()
    assert "--no-deps" in source and "--upgrade" not in source and " -U" not in source
    assert source.count(book.repository_url()) == 1


def test_setup_cell_installs_the_commit_that_the_notebook_was_made_from(tmp_path):
    git = subprocess.run(["git", "-C", str(book.ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    commit = git.stdout.strip() or "main"
    assert f"git+{book.repository_url()}@{commit}" in colab.setup_source()
    (tmp_path / "_config.yml").write_text((book.ROOT / "_config.yml").read_text())
    assert colab.commit_of(tmp_path) == "main"  # not a checkout


IN_A_NOTEBOOK = """
import importlib.util, subprocess, sys
from types import SimpleNamespace
from IPython.core.interactiveshell import InteractiveShell

hidden, kept, asked = {hidden!r}, importlib.util.find_spec, []
importlib.util.find_spec = lambda name, *rest: None if name in hidden else kept(name, *rest)

def pip(run, **_):
    asked.append(run[5:])
    said = "lines\\nfatal: no route to host\\nERROR: it failed\\nnote: not pip\\n"
    return SimpleNamespace(returncode={status}, stderr=said)

subprocess.run = pip
shell = InteractiveShell.instance()
shell.user_ns["device"] = "mine"
result = shell.run_cell(open({path!r}).read())
print("went well:", result.success, "device:", shell.user_ns["device"], "asked:", asked)
"""


def in_a_notebook(tmp_path, hidden, status) -> str:
    """What the set-up cell shows where some modules are missing and pip ends with a status."""
    cell = tmp_path / "cell.py"
    cell.write_text(colab.setup_source())
    code = IN_A_NOTEBOOK.format(hidden=set(hidden), status=status, path=str(cell))
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_setup_cell_that_fails_says_one_sentence_and_stops(tmp_path):
    said = in_a_notebook(tmp_path, {"pso_lib"}, 1)
    assert "Stopped: pip could not install git+https://" in said and "(fatal: no route to host)" in said
    assert "Traceback" not in said and len(said.splitlines()) <= 4
    assert "went well: False device: mine" in said
    said = in_a_notebook(tmp_path, {"pso_lib", "torch"}, 0)
    assert "Stopped: torch missing. pip install torch torchvision" in said and "asked: []" in said


def test_setup_cell_fetches_what_is_missing_beside_the_package(tmp_path):
    said = in_a_notebook(tmp_path, {"pso_lib", "pooch"}, 0)
    assert "'--no-deps', 'git+" in said and "['pooch']" in said
    assert "went well: True device: mine" in said
