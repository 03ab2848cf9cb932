"""Named experiments as data: run, resume, record, load. ``python -m pso_lib.experiments`` is the command line.

runner       one unit after another, resumed where it was
cluster      the same units on many processes or machines
record       result files: atomic writing, reading, the journal that survives a kill; without torch, so read in no time
schema       what the runs of each suite must hold, and which a configuration implies
registry     the suites, and the experiments of all of them by name
suite        what a suite of experiments brings
summaries    mean, minimum and maximum, group by group
criteria     which runs trained

depth, depth_plans, starts, halving, rivals, passes   starts over depth, through the ensemble engine
instability, instability_plans, methods, recovery     ways to train over learning rates
survival                                              whether a persistent subspace outlives training
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pso_lib.experiments.cluster import ClusterError
    from pso_lib.experiments.criteria import best_loss, trained, training_rates
    from pso_lib.experiments.depth_plans import Experiment
    from pso_lib.experiments.instability_plans import Instability, Method, WorkloadPlan
    from pso_lib.experiments.record import RESULTS, ResultError, load, select, source, summary, without_timings
    from pso_lib.experiments.registry import experiment, names
    from pso_lib.experiments.runner import live, run
    from pso_lib.experiments.starts import Start
    from pso_lib.experiments.survival import Survival

__all__ = [
    "Start",
    "ClusterError",
    "Experiment",
    "Instability",
    "Method",
    "WorkloadPlan",
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
    "starts": ("Start",),
    "depth_plans": ("Experiment",),
    "instability_plans": ("Instability", "Method", "WorkloadPlan"),
    "record": ("RESULTS", "ResultError", "load", "select", "source", "summary", "without_timings"),
    "registry": ("experiment", "names"),
    "runner": ("live", "run"),
    "cluster": ("ClusterError",),
    "survival": ("Survival",),
    "criteria": ("best_loss", "trained", "training_rates"),
}


def __getattr__(name: str):
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
