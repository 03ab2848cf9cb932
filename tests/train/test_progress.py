"""A bar is seen by who watches, and by nobody else."""

import subprocess
import sys

import pytest

CODE = """
import sys, time
{before}
from pso_lib.train import progress
progress.PATIENCE = 0.05
for _ in progress.bar(range(4), total=4, show={show}, mininterval=0):
    time.sleep(0.05)
"""


@pytest.mark.parametrize(
    "show, notebook, hidden, seen",
    [
        (None, False, False, False),  # a script
        (None, True, False, True),
        (None, True, True, False),  # a notebook run for the record
        (True, False, False, True),
        (False, True, False, False),
    ],
)
def test_who_sees_it(show, notebook, hidden, seen):
    before = "sys.modules['ipykernel'] = sys" if notebook else ""
    environment = {"TQDM_DISABLE": "1"} if hidden else {}
    run = subprocess.run(
        [sys.executable, "-c", CODE.format(before=before, show=show)],
        env={"PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path))} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    assert ("step/s" in run.stderr) == seen


def test_loop_takes_what_it_is_told(monkeypatch):
    import torch

    from pso_lib.data import load
    from pso_lib.train import loop

    shown = []
    monkeypatch.setattr(loop, "bar", lambda steps, total, show: shown.append((total, show)) or steps)
    images = load("digits")
    for progress in (None, True, False):
        loop.train(torch.nn.Linear(64, 10), images, steps=2, lr=1e-3, progress=progress)
    assert shown == [(2, None), (2, True), (2, False)]
