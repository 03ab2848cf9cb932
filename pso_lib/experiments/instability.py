"""Run an experiment on unstable training: a unit is one workload, one method and one rate, all its seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from pso_lib.analysis.spectrum import singular_values, spectrum_stable_rank
from pso_lib.errors import require_choice
from pso_lib.experiments import instability_plans, schema
from pso_lib.experiments.criteria import trained
from pso_lib.experiments.instability_plans import Instability, WorkloadPlan
from pso_lib.experiments.methods import Method, baseline_of, times_of
from pso_lib.experiments.recovery import Perturbed, regained
from pso_lib.experiments.suite import Sources, Suite, Unit, number
from pso_lib.nn.weights import as_matrix, hidden_matrices
from pso_lib.smoothing import Detector
from pso_lib.train import workloads
from pso_lib.train.baselines import Baseline
from pso_lib.train.failure import recovery_time
from pso_lib.train.monitored import Run
from pso_lib.train.monitored import run as train
from pso_lib.train.optimizers import OPTIMIZERS
from pso_lib.train.workloads import Workload

__all__ = ["INSTABILITY", "record_of", "spectra", "workload_of"]

FIRST = 20  # of a run's triggers, so many are followed until the loss is back


class Unstable(Suite):
    """See ``instability_plans.Instability``."""

    schema = schema.INSTABILITY
    plan = Instability

    def names(self) -> list[str]:
        return instability_plans.names()

    def experiment(self, name: str, scale: str) -> Instability:
        return instability_plans.experiment(name, scale)

    def units(self, plan: Instability) -> list[Unit]:
        """WorkloadPlan by workload, rate by rate; a method that matches another comes after it."""
        return [
            Unit(_key(p, rate, method.name), p.cost * p.steps * plan.seeds, (p, method, rate))
            for p in plan.workloads
            for rate in p.rates or plan.rates
            for method in sorted(plan.methods_of(p), key=lambda m: bool(m.matches))
        ]

    def after(self, plan: Instability, unit: Unit) -> list[str]:
        """The method that this one matches, on the same workload at the same rate."""
        workload, method, rate = unit.what
        return [_key(workload, rate, method.matches)] if method.matches else []

    def run_unit(
        self, plan: Instability, unit: Unit, sources: Sources, device: str, finished: Mapping[str, dict]
    ) -> dict:
        workload, method, rate = unit.what
        task = workload_of(workload, sources, device)
        runs = []
        for seed in range(plan.seeds):
            arm = baseline_of(method, *plan.detector, _times(plan, workload, method, rate, seed, finished))
            if workload.optimizer != "adamw":
                arm = replace(arm, optimizer=OPTIMIZERS[workload.optimizer])
            if plan.perturbation:
                arm = _injured(arm, plan.perturbation, method.recovery)
            found = train(
                task,
                arm,
                lr=rate,
                seed=seed,
                steps=workload.steps,
                warmup=plan.warmup,
                schedule=plan.schedule,
                limits=plan.limits,
                watch=spectra,
                watch_every=max(1, workload.steps // plan.looks),
            )
            runs.append(record_of(found, plan.detector, plan.curve))
            if plan.perturbation:
                runs[-1]["regained"] = regained(found.losses, plan.perturbation)
        return {"data": task.description, "runs": runs}

    def provenance(self, protocol: Instability) -> dict:
        return {"protocol_seeds": protocol.seeds}

    def table(self, result: dict) -> Iterator[str]:
        return rate_table(result)


INSTABILITY = Unstable()


def _key(workload: WorkloadPlan, rate: float, method: str) -> str:
    return f"{workload.name}/lr={rate:g}/{method}"


def workload_of(workload: WorkloadPlan, sources: Sources, device: str = "cpu") -> Workload:
    """The task of a workload, under the workload's name."""
    require_choice("task", workload.task, ("transformer", "mlp", "cnn"))
    if workload.task == "transformer":
        task = workloads.transformer_workload(sources.text(workload.data), device=device, **workload.options)
    else:
        make = {"mlp": workloads.mlp_workload, "cnn": workloads.cnn_workload}[workload.task]
        task = make(sources.images(workload.data), **workload.options)
    return replace(task, name=workload.name)


