"""A run that is injured on purpose, and what brings it back.

From one step to another the learning rate is far too large; then it is what it was. Some remedies come at the end of
the injury; others, guards and clipping, were there all the time.
"""

from collections.abc import Sequence
from copy import deepcopy

from torch import nn

from pso_lib.errors import require_choice
from pso_lib.peers import Stepper
from pso_lib.pss import smooth_
from pso_lib.singularity import chosen_weights

__all__ = ["REMEDIES", "Rescue", "regained"]

SMOOTHED = ("clip", "log", "published", "shrink")
REMEDIES = ("none", "lower", "moments", "checkpoint", "restart", *SMOOTHED, *(f"{name}+moments" for name in SMOOTHED))


class Rescue:
    """A ``Stepper`` that injures and then applies a remedy.

    Args:
        injury: (first, last, factor): the rate is multiplied by ``factor`` in the steps from first to last.
        remedy: after the last: "none" (the rate alone is what it was); "lower": a tenth of it; "moments": the
            optimiser's state is reset; a smoothing of all weights, alone or "+moments"; "checkpoint": weights and
            optimiser are those before the injury, which costs the steps since; "restart": the weights are those of
            step 1 and the optimiser's state is reset.
        inner: a stepper that looks at every step, as it would alone.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer,
        *,
        injury: tuple[int, int, float],
        remedy: str = "none",
        inner: Stepper | None = None,
    ):
        require_choice("remedy", remedy, REMEDIES)
        self.first, self.last, self.factor = injury
        if not 1 < self.first <= self.last or not self.factor > 1:
            raise ValueError(f"injury must be (first, last, factor), 1 < first <= last and factor > 1, got {injury!r}.")
        self.model, self.optimizer, self.remedy, self.inner = model, optimizer, remedy, inner
        self.interventions = getattr(inner, "interventions", [])
        self.steps, self._kept = 0, deepcopy(model.state_dict()) if remedy == "restart" else None
        self._state = None

    def step(self) -> bool:
        """Injure, heal, or neither; whether to update is the inner stepper's decision."""
        self.steps += 1
        if self.steps == self.first:
            if self.remedy == "checkpoint":
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
        """Apply the remedy; whether the weights are others now."""
        if self.remedy == "lower":
            self._rate(0.1)
        if self.remedy in ("checkpoint", "restart"):
            rates = [group["lr"] for group in self.optimizer.param_groups]
            self.model.load_state_dict(self._kept)
            if self._state is not None:
                self.optimizer.load_state_dict(self._state)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        smoothing, _, moments = self.remedy.partition("+")
        if smoothing in SMOOTHED:
            for weight in chosen_weights(self.model).values():
                smooth_(weight, smoothing)
        if moments or self.remedy in ("moments", "restart"):
            self.optimizer.state.clear()
        return self.remedy not in ("none", "lower", "moments")


def regained(losses: Sequence[float], injury: tuple[int, int, float], *, window: int = 10, slack: float = 0.02):
    """Steps after the injury until the mean loss over ``window`` is at most 1 + slack times that before it, or None.

    ``losses[i]`` is of step i + 1. At least ``window``, the time it takes to tell.
    """
    first, last, _ = injury
    before = losses[max(0, first - 1 - window) : first - 1]
    level = (1 + slack) * sum(before) / len(before)
    for end in range(last + window, len(losses) + 1):
        if sum(losses[end - window : end]) / window <= level:
            return end - last
    return None
