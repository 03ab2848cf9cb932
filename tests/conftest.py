"""What every test run shares: the smallest scale, unless PSO_SCALE asks for another."""

import os
import sys
from pathlib import Path

os.environ.setdefault("PSO_SCALE", "smoke")  # the chapters' kernels inherit it
os.environ.setdefault("TQDM_DISABLE", "1")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
