"""Checks of the chapter on the depth experiments."""

import random
from functools import cache
from math import comb
from statistics import fmean, median

import torch

from pso_lib import data
from pso_lib.checks._compare import require_function
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import kaiming_, layers_of, seeded, shared_orthogonal_
from pso_lib.nn.networks import deep_network
from pso_lib.train.ensemble import Ensemble

DEPTH, WIDTH, STEPS, RATE = 60, 32, 60, 3e-4  # of the trial in "depth-from-5-to-200/own-start"


def _runs(table: dict[str, dict[int, list[float]]]) -> list[dict]:
    """Runs as a recorded result holds them, but in no particular order."""
    rows = [
        {"arm": arm, "depth": depth, "seed": seed, "test_accuracy": value}
        for arm, depths in table.items()
        for depth, values in depths.items()
        for seed, value in enumerate(values)
    ]
    random.Random(4).shuffle(rows)
    return rows


def _by_depth(runs, arm) -> dict[int, list[float]]:
    """The accuracies of an arm, depths in the order of their appearance."""
    found: dict[int, list[float]] = {}
    for run in runs:
        if run["arm"] == arm:
            found.setdefault(run["depth"], []).append(run["test_accuracy"])
    return found


def _reached(values: dict[int, list[float]], passes, order=sorted) -> int:
    """The last depth before the first that does not pass."""
    reached = 0
    for depth in order(values):
        if not passes(values[depth]):
            break
        reached = depth
    return reached


@exercise("depth-from-5-to-200/trainable-depth", points=2)
def _trainable_depth(trainable_depth) -> str:
    """``trainable_depth(runs, arm, least)``: the largest depth up to which every mean is at least ``least``; or 0."""
    runs = _runs(  # binary fractions, so that a mean can meet the threshold exactly
        {
            "steady": {5: [0.75, 0.75, 0.75, 0.75], 20: [0.875, 0.9375, 0.875, 0.875], 50: [1.0, 0.5, 0.5, 1.0]},
            "broken": {5: [0.96, 0.94, 0.9], 20: [0.95, 0.95, 0.9], 50: [0.5, 0.7, 0.6], 100: [0.95, 0.93, 0.9]},
            "lucky": {5: [0.9375, 0.9375], 20: [0.98, 0.2]},
            "unlucky": {5: [0.9, 0.9, 0.9], 20: [0.9, 0.9, 0.1]},
            "never": {5: [0.5, 0.625], 20: [0.25, 0.3125]},
        }
    )

    def passing(decide):
        return lambda runs, arm, least: _reached(_by_depth(runs, arm), lambda a: decide(a, least))

    mean = passing(lambda a, least: fmean(a) >= least)
    require_function(
        trainable_depth,
        mean,
        [(runs, arm, 0.75) for arm in ("steady", "broken", "lucky", "unlucky", "never")]
        + [(runs, "never", 0.4), (runs, "steady", 0.8125)],
        {
            "a start that fails at one depth and recovers at a larger one gets the larger; every smaller depth must "
            "pass as well.": lambda runs, arm, least: max(
                (depth for depth, a in _by_depth(runs, arm).items() if fmean(a) >= least), default=0
            ),
            "one good run makes a depth trainable with you; the mean over the seeds decides.": passing(
                lambda a, least: max(a) >= least
            ),
            "one bad run spoils a depth with you; the mean over the seeds decides.": passing(
                lambda a, least: min(a) >= least
            ),
            "you take the median; the mean over the seeds decides.": passing(lambda a, least: median(a) >= least),
            "a mean equal to the threshold must pass: compare with >=.": passing(lambda a, least: fmean(a) > least),
            "the runs come in no order; go through the depths from small to large.": lambda runs, arm, least: _reached(
                _by_depth(runs, arm), lambda a: fmean(a) >= least, order=list
            ),
            "a start that fails at every depth must get 0.": lambda *case: mean(*case) or 5,
            "you do not use least.": lambda runs, arm, least: mean(runs, arm, 0.75),
            "you return the first depth that fails; asked is the last before it.": lambda runs, arm, least: next(
                (depth for depth, a in sorted(_by_depth(runs, arm).items()) if fmean(a) < least), mean(runs, arm, least)
            ),
        },
        what="trainable_depth",
    )
    return "the mean decides, and every smaller depth must pass too"


