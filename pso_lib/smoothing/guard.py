"""The guard of a training loop, between the gradients and the update:

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
clipped ones. Under data parallelism every process sees the same gradients and so takes the same decisions. With an
optimiser that takes a closure (LBFGS), call it before ``optimizer.step(closure)``, not in the closure.
"""

import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pso_lib.analysis.singularity import require_rounding
from pso_lib.errors import (
    checked,
    require_choice,
    require_finite,
    require_keys,
    require_outside_optimizer,
    require_positive_int,
)
from pso_lib.finite import finite_or_none
from pso_lib.nn.init import seeded
from pso_lib.nn.weights import Matrix, Weights, as_matrix, chosen_matrices, require_ranks
from pso_lib.smoothing.detector import Detector
from pso_lib.smoothing.gradients import SAFE, careful_norm, dense, norm_on_device
from pso_lib.smoothing.smooth import FULL_UP_TO, METHODS, Smoothed, plan_smoothing, require_factor
from pso_lib.smoothing.triggers import Trigger

__all__ = ["ACTIONS", "Guard"]

ACTIONS = (*METHODS, "skip", "watch")


class Guard:
    """Judges each step's gradients, and on a trigger smooths weights, skips the update, or both.

    With a ``GradScaler`` call ``scaler.unscale_(optimizer)`` first; that, accumulation, clipping and closures are in
    ``help(pso_lib.smoothing.guard)``. A skipped update does not undo the forward pass: BatchNorm's running averages
    have taken the batch in.

    Args:
        model: the norm is over the gradients of its parameters that are not frozen at the time.
        method: what to do on a trigger: a method of ``smooth_`` ("clip", "log", "softplus", "softmax",
            "convolution", "published", "shrink"), "skip" (skip the update, leave the weights: a control), or
            "watch" (record only).
        trigger: when; by default ``Detector()``, the paper's. See ``pso_lib.smoothing.triggers`` for others.
        weights: which to smooth, as in ``chosen_weights``. Looked up anew when parameters are frozen, thawed, replaced
            or added; frozen ones are left alone. A parameter that stacks several matrices (query, key and value; the
            gates of an LSTM) is smoothed matrix by matrix.
        k: how many leading singular values: "floor" (the paper's text) or "ceil" of the stable rank, or a number.
        factor: of "published" and "shrink".
        skip_step: whether the update of a step that fired is skipped. The authors' published code does; the paper's
            text at hand does not say. An update with a non-finite gradient is always refused, also when nothing fired.
        moments: "keep", or "reset" the state that ``optimizer`` has of the parameters that changed.
        optimizer: the one whose state is reset; with moments="keep" none is wanted.
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
        weights: the matrices that would be smoothed now, by name.
        seconds: time spent in interventions. Watching costs one norm per tensor and one transfer a step.

    Raises:
        TypeError: no ``nn.Module``, no trigger, no function where one is due.
        ValueError: any other argument that cannot work, and a number k that some weight has no k singular values for.
    """

    @checked
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
        k = require_rounding(k)
        require_factor(factor)
        full_up_to = require_positive_int("full_up_to", full_up_to)
        seed = require_positive_int("seed", seed, least=0)
        _check_types(model, trigger, optimizer, on_trigger)
        _check_together(method, skip_step, moments, optimizer)
        self.model, self.method, self.k, self.factor = model, method, k, factor
        self.skip_step, self.moments, self.optimizer, self.norm = skip_step, moments, optimizer, norm
        self.full_up_to, self.on_trigger = full_up_to, on_trigger
        self.trigger = Detector() if trigger is None else trigger
        self._choice: Weights = weights
        if isinstance(weights, Iterable) and not isinstance(weights, str):
            self._choice = list(weights)  # it is asked more than once
        self._look_up()
        self._rehearse(seed)
        self.interventions: list[dict] = []
        self.steps, self.refused, self.seconds = 0, 0, 0.0
        self._generator = seeded(seed)

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: matrix.tensor() for name, matrix in self._matrices.items()}

    def step(self) -> bool:
        """Judge the gradients, intervene if need be; whether the optimiser may step.

        Raises:
            ValueError: a weight to be smoothed is not finite, or has lost its k-th singular value, or a chosen name is
                gone from the model; nothing has been touched then.
            RuntimeError: there is no gradient, or an optimiser's closure is running.
        """
        require_outside_optimizer("guard.step()")
        if self._now() != self._seen:
            self._look_up()
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
            "norm": finite_or_none(norm),
            "average": finite_or_none(self.trigger.average),
            "reading": finite_or_none(reading),
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
        """Go on from a ``state_dict``; the arguments are those of this guard.

        Raises:
            ValueError: it is no guard's, or that of a guard with another kind of trigger; nothing has changed then.
        """
        require_keys("the state of a Guard", state, self.state_dict())
        self.trigger.load_state_dict(state["trigger"])
        self.interventions = [dict(record) for record in state["interventions"]]
        self.steps, self.refused, self.seconds = state["steps"], state["refused"], state["seconds"]
        self._generator.set_state(state["generator"].cpu())

    def _now(self) -> list[tuple]:
        """What there is to choose from: names, identities, and who is frozen."""
        return [(name, id(p), p.requires_grad) for name, p in self.model.named_parameters()]

    def _look_up(self) -> None:
        """Find the weights to smooth, among the parameters as they are now."""
        needed = self.method not in ("skip", "watch") and not hasattr(self, "_matrices")  # later, all may be frozen
        chosen = chosen_matrices(self.model, self._choice, empty=not needed)
        found = {name: matrix for name, matrix in chosen.items() if matrix.parameter.requires_grad}
        if needed and not found:
            raise ValueError(f"weights chose frozen ones only ({', '.join(list(chosen)[:5])}); thaw or name others.")
        if self.moments == "reset":
            _check_trained(self.optimizer, found)
        self._matrices: dict[str, Matrix] = found
        self._parameters = list(self.model.parameters())  # held, so that no identity is given out twice
        self._seen = self._now()

    def _rehearse(self, seed: int) -> None:
        """Whether an intervention would work on the weights as they are; before training, not at the first alarm."""
        if check := getattr(self.trigger, "check", None):
            check(self.weights)
        if not isinstance(self.k, str) and self.method not in ("published", "shrink", "skip", "watch"):
            require_ranks(self.k, self.weights)
            self._plan(seeded(seed))

    @torch.no_grad()
    def _observe(self) -> tuple[float, float | None]:
        """The gradient norm and the trigger's reading, in one transfer."""
        # a frozen parameter may have kept the gradient of its last step
        gradients = [dense(p.grad) for p in self._parameters if p.requires_grad and p.grad is not None]
        if not gradients:
            raise RuntimeError(
                "no parameter has a gradient: guard.step() goes between loss.backward() and zero_grad()."
            )
        found = norm_on_device(gradients, self.norm)
        reading = self.trigger.measure(self.weights)
        norm, *readings = torch.stack([found] if reading is None else [found, reading.to(found)]).tolist()
        if not SAFE < norm < math.inf:  # squares may have left the range of their type
            norm = careful_norm(gradients, self.norm)
        return norm, readings[0] if readings else None

    def _smooth(self) -> list[dict]:
        """Smooth all chosen weights, or none of them if one cannot be."""
        if self.method in ("skip", "watch"):
            return []
        plans = self._plan(self._generator)
        done = set()  # a weight that is another's transpose in the same memory is smoothed with it
        for name, plan in plans.items():
            matrix = self._matrices[name]
            memory = matrix.tensor().detach()
            place = (memory.untyped_storage().data_ptr(), memory.storage_offset(), memory.numel())
            if place not in done:
                plan.apply_(matrix.tensor())
                done.add(place)
            if plan.changed and self.moments == "reset" and self.optimizer is not None:
                _forget(self.optimizer, matrix.parameter)
        return [
            {
                "name": name,
                "k": plan.k,
                "stable_rank_before": finite_or_none(plan.stable_rank_before),
                "stable_rank_after": finite_or_none(plan.stable_rank_after),
            }
            for name, plan in plans.items()
            if plan.changed
        ]

    def _plan(self, generator: torch.Generator) -> dict[str, Smoothed]:
        plans = {}
        for name, W in self.weights.items():
            try:
                plans[name] = plan_smoothing(
                    W, self.method, k=self.k, factor=self.factor, full_up_to=self.full_up_to, generator=generator
                )
            except ValueError as error:
                require_finite(f"weight {name!r}", as_matrix(W.detach()))
                raise ValueError(f"weight {name!r} cannot be smoothed: {error}") from error
        return plans


