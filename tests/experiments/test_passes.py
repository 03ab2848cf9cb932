"""Units side by side: the same numbers in fewer passes."""

import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from pso_lib.data import load
from pso_lib.experiments import passes, runner
from pso_lib.experiments.depth import DEPTH
from pso_lib.experiments.depth_plans import experiment
from pso_lib.experiments.suite import Sources
from pso_lib.experiments.survival import SURVIVAL
from pso_lib.train.ensemble import Ensemble


def small(name: str = "depth_tuned"):
    plan = experiment(name, "smoke")
    wanted = ("shared", "he", "he_residual", "independent_folds")
    return replace(plan, depths=(3, 6), arms=tuple(arm for arm in plan.arms if arm.name in wanted))


def parts_of(plan, how, **options) -> tuple[dict[str, dict], list[list[str]]]:
    """What was found unit by unit, and which units came together."""
    units, parts, sources = DEPTH.units(plan), {}, Sources()
    work, needs = partial(runner.run_unit, DEPTH, plan, "commit"), runner._needs(plan, DEPTH, units)
    for unit, part in how(work, units, needs, parts, sources, **options):
        parts[unit.key] = part
    return parts


def without_seconds(parts: dict[str, dict]) -> dict[str, dict]:
    return {key: {k: v for k, v in part.items() if k != "seconds"} for key, part in parts.items()}


@pytest.fixture
def sizes(monkeypatch) -> list[tuple[int, int]]:
    """(depth, networks) of each pass of the engine."""
    log, build = [], Ensemble.__init__

    def watched(self, networks):
        log.append((networks[0].depth, len(networks)))
        build(self, networks)

    monkeypatch.setattr(Ensemble, "__init__", watched)
    return log


@pytest.mark.parametrize("name", ["depth_tuned", "depth"])
def test_side_by_side_gives_the_same(name, sizes, monkeypatch):
    plan = small(name)
    alone = parts_of(plan, runner._here)
    passes_alone = len(sizes)
    sizes.clear()
    monkeypatch.setitem(passes.TOGETHER, "cpu", 200)
    together = parts_of(plan, passes.found)
    assert without_seconds(together) == without_seconds(alone)
    assert set(together) == {unit.key for unit in DEPTH.units(plan)}
    if name == "depth_tuned":
        assert len(sizes) < passes_alone
        # the first pass of a depth: both type A arms, their rates and choosing seeds
        assert (3, 2 * len(plan.rates) * plan.halving.seeds) in sizes


def test_a_pass_holds_no_more_than_fits(sizes, monkeypatch):
    monkeypatch.setitem(passes.TOGETHER, "cpu", 3)
    parts_of(small(), passes.found)
    assert max(count for _, count in sizes) == 3


def test_units_wait_for_what_they_go_on_from_and_keep_the_plans_order():
    plan = small()
    came = list(parts_of(plan, passes.found, at_once=4))
    stages = [key.rpartition("/")[2] for key in came]
    assert stages == ["screen"] * 4 + ["final"] * 4 + ["report"] * 4 + ["screen"] * 4 + ["final"] * 4 + ["report"] * 4
    assert all(f"L={plan.depths[0]}" in key for key in came[:12])


def test_what_does_not_fit_is_left():
    plan, asked = small(), []

    def fits(work: float) -> bool:
        asked.append(work)
        return len(asked) < 3

    parts = parts_of(plan, passes.found, at_once=4, fits=fits)
    assert len(parts) == 8
    units = {unit.key: unit.work for unit in DEPTH.units(plan)}
    assert asked[0] == pytest.approx(sum(units[key] for key in list(parts)[:4]))


