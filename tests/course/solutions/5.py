"""Reference solutions of A5."""

import itertools
import math
import random

import torch

from pso_lib import seeded
from pso_lib.data import load


def least_growth(tau, alpha, steps):
    after = VARIANT["least_growth"]["kind"] == "after"

    def fires(r):
        m = 1.0
        for t in range(1, steps + 1):
            new = alpha * m + (1 - alpha) * r**t
            if r**t > tau * (new if after else m):
                return True
            m = new
        return False

    if after and tau * (1 - alpha) >= 1:
        return math.inf
    low, high = 1.0, 2.0
    while not fires(high):
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if fires(middle) else (middle, high)
    return high


def flatten(W):
    U, s, Vh = torch.linalg.svd(W.reshape(len(W), -1).double(), full_matrices=False)
    rank = float((s**2).sum() / s[0] ** 2)
    k = math.floor(rank) if VARIANT["flatten"]["rounding"] == "rounded down" else math.ceil(rank)
    lead = s[:k]
    s[:k] = {
        "geometric mean": lead.log().mean().exp(),
        "root mean square": (lead**2).mean().sqrt(),
        "harmonic mean": 1 / (1 / lead).mean(),
    }[VARIANT["flatten"]["mean"]]
    return (U * s @ Vh).to(W.dtype).reshape(W.shape)


def schedules(count, total, warmup, draws, seed):
    gap = VARIANT["schedules"]["gap"]
    rng = random.Random(seed)
    # Take the gaps out: what is left is any set of `count` numbers, and each of those has one schedule.
    places = range(warmup + 1, total - gap * (count - 1) + 1)
    return [[step + gap * i for i, step in enumerate(sorted(rng.sample(places, count)))] for _ in range(draws)]


def when_or_what(rows):
    variant = VARIANT["when_or_what"]
    one, other, ceiling = variant["one"], variant["other"], float(variant["ceiling"])
    loss = {(r["act"], r["time"], r["seed"]): ceiling if r["loss"] is None else r["loss"] for r in rows}
    values = {"when": [], "what": [], "both": []}
    for seed in sorted({r["seed"] for r in rows}):
        gain_one = loss[one, "random", seed] - loss[one, "alarm", seed]
        gain_other = loss[other, "random", seed] - loss[other, "alarm", seed]
        values["when"].append((gain_one + gain_other) / 2)
        ones = loss[one, "random", seed] + loss[one, "alarm", seed]
        values["what"].append((loss[other, "random", seed] + loss[other, "alarm", seed] - ones) / 2)
        values["both"].append(gain_one - gain_other)
    found = {name: sum(v) / len(v) for name, v in values.items()}
    asked = values[variant["asked"]]
    sums = [sum(s * v for s, v in zip(signs, asked)) for signs in itertools.product((1, -1), repeat=len(asked))]
    found["p"] = sum(abs(total) >= abs(sum(asked)) - 1e-9 for total in sums) / len(sums)
    return found


def guarded(seed):
    rate = float(VARIANT["guarded"]["rate"])
    digits = load("digits")
    sizes = [64, *[32] * 10, 10]

    def run(alarm, times=()):
        generator = seeded(seed)
        weights = []
        for n, m in itertools.pairwise(sizes):
            W = torch.randn(m, n, generator=generator) * math.sqrt(2 / n)
            weights.append((W.requires_grad_(), torch.zeros(m, requires_grad=True)))
        flat = [p for pair in weights for p in pair]
        momentum = [torch.zeros_like(p) for p in flat]
        acted = []
        for step in range(1, 201):
            rows = torch.randint(len(digits.train_y), (64,), generator=generator)
            h = digits.train_x[rows]
            for W, b in weights[:-1]:
                h = (h @ W.T + b).relu()
            loss = torch.nn.functional.cross_entropy(h @ weights[-1][0].T + weights[-1][1], digits.train_y[rows])
            gradient = torch.autograd.grad(loss, flat)
            norm = float(sum((g**2).sum() for g in gradient) ** 0.5)
            if not math.isfinite(norm):
                break
            scale = 1.0
            if (alarm and norm > 3 and len(acted) < 160) or step in times:
                scale = 3 / norm  # at a random time it may be longer than it was
                acted.append(step)
            with torch.no_grad():
                for p, v, g in zip(flat, momentum, gradient):
                    v.mul_(0.9).add_(g, alpha=scale)
                    p.sub_(rate * v)
        last = [(W.detach().nan_to_num(), b.detach().nan_to_num()) for W, b in weights]
        return {"weights": last, "acted": acted}

    plain, guard = run(False), run(True)
    times = random.Random(seed).sample(range(1, 201), len(guard["acted"]))
    control = run(False, set(times))
    control["acted"] = sorted(times)  # also those that came after it was lost
    return {"plain": plain, "guarded": guard, "control": control}
