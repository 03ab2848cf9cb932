"""The numbers of the replication page are those of the recorded results."""

import re

import pytest

import book
from pso_lib.experiments import load, select, summary, training_rates

PAGE = (book.ROOT / "book" / "replication.md").read_text()
SPREAD = re.compile(r"(\d+\.\d) % \[(\d+\.\d), (\d+\.\d)\]")

LOSS = re.compile(r"(?<![\d.])(\d\.\d\d) \[(\d\.\d\d), (\d\.\d\d)\]")

KEPT, FOLDS = {"start": "shared", "depth": 50}, {"depth": 200}
THREE = ("survival", "fold_budget")  # seeds; the others have five
QUOTED = [  # the words before the numbers, and the runs they speak of
    ("200 layers still reach", "persistence", {"arm": "projection_drift_0.03", "depth": 200}),
    ("branches has none and reaches", "baselines", {"arm": "scaled_residual", "depth": 200}),
    ("all of $\\mathbb{R}^n$ and reach", "persistence", {"arm": "independent_folds", "depth": 200}),
    ("higher by the same rule, with", "depth", {"arm": "looks_linear", "depth": 200}),
    ("187 steps: with ReLU it reaches", "activations", {"arm": "shared_relu", "depth": 200}),
    ("tanh ends with", "activations", {"arm": "shared_tanh", "depth": 200}),
    ("GELU with", "activations", {"arm": "shared_gelu", "depth": 200}),
    ("orthogonal at the start and end at", "depth", {"arm": "independent_folds", "depth": 200}),
    ("that without drift,", "persistence", {"arm": "projection_drift_0", "depth": 200}),
    ("At rate 1e-4 Adam alone has", "survival", KEPT | {"lr": 1e-4, "method": "adam"}),
    ("[92.2, 93.2] and the penalty", "survival", KEPT | {"lr": 1e-4, "method": "orthogonality"}),
    ("At 1e-3 the penalty ends with", "survival", KEPT | {"lr": 1e-3, "method": "orthogonality"}),
    ("[90.4, 92.4] and Adam alone with", "survival", KEPT | {"lr": 1e-3, "method": "adam"}),
    ("at a fixed rate of 1e-4, shared", "fixed_rates", {"arm": "shared", "lr": 1e-4}),
    ("[94.0, 95.4] and projection", "fixed_rates", {"arm": "projection", "lr": 1e-4}),
    ("[94.2, 95.1], He", "fixed_rates", {"arm": "he", "lr": 1e-4}),
    ("some then fall back: shared ends at", "depth", {"arm": "shared", "depth": 200}),
    ("with one shared matrix they reach", "depth", {"arm": "shared_residual", "depth": 200}),
    ("Fashion-MNIST at $L = 200$ shared", "depth_fashion_mnist", {"arm": "shared", "depth": 200}),
    ("[78.8, 82.4], He", "depth_fashion_mnist", {"arm": "he", "depth": 200}),
    ("after 0.4 epochs, shared", "depth_cifar10", {"arm": "shared", "depth": 200}),
    ("[35.8, 37.5], He", "depth_cifar10", {"arm": "he", "depth": 200}),
    ("in each of 200 layers a network reaches", "fold_budget", FOLDS | {"arm": "folds_1", "lr": 1e-3}),
    ("1e-3, with 16 in each", "fold_budget", FOLDS | {"arm": "folds_16", "lr": 1e-3}),
    ("there and at best", "fold_budget", FOLDS | {"arm": "folds_16", "lr": 1e-4}),
    ("at 1e-4; shared folds reach", "fold_budget", FOLDS | {"arm": "shared_folds", "lr": 1e-3}),
    ("Kept by force,", "survival", KEPT | {"lr": 1e-3, "method": "distance_10"}),
]

POST, INJURED = {"model": "transformer_post", "lr": 3e-3}, {"model": "transformer", "lr": 3e-3}
LOSSES = [
    ("in the controls smoothing ends at", "pss_controls", POST | {"method": "pss_clip"}),
    ("quarter without smoothing at", "pss_controls", POST | {"method": "shrink"}),
    ("nats, the same step skipped at", "pss_controls", POST | {"method": "skip"}),
    ("[2.34, 3.27], plain at", "pss_controls", POST | {"method": "plain"}),
    ("gradient clipping ends there at", "pss_controls", {"model": "mlp_sgd", "lr": 1e-1, "method": "clip"}),
    ("brings the Transformer back to", "rescue", INJURED | {"method": "checkpoint"}),
    ("the published rule to", "rescue", INJURED | {"method": "smooth_published"}),
    ("as a restart does with", "rescue", INJURED | {"method": "restart"}),
    ("clipping the spectra to", "rescue", INJURED | {"method": "smooth_clip"}),
    ("as doing nothing does with", "rescue", INJURED | {"method": "nothing"}),
    ("the entropy of single characters:", "pss_triggers", POST | {"lr": 1e-2, "method": "stable_rank"}),
    ("[2.26, 2.40] against", "pss_triggers", POST | {"lr": 1e-2, "method": "plain"}),
]


@pytest.mark.parametrize(("words", "name", "which"), QUOTED)
def test_a_quoted_spread_is_the_recorded_one(words, name, which):
    assert PAGE.count(words) == 1
    quoted = SPREAD.match(PAGE.split(words)[1].strip())
    field = "accuracy" if name == "survival" else "test_accuracy"
    accuracies = [100 * run[field] for run in select(load(name), **which)]
    assert len(accuracies) == (3 if name in THREE else 5)
    mean = sum(accuracies) / len(accuracies)
    assert [float(v) for v in quoted.groups()] == pytest.approx([mean, min(accuracies), max(accuracies)], abs=0.0501)


