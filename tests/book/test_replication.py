"""The numbers of the replication page are those of the recorded results."""

import re

import pytest

import book
from pso_lib.experiments import load, select, summary

PAGE = (book.ROOT / "book" / "replication.md").read_text()
SPREAD = re.compile(r"(\d+\.\d) % \[(\d+\.\d), (\d+\.\d)\]")

QUOTED = [  # the words before the numbers, and the runs they speak of
    ("200 layers still reach", "persistence", {"arm": "projection_drift_0.03", "depth": 200}),
    ("branches has none and reaches", "baselines", {"arm": "scaled_residual", "depth": 200}),
    ("all of $\\mathbb{R}^n$ and reach", "persistence", {"arm": "independent_folds", "depth": 200}),
    ("at a fixed rate of 1e-4, shared", "fixed_rates", {"arm": "shared", "lr": 1e-4}),
    ("[94.0, 95.4] and projection", "fixed_rates", {"arm": "projection", "lr": 1e-4}),
    ("[94.2, 95.1], He", "fixed_rates", {"arm": "he", "lr": 1e-4}),
    ("some then fall back: shared ends at", "depth", {"arm": "shared", "depth": 200}),
    ("with one shared matrix they reach", "depth", {"arm": "shared_residual", "depth": 200}),
    ("Fashion-MNIST at $L = 200$ shared", "depth_fashion_mnist", {"arm": "shared", "depth": 200}),
    ("[78.8, 82.4], He", "depth_fashion_mnist", {"arm": "he", "depth": 200}),
    ("after 0.4 epochs, shared", "depth_cifar10", {"arm": "shared", "depth": 200}),
    ("[35.8, 37.5], He", "depth_cifar10", {"arm": "he", "depth": 200}),
]


@pytest.mark.parametrize(("words", "name", "which"), QUOTED)
def test_a_quoted_spread_is_the_recorded_one(words, name, which):
    assert PAGE.count(words) == 1
    quoted = SPREAD.match(PAGE.split(words)[1].strip())
    accuracies = [100 * run["test_accuracy"] for run in select(load(name), **which)]
    assert len(accuracies) == 5
    mean = sum(accuracies) / len(accuracies)
    assert [float(v) for v in quoted.groups()] == pytest.approx([mean, min(accuracies), max(accuracies)], abs=0.0501)


def test_every_spread_on_the_page_is_compared():
    assert len(SPREAD.findall(PAGE)) == len(QUOTED)


def test_the_sentences_without_a_spread_hold():
    deep = summary(load("depth")["runs"], "arm", "depth")
    for start in ("shared_residual", "block_residual", "projection_residual"):
        assert deep[start, 200].mean > 0.9615 and abs(deep[start, 200].mean - deep[start, 5].mean) < 0.01
    assert deep["he_residual", 200].mean == pytest.approx(0.100, abs=5e-4)
    for run in select(load("depth"), arm="shared", depth=200):
        assert run["lr"] == 3e-4 and max(run["curve"]["test_accuracy"]) > 0.91

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
