"""Run the chapters at the smallest scale, also when pytest is given one chapter alone."""

import os

os.environ.setdefault("PSO_SCALE", "smoke")  # the chapters' kernels inherit it
os.environ.setdefault("TQDM_DISABLE", "1")
