"""The ensemble: equal to networks trained one by one, deaf to a neighbour's divergence, clear about what it refuses."""

import copy
import io
import math
from dataclasses import replace

import pytest
import torch
from stacks import KINDS, TOLERANCE, build, close, seeded
from torch.nn.utils import parametrizations

from pso_lib.data import load
from pso_lib.nn.networks import deep_network, plain_network
from pso_lib.train import ensemble as engine
from pso_lib.train.ensemble import Ensemble
from pso_lib.train.loop import accuracy, train


@pytest.fixture(scope="module")
def digits():
    return load("digits")


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


@pytest.mark.parametrize("fused", [True, False])
def test_a_diverged_network_is_frozen_reported_and_harmless(digits, monkeypatch, fused):
    if not fused:
        monkeypatch.setattr(torch, "_fused_adam_", lambda *a, **o: (_ for _ in ()).throw(RuntimeError()))
    # float64: how many networks share a product of matrices depends on the threads, and with it the rounding
    options, digits = {"layer": "feedforward", "depth": 12, "dtype": torch.float64}, digits.to(dtype=torch.float64)
    alone = Ensemble([build(**options)[i] for i in (0, 2)])
    alone.train(digits, steps=40, lr=1e-3, generators=[seeded()[i] for i in (0, 2)])
    together = Ensemble(build(**options))
    weights = {}
    histories = together.train(
        digits,
        steps=40,
        lr=[1e-3, 1e40, 1e-3],
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
    torch.testing.assert_close(together.weights[[0, 2]], alone.weights, rtol=1e-8, atol=1e-8)


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


def test_weights_of_any_layout_survive_the_stack():
    """A transposed weight has no flat view; and a weight tied outside stays the same tensor."""
    networks = build(2)
    networks[0].lift.weight = torch.nn.Parameter(torch.randn(64, 8).T)
    kept, before = networks[0].lift.weight, networks[0].lift.weight.detach().clone()
    Ensemble(networks).unstack()
    assert networks[0].lift.weight is kept and torch.equal(kept, before)


def test_a_network_changed_since_is_refused():
    networks = build()
    together = Ensemble(networks)
    parametrizations.weight_norm(networks[1].lift)
    with pytest.raises(ValueError, match=r"networks\[1\] has other parameters"):
        together.unstack()
    with pytest.raises(ValueError, match="parametrised"):
        together.restack()


def test_labels_and_rows_are_checked_at_the_door(digits):
    together, x, y = Ensemble(build()), digits.test_x[:30], digits.test_y[:30]
    for bad, words in (
        (y[:, None], r"y has shape \(30, 1\).*flatten"),
        (y.float(), "one integer per row"),
        (torch.nn.functional.one_hot(y).bool(), "argmax"),
        (y[:7], "30 rows and y 7 labels"),
        (y - 1, "label -1; .*from 0 to 9"),
        (y + 5, "label 14"),
    ):
        with pytest.raises(ValueError, match=words):
            together.accuracy(x, bad)
        if bad.shape != y.shape or bad.is_floating_point() or "label" in words:
            with pytest.raises(ValueError):
                together.gradients(x, bad)
    for points in (x[:, :63], x[None], x[0], x.double()):
        with pytest.raises(ValueError, match="x has shape|x is torch.float64"):
            together.logits(points)
    with pytest.raises(ValueError, match="y has shape"):
        together.gradients(x[:30].expand(3, 30, 64), y.expand(2, 30))
    with pytest.raises(ValueError, match="images.train_y has shape"):
        together.train(replace(digits, train_y=digits.train_y[:, None]), steps=1, lr=1e-3)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"betas": (1.5, 0.9)}, "betas must be two numbers in"),
        ({"betas": (0.9, math.nan)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"eps": -1.0}, "eps must be"),
        ({"eps": math.inf}, "eps must be"),
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


def test_numbers_too_small_for_float32_are_flushed_and_the_setting_is_put_back():
    """Vanishing gradients must not make a step ten times slower; nor may training change the caller's arithmetic."""
    tiny, seen = torch.tensor(1e-40), []
    network = deep_network(2, 8, inputs=64, classes=10, generator=torch.Generator().manual_seed(0))
    Ensemble([network]).train(
        load("digits"), steps=2, lr=1e-3, batch=16, eval_every=1, at_eval=lambda *_: seen.append((tiny * 1).item())
    )
    assert seen[1:] == [0.0, 0.0] and (tiny * 1).item() != 0


def test_the_bar_is_told_what_the_caller_said_and_reaches_the_end(digits, monkeypatch):
    bars, real = [], engine.bar

    def bar(**options):
        bars.append((options, real(total=options["total"], show=True, disable=False, file=io.StringIO())))
        return bars[-1][1]

    monkeypatch.setattr(engine, "bar", bar)
    for progress in (None, True, False):
        Ensemble(build(1)).train(digits, steps=30, lr=1e-3, generators=seeded(1), progress=progress)
    assert [options for options, _ in bars] == [{"total": 30, "show": show} for show in (None, True, False)]
    assert all(shown.n == 30 for _, shown in bars)
