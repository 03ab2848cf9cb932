"""Every chapter is what a chapter must be, and every page of the folder is in the table of contents."""

import re

import labels
import pytest
import structure

import book

CHAPTERS = book.chapters()
PAGES = book.pages()


@pytest.mark.parametrize("check", structure.CHECKS)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter(path, check):
    complaints = structure.CHECKS[check](book.read(path))
    assert not complaints, "\n".join(f"{path.name} {complaint}" for complaint in complaints)


def test_every_page_is_in_the_table_of_contents():
    written = {
        path
        for suffix in ("*.ipynb", "*.md")
        for path in (book.ROOT / "book").rglob(suffix)
        if ".ipynb_checkpoints" not in path.parts and "_static" not in path.parts
    }
    assert written == set(PAGES)
    assert len(PAGES) == len(set(PAGES))


def test_book_is_more_than_a_front_page():
    assert len(CHAPTERS) >= 5


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page_has_one_title(path):
    text = "\n\n".join(cell.source for cell in labels.page_cells(path) if cell.cell_type == "markdown")
    text = re.sub(r"(?ms)^[ \t]*(`{3,})(?!\{).*?^[ \t]*\1[ \t]*$", "", text)
    assert len(re.findall(r"(?m)^# .+$", text)) == 1


def test_labels_are_unique_and_chapters_numbered():
    targets, titles = labels.collect()
    assert set(titles) == {path.stem for path in PAGES}
    assert [labels.chapter_numbers()[path.stem] for path in CHAPTERS] == [str(n + 1) for n in range(len(CHAPTERS))]
    assert targets


def test_every_figure_is_spoken_of():
    cells = [cell for path in PAGES for cell in labels.page_cells(path)]
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    names = [labels.cell_figure(cell)["name"] for cell in cells if cell.cell_type == "code"]
    silent = [name for name in names if name and f"`{name}`" not in text and f"<{name}>`" not in text]
    assert not silent, f"no sentence refers to {', '.join(silent)}: use {{numref}}`fig-…`"
