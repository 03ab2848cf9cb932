"""What the guard watches. The gradient norm is the paper's (``Detector``); the others here are ours.

A trigger is anything with ``measure``, ``update``, ``average``, ``state_dict`` and ``load_state_dict``. Once a step the
guard calls ``measure(weights)``, which may put one number on the device, and ``update(norm, reading)`` with both
numbers on the host, fetched together in one synchronisation. One that cannot read every weight may also have
``check(weights)``, which raises ``ValueError`` then; the guard calls it when it is made.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor

from pso_lib.analysis.singularity import DENOMINATORS, require_rounding, stable_jacobian_energy
from pso_lib.errors import UndefinedError, checked, require_choice, require_keys, require_positive_int
from pso_lib.nn.init import seeded
from pso_lib.nn.weights import as_matrix, require_ranks
from pso_lib.smoothing.detector import Detector
from pso_lib.smoothing.randomised import top_singular_value

__all__ = ["AtSteps", "EnergyTrigger", "StableRankTrigger", "Trigger"]


class Trigger(Protocol):
    """The interface."""

    @property
    def average(self) -> float | None:
        """What the last reading was compared with."""

    def measure(self, weights: dict[str, Tensor]) -> Tensor | None:
        """A number on the device, or None if there is nothing to measure at this step. Gradients are in ``grad``."""

    def update(self, norm: float, reading: float | None = None) -> bool:
        """Whether to intervene, given the gradient norm and, on the host, what ``measure`` gave."""

    def state_dict(self) -> dict:
        """The running state."""

    def load_state_dict(self, state: dict) -> None:
        """Go on from it."""


class _Reading:
    """A trigger that feeds its own reading to a detector, every so many steps; a non-finite norm goes in at once."""

    def __init__(self, detector: Detector, every: int):
        self.detector, self.every, self.calls = detector, require_positive_int("every", every), 0

    @property
    def average(self) -> float | None:
        return self.detector.average

    def measure(self, weights: dict[str, Tensor]) -> Tensor | None:
        due = self.calls % self.every == 0
        self.calls += 1
        with torch.no_grad():
            return self._read(weights) if due else None

    def update(self, norm: float, reading: float | None = None) -> bool:
        if norm - norm != 0:  # NaN or infinite
            return self.detector.update(norm)
        return False if reading is None else self.detector.update(reading)

    def state_dict(self) -> dict:
        return {"calls": self.calls, "detector": self.detector.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        require_keys(f"the state of a {type(self).__name__}", state, self.state_dict())
        self.detector.load_state_dict(state["detector"])
        self.calls = state["calls"]

    def _read(self, weights: dict[str, Tensor]) -> Tensor | None:
        raise NotImplementedError


class StableRankTrigger(_Reading):
    """Fires when the mean stable rank of the weights falls below a share of its own running average. Ours.

    For training that stalls: spectra collapse without one spike of the gradient norm. A reading costs two products
    of each weight with a vector per iteration of the power method, which goes on from where it was at the last reading.

    Args:
        share: fire below this share of the average.
        alpha: of the average, per reading; slow, because the fall is.
        every: steps between two readings. warmup and cooldown count readings: 5 and 3 at every=10 are 50 and 30 steps.
        iterations: of the power method, per reading; the first takes ten times as many.
        seed: of its first directions.
    """

    @checked
    def __init__(
        self, share: float = 0.8, alpha: float = 0.95, *, every: int = 10, warmup: int = 5, cooldown: int = 3,
        iterations: int = 2, seed: int = 0,
    ):  # fmt: skip
        if not 0 < share < 1:
            raise ValueError(f"share must be a number between 0 and 1, got {share!r}.")
        super().__init__(Detector(share, alpha, warmup=warmup, cooldown=cooldown, side="below"), every)
        self.iterations = require_positive_int("iterations", iterations)
        self.seed = require_positive_int("seed", seed, least=0)
        self._directions: dict[str, Tensor] = {}

    def _read(self, weights: dict[str, Tensor]) -> Tensor | None:
        ranks = []
        for name, W in weights.items():
            M = as_matrix(W.detach())
            iterations = self.iterations
            if name not in self._directions or len(self._directions[name]) != M.shape[1]:  # new, or replaced
                g = seeded(self.seed)
                start = torch.randn(M.shape[1], generator=g, dtype=M.dtype, device=g.device)
                self._directions[name] = start.to(M.device)
                iterations *= 10
            top, v = top_singular_value(M, self._directions[name].to(M), iterations)
            self._directions[name] = v
            squares = M.square().sum()
            ranks.append(torch.where(squares == 0, 1, squares / top.square()))  # a zero weight counts as 1
        return torch.stack([rank.to(ranks[0]) for rank in ranks]).mean() if ranks else None

    def state_dict(self) -> dict:
        return super().state_dict() | {"directions": {name: v.clone() for name, v in self._directions.items()}}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self._directions = {name: v.clone() for name, v in state["directions"].items()}


class EnergyTrigger(_Reading):
    """Fires when the mean stable Jacobian energy of the weights exceeds tau times its own running average. Ours.

    A reading costs one SVD of each weight, and synchronises: about as much as a smoothing. ``k`` and ``denominator`` as
    in ``stable_jacobian_energy``; weights without a finite gradient are left out, and readings without any. The energy
    is at most 1, so an average above 1 / tau can never fire: "gradient" as the denominator leaves more room.
    """

    @checked
    def __init__(
        self, tau: float = 1.5, alpha: float = 0.9, *, every: int = 50, warmup: int = 2, cooldown: int = 1,
        k: int | str = "floor", denominator: str = "gradient",
    ):  # fmt: skip
        super().__init__(Detector(tau, alpha, warmup=warmup, cooldown=cooldown), every)
        k = require_rounding(k)
        require_choice("denominator", denominator, DENOMINATORS)
        self.k, self.denominator = k, denominator

    def check(self, weights: dict[str, Tensor]) -> None:
        """Raise ``ValueError`` if k is a number and a weight has fewer singular values."""
        require_ranks(self.k, weights)

    def _read(self, weights: dict[str, Tensor]) -> Tensor | None:
        energies = []
        for W in weights.values():
            if W.grad is not None:
                M, G = as_matrix(W.detach()), as_matrix(W.grad)
                with suppress(UndefinedError):  # zero or non-finite: no share to speak of
                    energies.append(stable_jacobian_energy(M, G, k=self.k, denominator=self.denominator))
        return torch.stack([energy.to(energies[0]) for energy in energies]).mean() if energies else None


class AtSteps:
    """Fires at given steps, whatever happens: the control that separates *when* from *what*. Ours.

    Steps count from 1, the first call of the guard. ``range(100, 1000, 100)`` is periodic; for random times, or for
    those at which another run fired, pass the list.
    """

    average: float | None = None

    @checked
    def __init__(self, steps: Iterable[int]):
        if not isinstance(steps, Iterable):
            raise ValueError(f"steps must be integers of at least 1, in a list or range, got {steps!r}.")
        self.steps, self.calls = frozenset(require_positive_int("steps", step) for step in steps), 0

    def measure(self, weights: dict[str, Tensor]) -> None:
        return None

    def update(self, norm: float, reading: float | None = None) -> bool:
        self.calls += 1
        return self.calls in self.steps

    def state_dict(self) -> dict:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict) -> None:
        require_keys("the state of AtSteps", state, self.state_dict())
        self.calls = state["calls"]
