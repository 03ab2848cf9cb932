"""The built book in a browser, wide and phone-sized: it typesets, opens, switches, searches, and asks nobody else."""

import re

import browser
import labels
import pytest

import book

PAGES = [book.name_of(path) for path in book.pages()]
CHAPTERS = [path.stem for path in book.chapters()]
SIZES = {f"{width}px": (width, height) for width, height in browser.SIZES}

STATE = """() => {
  const article = document.querySelector('article.bd-article');
  const images = [...article.querySelectorAll('img')];
  return {
    titles: article.querySelectorAll('h1').length,
    formulas: article.querySelectorAll('.math').length,
    typeset: article.querySelectorAll('mjx-container').length,
    errors: [...document.querySelectorAll(
      'mjx-merror, [data-mjx-error], mjx-container [style*="color: red"], .problematic, .system-message')]
      .map(e => e.textContent.slice(0, 80)),
    sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    wide: [...article.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
      .filter(e => { for (let p = e.parentElement; p; p = p.parentElement)
        if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX) && p !== document.body
            && p !== document.documentElement) return false; return true; })
      .map(e => e.tagName + '.' + e.className).slice(0, 5),
    broken: images.filter(i => !i.complete || i.naturalWidth === 0).map(i => i.src),
    mute: images.filter(i => !i.alt.trim()).map(i => i.src),
    figures: article.querySelectorAll('figure').length,
    captions: article.querySelectorAll('figure figcaption').length,
  };
}"""


class Watched:
    """A page and all it complained about and asked for."""

    def __init__(self, chromium, size, own, **options):
        width, height = size
        self.context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on(
            "console", lambda message: self.note(message.type in ("error", "warning"), f"console: {message.text}")
        )
        self.page.on("pageerror", lambda error: self.note(True, f"error: {error}"))
        # a request is aborted when the page is left before it ends; that is no fault of the book
        aborted = "net::ERR_ABORTED"
        self.page.on("requestfailed", lambda request: self.note(request.failure != aborted, f"failed: {request.url}"))
        self.page.on("request", lambda request: self.note(not request.url.startswith(own), f"outside: {request.url}"))
        self.page.on("response", lambda reply: self.note(reply.status >= 400, f"{reply.status}: {reply.url}"))

    def note(self, bad: bool, text: str) -> None:
        if bad:
            self.complaints.append(text)


@pytest.fixture(params=list(SIZES))
def watched(request, chromium, address):
    seen = Watched(chromium, SIZES[request.param], (address, "data:", "blob:"))
    seen.size = request.param
    yield seen
    seen.context.close()


def first(page, selector):
    found = page.locator(selector)
    if found.count() == 0:
        pytest.skip(f"the page holds no {selector}")
    return found.first


@pytest.mark.parametrize("name", PAGES)
def test_page(watched, address, name):
    browser.visit(watched.page, f"{address}/book/{name}.html")
    state = watched.page.evaluate(STATE)
    assert watched.complaints == []
    assert state["titles"] == 1
    assert state["errors"] == []
    assert state["typeset"] >= state["formulas"]
    assert state["sideways"] <= 0, state["wide"]
    assert state["wide"] == []
    assert state["broken"] == [] and state["mute"] == []
    assert state["captions"] == state["figures"]


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_has_formulas_and_figures(watched, address, name):
    browser.visit(watched.page, f"{address}/book/{name}.html")
    state = watched.page.evaluate(STATE)
    assert state["typeset"] > 10 and state["figures"] >= 1


@pytest.mark.parametrize("name", CHAPTERS)
def test_solutions_open(watched, address, name):
    browser.visit(watched.page, f"{address}/book/{name}.html")
    solutions = watched.page.locator("div.solution.dropdown")
    assert solutions.count() >= 3
    for number in range(solutions.count()):
        solution = solutions.nth(number)
        inside = solution.locator("pre").first
        assert not inside.is_visible()
        solution.locator(".admonition-title").click()
        inside.wait_for(state="visible", timeout=3000)
    assert watched.complaints == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_hidden_code_opens(watched, address, name):
    browser.visit(watched.page, f"{address}/book/{name}.html")
    hidden = first(watched.page, "div.cell details.hide")
    assert not hidden.locator("pre").first.is_visible()
    hidden.locator("summary").click()
    hidden.locator("pre").first.wait_for(state="visible", timeout=3000)


def test_light_and_dark(watched, address):
    page = watched.page
    browser.visit(page, f"{address}/book/{PAGES[-1]}.html")
    seen = set()
    for _ in range(3):  # automatic, light, dark
        page.locator(".theme-switch-button:visible").first.click()
        theme = page.evaluate("document.documentElement.dataset.theme")
        page.wait_for_timeout(400)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = page.evaluate("getComputedStyle(document.querySelector('article.bd-article p')).color")
        assert brightness(ground) > brightness(ink) if theme == "light" else brightness(ground) < brightness(ink)
        seen.add(theme)
    assert seen == {"light", "dark"}
    assert watched.complaints == []


def brightness(colour: str) -> float:
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3])


def theorem():
    """A theorem box of the book that has a title of plain words, to be searched for."""
    for target in labels.collect()[0].values():
        if target.kind in ("Lemma", "Theorem") and re.fullmatch(r"[A-Za-z ,-]{5,}", target.title):
            return target
    return None


def search(page, start):
    target = theorem()
    assert target, "the book has no theorem with a title of plain words"
    page.goto(f"{start}/search.html?q={target.title.replace(' ', '+')}")
    page.locator("#search-results li a").first.wait_for(timeout=8000)
    links = page.locator("#search-results li a").evaluate_all("links => links.map(link => link.href)")
    assert any(f"/{target.page}.html" in link for link in links), links


def test_search_finds_a_theorem(watched, address):
    search(watched.page, address)
    assert watched.complaints == []


def test_search_box_leads_there(watched, address):
    page = watched.page
    browser.visit(page, f"{address}/book/{PAGES[0]}.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("orthogonal")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?*")
    page.locator("#search-results li a").first.wait_for(timeout=8000)
    assert watched.complaints == []


def test_contents_are_reached_on_a_phone(chromium, address):
    seen = Watched(chromium, SIZES["390px"], (address, "data:"))
    browser.visit(seen.page, f"{address}/book/{PAGES[0]}.html")
    link = seen.page.locator(f"nav.bd-links a[href*='{PAGES[-1]}'], .bd-sidebar-primary a[href*='{PAGES[-1]}']").first
    assert not link.is_visible() or link.bounding_box()["x"] < 0
    seen.page.locator("button.primary-toggle:visible").first.click()
    link.wait_for(state="visible", timeout=3000)
    seen.page.wait_for_timeout(500)
    assert link.bounding_box()["x"] >= 0
    seen.context.close()


def test_complete_from_the_disk_with_the_network_off(chromium, html):
    start = html.resolve().as_uri()
    seen = Watched(chromium, SIZES["1280px"], (start, "data:", "blob:"), offline=True)
    for name in PAGES:
        browser.visit(seen.page, f"{start}/book/{name}.html")
        state = seen.page.evaluate(STATE)
        assert state["typeset"] >= state["formulas"] and state["errors"] == [] and state["broken"] == []
    search(seen.page, start)
    assert seen.complaints == []
    seen.context.close()
