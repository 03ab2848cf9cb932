"""Experiments on depth: starts times depths times seeds, through the ensemble engine.

A unit is one data set, one layer type and one depth: all its arms, seeds and rates train side by side. First, where
the experiment says so, each arm's learning rate is chosen at this depth on held-out training images, which the
reported runs then train on again.

Where rates are chosen by halving, a unit is one data set, one depth, one arm and one of three stages: all rates for a
short time, the finalists at full length, the reported runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from pso_lib import data
from pso_lib.experiments import depth_plans, schema
from pso_lib.experiments.depth_plans import Experiment
from pso_lib.experiments.halving import choose, final, screen
from pso_lib.experiments.passes import Job, Request, trained
from pso_lib.experiments.starts import Start
from pso_lib.experiments.suite import Sources, Suite, Unit, number
from pso_lib.train.loop import History

__all__ = ["DEPTH", "Depth"]

CHOOSING_SEED = 1_000  # no reported run uses it


class Depth(Suite):
    """See ``depth_plans.Experiment``."""

    schema = schema.DEPTH
    plan = Experiment
    gathers = True

    def names(self) -> list[str]:
        return depth_plans.names()

    def experiment(self, name: str, scale: str) -> Experiment:
        return depth_plans.experiment(name, scale)

    def units(self, plan: Experiment) -> list[Unit]:
        """Shallow depths first, so that a first picture comes early; with halving, what the plan names first."""
        if plan.halving:
            return [
                Unit(_key(dataset, depth, arm, stage), _work_of(plan, depth, stage), (dataset, depth, arm, stage))
                for dataset in plan.datasets
                for depth in plan.depths
                for arm in plan.arms
                for stage in _stages(plan)
            ]
        layers = sorted({arm.layer for arm in plan.arms})
        return [
            Unit(f"{dataset}/{layer}/L={depth}", _work(plan, layer, depth), (dataset, layer, depth))
            for dataset in plan.datasets
            for depth in plan.depths
            for layer in layers
        ]

    def size(self, plan: Experiment, unit: Unit) -> int:
        if plan.halving:
            return plan.seeds if unit.what[-1] == "report" else 0
        _, layer, _ = unit.what
        rates = 1 if plan.choose_rate else len(plan.rates)
        return sum(arm.layer == layer for arm in plan.arms) * plan.seeds * rates

    def after(self, plan: Experiment, unit: Unit) -> list[str]:
        """With halving: the stage before."""
        if not plan.halving:
            return []
        dataset, depth, arm, stage = unit.what
        return [_key(dataset, depth, arm, before) for before, then in pairwise(_stages(plan)) if then == stage]

    def run_unit(
        self, plan: Experiment, unit: Unit, sources: Sources, device: str, finished: Mapping[str, dict]
    ) -> dict:
        if plan.halving:
            return _run_stage(plan, sources, unit.what, finished)
        return _run_unit(plan, sources, *unit.what)

    def flaw(self, plan: Experiment, unit: Unit, part: dict) -> str | None:
        if plan.halving and unit.what[-1] != "report":
            if not part.get("choosing"):
                return "its rates are missing"
            if unit.what[-1] == _stages(plan)[-2] and not isinstance(part.get("choice"), dict):
                return "its choice is missing"
        return super().flaw(plan, unit, part)

    def extras(self, plan: Experiment, parts: Sequence[dict]) -> dict:
        """How rates were chosen, and on how many images: a data set may have fewer than the plan would hold out."""
        extras: dict = {"choosing": [one for part in parts for one in part.get("choosing", [])]}
        if plan.halving:
            extras["choices"] = [part["choice"] for part in parts if "choice" in part]
        if held := {
            one["dataset"]: part["held_out"] for part in parts if "held_out" in part for one in part["choosing"]
        }:
            extras["held_out"] = held
        return extras

    def provenance(self, protocol: Experiment) -> dict:
        return {"protocol_epochs": protocol.epochs}

    def table(self, result: dict) -> Iterator[str]:
        """Mean, minimum and maximum of the test accuracy over seeds: arms down, depths across."""
        configuration, runs = result["configuration"], result["runs"]
        epochs, protocol = configuration["epochs"], result["provenance"]["protocol_epochs"]
        yield f"test accuracy, mean [min, max] over {configuration['seeds']} seeds; {epochs:g} epochs" + (
            "" if epochs == protocol else f" (the protocol has {protocol:g})"
        )
        depths = sorted({r["depth"] for r in runs})
        # one line per arm, and per rate where the rates are what is compared
        several = not configuration["choose_rate"] and len(configuration["rates"]) > 1
        for dataset in dict.fromkeys(r["dataset"] for r in runs):
            yield f"\n{dataset:28}" + "".join(f"{f'L = {d}':>22}" for d in depths)
            for label in dict.fromkeys(
                (r["arm"], r["lr"] if several else None) for r in runs if r["dataset"] == dataset
            ):
                row = f"{label[0]}" + (f" {label[1]:g}" if several else "")
                cells = []
                for depth in depths:
                    found = [
                        r["test_accuracy"]
                        for r in runs
                        if (r["dataset"], r["arm"], r["depth"]) == (dataset, label[0], depth)
                        and (not several or r["lr"] == label[1])
                    ]
                    spread = f"{sum(found) / len(found):.3f} [{min(found):.3f}, {max(found):.3f}]" if found else "–"
                    cells.append(f"{spread:>22}")
                yield f"{row:28}" + "".join(cells)
        for says, which in (
            ("no rate is above chance", lambda choice: not choice["trains"]),
            ("the best rate has no worse neighbour on one side", lambda choice: choice["edge"]),
        ):
            if found := [f"{c['arm']} at L = {c['depth']}" for c in result.get("choices", []) if which(c)]:
                yield f"\n{says}: {', '.join(found)}"


DEPTH = Depth()


def _work(plan: Experiment, layer: str, depth: int) -> float:
    arms = sum(arm.layer == layer for arm in plan.arms)
    if plan.choose_rate:
        return arms * depth * plan.epochs * (plan.seeds + len(plan.rates) * plan.choosing)
    return arms * depth * plan.seeds * plan.epochs * len(plan.rates)


def _key(dataset: str, depth: int, arm: Start, stage: str) -> str:
    return f"{dataset}/L={depth}/{arm.name}/{stage}"


def _stages(plan: Experiment) -> tuple[str, ...]:
    return ("screen", "report") if plan.halving and plan.halving.share == 1 else ("screen", "final", "report")


def _work_of(plan: Experiment, depth: int, stage: str) -> float:
    """Of one arm. Rates beyond the grid are not foreseen, but one more finalist is: about every second arm has one."""
    assert plan.halving is not None
    seeds, share, finalists = plan.halving.seeds, plan.halving.share, plan.halving.finalists
    runs = {"screen": seeds * share * len(plan.rates), "final": seeds * (finalists + 0.5), "report": plan.seeds}
    return depth * plan.epochs * runs[stage]


def _held(plan: Experiment, sources: Sources, dataset: str) -> data.Images:
    return sources.without(dataset, min(plan.held_out, len(sources.images(dataset).train_y) // 5))


def _run_stage(plan: Experiment, sources: Sources, what: tuple, finished: Mapping[str, dict]) -> dict:
    dataset, depth, arm, stage = what
    images = sources.images(dataset)
    halving = plan.halving
    assert halving is not None
    if stage == "report":
        rate = finished[_key(dataset, depth, arm, _stages(plan)[-2])]["choice"]["lr"]
        jobs = [(arm, seed, rate) for seed in range(plan.seeds)]
        found = _train(plan, images, depth, jobs, plan.epochs, evaluations=plan.evaluations)
        runs = [_as_run(plan, dataset, arm, depth, seed, rate, history) for seed, history in enumerate(found)]
        return {"data": images.description, "runs": runs}

    held = _held(plan, sources, dataset)
    # to answer with the largest class is chance
    chance = held.test_y.bincount().max().item() / len(held.test_y) + halving.margin
    epochs = plan.epochs * (halving.share if stage == "screen" else 1)
    whole = halving.share == 1  # every rate is run to the end: its curve is a result

    def trial(rates: list[float]) -> list[dict]:
        jobs = [(arm, CHOOSING_SEED + index, rate) for rate in rates for index in range(halving.seeds)]
        found = _train(plan, held, depth, jobs, epochs, evaluations=plan.evaluations if whole else 1)
        return [
            {
                "arm": arm.name,
                "depth": depth,
                "dataset": dataset,
                "lr": rate,
                "seed": seed,
                "stage": stage,
                "held_out_accuracy": _final(history),
                "loss": _last_tenth(history),
            }
            | ({"curve": _curve(history, "held_out_accuracy")} if whole else {})
            for (_, seed, rate), history in zip(jobs, found, strict=True)
        ]

    part: dict = {"data": images.description, "held_out": len(held.test_y), "runs": []}
    if stage == "screen":
        screened = entries = screen(plan.rates, halving, chance, trial)
        if not whole:
            return part | {"choosing": screened}
    else:
        screened = finished[_key(dataset, depth, arm, "screen")]["choosing"]
        entries = final(screened, halving, chance, trial)
    choice = {"arm": arm.name, "depth": depth, "dataset": dataset} | choose(screened, entries, chance)
    return part | {"choosing": entries, "choice": choice}


def _run_unit(plan: Experiment, sources: Sources, dataset: str, layer: str, depth: int) -> dict:
    images = sources.images(dataset)
    arms = [arm for arm in plan.arms if arm.layer == layer]
    choosing: list[dict] = []
    if plan.choose_rate:
        held = _held(plan, sources, dataset)
        jobs = [(arm, CHOOSING_SEED, rate) for arm in arms for rate in plan.rates]
        found = _train(plan, held, depth, jobs, plan.choosing * plan.epochs, evaluations=1)
        choosing = [
            {"arm": arm.name, "depth": depth, "dataset": dataset, "lr": rate, "held_out_accuracy": _final(history)}
            for (arm, _, rate), history in zip(jobs, found, strict=True)
        ]
        best = {
            arm.name: max((c for c in choosing if c["arm"] == arm.name), key=lambda c: c["held_out_accuracy"])["lr"]
            for arm in arms
        }
        jobs = [(arm, seed, best[arm.name]) for arm in arms for seed in range(plan.seeds)]
    else:
        jobs = [(arm, seed, rate) for arm in arms for rate in plan.rates for seed in range(plan.seeds)]
    histories = _train(plan, images, depth, jobs, plan.epochs, evaluations=plan.evaluations)
    runs = [
        _as_run(plan, dataset, arm, depth, seed, rate, history)
        for (arm, seed, rate), history in zip(jobs, histories, strict=True)
    ]
    part = {"data": images.description, "choosing": choosing, "runs": runs}
    return part | {"held_out": len(held.test_y)} if plan.choose_rate else part


def _train(
    plan: Experiment,
    images: data.Images,
    depth: int,
    jobs: list[Job],
    epochs: float,
    *,
    evaluations: int,
) -> list[History]:
    steps = max(1, round(epochs * (len(images.train_y) // plan.batch)))
    every = max(1, steps // evaluations)
    return trained(Request(images, depth, plan.width, plan.batch, steps, every, jobs))


def _as_run(plan, dataset: str, arm: Start, depth: int, seed: int, rate: float, history: History) -> dict:
    return {
        "dataset": dataset,
        "arm": arm.name,
        "layer": arm.layer,
        "init": arm.init,
        "depth": depth,
        "width": plan.width,
        "seed": seed,
        "lr": rate,
        "epochs": plan.epochs,
        "test_accuracy": _final(history),
        "diverged": history.diverged,
        "curve": _curve(history, "test_accuracy"),
    }


def _curve(history: History, accuracy: str) -> dict:
    return {
        "steps": list(history.steps),
        accuracy: [number(a) or 0.0 for a in history.test_accuracy],
        "loss": _thinned(history),
    }


def _final(history: History) -> float:
    """The last accuracy; a network that has diverged answers nothing right."""
    return number(history.final_accuracy) or 0.0


def _last_tenth(history: History) -> float | None:
    """The mean training loss of the last tenth of the steps; None if the run has diverged."""
    last = history.loss[-max(1, len(history.loss) // 10) :]
    return None if history.diverged else number(sum(last) / len(last))


def _thinned(history: History) -> list[float | None]:
    """The mean training loss between evaluations; None where it was not finite."""
    bounds = [0, *[step for step in history.steps if step > 0]]
    means = []
    for start, end in zip(bounds, bounds[1:], strict=False):
        part = history.loss[start:end]
        means.append(number(sum(part) / len(part)) if part else None)
    return means
