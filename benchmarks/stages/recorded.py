"""Experiments at full scale on the device, those that say most first; what is left is left for the next session.

Results and journals lie in ``out/results``. A journal that lies there already, from another machine too, is gone on
with, so that one record may be made in many sittings.
"""

import time
import traceback

import torch

from pso_lib.data import DataError
from pso_lib.experiments import experiment, names, passes, runner
from pso_lib.experiments.registry import suite_of
from stages import correctness
from stages.report import Options, Report, say

__all__ = ["order", "run"]

FIRST = (
    "depth_tuned",
    "fold_budget_wide",
    "rivals",
    "fold_budget_width_32",
    "fold_budget_width_128",
    "fold_budget_depth_800",
)


def order() -> list[str]:
    """All experiments: those first that decide most, then the others that train side by side, then the rest."""
    rest = [name for name in names() if name not in FIRST]
    rest.sort(key=lambda name: not suite_of(experiment(name)).gathers)
    return [name for name in FIRST if name in names()] + rest


def streams_work(options: Options) -> bool:
    """Whether shapes may share the device: else one trains after the other, and the results are the same."""
    try:
        correctness.side_by_side(options.device, torch.float32)
    except Exception:
        traceback.print_exc()
        return False
    return True


def run(options: Options, report: Report) -> bool:
    end, folder = time.monotonic() + 60 * options.minutes, options.out / "results"
    scale, wanted = "full", options.experiments.split(",") if options.experiments else order()
    if options.smoke:
        scale, wanted = "smoke", wanted[:1] if options.experiments else ["learning_rate"]
    if options.at_once:
        passes.AT_ONCE = options.at_once
    good = streams_work(options)
    if not good:
        passes.STREAMS = 1
        say("shapes side by side are wrong on this device; they are trained one after the other")
    report.add("side by side", good)
    for name in wanted:
        left = (end - time.monotonic()) / 60
        if left <= 0:
            say("the minutes are over")
            break
        say(f"--- {name}, {left:.1f} minutes left")
        begin, state = time.monotonic(), "recorded"
        try:
            runner.run(name, scale, device=str(options.device), folder=folder, minutes=left, progress=say)
        except runner.Unfinished as error:
            state = str(error)
        except DataError as error:
            state = f"left out: {error}"
        except Exception as error:  # the next experiment may work
            traceback.print_exc()
            good, state = False, f"{type(error).__name__}: {error}"
        say(f"{name}: {state}")
        report.add(name, {"state": state, "seconds": time.monotonic() - begin})
    return good
