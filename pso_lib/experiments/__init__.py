"""Named experiments as data: run, resume, record, load. ``python -m pso_lib.experiments`` is the command line.

runner      one unit after another, resumed where it was
record      result files: atomic writing, reading, the journal that survives a kill; without torch, so read in no time
schema      what the runs of each kind must hold, and which a configuration implies
registry    the experiments of all kinds by name
kind        what a kind of experiment brings
spread      mean, minimum and maximum, group by group

catalogue, deep                              on depth: arms, depths, seeds, learning rates; through the ensemble engine
instability, methods, rescue, unstable       on unstable training: patients, methods, learning rates, seeds
verdict, tables                              which of these trained
survival                                     whether a persistent subspace outlives training
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pso_lib.experiments.catalogue import Arm, Experiment
    from pso_lib.experiments.instability import Instability, Method, Patient
    from pso_lib.experiments.record import RESULTS, ResultError, load, select, source, summary, without_timings
    from pso_lib.experiments.registry import experiment, names
    from pso_lib.experiments.runner import live, run
    from pso_lib.experiments.survival import Survival
    from pso_lib.experiments.verdict import best_loss, trained, training_rates

__all__ = [
    "Arm",
    "Experiment",
    "Instability",
    "Method",
    "Patient",
    "RESULTS",
    "ResultError",
    "Survival",
    "best_loss",
    "experiment",
    "live",
    "load",
    "names",
    "run",
    "select",
    "source",
    "summary",
    "trained",
    "training_rates",
    "without_timings",
]

# Imported when asked for: who reads a record waits neither for torch nor for sympy.
_MODULES = {
    "catalogue": ("Arm", "Experiment"),
    "instability": ("Instability", "Method", "Patient"),
    "record": ("RESULTS", "ResultError", "load", "select", "source", "summary", "without_timings"),
    "registry": ("experiment", "names"),
    "runner": ("live", "run"),
    "survival": ("Survival",),
    "verdict": ("best_loss", "trained", "training_rates"),
}


def __getattr__(name: str):
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
