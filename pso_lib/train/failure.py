"""What counts as failure of a training run, fixed beforehand."""

import math
import numbers
from collections.abc import Sequence

from pso_lib.errors import checked, require_number, require_positive_int

__all__ = ["Explosion", "explosion", "recovery_time", "trains"]


class Explosion:
    """A stream of losses explodes once one is not finite, or ``patience`` in a row lie above ``factor`` times the
    smallest so far (counted as at least ``floor``).

    The definition of the book's chapters on instability; 1.5 and 100 are fixed there for all arms.
    """

    @checked
    def __init__(self, factor: float = 1.5, patience: int = 100, floor: float = 0.0):
        patience = require_positive_int("patience", patience)
        if not factor > 1 or not floor >= 0:
            raise ValueError(f"factor must exceed 1 and floor be 0 or more, got factor={factor!r}, floor={floor!r}.")
        self.factor, self.patience, self.floor = factor, patience, floor
        self.minimum, self.above, self.exploded = math.inf, 0, False

    def update(self, loss: float) -> bool:
        """Take the next loss; whether the stream has exploded, now or before."""
        self.above = self.above + 1 if loss > self.factor * max(self.minimum, self.floor) else 0
        self.exploded |= not math.isfinite(loss) or self.above >= self.patience
        if loss < self.minimum:
            self.minimum = loss
        return self.exploded


@checked
def explosion(losses: Sequence[float], **options) -> int | None:
    """The step (from 1) at which losses explode, by ``Explosion(**options)``; None if they do not."""
    watch = Explosion(**options)
    return next((step for step, loss in enumerate(losses, start=1) if watch.update(loss)), None)


@checked(but=("final_loss", "best"))  # neither need be finite
def trains(final_loss: float | None, exploded: bool, best: float, margin: float = 0.1) -> bool:
    """Whether a run trained: it did not explode, and ended within ``margin`` (nats) of the best arm's final loss.

    The second half is for stalls: at a large rate training mostly settles on a plateau, without a spike. ``best`` is
    infinite where every arm exploded.
    """
    require_number("margin", margin, least=0)
    if not isinstance(best, numbers.Real) or math.isnan(best):
        raise ValueError(f"best must be a number, infinity where every arm exploded, got {best!r}.")
    if final_loss is None:
        return False
    if not isinstance(final_loss, numbers.Real):
        raise ValueError(f"final_loss must be a number, or None for a run that did not finish, got {final_loss!r}.")
    return bool(not exploded and final_loss <= best + margin)


@checked
def recovery_time(losses: Sequence[float], step: int, *, window: int = 10, slack: float = 0.02) -> int | None:
    """Steps after ``step`` (from 1) until the loss is back: its mean over ``window`` <= 1 + slack times that before.

    At least ``window``, the time it takes to tell; None if it never comes back, or there is no whole window before.
    """
    window, step = require_positive_int("window", window), require_positive_int("step", step)
    require_number("slack", slack, least=0)
    before = losses[step - 1 - window : step - 1] if step > window else []
    if not len(before):
        return None
    level = (1 + slack) * sum(before) / window
    for end in range(step + window, len(losses) + 1):
        if sum(losses[end - window : end]) / window <= level:
            return end - step
    return None