def _forget(optimizer: torch.optim.Optimizer, W: nn.Parameter) -> None:
    """Reset the optimiser's state of one weight to that of its first step."""
    if isinstance(optimizer, torch.optim.Adagrad):  # alone in making its state when it is built
        state = optimizer.state[W]
        group = next(g for g in optimizer.param_groups if any(p is W for p in g["params"]))
        state["sum"].fill_(group["initial_accumulator_value"])
        state["step"].zero_()
    else:
        optimizer.state.pop(W, None)


def _check_types(model, trigger, optimizer, on_trigger) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {model!r}.")
    methods = ("measure", "update", "state_dict", "load_state_dict")
    if trigger is not None and not all(callable(getattr(trigger, name, None)) for name in methods):
        raise TypeError(
            f"trigger={trigger!r} is no trigger; give Detector(), another of pso_lib.smoothing, or an object with the "
            f"methods {', '.join(methods)}. The gradient norm to watch is chosen by norm=."
        )
    if isinstance(trigger, type):
        raise TypeError(f"trigger={trigger.__name__} is a class; make one: {trigger.__name__}().")
    if optimizer is not None and not (hasattr(optimizer, "param_groups") and hasattr(optimizer, "state")):
        raise TypeError(f"optimizer must be a torch optimiser, got {optimizer!r}.")
    if on_trigger is not None and not callable(on_trigger):
        raise TypeError(f"on_trigger must be a function of one record, or None, got {on_trigger!r}.")


def _check_together(method, skip_step, moments, optimizer) -> None:
    if not isinstance(skip_step, bool):
        raise ValueError(f"skip_step must be True or False, got {skip_step!r}.")
    if method == "skip" and not skip_step:
        raise ValueError('method="skip" with skip_step=False does nothing; use method="watch" to record only.')
    if moments == "reset" and optimizer is None:
        raise ValueError('moments="reset" needs optimizer=, whose state is to be reset.')
    if moments == "keep" and optimizer is not None:
        raise ValueError('optimizer is for moments="reset" alone, which resets its state; give both, or leave it out.')


def _check_trained(optimizer, matrices: dict[str, Matrix]) -> None:
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, matrix in matrices.items():
        if id(matrix.parameter) not in known:
            raise ValueError(f"the optimizer does not train weight {name!r}; choose weights= among those it does.")