@exercise("depth-from-5-to-200/one-rate", points=2)
def _one_rate(one_rate) -> str:
    """``one_rate(choosing, arm, chosen_at, used_at)``: the held-out accuracy lost by the rate of another depth."""
    tried = {
        ("p", 5): {1e-4: 0.80, 1e-3: 0.91, 1e-2: 0.30},
        ("p", 200): {1e-4: 0.85, 1e-3: 0.55, 1e-2: 0.12},
        ("q", 5): {1e-4: 0.70, 1e-3: 0.95, 1e-2: 0.94},
        ("q", 200): {1e-4: 0.60, 1e-3: 0.75, 1e-2: 0.13},
    }
    choosing = [
        {"arm": arm, "depth": depth, "dataset": "mnist", "lr": lr, "held_out_accuracy": value}
        for (arm, depth), rates in tried.items()
        for lr, value in rates.items()
    ]
    random.Random(1).shuffle(choosing)

    def best(arm, depth):
        return max(tried[arm, depth], key=tried[arm, depth].__getitem__)

    def lost(_, arm, there, here):
        return tried[arm, here][best(arm, here)] - tried[arm, here][best(arm, there)]

    require_function(
        one_rate,
        lost,
        [(choosing, "p", 5, 200), (choosing, "p", 200, 5), (choosing, "q", 5, 200), (choosing, "q", 5, 5)],
        {
            "the sign is turned: a loss is positive, best at used_at minus what the other depth's rate gives.": (
                lambda *case: -lost(*case)
            ),
            "you compare accuracies at two depths; both must be at used_at, under two rates.": (
                lambda _, arm, a, b: tried[arm, a][best(arm, a)] - tried[arm, b][best(arm, a)]
            ),
            "you compare the best of two depths; both accuracies must be at used_at, under two rates.": (
                lambda _, arm, a, b: tried[arm, a][best(arm, a)] - tried[arm, b][best(arm, b)]
            ),
            "you give the accuracy that is reached; asked for is what is lost against the best rate at used_at.": (
                lambda _, arm, a, b: tried[arm, b][best(arm, a)]
            ),
            "you exchanged the depths: the rate is chosen at chosen_at and used at used_at.": (
                lambda _, arm, a, b: lost(_, arm, b, a)
            ),
            "you measure against the worst rate; the loss is against the best.": (
                lambda _, arm, a, b: tried[arm, b][best(arm, a)] - min(tried[arm, b].values())
            ),
        },
        what="one_rate",
    )
    return "the rate of one depth, judged at the other"


@exercise("depth-from-5-to-200/seed-by-seed", points=2)
def _sign_test(sign_test) -> str:
    """``sign_test(runs, first, second, depth)``: the chance, two-sided, of signs as one-sided if each were a coin."""
    runs = _runs(
        {
            "p": {5: [0.1, 0.3, 0.1, 0.1, 0.1], 200: [0.90, 0.95, 0.80, 0.99, 0.70, 0.84]},
            "q": {5: [0.2, 0.2, 0.2, 0.2, 0.2], 200: [0.91, 0.90, 0.70, 0.97, 0.60, 0.84]},
            "r": {5: [0.3, 0.1, 0.3, 0.1, 0.2], 200: [0.98, 0.99, 0.81, 0.995, 0.71, 0.85]},
        }
    )

    def signs(runs, first, second, depth) -> tuple[int, int]:
        at = {(r["arm"], r["depth"], r["seed"]): r["test_accuracy"] for r in runs if depth in (None, r["depth"])}
        gaps = [a - at[second, d, seed] for (arm, d, seed), a in at.items() if arm == first]
        return sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)

    def gaps(runs, first, second, depth) -> list[float]:
        at = {(r["arm"], r["seed"]): r["test_accuracy"] for r in runs if r["depth"] == depth}
        return [at[first, seed] - at[second, seed] for seed in sorted({seed for _, seed in at}) if (first, seed) in at]

    def tail(fewer: int, of: int) -> float:
        return sum(comb(of, count) for count in range(fewer + 1)) / 2**of

    def chance(wins: int, losses: int) -> float:
        return min(1.0, 2 * tail(min(wins, losses), wins + losses))

    def sorted_signs(runs, first, second, depth):
        a, b = (sorted(_by_depth(runs, arm)[depth]) for arm in (first, second))
        return chance(sum(u > v for u, v in zip(a, b, strict=True)), sum(u < v for u, v in zip(a, b, strict=True)))

    def with_ties(runs, first, second, depth):
        wins, _ = signs(runs, first, second, depth)
        seeds = len(_by_depth(runs, first)[depth])
        return chance(wins, seeds - wins)

    require_function(
        sign_test,
        lambda *case: chance(*signs(*case)),
        [(runs, *case) for case in (("p", "q", 200), ("q", "p", 200), ("p", "q", 5), ("r", "p", 200), ("r", "q", 5))],
        {
            "you count one side only; signs as unequal the other way would surprise as much: twice that.": (
                lambda *case: tail(min(signs(*case)), sum(signs(*case)))
            ),
            "a chance is at most 1: where wins and losses are equal, twice one side counts the middle twice.": (
                lambda *case: 2 * tail(min(signs(*case)), sum(signs(*case)))
            ),
            "that is the chance of exactly these counts; count those that are more unequal as well.": (
                lambda *case: min(1.0, 2 * comb(sum(signs(*case)), min(signs(*case))) / 2 ** sum(signs(*case)))
            ),
            "a tie is neither a win nor a loss; leave it out.": with_ties,
            "you sorted by accuracy; runs belong together by their seed.": sorted_signs,
            "you mix the depths; select the depth first.": lambda runs, a, b, depth: chance(*signs(runs, a, b, None)),
            "those are the differences, seed by seed; asked is the chance of signs as unequal as theirs.": gaps,
            "that is the number of wins; asked is the chance of signs as unequal.": lambda *case: signs(*case)[0],
        },
        what="sign_test",
    )
    return "each seed compares the two starts under the same ends and minibatches"


