"""Follow how singular a model becomes while it trains, at a cost that is measured and stated.

recorder = Recorder(model, ["stable_rank", "sje"], every=50)
...
loss.backward()
recorder.step()      # looks every 50th call, the first included; between backward and the optimiser's step
optimizer.step()
...
Path("run.json").write_text(recorder.to_json())
"""

import inspect
import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import torch
from torch import Tensor, nn

from pso_lib.analysis.singularity import (
    DENOMINATORS,
    ntk_top_eigenvalue,
    require_rounding,
    stable_jacobian_energy,
    token_similarity,
)
from pso_lib.analysis.spectrum import singular_values, spectrum_stable_rank
from pso_lib.analysis.transforms import uncompiled
from pso_lib.errors import (
    UndefinedError,
    checked,
    nearest,
    require_choice,
    require_keys,
    require_outside_optimizer,
    require_positive_int,
)
from pso_lib.finite import finite_or_none
from pso_lib.modes import evaluating
from pso_lib.nn.weights import COMPILED, Matrix, Weights, as_matrix, chosen_matrices, chosen_weights, require_ranks

__all__ = ["QUANTITIES", "Recorder"]

OF_WEIGHTS = ("stable_rank", "top_singular_value", "sje", "gradient_norm")
OF_PROBE = ("ntk", "token_similarity")
QUANTITIES = OF_WEIGHTS + OF_PROBE


