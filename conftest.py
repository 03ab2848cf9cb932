"""What every test run shares, also that of one chapter: the smallest scale, unless PSO_SCALE asks for another."""

import os
import sys
from pathlib import Path

os.environ.setdefault("PSO_SCALE", "smoke")  # the chapters' kernels inherit it
os.environ.setdefault("TQDM_DISABLE", "1")

here = Path(__file__).resolve().parent
sys.path[:0] = [str(here / "tests"), str(here / "tools")]
