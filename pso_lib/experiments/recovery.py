"""A run that is perturbed on purpose, and what brings it back.

From one step to another the learning rate is far too large; then it is what it was. Some recoveries come at the end of
the perturbation; others, guards and clipping, were there all the time.
"""

from collections.abc import Sequence
from copy import deepcopy

from torch import nn

from pso_lib.errors import require_choice
from pso_lib.nn.weights import chosen_weights
from pso_lib.smoothing import smooth_
from pso_lib.train.baselines import Stepper

__all__ = ["RECOVERIES", "Perturbed", "regained"]

SMOOTHED = ("clip", "log", "published", "shrink")
RECOVERIES = ("none", "lower", "moments", "checkpoint", "restart", *SMOOTHED, *(f"{name}+moments" for name in SMOOTHED))


class Perturbed:
    """A ``Stepper`` that perturbs and then applies a recovery.

    Args:
        perturbation: (first, last, factor): the rate is multiplied by ``factor`` in the steps from first to last.
        recovery: after the last: "none" (the rate alone is what it was); "lower": a tenth of it; "moments": the
            optimiser's state is reset; a smoothing of all weights, alone or "+moments"; "checkpoint": weights and
            optimiser are those before it, which costs the steps since; "restart": the weights are those of
            step 1 and the optimiser's state is reset.
        inner: a stepper that looks at every step, as it would alone.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer,
        *,
        perturbation: tuple[int, int, float],
        recovery: str = "none",
        inner: Stepper | None = None,
    ):
        require_choice("recovery", recovery, RECOVERIES)
        self.first, self.last, self.factor = perturbation
        if not 1 < self.first <= self.last or not self.factor > 1:
            raise ValueError(
                f"perturbation must be (first, last, factor), 1 < first <= last and factor > 1, got {perturbation!r}."
            )
        self.model, self.optimizer, self.recovery, self.inner = model, optimizer, recovery, inner
        self.interventions = getattr(inner, "interventions", [])
        self.steps, self._kept = 0, deepcopy(model.state_dict()) if recovery == "restart" else {}
        self._state: dict | None = None

    def step(self) -> bool:
        """Perturb, heal, or neither; whether to update is the inner stepper's decision."""
        self.steps += 1
        if self.steps == self.first:
            if self.recovery == "checkpoint":
                self._kept, self._state = deepcopy(self.model.state_dict()), deepcopy(self.optimizer.state_dict())
            self._rate(self.factor)
        if self.steps == self.last + 1:
            self._rate(1 / self.factor)
            if self._heal():
                return False  # this step's gradient was that of other weights
        return self.inner.step() if self.inner is not None else True

    def _rate(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    def _heal(self) -> bool:
        """Apply the recovery; whether the weights are others now."""
        if self.recovery == "lower":
            self._rate(0.1)
        if self.recovery in ("checkpoint", "restart"):
            rates = [group["lr"] for group in self.optimizer.param_groups]
            self.model.load_state_dict(self._kept)
            if self._state is not None:
                self.optimizer.load_state_dict(self._state)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        smoothing, _, moments = self.recovery.partition("+")
        if smoothing in SMOOTHED:
            for weight in chosen_weights(self.model).values():
                smooth_(weight, smoothing)
        if moments or self.recovery in ("moments", "restart"):
            self.optimizer.state.clear()
        return self.recovery not in ("none", "lower", "moments")


def regained(losses: Sequence[float], perturbation: tuple[int, int, float], *, window: int = 10, slack: float = 0.02):
    """Steps after the perturbation until the mean loss over ``window`` is at most 1 + slack times that before, or None.

    ``losses[i]`` is of step i + 1. At least ``window``, the time it takes to tell.
    """
    first, last, _ = perturbation
    before = losses[max(0, first - 1 - window) : first - 1]
    level = (1 + slack) * sum(before) / len(before)
    for end in range(last + window, len(losses) + 1):
        if sum(losses[end - window : end]) / window <= level:
            return end - last
    return None
