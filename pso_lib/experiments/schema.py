"""What the runs of each kind of experiment must hold, and which runs a configuration implies. Plain data, no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import inf, isfinite
from sys import float_info

__all__ = [
    "DEPTH",
    "INSTABILITY",
    "PROVENANCE",
    "SCHEMAS",
    "SURVIVAL",
    "UNIT",
    "Field",
    "Schema",
    "flaw",
    "methods_fit",
]

_NOUNS = {str: "a text", bool: "true or false", int: "an integer", float: "a finite number", list: "a list"}


@dataclass(frozen=True)
class Field:
    """What may stand in a field of a record, as JSON knows it.

    Attributes:
        kind: ``float`` takes integers too; no number is NaN or infinite, and True is none.
        least, most: the bounds of a number, themselves included; ``above``: a bound that is not.
        none: whether None may stand there.
        each: what every entry of a list must be.
        filled: whether a list must have one.
    """

    kind: type
    least: float = -float_info.max
    most: float = float_info.max
    above: float = -inf
    none: bool = False
    each: "Field | None" = None
    filled: bool = False

    def holds(self, value) -> bool:
        """Whether the value may stand there."""
        if value is None:
            return self.none
        if self.kind in (int, float):
            number = isinstance(value, (int, self.kind)) and not isinstance(value, bool)
            return number and self.least <= value <= self.most and value > self.above
        if isinstance(value, list) and self.kind is list:
            return bool(value or not self.filled) and (self.each is None or all(map(self.each.holds, value)))
        return isinstance(value, self.kind) and value != ""

    def __str__(self) -> str:
        words = _NOUNS.get(self.kind, "an object")
        if self.above > -inf:
            words += f" above {self.above:g}"
        elif self.most < float_info.max:
            words += f" from {self.least:g} to {self.most:g}"
        elif self.least > -float_info.max:
            words += f" of at least {self.least:g}"
        if self.each is not None:
            words += f" of {'one or more' if self.filled else 'any number'}, each {self.each}"
        return words + " or null" * self.none


TEXT, FLAG, TABLE = Field(str), Field(bool), Field(dict)
COUNT, INDEX, STEP = Field(int, least=1), Field(int, least=0), Field(int, least=1, none=True)
POSITIVE, SHARE, SECONDS = Field(float, above=0), Field(float, least=0, most=1), Field(float, least=0)
LOSS, NUMBER = Field(float, least=0, none=True), Field(float, none=True)
STEPS = Field(list, each=COUNT)

PROVENANCE = {name: TEXT for name in ("device", "dtype", "torch", "python", "date", "commit")}
PROVENANCE |= {"threads": COUNT, "seconds": SECONDS, "data": Field(list, each=TEXT, filled=True)}
UNIT = {"unit": TEXT, "runs": Field(list, each=TABLE)}  # of a journal; and, if they are there:
UNIT_TOO = {"seconds": SECONDS, "data": TEXT}


def flaw(record, fields: Mapping[str, Field], optional: Mapping[str, Field] | None = None) -> str | None:
    """What is wrong with a record of these fields; None if nothing is. It may have others."""
    if not isinstance(record, dict):
        return f"{_short(record)} stands in place of an object"
    for name, allowed in {**fields, **(optional or {})}.items():
        if name not in record:
            if name in fields:
                return f"{name!r} is missing; it must be {allowed}"
        elif not allowed.holds(record[name]):
            return f"{name!r} is {_short(record[name])}; it must be {allowed}"
    for name, value in record.items():  # also of those that nothing is said of
        if isinstance(value, float) and not isfinite(value):
            return f"{name!r} is {value}; no number of a record is NaN or infinite"
    return None


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


@dataclass(frozen=True)
class Schema:
    """One kind of experiment, as its records show it.

    Attributes:
        name: written into results, but for "depth", whose files are older than the field.
        fields: what every run must hold; ``optional``: what a run may hold besides.
        timings: those fields of a run that differ from one time to the next.
        overrides: fields of the plan that ``run`` may be given in place of the plan's own.
        key: ``key(run, configuration)`` tells one run of a result from the others.
        implied: ``implied(configuration)``: the keys of all its runs.
        curve: what a run's curve shows at each of its steps, and what may stand there.
        provenance: what a result's provenance holds beside ``PROVENANCE``.
        tables: what else a result may hold: lists of records, by their fields.
    """

    name: str
    fields: dict[str, Field]
    key: Callable[[dict, dict], tuple]
    implied: Callable[[dict], list[tuple]]
    curve: tuple[str, Field]
    timings: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    optional: dict[str, Field] = field(default_factory=dict)
    provenance: dict[str, Field] = field(default_factory=dict)
    tables: dict[str, dict[str, Field]] = field(default_factory=dict)

    def flaw(self, run) -> str | None:
        """What is wrong with a run; None if nothing is."""
        found = flaw(run, self.fields, self.optional) or _columns_flaw("curve", run["curve"])
        if found:
            return found
        name, allowed = self.curve
        steps, values = run["curve"]["steps"], run["curve"].get(name)
        column = Field(list, each=allowed, filled=True)
        if not column.holds(values):
            return f"the curve's {name} is {_short(values)}; it must be {column}"
        if len(steps) != len(values):
            return f"the curve's steps and its {name} differ in number"
        return _columns_flaw("watched", run["watched"]) if "watched" in run else None


def _columns_flaw(name: str, table: dict) -> str | None:
    """Columns of numbers, and the steps at which they were taken."""
    for column, values in table.items():
        allowed = Field(list, each=INDEX if column == "steps" else NUMBER)
        if not allowed.holds(values):
            return f"{name!r} has the column {column!r}, {_short(values)}; it must be {allowed}"
    if "steps" not in table:
        return f"{name!r} has no steps"
    if any(b <= a for a, b in pairwise(table["steps"])):
        return f"the steps of {name!r} do not increase"
    return None


def _depth_key(run: dict, configuration: dict) -> tuple:
    # where rates are compared, they tell runs apart; else each arm has the one chosen for it
    return run["dataset"], run["arm"], run["depth"], run["seed"], None if configuration["choose_rate"] else run["lr"]


def _depth_runs(configuration: dict) -> list[tuple]:
    arms = [arm["name"] for arm in configuration["arms"]]
    rates = [None] if configuration["choose_rate"] else configuration["rates"]
    return list(product(configuration["datasets"], arms, configuration["depths"], range(configuration["seeds"]), rates))


_CHOOSING = {"dataset": TEXT, "arm": TEXT, "depth": COUNT, "lr": POSITIVE, "held_out_accuracy": SHARE}

DEPTH = Schema(
    "depth",
    {
        "dataset": TEXT,
        "arm": TEXT,
        "layer": TEXT,
        "init": TEXT,
        "depth": COUNT,
        "width": COUNT,
        "seed": INDEX,
        "lr": POSITIVE,
        "epochs": POSITIVE,
        "test_accuracy": SHARE,
        "diverged": FLAG,
        "curve": TABLE,
    },
    _depth_key,
    _depth_runs,
    ("test_accuracy", SHARE),
    overrides=("epochs", "evaluations"),
    provenance={"protocol_epochs": POSITIVE},
    tables={"choosing": _CHOOSING},
)

_RUN = {
    "model": TEXT,
    "method": TEXT,
    "lr": POSITIVE,
    "seed": INDEX,
    "steps": COUNT,
    "exploded": FLAG,
    "final_loss": LOSS,
    "triggers": STEPS,
    "would_fire": STEPS,
    "recovery": Field(list, each=Field(int, least=0, none=True)),
    "overhead": SECONDS,
    "curve": TABLE,
    "watched": TABLE,
}
_OPTIONAL = {
    "exploded_at": STEP,
    "ended_at": STEP,
    "last_loss": LOSS,
    "accuracy": Field(float, least=0, most=1, none=True),
    "skipped": STEPS,
    "regained": Field(int, least=0, none=True),
    "seconds": SECONDS,
    "plain_step_ms": LOSS,
    "trigger_step_ms": LOSS,
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
    ("loss", LOSS),
    _TIMINGS,
    ("seeds",),
    _OPTIONAL,
    {"protocol_seeds": COUNT},
)

SURVIVAL = Schema(
    "survival",
    _RUN | {"start": TEXT, "depth": COUNT},
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
    ("loss", LOSS),
    _TIMINGS,
    ("seeds",),
    _OPTIONAL,
    {"protocol_seeds": COUNT},
)

SCHEMAS = {schema.name: schema for schema in (DEPTH, INSTABILITY, SURVIVAL)}
