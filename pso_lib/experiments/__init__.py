"""Named experiments as data: run, resume, record, load. ``python -m pso_lib.experiments`` is the command line.

run         one unit after another, resumed where it was
record      result files: schema, atomic writing, the journal that survives a kill
registry    the experiments of all kinds by name
kind        what a kind of experiment brings
spread      mean, minimum and maximum, group by group

catalogue, deep                              on depth: arms, depths, seeds, learning rates; through the ensemble engine
instability, methods, rescue, unstable       on unstable training: patients, methods, learning rates, seeds
verdict, tables                              which of these trained
survival                                     whether a persistent subspace outlives training
"""

from pso_lib.experiments.catalogue import Arm, Experiment
from pso_lib.experiments.instability import Instability, Method, Patient
from pso_lib.experiments.record import RESULTS, ResultError, load, select, source, summary, without_timings
from pso_lib.experiments.registry import experiment, names
from pso_lib.experiments.run import live, run
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
