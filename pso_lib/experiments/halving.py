"""A learning rate chosen by successive halving: all rates for a short time, the best few to the end.

Short runs favour large rates, and the ends of a grid hide what lies beyond them; so the search goes on, a half-decade
at a time, until the winner has a worse neighbour on either side. After Jamieson and Talwalkar (2016).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pso_lib.experiments.summaries import summary

__all__ = ["Halving", "beyond", "choose", "final", "ranked", "screen"]

HALF_DECADES = tuple(float(f"{digit}e{exponent}") for exponent in range(-15, 5) for digit in (1, 3))

Trial = Callable[[list[float]], list[dict]]  # rates to entries of the record: "lr", "held_out_accuracy", "loss", …


@dataclass(frozen=True)
class Halving:
    """How rates are chosen.

    Attributes:
        seeds: so many, of their own: none of the reported runs has them.
        share: of the epochs, for which every rate is tried; 1: all at full length, and nothing is left to halve.
        finalists: how many go on to the full length.
        bounds: no rate outside is tried.
        margin: a mean accuracy counts as chance unless it is above the share of the largest class by more than this.
    """

    seeds: int = 3
    share: float = 0.1
    finalists: int = 2
    bounds: tuple[float, float] = (1e-7, 1e-1)
    margin: float = 0.02


def beyond(rate: float, upwards: bool | int, bounds: tuple[float, float]) -> float | None:
    """The next of …, 1e-4, 3e-4, 1e-3, … above the rate, or below; None outside the bounds."""
    near = 1 + 1e-6
    if upwards:
        found = next(r for r in HALF_DECADES if r > rate * near)
    else:
        found = next(r for r in reversed(HALF_DECADES) if r < rate / near)
    return found if bounds[0] / near <= found <= bounds[1] * near else None


def _means(tried: Sequence[dict], field: str) -> dict[float, float]:
    """Over the seeds, by rate. None counts as infinite."""
    return {rate: cell.mean for rate, cell in summary(tried, "lr", of=field).items()}


def ranked(tried: Sequence[dict], chance: float) -> list[float]:
    """The rates, best first: by mean held-out accuracy; where none is above chance, by mean training loss.

    A loss of None, one that was not finite, counts as infinite. Of equals the smaller rate comes first.
    """
    accuracy = _means(tried, "held_out_accuracy")
    if max(accuracy.values()) > chance:
        return sorted(accuracy, key=lambda rate: (-accuracy[rate], rate))
    loss = _means(tried, "loss")
    return sorted(loss, key=lambda rate: (loss[rate], rate))


def screen(rates: Sequence[float], plan: Halving, chance: float, trial: Trial) -> list[dict]:
    """Try every rate for a short time, and on beyond the grid while the best is its edge. Returns all entries."""
    tried = trial(list(rates))
    while True:
        known, best = {one["lr"] for one in tried}, ranked(tried, chance)[0]
        outside = [beyond(best, upwards, plan.bounds) for upwards, edge in ((0, min), (1, max)) if best == edge(known)]
        missing = [rate for rate in outside if rate is not None]
        if not missing:
            return tried
        tried += trial(missing)


def final(screened: Sequence[dict], plan: Halving, chance: float, trial: Trial) -> list[dict]:
    """Run the finalists at full length; returns these entries.

    While the winner is the smallest rate that was run so far, the next smaller one is run as well, since what was best
    for a short time may be too large for a long one; while it is the largest that was tried at all, the next larger.
    Where no finalist ends above chance, every rate that was above chance when screened is run before that is believed.
    """
    entries = trial(ranked(screened, chance)[: plan.finalists])
    short = _means(screened, "held_out_accuracy")
    while True:
        full = _means(entries, "held_out_accuracy")
        best = ranked(entries, chance)[0]
        if full[best] <= chance:
            hopeful = [rate for rate in ranked(screened, chance) if rate not in full and short[rate] > chance]
            rate = hopeful[0] if hopeful else None
        elif best == min(full):
            rate = beyond(best, False, plan.bounds)
        elif best == max(full | short):
            rate = beyond(best, True, plan.bounds)
        else:
            rate = None
        if rate is None:
            return entries
        entries += trial([rate])


def choose(screened: Sequence[dict], entries: Sequence[dict], chance: float) -> dict:
    """What the search says: whether the arm trains, the best rate, None if it does not, and the rate to report at.

    ``edge``: the best rate has no worse neighbour on one side, since that lies outside the bounds. An arm that does
    not train is reported at the screened rate with the smallest training loss.
    """
    best = ranked(entries, chance)[0]
    accuracy = _means(entries, "held_out_accuracy")[best]
    tried = {one["lr"] for one in (*screened, *entries)}
    trains = accuracy > chance
    losses = _means(screened, "loss")
    calmest = min(losses, key=lambda rate: (losses[rate], rate))
    return {
        "trains": trains,
        "best": best if trains else None,
        "edge": trains and best in (min(tried), max(tried)),
        "lr": best if trains else calmest,
        "held_out_accuracy": round(accuracy, 5),
        "chance": round(chance, 5),
    }
