"""Reference solutions of A4."""

from fractions import Fraction
from math import comb
from statistics import fmean, median

import torch

import pso_lib
from pso_lib import deep_network, seeded
from pso_lib.data import load
from pso_lib.train.loop import train


def least_seeds(p, alpha, power):
    sides = VARIANT["least_seeds"]["sides"]

    def at_least(wins, n, p):
        return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(wins, n + 1))

    for n in range(1, 200):
        counts = [w for w in range(n // 2 + 1, n + 1) if sides * at_least(w, n, Fraction(1, 2)) <= alpha]
        if counts and at_least(counts[0], n, p) >= power:
            return n


def verdict(rows):
    variant = VARIANT["verdict"]
    average = {"mean": fmean, "median": median}[variant["statistic"]]
    chance = 1 / variant["classes"]
    runs = {}
    for row in rows:
        held, test = (chance if row[key] is None else row[key] for key in ("held_out", "test"))
        runs.setdefault(row["start"], {}).setdefault(row["rate"], {})[row["seed"]] = held, test
    rates, edge = [], []
    for start in ("first", "second"):
        tried = sorted(runs[start], reverse=variant["tie"] == "larger")
        score = {rate: round(average([held for held, _ in runs[start][rate].values()]), 12) for rate in tried}
        rates.append(max(tried, key=score.get))  # the first of equal ones
        if rates[-1] in (min(tried), max(tried)):
            edge.append(start)
    first, second = runs["first"][rates[0]], runs["second"][rates[1]]
    differences = [first[seed][1] - second[seed][1] for seed in first]
    return {
        "rates": rates,
        "mean": fmean(differences),
        "lowest": min(differences),
        "highest": max(differences),
        "edge": edge,
    }


def sweep(rates, seeds):
    digits = load("digits")
    starts = {
        "independent": None,
        "shared": lambda network, g: pso_lib.shared_orthogonal_(network, generator=g),
        "orthogonal": lambda network, g: pso_lib.orthogonal_(network, generator=g),
        "k = 2": lambda network, g: pso_lib.projection_(network, 2, generator=g),
        "k = 20": lambda network, g: pso_lib.projection_(network, 20, generator=g),
    }
    rows = []
    for arm in VARIANT["sweep"]["names"]:
        for rate in rates:
            for seed in seeds:
                generator = seeded(seed)
                layer = "fold" if arm == "independent" else "feedforward"
                network = deep_network(30, 24, layer=layer, inputs=64, classes=10, generator=generator)
                if starts[arm]:
                    starts[arm](network, generator)
                train(network, digits, steps=100, lr=rate, batch=64, generator=generator, progress=False)
                with torch.no_grad():
                    guess = network(digits.test_x).argmax(1)
                rows.append({"arm": arm, "rate": rate, "seed": seed, "predictions": guess})
    return rows
