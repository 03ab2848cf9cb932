"""Every device: what is made on the way lies where the data lie, and a CUDA graph is taken on the weights' device.

Without a GPU, two pretences. Torch's default device is "meta" while all data are on the CPU: a tensor made without a
device then lies elsewhere, and meeting it raises, as a CPU tensor does on CUDA. And streams and graphs are stand-ins
that look at the order of what is asked of them.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from stacks import KINDS, build, close, seeded
from torch import nn

from pso_lib import analysis
from pso_lib.analysis import persistence, singularity
from pso_lib.analysis.recorder import Recorder
from pso_lib.checks._compare import require_close
from pso_lib.data import load
from pso_lib.data.text import load_text
from pso_lib.experiments import runner, survival
from pso_lib.nn.networks import deep_network
from pso_lib.smoothing import EnergyTrigger, Guard, StableRankTrigger, randomised_svd, smooth_
from pso_lib.train import stackable, stacked
from pso_lib.train.baselines import BASELINES, spectral_norm_
from pso_lib.train.ensemble import Ensemble
from pso_lib.train.loop import accuracy, train
from pso_lib.train.monitored import run
from pso_lib.train.workloads import cnn_workload, mlp_workload, transformer_workload

HERE = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def network(**options) -> nn.Module:
    options = {"inputs": 64, "classes": 10, "generator": generator(), "dtype": torch.float64, "device": HERE} | options
    return deep_network(4, 8, layer="residual", beta=-2.0, orthogonal="start", **options)


def points(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(), dtype=torch.float64, device=HERE)


def with_gradients() -> nn.Module:
    model = network()
    model(points(5, 64)).square().sum().backward()
    return model


def spectrum_and_kinks():
    f, x = network(inputs=None, classes=None), points(3, 8)
    return analysis.jacobian.jacobian(f, x), analysis.kinks.kink_distance(f, x), analysis.kinks.lies_on_kink(f, x)


def persistent():
    f, x = network(inputs=None, classes=None), points(3, 8)
    bounds = persistence.gradient_bounds(f, x, points(3, 8))
    return (
        persistence.persistent_dimension(f, x),
        persistence.separation(f, x),
        persistence.coherence(f, x),
        bounds.lower,
    )


def look(quantities=("stable_rank", "top_singular_value", "sje", "gradient_norm")) -> None:
    assert Recorder(with_gradients(), quantities, every=1).step()


def guard(trigger) -> None:
    Guard(with_gradients(), trigger=trigger, method="clip", k=2, full_up_to=2).step()


def ntk() -> float:
    labels = torch.arange(5, device=HERE)
    return singularity.ntk_top_eigenvalue(network(), nn.functional.cross_entropy, points(5, 64), labels)


def plain_loop() -> None:
    model, images = network(), load("digits", dtype=torch.float64, device=HERE)
    train(model, images, steps=3, lr=1e-3, generator=generator(), eval_every=2)
    accuracy(model, images.test_x, images.test_y)


def stack() -> None:
    images = load("digits", dtype=torch.float64, device=HERE)
    Ensemble([network(), network()]).train(images, steps=3, lr=1e-3, generators=[generator(), generator(1)])


def monitored(make, arm: str) -> None:
    run(make(), BASELINES[arm], lr=1e-3, seed=0, steps=2, warmup=1)


def small_transformer():
    text = load_text("topics", device=HERE)
    return transformer_workload(text, batch=2, context=8, width=16, layers=2, heads=2, windows=4, device=HERE)


CALLS = {
    "jacobians and kinks": spectrum_and_kinks,
    "persistence": persistent,
    "what survives": lambda: survival.measure(network(), points(3, 64)),
    "a recorder": look,
    "a guard on stable ranks": lambda: guard(StableRankTrigger(every=1)),
    "a guard on energies": lambda: guard(EnergyTrigger(every=1)),
    "smoothing": lambda: smooth_(points(12, 9), "log", k=2, full_up_to=4, generator=generator()),
    "a randomised SVD": lambda: randomised_svd(points(12, 9), 3, generator=generator()),
    "the tangent kernel": ntk,
    "the plain loop": plain_loop,
    "an ensemble": stack,
    "held-out images": lambda: load("digits", device=HERE).hold_out(100, seed=0),
    "an answer": lambda: require_close(points(3), points(3), {"no": 2 * points(3)}),
} | {
    f"{arm} on a {name}": lambda make=make, arm=arm: monitored(make, arm)
    for arm, name, make in (
        *((arm, "transformer", small_transformer) for arm in BASELINES),
        ("plain", "CNN", lambda: cnn_workload(load("digits", device=HERE), batch=4, blocks=1, width=4, held_out=8)),
        ("plain", "MLP", lambda: mlp_workload(load("digits", device=HERE), batch=4, depth=2, width=8, held_out=8)),
    )
}


@pytest.mark.parametrize("what", CALLS)
def test_nothing_is_made_elsewhere(what):
    """A tensor or a random draw without a device would be on the default one."""
    with torch.device("meta"):
        found = CALLS[what]()
    for value in found if isinstance(found, tuple) else ():
        assert not value.is_meta


def test_dimensions_lie_where_the_points_do():
    with torch.device("meta"):
        assert persistence.persistent_dimension(network(inputs=None, classes=None), points(2, 8)).device == HERE


def test_an_answer_may_come_from_any_device():
    """The right value is on the CPU; here the default device stands for the other one."""
    with torch.device("meta"):
        require_close([1.0, 2.0], points(2) * 0 + torch.tensor([1.0, 2.0], device=HERE))


# ------------------------------------------------------------------------------------------ the CUDA graph


@contextmanager
def _nothing(*args, **options):
    yield


class Streams:
    """Stands in for ``torch.cuda``: one step is run where it would be recorded, and undone."""

    def __init__(self, group: stacked.Group):
        self.group, self.log, self.on = group, [], None

    @contextmanager
    def device(self, device):
        self.log.append(("device", torch.device(device)))
        self.on = device
        yield
        self.on = None

    def Stream(self, priority=0):
        assert priority < 0, "threads that train side by side are on the streams of priority 0"
        assert self.on is not None, "a stream belongs to the current device, which need not be the weights'"
        return SimpleNamespace(wait_stream=self._begin)

    def current_stream(self):
        assert self.on is not None
        return SimpleNamespace(wait_stream=lambda other: self.log.append("joined"))

    def _begin(self, other) -> None:
        """What the side stream sees is what was asked for before this."""
        assert (self.group.stopped == 1).all(), "Adam would move the weights while the kernels warm up"
        self.log.append("forked")

    @contextmanager
    def graph(self, graph, *, stream=None, capture_error_mode="global"):
        assert stream is not None, "torch's own stream for this is on the device of the first capture"
        self.log.append(f"recorded, {capture_error_mode}")
        yield

    def install(self, monkeypatch) -> None:
        for name in ("device", "Stream", "current_stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "stream", _nothing)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=self.group._step))


@pytest.mark.parametrize("kind", ["residual", "feedforward"])
def test_a_graph_is_taken_on_the_weights_device_and_moves_nothing(monkeypatch, kind):
    images = load("digits", dtype=torch.float64, device=HERE)
    plain, captured = (Ensemble(build(3, dtype=torch.float64, **KINDS[kind])) for _ in range(2))
    plain.train(images, steps=6, lr=1e-3, batch=32, generators=seeded())
    take, logs, before = stacked.Group.run, [], captured.weights.clone()

    def run_with_graph(group, draws, losses, first, last):
        if group.graph is None:
            streams = Streams(group)
            streams.install(monkeypatch)
            group.graph = group._capture()
            logs.append(streams.log)
            assert torch.equal(captured.weights, before) and group.count == 0 and not group.stopped.any()
            assert not group.adam.first.any() and not group.adam.second.any()
        take(group, draws, losses, first, last)

    monkeypatch.setattr(stacked.Group, "run", run_with_graph)
    captured.train(images, steps=6, lr=1e-3, batch=32, generators=seeded())
    assert logs and all(log == [("device", HERE), "forked", "joined", "recorded, thread_local"] for log in logs)
    close(captured.weights, plain.weights, torch.float64)


def test_adam_counts_in_float32_whatever_the_default_is():
    """Its kernel on CUDA reads four bytes there."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        ensemble = Ensemble(build(1, dtype=torch.float64, **KINDS["residual"]))
        adam = stacked.Adam(ensemble, [1e-3], (0.9, 0.999), 1e-8)
        group = stacked.Group(ensemble, 0, stacked.Buffers(ensemble, 1, 4, 5), adam, SimpleNamespace())
        assert group.count.dtype == group.stopped.dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


