"""How A4 is judged: counts in fractions, tables made up for the mistake, and predictions compared with the labels."""

import math
import statistics
from fractions import Fraction

from pso_lib.checks import wrong
from pso_lib.course import Case, Exercise, Judgement
from pso_lib.course.judges import Partly, expect, fields, numbers, texts
from pso_lib.data import load

# Exercise 1


def seeds_variant(rng):
    sides = rng.choice([1, 2])
    return {
        "sides": sides,
        "direction": "says which of them is better" if sides == 1 else "says only that they differ",
        "tail": "a number of wins" if sides == 1 else "a split of the wins, in either direction,",
    }


def tail(n, wins, p):
    """The chance of at least so many wins."""
    return sum(
        (math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(wins, n + 1)),
        Fraction(0),
    )


def critical(n, alpha, sides):
    """The fewest wins that count as evidence; None if not even all do."""
    for wins in range(n // 2 + 1, n + 1):
        if sides * tail(n, wins, Fraction(1, 2)) <= alpha:
            return wins
    return None


def enough(n, p, alpha, power, sides):
    wins = critical(n, alpha, sides)
    return wins is not None and tail(n, wins, p) >= power


def least(p, alpha, power, sides):
    return next((n for n in range(1, 200) if enough(n, p, alpha, power, sides)), None)


def seeds_cases(variant, rng):
    sides = variant["sides"]
    cases = []
    for weight, what, powers in (
        (1, "half the time", ["1/2"]),
        (1, "nine times in ten", ["9/10", "4/5"]),
        (1, "another level", ["2/3", "3/4"]),
    ):
        while True:
            p = Fraction(rng.choice(["3/4", "4/5", "5/6", "9/10"]))
            alpha = Fraction(rng.choice(["1/20", "1/10", "1/50"]))
            power = Fraction(rng.choice(powers))
            right = least(p, alpha, power, sides)
            other = least(p, alpha, power, 3 - sides)
            if right is not None and other not in (None, right) and 4 <= right <= 80:
                break
        first = next(n for n in range(1, 200) if critical(n, alpha, sides) is not None)
        stays = next(n for n in range(right, 200) if all(enough(m, p, alpha, power, sides) for m in range(n, n + 40)))
        below = next(
            (n for n in range(1, 200) for w in [critical(n, alpha, sides)] if w and tail(n, w + 1, p) >= power), None
        )
        mistakes = {
            "Is the claim about one direction, or about both? The tail counts once or twice.": Partly(other, 0.25),
            "At so few seeds evidence is possible; it is not yet likely enough.": first,
            "This is where the power stays above; it is asked where it is reached first.": Partly(stays, 0.5),
            "A chance of exactly alpha, and the least number of wins, count as evidence too.": Partly(below, 0.25),
            "One too many.": Partly(right + 1, 0.25),
            "One too few.": Partly(right - 1, 0.25),
        }
        mistakes = {t: m for t, m in mistakes.items() if getattr(m, "value", m) not in (None, right)}
        judge = expect(right, mistakes, tol=1e-12, what="least_seeds")
        cases.append(Case(weight, (p, alpha, power), judge, what))
    return cases


# Exercise 2


def verdict_variant(rng):
    return {
        "classes": rng.choice([4, 5, 10]),
        "statistic": rng.choice(["mean", "median"]),
        "tie": rng.choice(["smaller", "larger"]),
    }


RATES = [0.0001, 0.0003, 0.001, 0.003, 0.01]


def verdict_of(rows, variant, key="held_out", drop=False, statistic=None, tie=None):
    """The table judged as the exercise says, or with one thing done otherwise."""
    chance = 1 / variant["classes"]
    average = {"mean": statistics.fmean, "median": statistics.median}[statistic or variant["statistic"]]

    def value(row, key):
        return row[key] if row[key] is not None else chance

    chosen, edge = {}, []
    for start in ("first", "second"):
        own = [row for row in rows if row["start"] == start]
        rates = sorted({row["rate"] for row in own})
        scores = {}
        for rate in rates:
            known = [r for r in own if r["rate"] == rate and not (drop and r[key] is None)]
            scores[rate] = average([value(r, key) for r in known]) if known else -1.0
        best = max(scores.values())
        tied = [rate for rate in rates if abs(scores[rate] - best) < 1e-12]
        chosen[start] = min(tied) if (tie or variant["tie"]) == "smaller" else max(tied)
        edge += [start] if chosen[start] in (rates[0], rates[-1]) else []
    tests = {
        s: {r["seed"]: value(r, "test") for r in rows if r["start"] == s and r["rate"] == chosen[s]} for s in chosen
    }
    seeds = sorted(tests["first"])
    differences = [tests["first"][s] - tests["second"][s] for s in seeds]
    return {
        "rates": [chosen["first"], chosen["second"]],
        "mean": statistics.fmean(differences),
        "lowest": min(differences),
        "highest": max(differences),
        "edge": edge,
        "unpaired": (
            min(tests["first"].values()) - max(tests["second"].values()),
            max(tests["first"].values()) - min(tests["second"].values()),
        ),
    }


def table(rng, rates, seeds, diverge):
    rows = []
    for start in ("first", "second"):
        best = rng.randrange(len(rates))
        for at, rate in enumerate(rates):
            for seed in seeds:
                held = round(0.9 - 0.08 * abs(at - best) - 0.15 * rng.random(), 2)
                test = round(held + 0.12 * rng.random() - 0.08, 3)
                lost = rng.random() < diverge * (1 + at) / len(rates)
                rows.append(
                    {
                        "start": start,
                        "rate": rate,
                        "seed": seed,
                        "held_out": None if lost else held,
                        "test": None if lost else test,
                    }
                )
    rng.shuffle(rows)
    return rows


def tied(rng, variant):
    """Two rates of equal held-out accuracies, by mean and by median."""
    rows = table(rng, RATES[:3], [1, 2, 3], 0.0)
    for row in rows:
        row["held_out"] = 0.5 if row["rate"] == RATES[0] else 0.5 + 0.25 * (row["seed"] - 1)
    return rows


def verdict_cases(variant, rng):
    cases = []
    for weight, what, wish in (
        (1, "no run diverged", "plain"),
        (1, "runs that diverged", "diverged"),
        (1, "the best rate on test images is another", "test"),
        (0.5, "equal rates", "tie"),
        (0.5, "the statistic that you were given", "statistic"),
    ):
        for _ in range(4000):
            if wish == "tie":
                rows = tied(rng, variant)
            else:
                count = rng.choice([5, 6, 7]) if wish != "plain" else 5
                rows = table(
                    rng, RATES[: rng.choice([4, 5])], rng.sample(range(100), count), 0.5 if wish == "diverged" else 0.0
                )
            right = verdict_of(rows, variant)
            ways = {
                "plain": {},
                "diverged": {"drop": True},
                "test": {"key": "test"},
                "tie": {"tie": {"smaller": "larger", "larger": "smaller"}[variant["tie"]]},
                "statistic": {"statistic": {"mean": "median", "median": "mean"}[variant["statistic"]]},
            }
            needed = [wish] if wish == "tie" else [wish, "test"]
            wrongly = [verdict_of(rows, variant, **ways[w])["rates"] for w in needed if w != "plain"]
            if right["rates"] not in wrongly and len({tuple(w) for w in wrongly}) == len(set(needed) - {"plain"}):
                break
        cases.append(Case(weight, (rows,), verdict_judge(rows, variant, right), what))
    return cases


def verdict_judge(rows, variant, right):
    other = {"mean": "median", "median": "mean"}[variant["statistic"]]
    turned = {"smaller": "larger", "larger": "smaller"}[variant["tie"]]
    ways = {
        "The rates are chosen on the test images; those are for the end.": {"key": "test"},
        "Runs that diverged are left out; they count as chance.": {"drop": True},
        f"The rates are chosen by the {other}.": {"statistic": other},
        f"Of equal rates the {turned} is chosen.": {"tie": turned},
    }

    def judge(value):
        if not isinstance(value, dict):
            wrong("verdict must return a dict.")
        rates, mean, low, high, edge = fields(value, ["rates", "mean", "lowest", "highest", "edge"], "the verdict")
        if isinstance(rates, dict):
            rates = fields(rates, ["first", "second"], "rates")
        rates = numbers(rates, (2,), "rates").tolist()
        mean, low, high = (float(numbers(v, (), n)) for v, n in ((mean, "mean"), (low, "lowest"), (high, "highest")))
        edge = set(texts(list(edge) if isinstance(edge, set) else edge, "edge"))

        def near(a, b):
            return abs(a - b) < 1e-9

        def agrees(found, wanted):
            return all(near(a, b) for a, b in zip(found, wanted, strict=True))

        if not agrees(rates, right["rates"]):
            likely = [text for text, way in ways.items() if agrees(rates, verdict_of(rows, variant, **way)["rates"])]
            if likely:
                return Judgement(0, " Or: ".join(likely))
            if agrees(rates, right["rates"][::-1]):
                return Judgement(0.25, "The two rates have changed places.")
            return Judgement(0, "At least one of the rates is not the one that the held-out images choose.")
        share, said = 0.4, []
        if near(mean, right["mean"]):
            share += 0.2
        elif near(mean, -right["mean"]):
            said.append("The mean has the other sign: the first minus the second.")
        else:
            said.append("The mean of the differences is not right; does a diverged run count as chance?")
        if near(low, right["lowest"]) and near(high, right["highest"]):
            share += 0.2
        elif near(low, right["unpaired"][0]) and near(high, right["unpaired"][1]):
            said.append("Lowest and highest compare different seeds; the differences are taken seed by seed.")
        else:
            said.append("The lowest or highest difference is not right.")
        if edge == set(right["edge"]):
            share += 0.2
        else:
            said.append("The starts whose rate lies on the edge of those tried are not the ones you name.")
        return Judgement(share, " ".join(said)) if said else None

    return judge


# Exercise 3

SHARED = "layers that share one orthogonal matrix"
CLAIMS = {
    "lengths": (
        "It is enough that each layer keeps every length: 30 independent folds learn as well in 100 steps as "
        f"30 {SHARED}.",
        ("independent", "shared"),
        'The arms are `"independent"`: fold layers, x − 2Aᵀrelu(Ax), each with a Haar matrix A of its own '
        '(`layer="fold"`); and `"shared"`: `FeedForward` layers after `pso_lib.shared_orthogonal_`.',
    ),
    "gain": (
        "It is enough that ReLU's loss of energy is made up for: 30 layers with orthogonal matrices times √2 learn as "
        f"well in 100 steps as 30 {SHARED}.",
        ("orthogonal", "shared"),
        'The arms are `"orthogonal"`: `FeedForward` layers after `pso_lib.orthogonal_`; and `"shared"`: the same after '
        "`pso_lib.shared_orthogonal_`.",
    ),
    "few": (
        "It does not matter how many dimensions persist, as long as some do: with k = 20 of 24 dimensions left to "
        "He's start, 30 layers learn as well in 100 steps as with k = 2.",
        ("k = 20", "k = 2"),
        'The arms are `"k = 20"` and `"k = 2"`: `FeedForward` layers after `pso_lib.projection_(network, k)`, with '
        "He's blocks.",
    ),
    "block": (
        "A few directions may do what they like: with k = 2 of 24 dimensions left to He's start, 30 layers learn as "
        f"well in 100 steps as 30 {SHARED}.",
        ("k = 2", "shared"),
        'The arms are `"k = 2"`: `FeedForward` layers after `pso_lib.projection_(network, 2)`, with He\'s blocks; and '
        '`"shared"`: the same after `pso_lib.shared_orthogonal_`.',
    ),
}

# The least and the largest accuracy of 22 seeds, measured; a mean of two seeds may lie MARGIN outside.
MEASURED = {
    "shared": {0.0003: (0.77, 0.86), 0.001: (0.80, 0.88), 0.003: (0.76, 0.89)},
    "k = 2": {0.0003: (0.75, 0.86), 0.001: (0.81, 0.90), 0.003: (0.73, 0.89)},
    "k = 20": {0.0003: (0.30, 0.68), 0.001: (0.34, 0.78), 0.003: (0.26, 0.68)},
    "independent": {0.0003: (0.12, 0.64), 0.001: (0.18, 0.72), 0.003: (0.14, 0.41)},
    "orthogonal": {0.0003: (0.22, 0.49), 0.001: (0.21, 0.56), 0.003: (0.19, 0.36)},
}
MARGIN = 0.06


def sweep_variant(rng):
    key = rng.choice(list(CLAIMS))
    claim, names, arms = CLAIMS[key]
    return {"key": key, "claim": claim, "names": list(names), "arms": arms}


def sweep_cases(variant, rng):
    rates = [0.001, rng.choice([0.0003, 0.003])]
    seeds = rng.sample(range(10000), 2)
    return [Case(1, (rates, seeds), sweep_judge(variant["names"], rates, seeds), "two rates and two seeds")]


def sweep_judge(names, rates, seeds):
    def judge(value):
        if not isinstance(value, list | tuple) or not all(isinstance(row, dict) for row in value):
            wrong("sweep must return a list of dicts.")
        labels, runs = load("digits").test_y, {}
        for row in value:
            arm, rate, seed, guess = fields(row, ["arm", "rate", "seed", "predictions"], "a row")
            guess = numbers(guess, what="predictions")
            if guess.shape != labels.shape:
                return Judgement(0, f"predictions have the shape {tuple(guess.shape)}, not (360,).")
            key = (str(arm), float(numbers(rate, (), "rate")), float(numbers(seed, (), "seed")))
            if key in runs:
                return Judgement(0, f"There are two rows for arm {key[0]!r}, rate {key[1]:g}, seed {key[2]:g}.")
            runs[key] = guess
        wanted = {(arm, float(rate), float(seed)) for arm in names for rate in rates for seed in seeds}
        if missing := wanted - runs.keys():
            arms = {arm for arm, _, _ in runs}
            other = f" Your arms are {sorted(arms)}, not {names}." if arms != set(names) else ""
            return Judgement(0, f"{len(missing)} of {len(wanted)} runs are missing.{other}")
        share, said = 0.2, []
        accuracy = {key: float((runs[key] == labels).double().mean()) for key in wanted}
        flat = [key for key in wanted if len(runs[key].unique()) == 1]
        for arm in names:
            if len({tuple(runs[key].tolist()) for key in wanted if key[0] == arm}) < len(rates) * len(seeds) - len(
                flat
            ):
                said.append(f"Runs of {arm!r} agree in every prediction: rate and seed must make a difference.")
                continue
            inside = 0
            for rate in rates:
                mean = statistics.fmean(accuracy[arm, float(rate), float(seed)] for seed in seeds)
                low, high = MEASURED[arm][rate]
                if low - MARGIN <= mean <= high + MARGIN:
                    inside += 1
                else:
                    way = "below" if mean < low else "above"
                    said.append(
                        f"{arm!r} at rate {rate:g} reaches {mean:.2f} in the mean, {way} what 22 runs of ours gave; "
                        "are depth, width, start, steps and batch those asked for?"
                    )
            share += 0.4 * inside / len(rates)
        return Judgement(min(share, 0.95), " ".join(said)) if said else None

    return judge


EXERCISES = {
    "least_seeds": Exercise(3, seeds_variant, seeds_cases),
    "verdict": Exercise(4, verdict_variant, verdict_cases),
    "sweep": Exercise(3, sweep_variant, sweep_cases, seconds=60),
}
