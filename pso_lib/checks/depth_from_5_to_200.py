"""Checks of the chapter on the depth experiments."""

from functools import cache

import torch

from pso_lib import data
from pso_lib.checks._compare import require_close, require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import kaiming_, layers_of, seeded, shared_orthogonal_
from pso_lib.nn.networks import deep_network
from pso_lib.train.ensemble import Ensemble

DEPTH, WIDTH, STEPS, RATE = 60, 32, 60, 3e-4  # of the trial in "depth-from-5-to-200/own-start"


def _runs(table: dict[str, dict[int, list[float]]]) -> list[dict]:
    """Runs as a recorded result holds them, seeds in no particular order."""
    rows = [
        {"arm": arm, "depth": depth, "seed": seed, "test_accuracy": value}
        for arm, depths in table.items()
        for depth, values in depths.items()
        for seed, value in enumerate(values)
    ]
    return rows[1::2] + rows[::2]


@exercise("depth-from-5-to-200/trainable-depth")
def _trainable_depth(trainable_depth) -> str:
    """``trainable_depth(runs, arm, least)``: the largest depth up to which every mean is at least ``least``; or 0."""
    runs = _runs(  # binary fractions where the mean meets the threshold, 0.75, exactly
        {
            "steady": {5: [0.75, 0.75], 20: [0.92, 0.91], 50: [1.0, 0.5]},
            "broken": {5: [0.97, 0.95], 20: [0.95, 0.95], 50: [0.5, 0.7], 100: [0.95, 0.93]},
            "lucky": {5: [0.95, 0.95], 20: [0.99, 0.2]},
            "never": {5: [0.5, 0.6], 20: [0.3, 0.2]},
        }
    )
    found = {arm: trainable_depth(runs, arm, 0.75) for arm in ("steady", "broken", "lucky", "never")}
    if found["never"] != 0:
        wrong(f"a start that fails at every depth gets {found['never']!r}; it must get 0.")
    if found["lucky"] == 20:
        wrong("one good run of two made depth 20 trainable; the mean over seeds decides.")
    if found["broken"] == 100:
        wrong("a start that fails at 50 and recovers at 100 gets 100; every smaller depth must pass as well.")
    if found["steady"] == 20:
        wrong("a mean equal to the threshold must pass, and one run below it does no harm: compare the mean, with >=.")
    if found["steady"] == 0:
        wrong("a mean equal to the threshold must pass: compare with >=.")
    for arm, right in {"steady": 50, "broken": 20, "lucky": 5}.items():
        if found[arm] != right:
            wrong(f"for the made-up start {arm!r} you get {found[arm]!r}, not {right}.")
    lower = trainable_depth(runs, "never", 0.4)
    if lower != 5:
        wrong(f"with least=0.4 the start that has means 0.55 and 0.25 gets {lower!r}, not 5; use your argument.")
    return "the mean decides, and every smaller depth must pass too"


@exercise("depth-from-5-to-200/one-rate")
def _one_rate(one_rate) -> str:
    """``one_rate(choosing, arm, chosen_at, used_at)``: the held-out accuracy lost by the rate of another depth."""
    tried = {
        ("p", 5): {1e-4: 0.80, 1e-3: 0.90},
        ("p", 200): {1e-4: 0.85, 1e-3: 0.55},
        ("q", 5): {1e-4: 0.70, 1e-3: 0.95},
        ("q", 200): {1e-4: 0.60, 1e-3: 0.75},
    }
    choosing = [
        {"arm": arm, "depth": depth, "dataset": "mnist", "lr": lr, "held_out_accuracy": value}
        for (arm, depth), rates in tried.items()
        for lr, value in rates.items()
    ]
    require_close(
        one_rate(choosing, "p", 5, 200),
        0.30,
        {
            "the sign is turned: a loss is positive, best at 200 minus what the other depth's rate gives.": -0.30,
            "you compare accuracies at two depths; both must be at used_at, under two different rates.": -0.05,
            "you compare accuracies at two depths, with opposite sign; both must be at used_at.": 0.05,
            "you give the accuracy itself; asked for is what is lost against the best rate at used_at.": 0.55,
            "you exchanged the depths: the rate is chosen at chosen_at and used at used_at.": 0.10,
        },
        what="the loss of the made-up start 'p'",
    )
    require_close(one_rate(choosing, "q", 5, 200), 0.0, what="the loss of a start with one best rate at both depths")
    require_close(one_rate(choosing, "p", 200, 5), 0.10, what="the loss with the depths exchanged")
    return "the rate of one depth, judged at the other"


