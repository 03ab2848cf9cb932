"""A local server and Debian's Chromium, for the browser tests and the screenshots."""

import contextlib
import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

__all__ = ["SIZES", "chromium", "executable", "serve", "visit"]

SIZES = ((1280, 900), (390, 844))  # a laptop, a phone
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
SETTLED = """async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  await document.fonts.ready;
}"""


def executable() -> str | None:
    """The path of a Chromium on this machine; CHROMIUM names another one than those usually looked for."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextlib.contextmanager
def chromium():
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(folder: Path):
    """Serve a folder on a free local port; yields its address."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def visit(page, address: str) -> None:
    """Open a page and wait until its mathematics is typeset and its fonts are there."""
    page.goto(address, wait_until="load")
    page.evaluate(SETTLED)
