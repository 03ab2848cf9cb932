"""The built book and a browser. Without them the tests skip and say what to do; PSO_REQUIRE_BROWSER=1 fails instead."""

import os

import browser
import pytest

import book

HTML = book.ROOT / "_build" / "html"


def missing() -> str | None:
    """Why the browser tests cannot run, with the remedy; ``None`` when they can."""
    built = {path: HTML / path.relative_to(book.ROOT).with_suffix(".html") for path in book.pages()}
    if not (HTML / "index.html").is_file():
        return "there is no built book: run `jupyter-book build .`"
    late = [
        page.stem for page, made in built.items() if not made.is_file() or made.stat().st_mtime < page.stat().st_mtime
    ]
    if late:
        return f"the built book is older than {', '.join(late)}: run `jupyter-book build .`"
    return None


def missing_browser() -> str | None:
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed: run `pip install -r requirements.txt`"
    if browser.executable() is None:
        return "there is no chromium: run `apt-get install chromium`, or set CHROMIUM to the path of one"
    return None


def require(reason: str | None) -> None:
    if reason and os.environ.get("PSO_REQUIRE_BROWSER"):
        pytest.fail(f"{reason} (PSO_REQUIRE_BROWSER is set)")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def html():
    """The folder of the built book."""
    require(missing())
    return HTML


@pytest.fixture(scope="module")  # not longer: playwright's event loop must be gone before the chapters run
def chromium(html):
    require(missing_browser())
    with browser.chromium() as running:
        yield running


@pytest.fixture(scope="module")
def address(html):
    with browser.serve(html) as served:
        yield served
