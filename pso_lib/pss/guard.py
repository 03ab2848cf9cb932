"""The guard of a training loop: between the gradients and the update.

    guard = Guard(model, method="log")
    for x, y in batches:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        if guard.step():
            optimizer.step()
        scheduler.step()             # every step: a rate follows time, also when an update was skipped

With mixed precision, gradients must be unscaled before they are judged, and the scaler told of skipped steps too:

    guard = Guard(model, trigger=Detector(nonfinite="ignore"))  # overflows are the scaler's business
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    if guard.step():
        scaler.step(optimizer)
    scaler.update()

With gradient accumulation, call it once an update, when all gradients are in. Clip gradients after it, or it judges
clipped ones. Under data parallelism every process sees the same gradients and so takes the same decisions.
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pso_lib.errors import require_choice, require_finite
from pso_lib.pss.detector import Detector
from pso_lib.pss.smoothing import FULL_UP_TO, METHODS, plan_smoothing, require_factor
from pso_lib.pss.triggers import Trigger
from pso_lib.singularity import Weights, as_matrix, chosen_weights, require_rounding

__all__ = ["ACTIONS", "Guard"]

ACTIONS = (*METHODS, "skip", "watch")


class Guard:
    """Judges each step's gradients, and on a trigger smooths weights, skips the update, or both.

    Args:
        model: the norm is over all its gradients.
        method: what to do on a trigger: a method of ``pso_lib.pss.smooth_`` ("clip", "log", "softplus", "softmax",
            "convolution", "published", "shrink"), "skip" (skip the update, leave the weights: a control), or
            "watch" (record only).
        trigger: when; by default ``Detector()``, the paper's. See ``pso_lib.pss.triggers`` for others.
        weights: which to smooth, as in ``chosen_weights``.
        k: how many leading singular values: "floor" (the paper's text) or "ceil" of the stable rank, or a number.
        factor: of "published" and "shrink".
        skip_step: whether the update of a step that fired is skipped. The authors' published code does; the paper's
            text at hand does not say. An update with a non-finite gradient is always refused, also when nothing fired.
        moments: "keep", or "reset" the optimiser's state of the weights that changed; needs ``optimizer``.
        norm: "sum" of the norms of the tensors (the paper), or "global", their root of summed squares.
        full_up_to: smaller side up to which the SVD is a full one; see ``smooth_``.
        seed: of the randomised SVD.
        on_trigger: called with the record of each intervention, to do more: halve a rate, say.

    Attributes:
        interventions: one dictionary a trigger, in types that JSON knows: step (from 1), norm, average (what the
            trigger compared with), reading (its own, if it has one), method, skipped, and weights: those that
            changed, each with name, k, stable_rank_before, stable_rank_after (None if not computed: "shrink"
            keeps it). Non-finite numbers are None.
        refused: steps with a non-finite gradient at which nothing fired.
        seconds: time spent in interventions. Watching costs one norm per tensor and one transfer a step.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        method: str = "clip",
        trigger: Trigger | None = None,
        weights: Weights = None,
        k: int | str = "floor",
        factor: float = 0.25,
        skip_step: bool = True,
        moments: str = "keep",
        optimizer: torch.optim.Optimizer | None = None,
        norm: str = "sum",
        full_up_to: int = FULL_UP_TO,
        seed: int = 0,
        on_trigger: Callable[[dict], None] | None = None,
    ):
        require_choice("method", method, ACTIONS)
        require_choice("moments", moments, ("keep", "reset"))
        require_choice("norm", norm, ("sum", "global"))
        require_rounding(k)
        require_factor(factor)
        self.weights = chosen_weights(model, weights)
        _check_together(method, skip_step, moments, optimizer, k, self.weights)
        self.model, self.method, self.k, self.factor = model, method, k, factor
        self.skip_step, self.moments, self.optimizer, self.norm = skip_step, moments, optimizer, norm
        self.full_up_to, self.on_trigger = full_up_to, on_trigger
        self.trigger = Detector() if trigger is None else trigger
        self.interventions: list[dict] = []
        self.steps, self.refused, self.seconds = 0, 0, 0.0
        self._parameters = list(model.parameters())
        self._generator = torch.Generator().manual_seed(seed)

    def step(self) -> bool:
        """Judge the gradients, intervene if need be; whether the optimiser may step.

        Raises:
            ValueError: a weight to be smoothed is not finite, or has no k singular values; none has been touched then.
            RuntimeError: there is no gradient.
        """
        self.steps += 1
        norm, reading = self._observe()
        fired = self.trigger.update(norm, reading)
        finite = math.isfinite(norm)
        if not fired:
            self.refused += not finite
            return finite
        started = time.perf_counter()
        smoothed = self._smooth()
        skipped = not finite or (self.skip_step and self.method != "watch")
        record = {
            "step": self.steps,
            "norm": _number(norm),
            "average": _number(self.trigger.average),
            "reading": _number(reading),
            "method": self.method,
            "skipped": skipped,
            "weights": smoothed,
        }
        self.interventions.append(record)
        self.seconds += time.perf_counter() - started
        if self.on_trigger is not None:
            self.on_trigger(record)
        return not skipped

    def state_dict(self) -> dict:
        """Everything needed to go on: the trigger's state, the records, the generator; for ``torch.save``."""
        return {
            "trigger": self.trigger.state_dict(),
            "interventions": [dict(record) for record in self.interventions],
            "steps": self.steps,
            "refused": self.refused,
            "seconds": self.seconds,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from a ``state_dict``; the arguments are those of this guard."""
        self.trigger.load_state_dict(state["trigger"])
        self.interventions = [dict(record) for record in state["interventions"]]
        self.steps, self.refused, self.seconds = state["steps"], state["refused"], state["seconds"]
        self._generator.set_state(state["generator"].cpu())

    @torch.no_grad()
    def _observe(self) -> tuple[float, float | None]:
        """The gradient norm and the trigger's reading, in one transfer."""
        gradients = [_dense(p.grad) for p in self._parameters if p.grad is not None]
        if not gradients:
            raise RuntimeError(
                "no parameter has a gradient: guard.step() goes between loss.backward() and zero_grad()."
            )
        home = gradients[0].device
        dtype = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
        norms = torch.stack([n.to(home, dtype) for n in torch._foreach_norm(gradients)])
        norm = norms.sum() if self.norm == "sum" else norms.norm()
        reading = self.trigger.measure(self.weights)
        if reading is None:
            return norm.item(), None
        return tuple(torch.stack([norm, reading.to(home, dtype)]).tolist())

    def _smooth(self) -> list[dict]:
        """Smooth all chosen weights, or none of them if one cannot be."""
        if self.method in ("skip", "watch"):
            return []
        plans = {}
        for name, W in self.weights.items():
            try:
                plans[name] = plan_smoothing(
                    W, self.method, k=self.k, factor=self.factor, full_up_to=self.full_up_to, generator=self._generator
                )
            except ValueError as error:
                require_finite(f"weight {name!r}", as_matrix(W.detach()))
                raise ValueError(f"weight {name!r} cannot be smoothed: {error}") from error
        for name, plan in plans.items():
            plan.apply_(self.weights[name])
            if plan.changed and self.moments == "reset":
                _forget(self.optimizer, self.weights[name])
        return [
            {
                "name": name,
                "k": plan.k,
                "stable_rank_before": _number(plan.stable_rank_before),
                "stable_rank_after": _number(plan.stable_rank_after),
            }
            for name, plan in plans.items()
            if plan.changed
        ]


def _dense(gradient: Tensor) -> Tensor:
    """A gradient as a tensor whose norm does not overflow by its type: sparse ones by their values."""
    if gradient.is_sparse:
        gradient = gradient.coalesce().values()
    return gradient.float() if gradient.dtype == torch.float16 else gradient


def _forget(optimizer: torch.optim.Optimizer, W: nn.Parameter) -> None:
    """Reset the optimiser's state of one weight to that of its first step."""
    if isinstance(optimizer, torch.optim.Adagrad):  # alone in making its state when it is built
        state = optimizer.state[W]
        group = next(g for g in optimizer.param_groups if any(p is W for p in g["params"]))
        state["sum"].fill_(group["initial_accumulator_value"])
        state["step"].zero_()
    else:
        optimizer.state.pop(W, None)


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _check_together(method, skip_step, moments, optimizer, k, weights: dict[str, nn.Parameter]) -> None:
    if not isinstance(skip_step, bool):
        raise ValueError(f"skip_step must be True or False, got {skip_step!r}.")
    if method == "skip" and not skip_step:
        raise ValueError('method="skip" with skip_step=False does nothing; use method="watch" to record only.')
    if moments == "reset":
        if optimizer is None:
            raise ValueError('moments="reset" needs optimizer=, whose state is to be reset.')
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, W in weights.items():
            if id(W) not in known:
                raise ValueError(f"the optimizer does not train weight {name!r}; choose weights= among those it does.")
    if not isinstance(k, str) and method not in ("published", "shrink", "skip", "watch"):
        for name, W in weights.items():
            rank = min(W.flatten(1).shape)
            if k > rank:
                raise ValueError(
                    f"k={k}, but weight {name!r} has {rank} singular values; give a smaller k, or choose other weights."
                )
