"""The recorder: nothing changes, nothing changes on disk; a failing chapter is named and left alone."""

import nbformat
import pytest
import record

import book

SOURCES = [
    "import os\nimport sys\n\nprint(os.environ['PSO_SCALE'])",
    "print('a')\nprint('b')",
    "print('gone', file=sys.stderr)",
    "1 + 1",
]


def notebook(tmp_path, *sources):
    path = tmp_path / "chapter.ipynb"
    cells = [nbformat.v4.new_markdown_cell("# Chapter"), *(nbformat.v4.new_code_cell(source) for source in sources)]
    cells[1].metadata = {"tags": ["kept"], "collapsed": True}
    book.write(nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {}, "jupytext": {"formats": "md"}}), path)
    return path


def test_second_run_leaves_an_empty_diff(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PSO_SCALE", "quick")
    path = notebook(tmp_path, *SOURCES)
    assert book.is_stale(book.read(path)) == "was never recorded"
    assert record.main([str(path)]) == 0
    first = path.read_bytes()
    stored = book.read(path)
    assert record.main([str(path)]) == 0
    assert path.read_bytes() == first
    assert book.is_stale(stored) is None
    assert set(stored.metadata) == {"kernelspec", "language_info", book.RECORD_KEY}
    assert stored.cells[1].metadata == {"tags": ["kept"]}
    assert stored.cells[1].outputs[0].text == "quick\n"
    assert [output.text for output in stored.cells[2].outputs] == ["a\nb\n"]
    assert stored.cells[3].outputs == []
    assert "warning, dropped" in capsys.readouterr().out

    # stale as soon as the code changes, not for the prose
    stored.cells[0].source = "# Another title"
    assert book.is_stale(stored) is None
    stored.cells[4].source = "1 + 2"
    book.write(stored, path)
    assert record.main(["--check", str(path)]) == 1
    assert "changed since" in capsys.readouterr().out

    # a copy converted again from its text gets the ids it had
    for cell in stored.cells:
        cell.id = "another-id"
    again = record.tidy(stored, "quick")
    assert [cell.id for cell in again.cells[1:4]] == [cell.id for cell in nbformat.reads(first, 4).cells[1:4]]


def test_recording_formats_the_code(tmp_path):
    path = notebook(tmp_path, "x=[1,2]\nprint( x )")
    assert record.main([str(path)]) == 0
    assert book.read(path).cells[1].source == "x = [1, 2]\nprint(x)"


@pytest.mark.parametrize(
    "source, message",
    [
        ("value = 1\nraise RuntimeError('no such fold')", "RuntimeError: no such fold"),
        ("print(object())", "memory address"),
    ],
)
def test_failing_chapter_is_named_and_left_alone(tmp_path, capsys, source, message):
    path = notebook(tmp_path, "1 + 1", source)
    before = path.read_bytes()
    assert record.main([str(path)]) == 1
    said = capsys.readouterr().out
    assert "chapter.ipynb: FAILED" in said and "code cell 2" in said and message in said
    assert path.read_bytes() == before


def test_verify_names_the_cells_that_differ(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PSO_SCALE", "quick")
    path = notebook(tmp_path, "1 + 1", "import time\nprint(time.time_ns())")
    assert record.main([str(path)]) == 0
    before = path.read_bytes()
    assert record.main(["--verify", str(path)]) == 1
    assert "code cells [2]" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_fingerprint_depends_on_code_and_scale():
    one = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("a = 1\nb = 2")])
    two = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("a = 1"), nbformat.v4.new_code_cell("b = 2")])
    prints = {book.fingerprint(one, "quick"), book.fingerprint(two, "quick"), book.fingerprint(one, "smoke")}
    assert len(prints) == 3


def test_a_slow_cell_says_how_long_and_a_like_time_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "SLOW", 0.5)
    path = notebook(tmp_path, "1 + 1", "import time\ntime.sleep(3)")
    assert record.main([str(path)]) == 0
    stored = book.read(path)
    assert stored.metadata[book.RECORD_KEY]["seconds"] == {stored.cells[2].id: 5}
    assert record.slow_cells(stored, {1: 0.1, 2: 4.0}, {stored.cells[2].id: 5}) == {stored.cells[2].id: 5}
    assert record.slow_cells(stored, {1: 0.1, 2: 9.0}, {stored.cells[2].id: 5}) == {stored.cells[2].id: 10}
    assert record.slow_cells(stored, {1: 0.1, 2: 0.2}, {stored.cells[2].id: 5}) == {}
