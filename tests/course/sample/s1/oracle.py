"""Judged by properties and by numbers computed here."""

import torch

from pso_lib.checks import as_number, require_close, require_shape, wrong
from pso_lib.course import Case, Exercise, Judgement


def draw(rng, *shape):
    numbers = torch.tensor([rng.gauss(0, 1) for _ in range(torch.Size(shape).numel())], dtype=torch.float64)
    return numbers.reshape(shape)


def distance_cases(variant, rng):
    cases = []
    for weight, length, what in ((1, 1.0, "a normal of length one"), (3, 2.5, "a normal of another length")):
        x, n = draw(rng, 3), draw(rng, 3)
        n = length * n / n.norm()
        b = rng.uniform(0.5, 1)
        right = float((n @ x - b) / n.norm())

        def judge(value, right=right, n=n, b=b, x=x):
            mistakes = {
                "the sign is turned": -right,
                "without the division by the length of the normal": float(n @ x - b),
                "the offset has the other sign": float((n @ x + b) / n.norm()),
            }
            require_close(value, right, mistakes)

        cases.append(Case(weight, (x, n, b), judge, what))
    return cases


def fold_cases(variant, rng):
    n = 3 * draw(rng, 4)
    x = draw(rng, 6, 4)
    unit = n / n.norm()

    def stays(value):
        require_close(require_shape(value, (6, 4)), x + 2 * (-(x @ unit)).clamp(min=0)[:, None] * unit)

    def isometric(values):
        images = [require_shape(value, (6, 4)) for value in values]
        sides = images[0] @ unit
        if bool((sides < -1e-9).any()):
            raise_side = float((sides >= -1e-9).double().mean())
            return Judgement(raise_side / 2, "some points are left on the negative side")
        require_close(images[1], images[0], what="folding twice")

    again = x + 2 * (-(x @ unit)).clamp(min=0)[:, None] * unit
    return [
        Case(2, (x, n), stays, "six points"),
        Case(2, [(x, n), (again, n)], isometric, "folding what is folded changes nothing", each=True),
    ]


def activation_variant(rng):
    creases = sorted(rng.sample(range(-4, 5), rng.choice((2, 3))))
    slopes = [rng.choice((-2, -1, 0.5, 1, 3)) for _ in range(len(creases) + 1)]
    for n in range(1, len(slopes)):
        if slopes[n] == slopes[n - 1]:
            slopes[n] += 1
    said = {"creases_text": ", ".join(map(str, creases)), "slopes_text": ", ".join(map(str, slopes))}
    return {"creases": creases, "slopes": slopes, "count": len(creases), **said}


def value_at(z, creases, slopes):
    """The integral of the slope from 0 to z, by pieces."""
    low, high = min(0, z), max(0, z)
    edges = [-100, *creases, 100]
    parts = [max(0, min(high, b) - max(low, a)) * s for a, b, s in zip(edges, edges[1:], slopes, strict=False)]
    return sum(parts) * (1 if z > 0 else -1)


def activation_cases(variant, rng):
    def judge(value, right):
        require_close(value, right, {"the function is turned upside down": -right})

    cases = []
    for what, z in (("zero", 0.0), ("far left", -20.5), ("far right", 20.5), ("in between", rng.uniform(-5, 5))):
        right = float(value_at(z, variant["creases"], variant["slopes"]))
        cases.append(Case(1, (z,), lambda value, right=right: judge(value, right), what))
    return cases


def pieces_cases(variant, rng):
    cases = []
    for weight, creases, what in (
        (1, [], "no crease"),
        (1, [rng.random() for _ in range(4)], "creases in general position"),
        (1, [1, 2, 2, 5, 1], "creases that coincide"),
    ):

        def judge(value, creases=creases):
            found, right = as_number(value), len(set(creases)) + 1
            if found == right - 1:
                wrong("off by one: between two creases there are three pieces")
            require_close(found, right)

        cases.append(Case(weight, (creases,), judge, what))
    return cases


def train_cases(variant, rng):
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.data / 16), torch.tensor(data.target)

    def judge(value):
        if not isinstance(value, dict) or set(value) != {"accuracy", "W", "b"}:
            wrong("return a dict with accuracy, W and b")
        W, b = require_shape(value["W"], (64, 10), "W"), require_shape(value["b"], (10,), "b")
        reached = float(((x @ W + b).argmax(1) == y).double().mean())
        if abs(reached - as_number(value["accuracy"], "accuracy")) > 0.01:
            wrong("the accuracy is not that of W and b")
        if reached < 0.85:
            return Judgement(min(1.0, max(0.0, (reached - 0.1) / 0.75)) / 2, "trained too little")

    return [Case(1, (rng.randrange(1000),), judge, "one seed")]


EXERCISES = {
    "signed_distance": Exercise(4, cases=distance_cases, seconds=2),
    "fold": Exercise(4, cases=fold_cases, seconds=2),
    "activation": Exercise(4, activation_variant, activation_cases, seconds=2),
    "pieces": Exercise(3, cases=pieces_cases, seconds=2),
    "train": Exercise(3, cases=train_cases, seconds=20),
}