def _train(start, seeds=(0, 1)) -> list[float]:
    images = data.load("digits")
    networks = []
    for seed in seeds:
        generator = seeded(seed)
        networks.append(deep_network(DEPTH, WIDTH, inputs=64, classes=images.classes, generator=generator))
        start(list(networks[-1].layers), seeded(100 + seed))
    draws = [seeded(seed) for seed in seeds]
    histories = Ensemble(networks).train(images, steps=STEPS, lr=RATE, generators=draws)
    return [0.0 if history.diverged else history.final_accuracy for history in histories]


@cache
def _reference(name: str) -> float:
    return fmean(_train({"he": kaiming_, "shared": shared_orthogonal_}[name]))


@exercise("depth-from-5-to-200/own-start", points=3)
def _own_start(start) -> str:
    """``start(layers, generator)`` sets 60 type A ReLU layers, none of which shares its units, so that they learn."""
    layers = layers_of(deep_network(DEPTH, WIDTH, generator=seeded(0)))
    before, kinds = layers[0].A.detach().clone(), [repr(layer) for layer in layers]
    start(layers, seeded(0))
    if [repr(layer) for layer in layers] != kinds:
        wrong("the layers are no longer those of type A that you were given: set their weights and nothing else.")
    A, B = (torch.stack([getattr(layer, name).detach() for layer in layers]) for name in "AB")
    if not (A.isfinite().all() and B.isfinite().all()):
        wrong("a weight is not finite.")
    if torch.equal(A[0], before):
        wrong("the first layer's A has not changed; set the weights in place, with layer.set_weights(A=…, B=…, b=0.0).")
    if any(bool(layer.b.any()) for layer in layers if layer.b is not None):
        wrong("a bias is not 0. A large one keeps every unit on, and the network is affine: set b=0.0.")
    lengths = A.norm(dim=2, keepdim=True)
    if (lengths == 0).any():
        wrong("a unit has a = 0: nothing passes through it.")
    a = A / lengths
    alike = (torch.einsum("lin,mjn->lmij", a, a).abs() > 0.999).any(-1).sum(-1).fill_diagonal_(0)  # (L, L)
    if alike.max() >= WIDTH // 4:
        i, j = divmod(int(alike.argmax()), DEPTH)
        wrong(
            f"layers {min(i, j) + 1} and {max(i, j) + 1} have {int(alike.max())} of {WIDTH} directions a_i in common: "
            "they share, as shared, block, projection and shuffles do. Draw a matrix of its own for every layer, and "
            "think of what B can do."
        )
    stretch = torch.linalg.matrix_norm(A, 2) * torch.linalg.matrix_norm(B, 2)
    if stretch.max() > 1.001:
        layer = int(stretch.argmax())
        wrong(
            f"layer {layer + 1} may stretch: |A| |B| is {stretch[layer].item():.3g}, allowed is 1. (He's start does, "
            "and so does looks-linear, which is known since 2017.)"
        )
    mean, he, shared = fmean(_train(start)), _reference("he"), _reference("shared")
    field = f"{DEPTH} layers after {STEPS} steps: yours {mean:.2f}, shared {shared:.2f}, He {he:.2f}"
    if mean < 0.6:
        wrong(
            f"{field}. It must reach 0.6. Does anything persist? B sends a layer's output on; the next A must not "
            "cut it again."
        )
    return field
