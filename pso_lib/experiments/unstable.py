"""Run an experiment on unstable training: a unit is one patient, one method and one rate, all its seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from pso_lib import patients
from pso_lib.errors import require_choice
from pso_lib.experiments import instability, schema
from pso_lib.experiments.instability import Instability, Patient
from pso_lib.experiments.kind import Kind, Sources, Unit, number
from pso_lib.experiments.methods import Method, arm_of, times_of
from pso_lib.experiments.rescue import Rescue, regained
from pso_lib.experiments.tables import rate_table
from pso_lib.jacobian import singular_values, spectrum_stable_rank
from pso_lib.optimizers import OPTIMIZERS
from pso_lib.patients import Task, hidden_matrices
from pso_lib.peers import Arm
from pso_lib.pss import Detector
from pso_lib.singularity import as_matrix
from pso_lib.stability import Run, recovery
from pso_lib.stability import run as train

__all__ = ["INSTABILITY", "record_of", "spectra", "task_of"]

FIRST = 20  # of a run's triggers, so many are followed until the loss is back


class Unstable(Kind):
    """See ``instability.Instability``."""

    schema = schema.INSTABILITY
    plan = Instability

    def names(self) -> list[str]:
        return instability.names()

    def experiment(self, name: str, scale: str) -> Instability:
        return instability.experiment(name, scale)

    def units(self, plan: Instability) -> list[Unit]:
        """Patient by patient, rate by rate; a method that matches another comes after it."""
        return [
            Unit(f"{p.name}/lr={rate:g}/{method.name}", p.cost * p.steps * plan.seeds, (p, method, rate))
            for p in plan.patients
            for rate in p.rates or plan.rates
            for method in sorted(plan.methods_of(p), key=lambda m: bool(m.matches))
        ]

    def run_unit(self, plan: Instability, unit: Unit, sources: Sources, device: str, finished: Sequence[dict]) -> dict:
        patient, method, rate = unit.what
        task = task_of(patient, sources, device)
        runs = []
        for seed in range(plan.seeds):
            arm = arm_of(method, *plan.detector, _times(plan, patient, method, rate, seed, finished))
            if patient.optimizer != "adamw":
                arm = replace(arm, optimizer=OPTIMIZERS[patient.optimizer])
            if plan.injury:
                arm = _injured(arm, plan.injury, method.remedy)
            found = train(
                task,
                arm,
                lr=rate,
                seed=seed,
                steps=patient.steps,
                warmup=plan.warmup,
                schedule=plan.schedule,
                limits=tuple(plan.limits),
                watch=spectra,
                watch_every=max(1, patient.steps // plan.looks),
            )
            runs.append(record_of(found, plan.detector, plan.curve))
            if plan.injury:
                runs[-1]["regained"] = regained(found.losses, plan.injury)
        return {"data": task.description, "runs": runs}

    def provenance(self, protocol: Instability) -> dict:
        return {"protocol_seeds": protocol.seeds}

    def table(self, result: dict) -> Iterator[str]:
        return rate_table(result)


INSTABILITY = Unstable()


def task_of(patient: Patient, sources: Sources, device: str = "cpu") -> Task:
    """The task of a patient, under the patient's name."""
    require_choice("task", patient.task, ("transformer", "mlp", "cnn"))
    if patient.task == "transformer":
        task = patients.transformer_task(sources.text(patient.data), device=device, **patient.options)
    else:
        make = {"mlp": patients.mlp_task, "cnn": patients.cnn_task}[patient.task]
        task = make(sources.images(patient.data), **patient.options)
    return replace(task, name=patient.name)


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
        "recovery": [recovery(found.losses, step) for step in found.triggers[:FIRST]],
        "watched": watched,
    }


def _times(plan: Instability, patient: Patient, method: Method, rate: float, seed: int, finished) -> list[int]:
    """When a method acts that keeps a timetable."""
    count = 0
    if method.matches:
        same = [
            run
            for run in finished
            if (run["model"], run["method"], run["lr"], run["seed"]) == (patient.name, method.matches, rate, seed)
        ]
        if not same:
            raise ValueError(
                f"{method.name!r} acts as often as {method.matches!r} did, of which there is no run with "
                f"model={patient.name!r}, lr={rate:g}, seed={seed}; keep both in the plan's methods."
            )
        count = len(same[0]["triggers"])
    return times_of(method, patient.steps, plan.detector[0], count, seed)


def _injured(arm: Arm, injury: tuple, remedy: str) -> Arm:
    inner = arm.guard

    def guard(model, optimizer) -> Rescue:
        within = inner(model, optimizer) if inner is not None else None
        return Rescue(model, optimizer, injury=injury, remedy=remedy or "none", inner=within)

    return replace(arm, guard=guard)
