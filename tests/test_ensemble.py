"""The ensemble: equal to networks trained one by one, deaf to a neighbour's divergence, clear about what it refuses."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from pso_lib import ensemble as engine
from pso_lib import stacked
from pso_lib.activations import PiecewiseAffine
from pso_lib.data import load
from pso_lib.ensemble import Ensemble
from pso_lib.networks import deep_network, plain_network
from pso_lib.training import accuracy, train

KINDS = {
    "residual": {"layer": "residual", "beta": -2.0, "orthogonal": "start"},
    "feedforward": {"layer": "feedforward"},
    "fold": {"layer": "fold", "hidden": 5},
    "modified": {"layer": "modified_feedforward"},
    "textbook": {"layer": "feedforward", "outer": "identity"},
    "textbook abs": {"layer": "feedforward", "outer": "identity", "activation": "abs"},
    "identity tanh": {"layer": "feedforward", "outer": "identity", "beta": 0.7, "activation": "tanh"},
    "identity gelu": {"layer": "residual", "outer": "identity", "beta": -0.5, "activation": "gelu"},
    "wide silu": {"layer": "residual", "hidden": 12, "beta": 0.5, "activation": "silu"},
    "no bias": {"layer": "residual", "bias": False, "beta": 0.5, "activation": "leaky_relu"},
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def build(count: int = 3, depth: int = 5, dim: int = 8, dtype=torch.float32, **options) -> list:
    def one(seed: int):
        generator = torch.Generator().manual_seed(seed)
        return deep_network(depth, dim, inputs=64, classes=10, dtype=dtype, generator=generator, **options)

    return [one(seed) for seed in range(count)]


def seeded(count: int = 3) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(10 + e) for e in range(count)]


def close(ours, theirs, dtype) -> None:
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_equal_separate_trainings(digits, kind, dtype):
    images, rates = digits.to(dtype=dtype), [1e-3, 3e-4, 1e-4]
    networks = build(dtype=dtype, **KINDS[kind])
    alone = copy.deepcopy(networks)
    together = Ensemble(networks)
    histories = together.train(images, steps=10, lr=rates, batch=64, generators=seeded(), eval_every=4)
    assert together.unstack() == networks
    for e, generator in enumerate(seeded()):
        wanted = train(alone[e], images, steps=10, lr=rates[e], batch=64, generator=generator, eval_every=4)
        assert histories[e].steps == wanted.steps == [0, 4, 8, 10]
        torch.testing.assert_close(histories[e].loss, wanted.loss, rtol=1e-5, atol=0)  # train keeps them in float32
        assert histories[e].test_accuracy == pytest.approx(wanted.test_accuracy, abs=1.01 / 360)
        assert not histories[e].diverged and histories[e].seconds > 0
        for ours, theirs in zip(networks[e].parameters(), alone[e].parameters(), strict=True):
            close(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_autograd(digits, kind, dtype):
    images, networks = digits.to(dtype=dtype), build(dtype=dtype, **KINDS[kind])
    x, y = images.train_x[:96].view(3, 32, -1), images.train_y[:96].view(3, 32)  # each network its own
    losses, gradients = Ensemble(networks).gradients(x, y)
    for e, network in enumerate(networks):
        loss = cross_entropy(network(x[e]), y[e])
        loss.backward()
        close(losses[e], loss.detach(), dtype)
        assert gradients[e].keys() == dict(network.named_parameters()).keys()
        for name, parameter in network.named_parameters():
            scale = parameter.grad.abs().max().clamp_min(1)
            close(gradients[e][name] / scale, parameter.grad / scale, dtype)


def test_a_deep_network_of_several_chunks_and_groups(digits, monkeypatch):
    """More layers than one chunk of gradients holds, an incomplete last chunk, groups of unequal size."""
    images, dtype = digits.to(dtype=torch.float64), torch.float64
    monkeypatch.setattr(engine, "CHUNK", 4)
    monkeypatch.setattr(engine, "GROUP", 2)
    networks = build(5, depth=11, dtype=dtype, **KINDS["residual"])
    alone = copy.deepcopy(networks)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # two workers, also on a machine with one core
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    together = Ensemble(networks)
    together.train(images, steps=26, lr=1e-3, batch=64, generators=seeded(5))
    for e, generator in enumerate(seeded(5)):
        train(alone[e], images, steps=26, lr=1e-3, batch=64, generator=generator)
    close(together.weights, Ensemble(alone).weights, dtype)


def test_without_the_fused_kernel(digits, monkeypatch):
    images = digits.to(dtype=torch.float64)
    fused, plain = (Ensemble(build(dtype=torch.float64, **KINDS["residual"])) for _ in range(2))
    fused.train(images, steps=10, lr=1e-3, generators=seeded())

    def absent(*args, **options):
        raise NotImplementedError

    monkeypatch.setattr(torch, "_fused_adam_", absent)
    plain.train(images, steps=10, lr=1e-3, generators=seeded())
    close(plain.weights, fused.weights, torch.float64)


@pytest.mark.parametrize("fused", [True, False])
def test_a_diverged_network_is_frozen_reported_and_harmless(digits, monkeypatch, fused):
    if not fused:
        monkeypatch.setattr(torch, "_fused_adam_", lambda *a, **o: (_ for _ in ()).throw(RuntimeError()))
    options = {"layer": "feedforward", "depth": 12}
    alone = Ensemble([build(**options)[i] for i in (0, 2)])
    alone.train(digits, steps=40, lr=1e-3, generators=[seeded()[i] for i in (0, 2)])
    together = Ensemble(build(**options))
    weights = {}
    histories = together.train(
        digits,
        steps=40,
        lr=[1e-3, 1e4, 1e-3],
        generators=seeded(),
        eval_every=10,
        at_eval=lambda step, ensemble: weights.update({step: ensemble.weights.clone()}),
    )
    assert [h.diverged for h in histories] == [False, True, False]
    at = histories[1].diverged_at
    assert 1 < at < 20 and len(histories[1].loss) == at and math.isnan(histories[1].final_accuracy)
    assert not math.isfinite(histories[1].loss[-1]) and all(map(math.isfinite, histories[1].loss[:-1]))
    assert torch.equal(weights[20][1], weights[40][1]) and not torch.equal(weights[0][1], weights[20][1])
    assert torch.isfinite(weights[40][1]).all()  # the update of the step that failed was not made
    close(together.weights[[0, 2]], alone.weights, torch.float32)


def test_all_diverged_ends_the_run(digits):
    ensemble = Ensemble(build(layer="feedforward", depth=12))
    histories = ensemble.train(digits, steps=10_000, lr=1e4, generators=seeded())
    assert all(h.diverged and h.diverged_at < 100 and h.test_accuracy == [] for h in histories)


def test_accuracy_and_logits(digits):
    networks = build()
    ensemble = Ensemble(networks)
    shares = ensemble.accuracy(digits.test_x, digits.test_y, chunk=100)
    assert shares.tolist() == [accuracy(network, digits.test_x, digits.test_y) for network in networks]
    close(ensemble.logits(digits.test_x)[1], networks[1](digits.test_x).detach(), torch.float32)


def test_it_learns_with_one_rate_for_all(digits):
    ensemble = Ensemble([plain_network(3, 32, inputs=64, classes=10) for _ in range(2)])
    histories = ensemble.train(digits, steps=200, lr=3e-3)
    assert all(h.final_accuracy > 0.85 for h in histories)


@pytest.mark.parametrize(
    "networks, words",
    [
        (lambda: [], "empty"),
        (lambda: [torch.nn.Linear(2, 2)], "deep_network"),
        (
            lambda: build(1) + build(1, depth=6),
            r"networks\[1\] has depth 6, networks\[0\] has 5.*one Ensemble for each",
        ),
        (lambda: build(1) + build(1, layer="residual"), "alpha"),
        (lambda: build(1) + build(1, activation="abs"), "activation"),
        (lambda: build(1) + build(1, dtype=torch.float64), "dtype"),
        (lambda: build(activation="maxmin"), "no kernels.*training.train"),
        (lambda: build(activation=PiecewiseAffine("steep", [0], [0, 2])), "no kernels"),
        (lambda: build(orthogonal="always"), 'orthogonal="start"'),
        (lambda: [deep_network(2, 4)], "inputs= and classes="),
    ],
)
def test_it_refuses(networks, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Ensemble(networks())


def test_it_refuses_frozen_and_broken_weights():
    frozen, broken = build(), build()
    frozen[1].lift.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad_"):
        Ensemble(frozen)
    with torch.no_grad():
        broken[2].layers[0].A[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"networks\[2\].*lower learning rate"):
        Ensemble(broken)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"lr": [1e-3] * 2}, "one per network"),
        ({"lr": [1e-3, 0.0, 1e-3]}, "above 0"),
        ({"generators": seeded(2)}, "one generator per network"),
        ({"generators": seeded(1) * 3}, "seed them alike"),
        ({"steps": 0}, "steps"),
        ({"batch": 5000}, "lower batch"),
    ],
)
def test_training_refuses(digits, options, words):
    with pytest.raises(ValueError, match=words):
        Ensemble(build()).train(digits, **{"steps": 1, "lr": 1e-3, **options})


def test_non_finite_images_are_refused(digits):
    x = digits.train_x.clone()
    x[3, 3] = math.inf
    with pytest.raises(ValueError, match="train_x"):
        Ensemble(build()).train(replace(digits, train_x=x), steps=1, lr=1e-3)


def test_a_rule_is_told_by_its_function_not_its_name():
    assert stacked.rule(PiecewiseAffine("anything", [0], ["1/5", 1])).name == "leaky_relu(0.2)"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the CUDA graph needs a CUDA device")
@pytest.mark.parametrize("kind", ["residual", "textbook", "fold"])
def test_the_cuda_graph_equals_the_cpu(digits, kind):
    images, networks = digits.to(dtype=torch.float64), build(dtype=torch.float64, **KINDS[kind])
    on_gpu = Ensemble([copy.deepcopy(network).cuda() for network in networks])
    on_cpu = Ensemble(networks)
    rates = [1e-3, 1e4, 1e-3]  # the second may diverge: the graph freezes it too
    ours = on_gpu.train(images.to("cuda"), steps=10, lr=rates, batch=64, generators=seeded())
    wanted = on_cpu.train(images, steps=10, lr=rates, batch=64, generators=seeded())
    for e in (0, 2):
        assert ours[e].loss == pytest.approx(wanted[e].loss, rel=1e-9)
        torch.testing.assert_close(on_gpu.weights[e].cpu(), on_cpu.weights[e], rtol=1e-9, atol=1e-9)
    assert ours[1].diverged == wanted[1].diverged


def test_numbers_too_small_for_float32_are_flushed_and_the_setting_is_put_back():
    """Vanishing gradients must not make a step ten times slower; nor may training change the caller's arithmetic."""
    tiny, seen = torch.tensor(1e-40), []
    network = deep_network(2, 8, inputs=64, classes=10, generator=torch.Generator().manual_seed(0))
    Ensemble([network]).train(
        load("digits"), steps=2, lr=1e-3, batch=16, eval_every=1, at_eval=lambda *_: seen.append((tiny * 1).item())
    )
    assert seen[1:] == [0.0, 0.0] and (tiny * 1).item() != 0