class Recorder:
    """Measures chosen quantities of chosen weights every so many steps.

    Call ``step`` after ``loss.backward()``; with a ``GradScaler`` after ``scaler.unscale_(optimizer)``, or the norms of
    gradients are those of scaled ones.

    Args:
        quantities: names in ``QUANTITIES``. "stable_rank", "top_singular_value", "gradient_norm" and "sje" (stable
            Jacobian energy) are of each weight; "ntk" (largest eigenvalue of ``ntk_gram``) and "token_similarity"
            (of each module in ``tokens``, averaged over the examples) are of the model on ``probe``.
        weights: as in ``chosen_weights``; a parameter that stacks several matrices is taken matrix by matrix. They are
            found again by name at each look.
        every: look at every so many calls of ``step``.
        k, denominator: those of ``stable_jacobian_energy``.
        probe: (x, y), the same examples each time, on the model's device, for a model of one input.
        loss: for "ntk", as in ``ntk_gram``.
        tokens: names of modules whose output is (N, T, d), or a tuple that starts with it; N examples of T >= 2 tokens.

    What a look costs: for each weight an SVD without vectors ("stable_rank", "top_singular_value"), one with ("sje");
    per-example gradients of the probe for "ntk"; one forward pass for "token_similarity". ``seconds`` adds up what was
    spent, and is written to the JSON. Nothing is hooked between looks and no random number is drawn, so training runs
    as it would.

    A quantity that is not defined (a zero weight or gradient, non-finite values, the gradient of a frozen weight) is
    None.

    Raises:
        ValueError: an argument that cannot work. At a look: a weight is gone from the model; a module in ``tokens``
            does not give (N, T, d), or does not run.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        quantities: Iterable[str] = ("stable_rank",),
        *,
        weights: Weights = None,
        every: int = 50,
        k: int | str = "floor",
        denominator: str = "pairs",
        probe: tuple[Tensor, Tensor] | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        tokens: Iterable[str] = (),
    ):
        self.quantities = [quantities] if isinstance(quantities, str) else list(quantities)
        for quantity in self.quantities:
            require_choice("quantities", quantity, QUANTITIES)
        every = require_positive_int("every", every)
        k = require_rounding(k)
        require_choice("denominator", denominator, DENOMINATORS)
        self.model, self.every, self.k, self.denominator = model, every, k, denominator
        self.probe, self.loss = probe, loss
        self.tokens = [str(name).replace(COMPILED, "") for name in ([tokens] if isinstance(tokens, str) else tokens)]
        chosen = chosen_weights(model, weights) if set(self.quantities) - {"token_similarity"} else {}
        self._chosen = frozenset(chosen)
        self._matrices = list(self._now())
        if "sje" in self.quantities:
            require_ranks(k, {name: matrix.tensor() for name, matrix in self._now().items()})
        self._check_probe()
        self.calls, self.seconds = 0, 0.0
        self.steps: list[int] = []
        self.values: dict[str, dict[str, list[float | None]]] = {
            quantity: {name: [] for name in self._names(quantity)} for quantity in self.quantities
        }

    def step(self) -> bool:
        """Count one step, and look if it is due. To be called after the gradients are there and before the update.

        Returns whether it looked. Steps are counted from 0: the first call sees the model as it was initialised.
        Raises ``RuntimeError`` in the closure of an optimiser, which runs it more than once a step, and where there is
        no gradient to look at.
        """
        require_outside_optimizer("recorder.step()")
        if self.calls % self.every == 0 and {"sje", "gradient_norm"} & set(self.quantities):
            if all(p.grad is None for p in self.model.parameters()):
                raise RuntimeError(
                    "no parameter has a gradient: recorder.step() goes between loss.backward() and zero_grad()."
                )
        step, self.calls = self.calls, self.calls + 1
        if step % self.every:
            return False
        self.look(step)
        return True

    def look(self, step: int) -> None:
        """Measure now, and record it as ``step``."""
        started = time.perf_counter()
        of_weights = [quantity for quantity in self.quantities if quantity in OF_WEIGHTS]
        found = {name: self._of_weight(matrix, of_weights) for name, matrix in self._now().items()}
        for quantity in of_weights:
            for name, values in self.values[quantity].items():
                values.append(found[name][quantity])
        if "ntk" in self.values:
            self.values["ntk"]["model"].append(self._ntk())
        if "token_similarity" in self.values:
            for name, value in self._similarities().items():
                self.values["token_similarity"][name].append(value)
        self.steps.append(step)
        self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict:
        """Everything recorded, in types that JSON knows."""
        return {
            "every": self.every,
            "k": self.k,
            "denominator": self.denominator,
            "calls": self.calls,
            "seconds": round(self.seconds, 3),
            "steps": list(self.steps),
            "values": {q: {name: list(v) for name, v in of.items()} for q, of in self.values.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where a record ended. Raises ``ValueError`` unless quantities, weights and choices are the same."""
        mine = self.state_dict()
        require_keys("the record", state, mine)
        for key in ("every", "k", "denominator"):
            if state[key] != mine[key]:
                raise ValueError(f"the record was made with {key}={state[key]!r}, this recorder has {mine[key]!r}.")
        pairs: list[tuple[str, dict, dict]] = [("quantities", state["values"], self.values)]
        pairs += [(f"entries of {q!r}", state["values"].get(q, {}), of) for q, of in self.values.items()]
        for what, old, new in pairs:
            if set(old) != set(new):
                raise ValueError(f"the record has the {what} {sorted(old)}, this recorder {sorted(new)}.")
        self.calls, self.seconds, self.steps = state["calls"], state["seconds"], list(state["steps"])
        self.values = {q: {name: list(v) for name, v in of.items()} for q, of in state["values"].items()}

    def to_json(self) -> str:
        """The record as JSON, values to 6 digits."""
        state = self.state_dict()
        state["values"] = {
            q: {name: [None if v is None else float(f"{v:.6g}") for v in values] for name, values in of.items()}
            for q, of in state["values"].items()
        }
        return json.dumps(state, allow_nan=False)

    def from_json(self, text: str) -> None:
        """Restore what ``to_json`` wrote; see ``load_state_dict``."""
        self.load_state_dict(json.loads(text))

    def _now(self) -> dict[str, Matrix]:
        """The matrices as they are: a parameter may have been replaced by another of its name."""
        gone = sorted(self._chosen - {name for name, _ in self.model.named_parameters()})
        if gone:
            raise ValueError(f"weights: {gone[0]!r} is gone from the model since the recorder was made; make another.")
        return chosen_matrices(self.model, lambda name, _: name in self._chosen, empty=True)

    def _modules(self) -> dict[str, nn.Module]:
        """By the names they have uncompiled, as the matrices."""
        return {name.replace(COMPILED, ""): module for name, module in self.model.named_modules()}

    def _names(self, quantity: str) -> list[str]:
        if quantity in OF_WEIGHTS:
            return list(self._matrices)
        return ["model"] if quantity == "ntk" else self.tokens

    def _of_weight(self, matrix: Matrix, wanted: list[str]) -> dict[str, float | None]:
        values: dict[str, float | None] = dict.fromkeys(wanted)
        W = matrix.tensor()
        live = matrix.parameter.requires_grad  # a frozen one may have kept its last gradient
        G = as_matrix(W.grad.detach()) if live and W.grad is not None else None
        if G is not None and "gradient_norm" in wanted:
            values["gradient_norm"] = finite_or_none(G.norm())
        M = as_matrix(W.detach())
        if not torch.isfinite(M).all() or not M.any():
            return values
        if "sje" in wanted and G is not None:
            with suppress(UndefinedError):  # a zero or non-finite gradient has no share: None
                values["sje"] = finite_or_none(stable_jacobian_energy(M, G, k=self.k, denominator=self.denominator))
        if "stable_rank" in wanted or "top_singular_value" in wanted:
            s = singular_values(M)
            read = {"stable_rank": spectrum_stable_rank(s), "top_singular_value": s[0]}
            values.update({name: finite_or_none(value) for name, value in read.items() if name in wanted})
        return values

    def _ntk(self) -> float | None:
        assert self.probe is not None and self.loss is not None  # _check_probe has seen to it
        x, y = self.probe
        with suppress(UndefinedError):  # non-finite gradients: the run has exploded, and its record says so
            chosen = self._chosen
            return finite_or_none(
                ntk_top_eigenvalue(self.model, self.loss, x, y, weights=lambda name, _: name in chosen)
            )
        return None

    def _similarities(self) -> dict[str, float | None]:
        values: dict[str, float | None] = {}
        assert self.probe is not None
        x = self.probe[0]

        def keep(name):
            def hook(module, inputs, output):
                h = output[0] if isinstance(output, tuple) else output
                if not isinstance(h, Tensor) or h.ndim != 3 or len(h) != len(x) or h.shape[1] < 2:
                    got = tuple(h.shape) if isinstance(h, Tensor) else type(h).__name__
                    raise ValueError(
                        f"tokens: module {name!r} gives {got}; it must give (N, T, d), here N = {len(x)} examples of "
                        "T >= 2 tokens each. Name one between the embedding and the pooling, batch first."
                    )
                h = h.detach()
                values[name] = finite_or_none(token_similarity(h).mean()) if torch.isfinite(h).all() else None

            return hook

        modules = self._modules()
        handles = [modules[name].register_forward_hook(keep(name)) for name in self.tokens]
        try:
            with torch.no_grad(), uncompiled(), evaluating(self.model):
                self.model(x)
        finally:
            for handle in handles:
                handle.remove()
        for name in self.tokens:
            if name not in values:
                raise ValueError(f"tokens: module {name!r} does not run when the model does; name one that is called.")
        return {name: values[name] for name in self.tokens}

    def _check_probe(self) -> None:
        for quantity in self.quantities:
            needs = {"ntk": ("probe", "loss"), "token_similarity": ("probe", "tokens")}.get(quantity, ())
            for argument in needs:
                if getattr(self, argument) in (None, []):
                    raise ValueError(f"the quantity {quantity!r} needs {argument}=; see the docstring of Recorder.")
        if {"ntk", "token_similarity"} & set(self.quantities):
            _check_examples(self.model, self.probe)
        if "ntk" in self.quantities and not callable(self.loss):
            raise ValueError(f"loss must be a function of (model(x), y), got {self.loss!r}.")
        modules = self._modules()
        for name in self.tokens:
            if name not in modules:
                raise ValueError(f"tokens: the model has no module {name!r}.{nearest(name, modules)}")


def _check_examples(model: nn.Module, probe) -> None:
    pair = isinstance(probe, (tuple, list)) and len(probe) == 2 and all(isinstance(part, Tensor) for part in probe)
    if not pair or 0 in (probe[0].ndim, probe[1].ndim, len(probe[0])) or len(probe[0]) != len(probe[1]):
        raise ValueError(
            "probe must be (x, y), two tensors with equally many examples, at least one. A model of several inputs "
            "needs a wrapper whose forward takes one tensor and splits it."
        )
    try:
        inspect.signature(model.forward).bind(probe[0])
    except TypeError as error:
        raise ValueError(
            f"{type(model).__name__}.forward cannot be called with x alone ({error}); wrap the model in a module whose "
            "forward takes one tensor."
        ) from None
    except ValueError:  # no signature to be had, as of compiled modules: the first look will tell
        pass