@exercise("depth-from-5-to-200/paired")
def _paired(paired) -> str:
    """``paired(runs, first, second, depth)``: per seed, the accuracy of ``first`` minus that of ``second``."""
    runs = _runs(
        {
            "p": {5: [0.1, 0.1, 0.1, 0.1], 200: [0.90, 0.95, 0.80, 0.99]},
            "q": {5: [0.2, 0.2, 0.2, 0.2], 200: [0.91, 0.90, 0.70, 0.97]},
        }
    )
    given = torch.as_tensor(paired(runs, "p", "q", 200), dtype=torch.float64, device="cpu")
    if given.ndim == 0:
        wrong("you return one number; asked for is one difference per seed, so that their signs can be counted.")
    if given.numel() == 8:
        wrong("you return eight differences; select the depth first.")
    given = require_shape(given, (4,), "the list of differences")
    right = torch.tensor([-0.01, 0.05, 0.10, 0.02], dtype=torch.float64)
    mixed = torch.tensor([0.90, 0.95, 0.80, 0.99]).sort().values - torch.tensor([0.91, 0.90, 0.70, 0.97]).sort().values
    require_close(
        given,
        right,
        {
            "the signs are turned: first minus second.": -right,
            "you sorted by accuracy; runs belong together by their seed.": mixed.double(),
        },
        what="the list of differences, in the order of the seeds",
    )
    return "each seed compares the two starts under the same ends and minibatches"


def _train(start, seeds=(0, 1)) -> list[float]:
    images = data.load("digits")
    networks = []
    for seed in seeds:
        generator = seeded(seed)
        networks.append(deep_network(DEPTH, WIDTH, inputs=64, classes=images.classes, generator=generator))
        start(list(networks[-1].layers), seeded(100 + seed))
    _require_start(networks[0])
    draws = [seeded(seed) for seed in seeds]
    histories = Ensemble(networks).train(images, steps=STEPS, lr=RATE, generators=draws)
    return [0.0 if history.diverged else history.final_accuracy for history in histories]


@cache
def _reference(name: str) -> float:
    scores = _train({"he": kaiming_, "shared": shared_orthogonal_}[name])
    return sum(scores) / len(scores)


def _require_start(network) -> None:
    """Finite weights."""
    if not all(torch.isfinite(p).all() for p in network.parameters()):
        wrong("a weight is not finite.")


@exercise("depth-from-5-to-200/own-start")
def _own_start(start) -> str:
    """``start(layers, generator)`` sets the weights of 60 type A ReLU layers, no two alike, so that they learn."""
    layers = layers_of(deep_network(DEPTH, WIDTH, generator=seeded(0)))
    before = layers[0].A.detach().clone()
    start(layers, seeded(0))
    A = torch.stack([layer.A.detach().flatten() for layer in layers])
    if torch.equal(layers[0].A, before):
        wrong("the first layer's A has not changed; set the weights in place, with layer.set_weights(A=…, B=…, b=0.0).")
    if bool((A.norm(dim=1) == 0).any()):
        wrong("a layer has A = 0: nothing passes through it.")
    unit = A / A.norm(dim=1, keepdim=True)
    closest = torch.pdist(unit).min().item()
    if closest < 0.5:
        wrong(
            f"two layers hold nearly the same A (relative distance {closest:.2g}, at least 0.5 is asked for); "
            "this is the shared start. Draw a matrix of its own for every layer, and think of what B can do."
        )
    h = WIDTH // 2
    middle = layers[DEPTH // 2].A.detach()
    if torch.allclose(middle[:h, :h], -middle[:h, h:]) and torch.allclose(middle[:h, :h], middle[h:, h:]):
        wrong("this is looks-linear: allowed by the rule and known since 2017. Find one that is not made of O and -O.")
    reached = _train(start)
    mean, he, shared = sum(reached) / len(reached), _reference("he"), _reference("shared")
    field = f"{DEPTH} layers after {STEPS} steps: yours {mean:.2f}, shared {shared:.2f}, He {he:.2f}"
    if mean < 0.6:
        wrong(
            f"{field}. It must reach 0.6. Does anything persist? B sends a layer's output on; the next A must not "
            "cut it again."
        )
    return field