@pytest.mark.parametrize(("words", "name", "which"), LOSSES)
def test_a_quoted_loss_is_the_recorded_one(words, name, which):
    assert PAGE.count(words) == 1
    quoted = LOSS.match(PAGE.split(words)[1].strip())
    losses = [run["final_loss"] for run in select(load(name), **which)]
    assert len(losses) == (3 if name == "rescue" else 5)
    mean = sum(losses) / len(losses)
    assert [float(v) for v in quoted.groups()] == pytest.approx([mean, min(losses), max(losses)], abs=0.00501)


def test_every_spread_on_the_page_is_compared():
    assert len(SPREAD.findall(PAGE)) == len(QUOTED) and len(LOSS.findall(PAGE)) == len(LOSSES)


def test_the_sentences_on_training_hold():
    book = load("stable_learning_rate")
    plain = [run for run in select(book, method="plain") if run["model"] != "mlp_sgd"]
    assert len(plain) == 66 and not any(run["exploded"] for run in plain)
    left = {}
    for run in select(book, method="plain", model="mlp"):
        ranks = run["watched"]["stable_rank"]
        left.setdefault(run["lr"], []).append(ranks[-1] / ranks[0])
    assert min(left[1e-3]) > 0.97 and max(left[1e-2]) < 0.35
    smoothings = [f"pss_{kind}" for kind in ("clip", "log", "softplus", "softmax", "convolution")]
    sgd = [run for method in smoothings for run in select(book, model="mlp_sgd", lr=1e-1, method=method)]
    assert len(sgd) == 15 and all(run["exploded"] for run in sgd)
    lost = [run for m in smoothings for run in select(book, model="mlp_sgd", method=m) if run["lr"] >= 1e-1]
    assert len(lost) == 45 and all(run["exploded"] for run in lost)
    assert sum(run["exploded_at"] <= 50 for run in lost) == 20
    assert sum(run["exploded"] for run in select(book, model="mlp", method="pss_clip")) == 3

    without = [run for run in book["runs"] if run["method"] != "muon"]
    rates = training_rates(without)
    gained = {
        (model, rate)
        for model, method in rates
        if method in smoothings
        for rate in set(rates[model, method]) - set(rates[model, "plain"])
    }
    assert gained == {("transformer_post", 3e-3)}


def test_the_sentences_on_survival_hold():
    runs = select(load("survival"), **KEPT, lr=1e-3, method="adam")
    assert max(run["watched"]["softened_count"][-1] for run in runs) <= 1
    fallen, *kept = sorted(runs, key=lambda run: run["accuracy"])
    assert len(kept) == 2 and min(run["accuracy"] for run in kept) > 0.92 and fallen["accuracy"] == 0.61
    curves = {run["seed"]: dict(zip(run["curve"]["steps"], run["curve"]["loss"], strict=True)) for run in runs}
    curve = curves.pop(fallen["seed"])
    learned = min(loss for step, loss in curve.items() if step <= 660)
    others = [min(loss for step, loss in other.items() if step <= 660) for other in curves.values()]
    assert learned < max(others) and min(loss for step, loss in curve.items() if step > 660) > 1.9 * learned


def test_the_sentences_without_a_spread_hold():
    deep = summary(load("depth")["runs"], "arm", "depth")
    for start in ("shared_residual", "block_residual", "projection_residual"):
        assert deep[start, 200].mean > 0.9615 and abs(deep[start, 200].mean - deep[start, 5].mean) < 0.01
    assert deep["he_residual", 200].mean == pytest.approx(0.100, abs=5e-4)
    for run in select(load("depth"), arm="shared", depth=200):
        assert run["lr"] == 3e-4 and max(run["curve"]["test_accuracy"]) > 0.91

    acts = summary(load("activations")["runs"], "arm", "depth")
    for activation in ("leaky_relu", "abs"):
        assert abs(acts[f"shared_{activation}", 200].mean - acts["shared_relu", 200].mean) < 0.01
    cures = summary(load("baselines")["runs"], "arm", "depth")
    behind = cures["scaled_residual", 200].mean - acts["shared_relu", 200].mean
    assert 0 < behind < 0.05 and cures["scaled_residual", 200].min > acts["shared_relu", 200].max
    drifted = summary(load("persistence")["runs"], "arm", "depth")
    drift = drifted["projection_drift_0.03", 200].mean - drifted["projection_drift_0", 200].mean
    assert abs(drift) < 0.005 and acts["shared_silu", 200].max < 0.12
    assert drifted["independent_projections", 200].max < 0.12

    k = summary(load("subspace_dimension")["runs"], "arm", "depth")
    for start in ("block", "projection"):
        assert k[f"{start}_k1", 200].mean - k[f"{start}_k32", 200].mean < 0.015
        assert 0.06 < k[f"{start}_k1", 200].mean - k[f"{start}_k56", 200].mean < 0.08
        assert k[f"{start}_k63", 200].mean < 0.4

    ends = summary(load("ends")["runs"], "arm", "depth")
    for start in ("shared", "block", "projection"):
        for depth in (5, 50, 200):
            assert abs(ends[f"{start}_orthogonal", depth].mean - ends[f"{start}_default", depth].mean) < 0.01

    rates = summary(load("learning_rate")["runs"], "arm", "lr", "depth")
    for lr in (1e-6, 1e-5, 1e-4, 1e-3):
        assert rates["shared", lr, 50].min > rates["he", lr, 50].max
    lead = [rates["shared", lr, 5].mean - rates["he", lr, 5].mean for lr in (1e-6, 1e-5, 1e-4, 1e-3)]
    assert sorted(lead, reverse=True) == lead and lead[-1] < 0.01
