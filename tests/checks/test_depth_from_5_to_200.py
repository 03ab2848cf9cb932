"""The checks of the chapter on the depth experiments: right answers pass in each form, each likely mistake is named."""

from collections import Counter
from statistics import fmean, median

import torch
from exercise_cases import named, passes
from scipy.stats import binomtest

from pso_lib.nn import init
from pso_lib.nn.init import haar


def accuracies(runs, arm):
    depths = sorted({run["depth"] for run in runs if run["arm"] == arm})
    return {d: [r["test_accuracy"] for r in runs if (r["arm"], r["depth"]) == (arm, d)] for d in depths}


def trainable_depth(runs, arm, least, centre=fmean, order=list):
    reached, found = 0, accuracies(runs, arm)
    for depth in order(found):
        if centre(found[depth]) < least:
            break
        reached = depth
    return reached


def of(**options):
    return lambda runs, arm, least: trainable_depth(runs, arm, least, **options)


def last_that_passes(runs, arm, least):
    return max((depth for depth, a in accuracies(runs, arm).items() if fmean(a) >= least), default=0)


def as_they_come(runs, arm, least):
    return trainable_depth(runs, arm, least, order=lambda found: Counter(r["depth"] for r in runs if r["arm"] == arm))


def one_rate(choosing, arm, chosen_at, used_at):
    def tried(depth):
        return {c["lr"]: c["held_out_accuracy"] for c in choosing if (c["arm"], c["depth"]) == (arm, depth)}

    there = tried(chosen_at)
    return max(tried(used_at).values()) - tried(used_at)[max(there, key=there.get)]


def best(choosing, arm, depth):
    return max(c["held_out_accuracy"] for c in choosing if (c["arm"], c["depth"]) == (arm, depth))


def gaps(runs, first, second, depth):
    at = {(r["arm"], r["seed"]): r["test_accuracy"] for r in runs if r["depth"] == depth}
    seeds = sorted({seed for _, seed in at})
    return [at[first, seed] - at[second, seed] for seed in seeds]


def sign_test(runs, first, second, depth, side="two-sided", gaps=gaps):
    found = [gap for gap in gaps(runs, first, second, depth) if gap]
    return binomtest(sum(gap > 0 for gap in found), len(found), alternative=side).pvalue


def by_rank(runs, first, second, depth):
    values = [sorted(r["test_accuracy"] for r in runs if (r["arm"], r["depth"]) == (a, depth)) for a in (first, second)]
    return [a - b for a, b in zip(*values, strict=True)]


def every_depth(runs, first, second, depth):
    return gaps(runs, first, second, 5) + gaps(runs, first, second, 200)


def ties_lose(runs, first, second, depth):
    found = gaps(runs, first, second, depth)
    return binomtest(sum(gap > 0 for gap in found), len(found)).pvalue


def handed_on(layers, generator, b=0.0, scale=1.0):
    Q = [haar(layer.dim, layer.dim, generator) for layer in (*layers, layers[0])]
    for layer, here, there in zip(layers, Q, Q[1:], strict=False):
        layer.set_weights(A=scale * here, B=there, b=b)


def half_handed_on(layers, generator):
    """Handed on in 24 of 32 dimensions, anything that does not stretch in the others."""
    Q = [haar(layer.dim, layer.dim, generator) for layer in (*layers, layers[0])]
    for layer, here, there in zip(layers, Q, Q[1:], strict=False):
        rest = [torch.block_diag(torch.eye(24), haar(8, 8, generator)).double() for _ in range(2)]
        layer.set_weights(A=rest[0] @ here, B=rest[1] @ there, b=0.0)


def independent(layers, generator):
    for layer in layers:
        Q = haar(layer.dim, layer.dim, generator)
        layer.set_weights(A=Q, B=Q, b=0.0)


def shuffled(layers, generator):
    for layer in layers:
        eye = torch.eye(layer.dim)
        layer.set_weights(A=eye[torch.randperm(layer.dim, generator=generator)], B=eye, b=0.0)


def to_residual(layers, generator):
    for layer in layers:
        layer.alpha = 1.0


NAME = "depth-from-5-to-200/"
SOLUTIONS = {
    NAME + "trainable-depth": [trainable_depth, lambda *case: torch.tensor(trainable_depth(*case))],
    NAME + "one-rate": [one_rate, lambda *case: torch.tensor(one_rate(*case))],
    NAME + "seed-by-seed": [sign_test],
    NAME + "own-start": [handed_on, half_handed_on],
}
MISTAKES = {
    NAME + "trainable-depth": [
        (last_that_passes, "every smaller depth"),
        (of(centre=max), "one good run"),
        (of(centre=min), "one bad run"),
        (of(centre=median), "the median"),
        (lambda runs, arm, least: trainable_depth(runs, arm, least + 1e-9), "with >="),
        (as_they_come, "from small to large"),
        (lambda *case: trainable_depth(*case) or 5, "must get 0"),
        (lambda runs, arm, least: trainable_depth(runs, arm, 0.75), "do not use least"),
        (lambda *case: 50, "use its arguments"),
    ],
    NAME + "one-rate": [
        (lambda *case: -one_rate(*case), "sign is turned"),
        (lambda c, arm, a, b: one_rate(c, arm, b, a), "exchanged the depths"),
        (lambda c, arm, a, b: best(c, arm, a) - best(c, arm, b), "the best of two depths"),
        (lambda c, arm, a, b: best(c, arm, a) - best(c, arm, b) + one_rate(c, arm, a, b), "at two depths; both"),
        (lambda c, arm, a, b: best(c, arm, b) - one_rate(c, arm, a, b), "accuracy that is reached"),
        (lambda *case: 0.3, "use its arguments"),
    ],
    NAME + "seed-by-seed": [
        (lambda *case: sign_test(*case) / 2 if sign_test(*case) < 1 else 0.6875, "one side only"),
        (lambda *case: min(sign_test(*case, side="less"), sign_test(*case, side="greater")) * 2, "at most 1"),
        (ties_lose, "leave it out"),
        (lambda *case: sign_test(*case, gaps=by_rank), "by their seed"),
        (lambda *case: sign_test(*case, gaps=every_depth), "select the depth"),
        (lambda *case: sum(gap > 0 for gap in gaps(*case)), "number of wins"),
        (gaps, "those are the differences"),
    ],
    NAME + "own-start": [
        (init.shared_orthogonal_, "shared"),
        (lambda layers, g: init.projection_(layers, 8, generator=g), "24 of 32"),
        (lambda layers, g: init.block_(layers, 20, generator=g), "12 of 32"),
        (shuffled, "shuffles"),
        (init.looks_linear_, "looks-linear"),
        (lambda layers, g: init.kaiming_(layers, init.seeded(5)), "may stretch"),
        (independent, "Does anything persist?"),
        (lambda layers, generator: None, "has not changed"),
        (lambda layers, generator: [layer.set_weights(A=0 * layer.A) for layer in layers], "a = 0"),
        (lambda layers, g: handed_on(layers, g, b=1e3), "affine"),
        (to_residual, "no longer those of type A"),
    ],
}
test_right = passes(SOLUTIONS)
test_wrong = named(MISTAKES)
