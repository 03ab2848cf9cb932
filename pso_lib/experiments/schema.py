"""What the runs of each kind of experiment must hold, and which runs a configuration implies. Plain data, no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

__all__ = ["DEPTH", "INSTABILITY", "SCHEMAS", "SURVIVAL", "Schema", "methods_fit", "number_type"]

number_type = (int, float)


@dataclass(frozen=True)
class Schema:
    """One kind of experiment, as its records show it.

    Attributes:
        name: written into results, but for "depth", whose files are older than the field.
        fields: what every run must hold, and of which types.
        timings: those fields of a run that differ from one time to the next.
        overrides: fields of the plan that ``run`` may be given in place of the plan's own.
        key: ``key(run, configuration)`` tells one run of a result from the others.
        implied: ``implied(configuration)``: the keys of all its runs.
        curve: what a run's curve shows beside its steps.
    """

    name: str
    fields: dict[str, type | tuple[type, ...]]
    key: Callable[[dict, dict], tuple]
    implied: Callable[[dict], list[tuple]]
    curve: str
    timings: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    def flaw(self, run) -> str | None:
        """What is wrong with a run; None if nothing is."""
        for name, of in self.fields.items():
            if not isinstance(run, dict) or not isinstance(run.get(name, ...), of):
                return f"{name!r} is missing or of the wrong type"
        if not 0 <= run.get("test_accuracy", 0) <= 1:
            return f"test_accuracy is {run['test_accuracy']}"
        steps, values = (run["curve"].get(name) for name in ("steps", self.curve))
        if not isinstance(steps, list) or not isinstance(values, list) or len(steps) != len(values):
            return f"the curve's steps and its {self.curve} differ in number"
        return None


def _depth_key(run: dict, configuration: dict) -> tuple:
    # where rates are compared, they tell runs apart; else each arm has the one chosen for it
    return run["dataset"], run["arm"], run["depth"], run["seed"], None if configuration["choose_rate"] else run["lr"]


def _depth_runs(configuration: dict) -> list[tuple]:
    arms = [arm["name"] for arm in configuration["arms"]]
    rates = [None] if configuration["choose_rate"] else configuration["rates"]
    return list(product(configuration["datasets"], arms, configuration["depths"], range(configuration["seeds"]), rates))


DEPTH = Schema(
    "depth",
    {
        "dataset": str,
        "arm": str,
        "layer": str,
        "init": str,
        "depth": int,
        "width": int,
        "seed": int,
        "lr": float,
        "epochs": number_type,
        "test_accuracy": number_type,
        "diverged": bool,
        "curve": dict,
    },
    _depth_key,
    _depth_runs,
    "test_accuracy",
    overrides=("epochs", "evaluations"),
)

_RUN: dict[str, type | tuple[type, ...]] = {
    "model": str,
    "method": str,
    "lr": float,
    "seed": int,
    "steps": int,
    "exploded": bool,
    "final_loss": (*number_type, type(None)),
    "triggers": list,
    "would_fire": list,
    "recovery": list,
    "overhead": float,
    "curve": dict,
    "watched": dict,
}
_TIMINGS = ("seconds", "overhead", "plain_step_ms", "trigger_step_ms")


def methods_fit(workload: dict, methods: list[dict]) -> list[str]:
    """The names of the methods that a workload is trained with: QK-norm, for one, is for attention alone."""
    unfit = {"qk_norm"} if workload["task"] != "transformer" else set()
    unfit |= {"muon"} if workload["optimizer"] != "adamw" else set()
    chosen = workload["methods"]
    return [m["name"] for m in methods if (not chosen or m["name"] in chosen) and m["baseline"] not in unfit]


def _unstable_runs(configuration: dict) -> list[tuple]:
    return [
        run
        for workload in configuration["workloads"]
        for run in product(
            [workload["name"]],
            methods_fit(workload, configuration["methods"]),
            workload["rates"] or configuration["rates"],
            range(configuration["seeds"]),
        )
    ]


INSTABILITY = Schema(
    "instability",
    _RUN,
    lambda run, configuration: (run["model"], run["method"], run["lr"], run["seed"]),
    _unstable_runs,
    "loss",
    _TIMINGS,
    ("seeds",),
)

SURVIVAL = Schema(
    "survival",
    _RUN | {"start": str, "depth": int},
    lambda run, configuration: (run["start"], run["depth"], run["method"], run["lr"], run["seed"]),
    lambda c: list(
        product(
            [start["name"] for start in c["starts"]],
            c["depths"],
            [method["name"] for method in c["methods"]],
            c["rates"],
            range(c["seeds"]),
        )
    ),
    "loss",
    _TIMINGS,
    ("seeds",),
)

SCHEMAS = {schema.name: schema for schema in (DEPTH, INSTABILITY, SURVIVAL)}
