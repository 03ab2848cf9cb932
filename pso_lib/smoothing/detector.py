"""Whether the newest of a stream of numbers stands out from its own running average."""

import math

from pso_lib.errors import checked, require_choice, require_keys, require_positive_int

__all__ = ["Detector"]


class Detector:
    """Fires when a value g exceeds tau times the running average m of the values before it.

    m starts at the first value and then is alpha m + (1 - alpha) g, on steps that did not fire. The defaults are the
    paper's: tau = 2.5, alpha = 0.9, nothing in the first 50 steps, nothing in the 30 steps after a firing. A steady
    growth fires from (tau - 1)(1 - alpha) a step on: 15 % with these; slower ones never do.

    Ours, where the paper is silent: a non-finite value fires even during warm-up, but not during cooldown, and never
    enters m. An average of zero fires at nothing; the next value replaces it. Values during cooldown enter m.

    Args:
        tau: above 1 (below 1 if ``side`` is "below").
        alpha: in [0, 1): how much of the average stays.
        warmup: the first so many values cannot fire. Every value counts, also the non-finite.
        cooldown: nor can so many after one that fired.
        nonfinite: "fire", or "ignore", for automatic mixed precision, whose scaler overflows on purpose now and then.
        side: "above", or "below" to fire when a value falls under tau times its average.

    Feed it gradient norms, one a step: ``if detector.update(norm): ...``. It is a ``Trigger`` of the ``Guard``.
    """

    @checked
    def __init__(
        self,
        tau: float = 2.5,
        alpha: float = 0.9,
        *,
        warmup: int = 50,
        cooldown: int = 30,
        nonfinite: str = "fire",
        side: str = "above",
    ):
        require_choice("nonfinite", nonfinite, ("fire", "ignore"))
        require_choice("side", side, ("above", "below"))
        good = _is_number(tau) and (1 < tau < math.inf if side == "above" else 0 < tau < 1)
        if not good:
            allowed = "a finite number above 1" if side == "above" else "a number between 0 and 1"
            raise ValueError(f'tau must be {allowed} for side="{side}", got {tau!r}.')
        if not _is_number(alpha) or not 0 <= alpha < 1:
            raise ValueError(f"alpha must be a number from 0 up to, not including, 1, got {alpha!r}.")
        self.tau, self.alpha = tau, alpha
        self.warmup = require_positive_int("warmup", warmup, least=0)
        self.cooldown = require_positive_int("cooldown", cooldown, least=0)
        self.nonfinite, self.side = nonfinite, side
        self.average: float | None = None  # of the values so far; None before the first
        self.seen = 0  # values so far
        self.quiet = 0  # steps of cooldown to come

    def update(self, value: float, reading: float | None = None) -> bool:
        """Take the next value; whether it fires. ``reading`` is for triggers that look at more, and has no use here."""
        if not _is_number(value):
            raise ValueError(f"value must be one number a step, got {value!r}; tensor.item() makes one.")
        if value < 0:
            raise ValueError(f"a value below 0 cannot be compared with a multiple of an average, got {value!r}.")
        self.seen += 1
        may_fire = self.quiet == 0
        self.quiet = max(0, self.quiet - 1)
        if not math.isfinite(value):
            return self._fire() if may_fire and self.nonfinite == "fire" else False
        if may_fire and self.seen > self.warmup and self._stands_out(value):
            return self._fire()
        if not self.average:  # none yet, or zero: start here
            self.average = float(value)
        else:
            self.average = self.alpha * self.average + (1 - self.alpha) * value
        return False

    def measure(self, weights: dict) -> None:
        """A gradient norm is all it needs; see ``Trigger``."""
        return None

    def state_dict(self) -> dict:
        """The running state, in types that JSON knows; the arguments are not part of it."""
        return {"average": self.average, "seen": self.seen, "quiet": self.quiet}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a ``state_dict``. ``ValueError`` if it is not a detector's."""
        require_keys("the state of a Detector", state, self.state_dict())
        self.average, self.seen, self.quiet = state["average"], state["seen"], state["quiet"]

    def _stands_out(self, value: float) -> bool:
        if not self.average:
            return False
        return value > self.tau * self.average if self.side == "above" else value < self.tau * self.average

    def _fire(self) -> bool:
        self.quiet = self.cooldown
        return True


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
