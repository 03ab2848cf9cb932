"""Follow how singular a model becomes while it trains, at a cost that is measured and stated.

recorder = Recorder(model, ["stable_rank", "sje"], every=50)
...
loss.backward()
recorder.step()      # looks every 50th call, the first included; between backward and the optimiser's step
optimizer.step()
...
Path("run.json").write_text(recorder.to_json())
"""

import json
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import torch
from torch import Tensor, nn

from pso_lib.errors import nearest, require_choice, require_positive_int
from pso_lib.jacobian import spectrum_stable_rank
from pso_lib.singularity import (
    DENOMINATORS,
    Weights,
    as_matrix,
    chosen_weights,
    ntk_top_eigenvalue,
    require_rounding,
    stable_jacobian_energy,
    token_similarity,
)

__all__ = ["QUANTITIES", "Recorder"]

OF_WEIGHTS = ("stable_rank", "top_singular_value", "sje", "gradient_norm")
OF_PROBE = ("ntk", "token_similarity")
QUANTITIES = OF_WEIGHTS + OF_PROBE


class Recorder:
    """Measures chosen quantities of chosen weights every so many steps.

    Args:
        quantities: names in ``QUANTITIES``. "stable_rank", "top_singular_value", "gradient_norm" and "sje" (stable
            Jacobian energy) are of each weight; "ntk" (largest eigenvalue of ``ntk_gram``) and "token_similarity"
            (of each module in ``tokens``, averaged over the examples) are of the model on ``probe``.
        weights: as in ``chosen_weights``.
        every: look at every so many calls of ``step``.
        k, denominator: those of ``stable_jacobian_energy``.
        probe: (x, y), the same examples each time, on the model's device.
        loss: for "ntk", as in ``ntk_gram``.
        tokens: names of modules whose output is (N, T, d), or a tuple that starts with it.

    What a look costs: for each weight an SVD without vectors ("stable_rank", "top_singular_value"), one with ("sje");
    per-example gradients of the probe for "ntk"; one forward pass for "token_similarity". ``seconds`` adds up what was
    spent, and is written to the JSON. Nothing is hooked between looks and no random number is drawn, so training runs
    as it would.

    A quantity that is not defined (a zero weight or gradient, non-finite values) is None.
    """

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
        require_positive_int("every", every)
        require_rounding(k)
        require_choice("denominator", denominator, DENOMINATORS)
        self.model, self.every, self.k, self.denominator = model, every, k, denominator
        self.probe, self.loss = probe, loss
        self.tokens = [tokens] if isinstance(tokens, str) else list(tokens)
        self.weights = chosen_weights(model, weights) if set(self.quantities) - {"token_similarity"} else {}
        self._check_probe()
        self.calls, self.seconds = 0, 0.0
        self.steps: list[int] = []
        self.values: dict[str, dict[str, list[float | None]]] = {
            quantity: {name: [] for name in self._names(quantity)} for quantity in self.quantities
        }

    def step(self) -> bool:
        """Count one step, and look if it is due. To be called after the gradients are there and before the update.

        Returns whether it looked. Steps are counted from 0: the first call sees the model as it was initialised.
        """
        step, self.calls = self.calls, self.calls + 1
        if step % self.every:
            return False
        self.look(step)
        return True

    def look(self, step: int) -> None:
        """Measure now, and record it as ``step``."""
        started = time.perf_counter()
        of_weights = [quantity for quantity in self.quantities if quantity in OF_WEIGHTS]
        found = {name: self._of_weight(W, of_weights) for name, W in self.weights.items()}
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
        for key in ("every", "k", "denominator"):
            if state[key] != mine[key]:
                raise ValueError(f"the record was made with {key}={state[key]!r}, this recorder has {mine[key]!r}.")
        pairs = [("quantities", state["values"], self.values)]
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

    def _names(self, quantity: str) -> list[str]:
        if quantity in OF_WEIGHTS:
            return list(self.weights)
        return ["model"] if quantity == "ntk" else self.tokens

    def _of_weight(self, W: nn.Parameter, wanted: list[str]) -> dict[str, float | None]:
        values: dict[str, float | None] = dict.fromkeys(wanted)
        G = None if W.grad is None else as_matrix(W.grad.detach())
        if G is not None and "gradient_norm" in wanted:
            values["gradient_norm"] = _number(G.norm())
        M = as_matrix(W.detach())
        if not torch.isfinite(M).all() or not M.any():
            return values
        if "sje" in wanted and G is not None:
            with suppress(ValueError):  # a zero or non-finite gradient has no share: None
                values["sje"] = _number(stable_jacobian_energy(M, G, k=self.k, denominator=self.denominator))
        if "stable_rank" in wanted or "top_singular_value" in wanted:
            s = torch.linalg.svdvals(M)
            read = {"stable_rank": spectrum_stable_rank(s), "top_singular_value": s[0]}
            values.update({name: _number(value) for name, value in read.items() if name in wanted})
        return values

    def _ntk(self) -> float | None:
        x, y = self.probe
        with suppress(ValueError):  # non-finite gradients: the run has exploded, and its record says so
            return _number(ntk_top_eigenvalue(self.model, self.loss, x, y, weights=list(self.weights)))
        return None

    def _similarities(self) -> dict[str, float | None]:
        values: dict[str, float | None] = dict.fromkeys(self.tokens)

        def keep(name):
            def hook(module, inputs, output):
                h = (output[0] if isinstance(output, tuple) else output).detach()
                values[name] = _number(token_similarity(h).mean()) if torch.isfinite(h).all() else None

            return hook

        handles = [self.model.get_submodule(name).register_forward_hook(keep(name)) for name in self.tokens]
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with torch.no_grad():
                self.model(self.probe[0])
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in modes.items():
                module.training = mode
        return values

    def _check_probe(self) -> None:
        for quantity in self.quantities:
            needs = {"ntk": ("probe", "loss"), "token_similarity": ("probe", "tokens")}.get(quantity, ())
            for argument in needs:
                if getattr(self, argument) in (None, []):
                    raise ValueError(f"the quantity {quantity!r} needs {argument}=; see the docstring of Recorder.")
        modules = dict(self.model.named_modules())
        for name in self.tokens:
            if name not in modules:
                raise ValueError(f"tokens: the model has no module {name!r}.{nearest(name, modules)}")


def _number(value: Tensor | float) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None
