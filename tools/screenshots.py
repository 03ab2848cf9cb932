"""Photograph pages of the built book: wide and phone-sized, light and dark.

    python tools/screenshots.py FOLDER [page …]      e.g.  python tools/screenshots.py /tmp/shots mirrors

Writes PAGE-1280-light.png and its three sisters; a page taller than --slice pixels comes in parts (-1, -2, …).
`--html` names another built book, `--open` opens every dropdown and hidden cell first.
"""

import argparse
import sys
from pathlib import Path

import browser

import book

OPEN_ALL = """() => {
  document.querySelectorAll('details:not([open])').forEach(d => d.open = true);
  document.querySelectorAll('.toggle-hidden button.toggle-button').forEach(b => b.click());
}"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pages", nargs="*", help="names of pages, such as mirrors; none means all")
    parser.add_argument("--html", type=Path, default=book.ROOT / "_build" / "html")
    parser.add_argument("--slice", type=int, default=2400, help="pixels per picture (2400)")
    parser.add_argument("--open", action="store_true", help="open dropdowns and hidden code first")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    names = options.pages or [book.name_of(path) for path in book.pages()]
    with browser.serve(options.html) as address, browser.chromium() as chromium:
        for width, height in browser.SIZES:
            for theme in ("light", "dark"):
                context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
                page = context.new_page()
                for name in names:
                    browser.visit(page, f"{address}/book/{name}.html")
                    page.wait_for_timeout(500)
                    if options.open:
                        page.evaluate(OPEN_ALL)
                        page.wait_for_timeout(900)
                    tall = page.evaluate("document.documentElement.scrollHeight")
                    parts = range(0, tall, options.slice)
                    for number, top in enumerate(parts, 1):
                        clip = {"x": 0, "y": top, "width": width, "height": min(options.slice, tall - top)}
                        part = f"-{number}" if len(parts) > 1 else ""
                        target = options.folder / f"{name}-{width}-{theme}{part}.png"
                        page.screenshot(path=target, full_page=True, clip=clip)
                    print(f"{name} {width} {theme}: {len(parts)} picture(s)")
                context.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