# ------------------------------------------------------------------------------------------- devices by name


class OnCuda(torch.Tensor):
    is_cuda = True


def test_tf32_is_asked_for_in_torchs_newer_words():
    """The older question raises once somebody has used the newer setting."""
    before, nearly = torch.backends.cuda.matmul.fp32_precision, torch.full((1, 2, 2), 1 + 2e-4)
    theirs = [torch.ones(2, 2).as_subclass(OnCuda)]
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        stackable._require_equal("", nearly, theirs)  # within its rounding
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        with pytest.raises(ValueError, match="something else"):
            stackable._require_equal("", nearly, theirs)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_a_device_may_be_a_torch_device(tmp_path):
    """Wherever a name is taken, and the record is the same."""
    options = {"folder": tmp_path, "progress": lambda line: None}
    by_name = runner.run("learning_rate", "smoke", device="cpu", **options)
    again = runner.run("learning_rate", "smoke", device=torch.device("cpu"), again=True, **options)
    assert [run["curve"] for run in by_name["runs"]] == [run["curve"] for run in again["runs"]]
    assert by_name["provenance"]["device"] == again["provenance"]["device"]


def test_provenance_names_the_device_that_was_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: {"cuda:1": "second"}[str(device)])
    assert runner._name("cuda:1") == "second"


def test_a_seed_leaves_every_devices_generator_as_it_was(monkeypatch):
    """``torch.manual_seed`` is of all devices; torch warns where there are several and none is named."""
    asked = []
    fork = torch.random.fork_rng

    def spy(devices=None, **options):
        asked.append(list(devices))
        return fork(devices=[], **options)

    monkeypatch.setattr(torch.random, "fork_rng", spy)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    model = network()
    before = torch.get_rng_state()
    spectral_norm_(model)
    assert asked and all(devices == [0, 1, 2] for devices in asked)
    assert torch.equal(torch.get_rng_state(), before)
