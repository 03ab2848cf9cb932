"""Which runs trained, by the rules fixed in the plan: no explosion, and a final loss near the best method's."""

import math
from collections.abc import Sequence

from pso_lib.experiments.summaries import summary
from pso_lib.train import failure

__all__ = ["best_loss", "trained", "training_rates"]


def best_loss(runs: Sequence[dict], model: str) -> float:
    """The smallest mean final loss of a method at a rate, over its seeds. Cells with an exploded run do not compete.

    Infinite if all exploded. Raises ``ValueError`` if there is no run of that model.
    """
    mine = [run for run in runs if run["model"] == model]
    if not mine:
        raise ValueError(f"there is no run of model={model!r}; there are {sorted({run['model'] for run in runs})}.")
    lost = {(run["method"], run["lr"]) for run in mine if run["exploded"]}
    cells = summary(mine, "method", "lr", of="final_loss")
    return min((cell.mean for key, cell in cells.items() if key not in lost), default=math.inf)


def trained(runs: Sequence[dict], margin: float = 0.1) -> list[bool]:
    """For each run whether it trained; the best is taken over all runs of its model that are given."""
    best = {model: best_loss(runs, model) for model in {run["model"] for run in runs}}
    return [failure.trains(run["final_loss"], run["exploded"], best[run["model"]], margin) for run in runs]


def training_rates(runs: Sequence[dict], margin: float = 0.1) -> dict[tuple[str, str], list[float]]:
    """By (model, method): the learning rates at which every seed trained, smallest first; [] if none."""
    cells: dict[tuple[str, str, float], list[bool]] = {}
    for run, good in zip(runs, trained(runs, margin), strict=True):
        cells.setdefault((run["model"], run["method"], run["lr"]), []).append(good)
    rates: dict[tuple[str, str], list[float]] = {}
    for (model, method, lr), all_seeds in sorted(cells.items()):
        rates.setdefault((model, method), []).extend([lr] if all(all_seeds) else [])
    return rates
