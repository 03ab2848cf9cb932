"""The checks of the chapter on the depth experiments: the solution passes, each likely mistake is named."""

import pytest

from pso_lib.checks import Wrong, check
from pso_lib.nn.init import haar, looks_linear_, shared_orthogonal_


def _means(runs, arm):
    found = {}
    for run in runs:
        if run["arm"] == arm:
            found.setdefault(run["depth"], []).append(run["test_accuracy"])
    return {depth: sum(values) / len(values) for depth, values in sorted(found.items())}


def trainable_depth(runs, arm, least):
    reached = 0
    for depth, mean in _means(runs, arm).items():
        if mean < least:
            break
        reached = depth
    return reached


def last_that_passes(runs, arm, least):
    return max((depth for depth, mean in _means(runs, arm).items() if mean >= least), default=0)


def by_the_best_run(runs, arm, least):
    return max((r["depth"] for r in runs if r["arm"] == arm and r["test_accuracy"] >= least), default=0)


def by_the_worst_run(runs, arm, least):
    bad = {r["depth"] for r in runs if r["arm"] == arm and r["test_accuracy"] < least}
    return max((depth for depth in _means(runs, arm) if depth < min(bad, default=999)), default=0)


def strictly(runs, arm, least):
    return trainable_depth(runs, arm, least + 1e-12)


def one_rate(choosing, arm, chosen_at, used_at):
    def tried(depth):
        return {c["lr"]: c["held_out_accuracy"] for c in choosing if (c["arm"], c["depth"]) == (arm, depth)}

    there = tried(chosen_at)
    return max(tried(used_at).values()) - tried(used_at)[max(there, key=there.get)]


def paired(runs, first, second, depth):
    at = {(r["arm"], r["seed"]): r["test_accuracy"] for r in runs if r["depth"] == depth}
    seeds = sorted({seed for _, seed in at})
    return [at[first, seed] - at[second, seed] for seed in seeds]


def by_rank(runs, first, second, depth):
    values = [sorted(r["test_accuracy"] for r in runs if (r["arm"], r["depth"]) == (a, depth)) for a in (first, second)]
    return [a - b for a, b in zip(*values, strict=True)]


def handed_on(layers, generator):
    Q = [haar(layer.dim, layer.dim, generator) for layer in (*layers, layers[0])]
    for layer, here, there in zip(layers, Q, Q[1:], strict=False):
        layer.set_weights(A=here, B=there, b=0.0)


def independent(layers, generator):
    for layer in layers:
        Q = haar(layer.dim, layer.dim, generator)
        layer.set_weights(A=Q, B=Q, b=0.0)


@pytest.mark.parametrize(
    "name, answer",
    [
        ("depth-from-5-to-200/trainable-depth", trainable_depth),
        ("depth-from-5-to-200/one-rate", one_rate),
        ("depth-from-5-to-200/paired", paired),
        ("depth-from-5-to-200/own-start", handed_on),
    ],
)
def test_a_solution_passes(name, answer, capsys):
    check(name, answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}")


@pytest.mark.parametrize(
    "name, answer, part",
    [
        ("depth-from-5-to-200/trainable-depth", last_that_passes, "every smaller depth"),
        ("depth-from-5-to-200/trainable-depth", by_the_best_run, "the mean over seeds"),
        ("depth-from-5-to-200/trainable-depth", by_the_worst_run, "one run below it"),
        ("depth-from-5-to-200/trainable-depth", strictly, "equal to the threshold"),
        ("depth-from-5-to-200/trainable-depth", lambda *a: trainable_depth(*a) or 5, "must get 0"),
        (
            "depth-from-5-to-200/trainable-depth",
            lambda runs, arm, least: trainable_depth(runs, arm, 0.75),
            "use your argument",
        ),
        ("depth-from-5-to-200/trainable-depth", lambda *a: trainable_depth(*a) and 5, "not 50"),
        ("depth-from-5-to-200/one-rate", lambda *a: -one_rate(*a), "sign is turned"),
        ("depth-from-5-to-200/one-rate", lambda c, arm, a, b: one_rate(c, arm, b, a), "exchanged the depths"),
        ("depth-from-5-to-200/one-rate", lambda *a: 0.05, "two depths"),
        ("depth-from-5-to-200/one-rate", lambda *a: 0.55, "the accuracy itself"),
        ("depth-from-5-to-200/one-rate", lambda *a: 0.3, "one best rate"),
        ("depth-from-5-to-200/paired", lambda *a: sum(paired(*a)) / 4, "one number"),
        ("depth-from-5-to-200/paired", lambda *a: [-d for d in paired(*a)], "first minus second"),
        ("depth-from-5-to-200/paired", by_rank, "by their seed"),
        (
            "depth-from-5-to-200/paired",
            lambda runs, a, b, depth: paired(runs, a, b, 5) + paired(runs, a, b, 200),
            "select the depth",
        ),
        ("depth-from-5-to-200/own-start", shared_orthogonal_, "shared start"),
        ("depth-from-5-to-200/own-start", looks_linear_, "looks-linear"),
        ("depth-from-5-to-200/own-start", independent, "Does anything persist?"),
        ("depth-from-5-to-200/own-start", lambda layers, generator: None, "has not changed"),
        (
            "depth-from-5-to-200/own-start",
            lambda layers, generator: [layer.set_weights(A=0 * layer.A) for layer in layers],
            "A = 0",
        ),
    ],
)
def test_a_likely_mistake_is_named(name, answer, part):
    with pytest.raises(Wrong) as caught:
        check(name, answer)
    assert part in str(caught.value)
