"""The built book, read as files: its pages, its numbers, nothing from outside."""

import re

import colab
import labels
import pytest

import book

PAGES = [book.name_of(path) for path in book.pages()]
OUTSIDE = re.compile(
    r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"'](?:https?:)?//[^\"']+[\"'][^>]*>", re.I
)


def text_of(html, name):
    return (html / "book" / f"{name}.html").read_text(encoding="utf8")


def test_pages_equal_the_table_of_contents(html):
    made = {path.relative_to(html / "book").with_suffix("").as_posix() for path in (html / "book").rglob("*.html")}
    assert made == set(PAGES)


def test_front_door_leads_to_the_book(html):
    assert "book/index.html" in (html / "index.html").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_page_asks_for_nothing_outside(html, name):
    tags = [tag for tag in OUTSIDE.findall(text_of(html, name)) if 'rel="canonical"' not in tag]
    assert tags == []


@pytest.mark.parametrize("name", PAGES)
def test_page_has_no_raw_markup(html, name):
    text = text_of(html, name)
    article = text[text.index('<article class="bd-article"') : text.index("</article>")]
    article = re.sub(r"(?s)<pre>.*?</pre>|<code.*?</code>|<!--.*?-->", "", article)
    assert not re.search(r":::|\{(?:prf:ref|ref|numref|eq|doc|cite\S*)\}|class=\"problematic\"|system-message", article)


def test_numbers_are_those_the_tools_count(html):
    targets, _ = labels.collect()
    counted = 0
    for target in targets.values():
        if not target.number:
            continue
        text = text_of(html, target.page)
        place = text.index(f'id="{target.anchor}"')
        near = re.sub(
            r"<[^>]+>", "", text[place : text.index("</figure>", place) if target.kind == "Fig." else place + 600]
        )
        shown = f"({target.number})" if target.kind == "Equation" else f"{target.kind} {target.number}"
        assert shown in near, f"{target.page}: {target.anchor} is not {shown}"
        counted += 1
    assert counted


def test_launch_button_opens_the_colab_edition(html):
    owner_and_name = "/".join(book.repository_url().split("/")[-2:])
    for path in book.chapters():
        link = f"https://colab.research.google.com/github/{owner_and_name}/blob/{book.colab_branch()}/book/{path.name}"
        assert link in text_of(html, path.stem)


def test_mathematics_comes_with_the_book(html):
    assert (html / "_static/mathjax/tex-chtml-full.js").is_file()
    assert len(list((html / "_static/mathjax/output/chtml/fonts/woff-v2").glob("*.woff"))) == 23


def test_download_button_hands_out_the_plain_edition(html):
    for path in book.chapters():
        assert f'href="../_sources/book/{path.name}"' in text_of(html, path.stem)
        handed = book.read(html / "_sources" / "book" / path.name)
        assert colab.leftovers(handed) == []
        assert "_set_up()" in handed.cells[1].source