@torch.no_grad()
def spectra(step: int, model) -> dict:
    """The mean over the hidden matrices of their stable rank, and of their largest singular value.

    Of a matrix behind a parametrisation that divides it, what is divided is looked at: its stable rank is the same.
    """
    ranks, tops = [], []
    for weight in hidden_matrices(model).values():
        M = as_matrix(weight)
        if not M.isfinite().all() or not M.any():
            return {"stable_rank": None, "top_singular_value": None}
        s = singular_values(M)
        ranks.append(spectrum_stable_rank(s).item())
        tops.append(s[0].item())
    return {"stable_rank": sum(ranks) / len(ranks), "top_singular_value": sum(tops) / len(tops)}


def record_of(found: Run, detector: Sequence[int], curve: int) -> dict:
    """A run as plain JSON data: what every run carries, with what was watched in columns."""
    watched: dict = {"steps": [step for step, _ in found.watched]}
    for key in found.watched[0][1] if found.watched else ():
        watched[key] = [number(value[key], 4) for _, value in found.watched]
    watch = Detector(warmup=detector[0], cooldown=detector[1])
    run = found.as_dict(curve=curve)
    for key in ("final_loss", "last_loss", "accuracy"):
        run[key] = number(run[key])
    return run | {
        # the steps at which the paper's detector would have fired, had it done nothing
        "would_fire": [step for step, norm in enumerate(found.gradient_sums, start=1) if watch.update(norm)],
        "recovery": [recovery_time(found.losses, step) for step in found.triggers[:FIRST]],
        "watched": watched,
    }


def _times(plan: Instability, workload: WorkloadPlan, method: Method, rate: float, seed: int, finished) -> list[int]:
    """When a method acts that keeps a timetable."""
    count = 0
    if method.matches:
        same = [
            run
            for part in finished.values()
            for run in part["runs"]
            if (run["model"], run["method"], run["lr"], run["seed"]) == (workload.name, method.matches, rate, seed)
        ]
        if not same:
            raise ValueError(
                f"{method.name!r} acts as often as {method.matches!r} did, of which there is no run with "
                f"model={workload.name!r}, lr={rate:g}, seed={seed}; keep both in the plan's methods."
            )
        count = len(same[0]["triggers"])
    return times_of(method, workload.steps, plan.detector[0], count, seed)


def _injured(arm: Baseline, perturbation: tuple, recovery: str) -> Baseline:
    inner = arm.guard

    def guard(model, optimizer) -> Perturbed:
        within = inner(model, optimizer) if inner is not None else None
        return Perturbed(model, optimizer, perturbation=perturbation, recovery=recovery or "none", inner=within)

    return replace(arm, guard=guard)


def rate_table(result: dict) -> Iterator[str]:
    """Methods down, rates across: mean final loss [min, max], how many seeds trained, and triggers per 1,000 steps."""
    runs, margin = result["runs"], result["configuration"]["margin"]
    good = {id(run): flag for run, flag in zip(runs, trained(runs, margin), strict=True)}
    yield f"final loss [min, max], runs that trained (within {margin:g} nats of the best, no explosion), triggers/1,000"
    for model in dict.fromkeys(run["model"] for run in runs):
        mine = [run for run in runs if run["model"] == model]
        rates = sorted({run["lr"] for run in mine})
        yield f"\n{model:24}" + "".join(f"{f'lr = {rate:g}':>34}" for rate in rates)
        for method in dict.fromkeys(run["method"] for run in mine):
            cells = [[r for r in mine if (r["method"], r["lr"]) == (method, rate)] for rate in rates]
            yield f"{method:24}" + "".join(f"{_cell(cell, good):>34}" for cell in cells)


def _cell(cell: list[dict], good: dict[int, bool]) -> str:
    if not cell:
        return "–"
    losses = [run["final_loss"] for run in cell if run["final_loss"] is not None]
    fired = 1000 * sum(len(run["triggers"]) for run in cell) / max(1, sum(run["steps"] for run in cell))
    spread = f"{_loss(sum(losses) / len(losses))} [{_loss(min(losses))}, {_loss(max(losses))}]" if losses else "lost"
    return f"{spread} {sum(good[id(run)] for run in cell)}/{len(cell)} {fired:.3g}"


def _loss(value: float) -> str:
    return f"{value:.3f}" if value < 1000 else f"{value:.0e}"
