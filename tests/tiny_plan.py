"""An experiment on depth that takes a second, and its recorded result."""

from dataclasses import replace
from pathlib import Path

from pso_lib.experiments import experiment, run
from pso_lib.experiments.record import path_of


def tiny(**changes):
    """One arm of each type, two depths: four units of two runs."""
    whole = experiment("depth", "smoke")
    arms = tuple(arm for arm in whole.arms if arm.name in ("he", "he_residual"))
    plan = replace(whole, arms=arms, depths=(2, 3), seeds=2, epochs=0.2, rates=(1e-3,), choose_rate=False)
    return replace(plan, **changes)


def quiet(line: str) -> None:
    pass


def record(folder: Path) -> dict:
    """The result, written into the folder."""
    return run(tiny(), "smoke", folder=folder, progress=quiet)


def copy_record(there: Path, here: Path) -> None:
    path_of("depth", "smoke", here).write_bytes(path_of("depth", "smoke", there).read_bytes())
