"""What every test run shares, also that of one chapter: the smallest scale, unless PSO_SCALE asks for another; the
lanes `fast`, `slow`, `course`, `book` and `browser`."""

import os
import sys
from pathlib import Path

os.environ.setdefault("PSO_SCALE", "smoke")  # the chapters' kernels inherit it
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("PSO_STRICT", "1")  # a check that fails stops the run
if "PYTEST_XDIST_WORKER" in os.environ:  # side by side: threads that wait for each other would cost most
    os.environ.setdefault("OMP_NUM_THREADS", "1")

here = Path(__file__).resolve().parent
sys.path[:0] = [str(here / "tests"), str(here / "tools")]


def pytest_collection_modifyitems(items):
    """A test's lane is its folder; what takes long of the library says so itself, by ``@pytest.mark.slow``."""
    for item in items:
        place = item.path.relative_to(here).parts if item.path.is_relative_to(here) else ()
        if place[:2] == ("tests", "browser"):
            item.add_marker("browser")
        elif place[:2] == ("tests", "book") or place[:1] == ("book",):
            item.add_marker("book")
        elif place[:2] in (("tests", "checks"), ("tests", "course")):
            item.add_marker("course")
        elif item.get_closest_marker("slow") is None:
            item.add_marker("fast")