def test_seconds_are_shared_out_by_work(monkeypatch):
    clock = iter((0.0, 40.0))
    monkeypatch.setattr(passes, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    plan = small("depth")
    parts = parts_of(plan, passes.found)
    assert sum(part["seconds"] for part in parts.values()) == pytest.approx(40, abs=0.3)
    assert parts["digits/A/L=6"]["seconds"] == pytest.approx(2 * parts["digits/A/L=3"]["seconds"], abs=0.2)


@pytest.mark.parametrize("which", ["train", "unit"])
def test_an_error_reaches_the_caller_and_nobody_waits_for_ever(monkeypatch, which):
    def broken(*args, **options):
        raise MemoryError("too much")

    if which == "train":
        monkeypatch.setattr(passes, "_pass", broken)
    else:
        real, turns = DEPTH.run_unit, iter([broken, *[None] * 100])
        monkeypatch.setattr(DEPTH, "run_unit", lambda *args: (next(turns) or real)(*args), raising=False)
    with pytest.raises(MemoryError, match="too much"):
        parts_of(small(), passes.found)


def test_after_an_error_or_ctrl_c_nothing_more_is_trained(monkeypatch, sizes):
    """It ends with the network that is made, whichever comes first; the first error is the one that is told."""
    asked = []

    def interrupted(arm, *rest, **options):
        asked.append(arm.name)
        raise KeyboardInterrupt

    real = passes.network
    monkeypatch.setattr(passes, "network", interrupted)
    with pytest.raises(KeyboardInterrupt):
        parts_of(small(), passes.found)
    assert len(asked) == 1 and not sizes

    real_unit, turns = DEPTH.run_unit, iter([True])

    def breaks_first(plan, unit, *rest):
        if next(turns, False):
            raise MemoryError("the first")
        return real_unit(plan, unit, *rest)

    monkeypatch.setattr(passes, "network", real)
    monkeypatch.setattr(DEPTH, "run_unit", breaks_first, raising=False)
    sizes.clear()
    with pytest.raises(MemoryError, match="the first"):
        parts_of(small(), passes.found, at_once=4)
    assert not sizes


def test_a_start_is_drawn_once_for_all_its_rates(monkeypatch):
    drawn, real = [], passes.network

    def watched(arm, depth, width, inputs, classes, seed, **options):
        drawn.append(seed)
        return real(arm, depth, width, inputs, classes, seed, **options)

    monkeypatch.setattr(passes, "network", watched)
    arm = small().arms[0]
    jobs = [(arm, seed, rate) for rate in (1e-4, 1e-3, 1e-2) for seed in (5, 6)]
    found = passes.trained(passes.Request(load("digits"), 3, 16, 128, 4, 4, jobs))
    assert drawn == [5, 6]
    alone = [passes.trained(passes.Request(load("digits"), 3, 16, 128, 4, 4, [job]))[0] for job in jobs]
    assert [history.loss for history in found] == [history.loss for history in alone]


class Streams:
    """Stands in for ``torch.cuda``: which thread is on which stream."""

    def __init__(self):
        self.on, self.log, self.lock = threading.local(), [], threading.Lock()

    def Stream(self, device):
        stream = SimpleNamespace(number=object())
        stream.wait_stream = lambda before: self.log.append(("waits", stream.number, before))
        return stream

    def current_stream(self, device=None):
        return "main"

    @contextmanager
    def stream(self, stream):
        self.on.stream = stream.number
        yield
        self.on.stream = None


def test_on_cuda_each_shape_has_a_stream_of_its_own(monkeypatch):
    """Which starts from what was asked for before: the images may still be on their way."""
    cuda = Streams()
    for name in ("Stream", "current_stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    together = threading.Barrier(3, timeout=10)

    def run(places: int) -> tuple[int, object]:
        together.wait()  # all three at the same time
        return places, cuda.on.stream

    with passes._streams(torch.device("cuda"), 3) as each:
        found = list(each(run, [1, 2, 3]))
    assert [places for places, _ in found] == [1, 2, 3] and len({stream for _, stream in found}) == 3
    assert {(stream, before) for what, stream, before in cuda.log} == {(stream, "main") for _, stream in found}


def test_one_pass_or_one_stream_stays_where_it_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", lambda *a: pytest.fail("no stream is wanted"))
    with passes._streams(torch.device("cuda"), 1) as each:
        assert list(each(str, [1])) == ["1"]
    monkeypatch.setattr(passes, "STREAMS", 1)
    with passes._streams(torch.device("cuda"), 5) as each:
        assert list(each(str, [1, 2])) == ["1", "2"]


# ------------------------------------------------------------------------------------------ through the runner


def test_a_run_on_cuda_goes_this_way_and_only_what_gathers():
    assert runner._way(DEPTH, "cuda:1") is passes.found and runner._way(DEPTH, "cpu") is runner._here
    assert runner._way(SURVIVAL, "cuda") is runner._here  # it measures the time of single steps


@pytest.mark.parametrize("way", ["_here", "found"])
def test_a_run_stops_in_time_and_goes_on(tmp_path, monkeypatch, way):
    """The clock is set by hand: each reading 30 s after the last."""
    plan, lines = small(), []
    monkeypatch.setattr(runner, "_way", lambda kind, device: getattr(passes if way == "found" else runner, way))
    now = iter(range(0, 10**6, 30))
    clock = SimpleNamespace(monotonic=lambda: float(next(now)))
    monkeypatch.setattr(runner, "time", clock)
    monkeypatch.setattr(passes, "time", clock)
    with pytest.raises(runner.Unfinished, match=r"of 24 units are finished.*into 4 minutes"):
        runner.run(plan, "smoke", folder=tmp_path, minutes=4, progress=lines.append)
    assert 0 < len(lines) < 24
    result = runner.run(plan, "smoke", folder=tmp_path, progress=lines.append)
    assert len(result["runs"]) == len(plan.arms) * len(plan.depths) * plan.seeds
    again = runner.run(plan, "smoke", folder=tmp_path / "whole", minutes=1e6, progress=lines.append)
    assert [run["curve"] for run in again["runs"]] == [run["curve"] for run in result["runs"]]


def test_minutes_are_for_this_process(tmp_path):
    with pytest.raises(ValueError, match="minutes is for units that this process runs"):
        runner.run(small(), "smoke", folder=tmp_path, minutes=1, workers=2)
    with pytest.raises(ValueError, match="minutes must be"):
        runner.run(small(), "smoke", folder=tmp_path, minutes=-1)
