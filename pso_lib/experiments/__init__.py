"""Named experiments as data: run, resume, record, load. ``python -m pso_lib.experiments`` is the command line.

catalogue   the experiments: arms, depths, seeds, learning rates, each at three scales
record      result files: schema, atomic writing, the journal that survives a kill
run         one unit (all arms at one depth) after another, through the ensemble engine
"""

from pso_lib.experiments.catalogue import Arm, Experiment, experiment, names
from pso_lib.experiments.record import RESULTS, ResultError, load, select, summary
from pso_lib.experiments.run import live, run

__all__ = [
    "Arm",
    "Experiment",
    "RESULTS",
    "ResultError",
    "experiment",
    "live",
    "load",
    "names",
    "run",
    "select",
    "summary",
]
