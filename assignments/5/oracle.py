"""How A5 is judged: simulated detectors, eigenvalues, counts of schedules, networks that are run again."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import torch

from pso_lib.checks import wrong
from pso_lib.course import Case, Exercise, Judgement
from pso_lib.course.judges import Partly, expect, fields, numbers
from pso_lib.data import load


def gaussians(rng, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(rng.getrandbits(40)))


# Exercise 1

RULES = {
    "before": r"m = m_{t-1} \ \text{ is the average of the values before, and }\ "
    r"m_t = \alpha\, m_{t-1} + (1 - \alpha)\, g_t \ \text{ comes afterwards.}",
    "after": r"m = m_t = \alpha\, m_{t-1} + (1 - \alpha)\, g_t \ \text{ already contains the newest value.}",
}


def growth_variant(rng):
    kind = rng.choice(list(RULES))
    return {"kind": kind, "rule": RULES[kind]}


def heard(r, tau, alpha, steps, kind):
    """Whether the detector fires, by playing it; all values divided by the newest, so that nothing overflows."""
    m = 1.0  # m_{t-1} / g_{t-1}
    for _ in range(steps):
        before, after = m / r, alpha * m / r + 1 - alpha
        if 1 > tau * (before if kind == "before" else after):
            return True
        m = after
    return False


def edge(tau, alpha, steps, kind):
    low, high = 1.0, 2.0
    while not heard(high, tau, alpha, steps, kind):
        high *= 2
        if high > 1e12:
            return math.inf
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if heard(middle, tau, alpha, steps, kind) else (middle, high)
    return high


def growth_cases(variant, rng):
    kind = variant["kind"]
    cases = []
    for weight, steps, deaf, what in (
        (1, 1, False, "one step"),
        (2, rng.randint(3, 8), False, "some steps"),
        (1, rng.randint(60, 90), False, "long growth"),
        (0.5, 5, True, "a large tau"),
    ):
        alpha = rng.choice([0.8, 0.9, 0.95])
        tau = rng.choice([1.5, 2.0, 2.5, 3.0]) if not deaf else 1.5 / (1 - alpha)
        right = edge(tau, alpha, steps, kind)
        limit = alpha + tau * (1 - alpha)
        if kind == "after" and tau * (1 - alpha) < 1:
            limit = alpha / (1 - tau * (1 - alpha))
        other = edge(tau, alpha, steps, {"before": "after", "after": "before"}[kind])
        mistakes = {
            "That is the limit of long growth; here there are few steps.": Partly(limit, 0.25),
            "Does the average contain the newest value or not? Read the rule again.": Partly(other, 0.25),
            "Growth is heard within steps 1 to T; this takes in one step more.": Partly(
                edge(tau, alpha, steps + 1, kind), 0.5
            ),
            "Growth is heard within steps 1 to T; this leaves out one step.": Partly(
                edge(tau, alpha, max(steps - 1, 1), kind), 0.5
            ),
            "That is what would be heard without an average, against the values at rest.": tau ** (1 / steps),
        }
        mistakes = {t: m for t, m in mistakes.items() if far(getattr(m, "value", m), right)}
        cases.append(Case(weight, (tau, alpha, steps), growth_judge(right, mistakes), what))
    return cases


def far(a, b):
    return a != b and not abs(a - b) <= 1e-6 * abs(b)


def growth_judge(right, mistakes):
    def judge(value):
        found = float(numbers(value, (), "least_growth"))
        if math.isinf(right) and not math.isinf(found):
            return Judgement(0, "No growth is loud enough here; m grows with the value and stays above a share of it.")
        if math.isinf(found) and not math.isinf(right):
            return Judgement(0, "There is a growth that is heard.")
        if not far(found, right):
            return None
        for text, one in mistakes.items():
            given, share = (one.value, one.share) if isinstance(one, Partly) else (one, 0.0)
            if math.isfinite(given) and abs(found - given) < 1e-3 * abs(right - given):
                return Judgement(share, text)
        if abs(found - right) < 1e-3 * right:
            return Judgement(0.5, "least_growth is right to three digits; six are asked for.")
        return Judgement(
            0, f"At {'smaller' if found > right else 'larger'} factors the detector still differs from what you say."
        )

    return judge


# Exercise 2

MEANS = {
    "geometric mean": r"(\sigma_1 \cdots \sigma_k)^{1/k}",
    "root mean square": r"\sqrt{(\sigma_1^2 + \dots + \sigma_k^2)/k}",
    "harmonic mean": r"k \,/\, (1/\sigma_1 + \dots + 1/\sigma_k)",
}


def flatten_variant(rng):
    mean = rng.choice(list(MEANS))
    return {"mean": mean, "formula": f"${MEANS[mean]}$", "rounding": rng.choice(["rounded down", "rounded up"])}


def mean_of(s, mean):
    if mean == "geometric mean":
        return math.exp(float(s.log().mean()))
    return float((s**2).mean().sqrt()) if mean == "root mean square" else float(1 / (1 / s).mean())


def flattened(M, mean, rounding, k=None):
    """By the eigenvectors of M^T M: M + M V_k diag(new / old - 1) V_k^T."""
    values, vectors = torch.linalg.eigh(M.T @ M)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    rank = float(values.sum() / values[0])
    k = (math.floor(rank + 1e-9) if rounding == "rounded down" else math.ceil(rank - 1e-9)) if k is None else k
    s = values[:k].sqrt()
    V = vectors[:, :k]
    return M + M @ V @ torch.diag(mean_of(s, mean) / s - 1) @ V.T


def flatten_cases(variant, rng):
    mean, rounding = variant["mean"], variant["rounding"]
    cases = []
    for weight, shape, spectrum, what in (
        (1, (6, 4), [3.0, 2.8, 1.5, 0.5], "a matrix"),
        (1, (5, 8), [4.0, 3.5, 3.0, 1.0, 0.3], "a matrix that is wider than high"),
        (1, (6, 6), [5.0, 2.0, 0.5, 0.1, 0.0, 0.0], "a stable rank below 2, and a rank that is not full"),
        (1, (4, 3, 2, 3), [3.0, 2.9, 2.7, 0.4], "a kernel"),
    ):
        rows, columns = shape[0], math.prod(shape[1:])
        s = torch.tensor(spectrum, dtype=torch.float64) * (1 + 0.01 * gaussians(rng, len(spectrum)).clamp(-2, 2))
        s = s.sort(descending=True).values
        U = torch.linalg.qr(gaussians(rng, rows, len(s)))[0] if rows >= len(s) else None
        W = U @ torch.diag(s) @ torch.linalg.qr(gaussians(rng, columns, len(s)))[0].T
        right = flattened(W, mean, rounding)
        up = {"rounded down": "rounded up", "rounded up": "rounded down"}[rounding]
        rank = int(torch.linalg.matrix_rank(W))
        ways = {
            "The stable rank is rounded the other way.": Partly(flattened(W, mean, up), 0.25),
            "All singular values are replaced; only the leading ones are meant.": flattened(W, mean, rounding, rank),
            **{
                f"This is the {name}, not the mean that you were given.": Partly(flattened(W, name, rounding), 0.5)
                for name in MEANS
                if name != mean
            },
            "The weight has not changed.": W,
        }
        ways = {t: m for t, m in ways.items() if not torch.allclose(getattr(m, "value", m), right, rtol=1e-4)}
        for text, way in ways.items():
            partly = isinstance(way, Partly)
            ways[text] = Partly(way.value.reshape(shape), way.share) if partly else way.reshape(shape)
        judge = expect(right.reshape(shape), ways, tol=1e-6, what="flatten")
        cases.append(Case(weight, (W.reshape(shape),), flatten_judge(judge, shape), what))
    return cases


def flatten_judge(close, shape):
    def judge(value):
        found = numbers(value, what="flatten")
        if len(shape) == 4 and found.shape == (shape[0], math.prod(shape[1:])):
            judged = close(found.reshape(shape))
            return Judgement(0.75 if judged is None else 0.5 * judged.share, "A kernel must come back as a kernel.")
        return close(found)

    return judge


# Exercise 3


def schedules_variant(rng):
    gap = rng.choice([1, 2, 3])
    return {"gap": gap, "distance": gap + 1}


def allowed(count, total, warmup, distance):
    steps = range(warmup + 1, total + 1)
    return [c for c in itertools.combinations(steps, count) if all(b - a >= distance for a, b in itertools.pairwise(c))]


def schedules_cases(variant, rng):
    distance = variant["distance"]
    warmup = rng.choice([2, 3, 5])
    total = warmup + 2 * distance + 4  # few allowed sets, so that each is drawn often
    draws = 3000
    seeds = [rng.randint(0, 99), rng.randint(100, 199)]
    small = [(3, total, warmup, draws, seed) for seed in seeds]
    long = [(20, 60 + 20 * distance + 20, 60, 200, seed) for seed in seeds]
    tight = [(4, warmup + 3 * distance + 1, warmup, 5, seed) for seed in seeds]
    return [
        Case(2, small, schedules_judge(small[0], distance, True), "few steps: is each set equally likely?", each=True),
        Case(1, long, schedules_judge(long[0], distance, False), "a long run", each=True),
        Case(0.5, tight, schedules_judge(tight[0], distance, None), "no room to spare", each=True),
    ]


def schedules_judge(arguments, distance, uniform):
    count, total, warmup, draws, _ = arguments

    def judge(values):
        tables = [numbers(value, (draws, count), "what schedules returns") for value in values]
        times = torch.cat(tables)
        if not bool(times.isfinite().all()) or not bool((times == times.round()).all()):
            return Judgement(0, "A schedule holds what is no step.")
        apart = (times[:, 1:] - times[:, :-1]).min()
        if apart <= 0:
            return Judgement(0, "The steps of a schedule must increase, and differ.")
        if times.min() <= warmup:
            share = 0.25 if times.min() == warmup else 0.0
            return Judgement(
                share, f"A schedule acts at step {int(times.min())}; the first {warmup} steps are the warm-up."
            )
        if times.max() > total:
            return Judgement(0, "A schedule acts after the last step.")
        if apart < distance:
            close = " One step more." if apart == distance - 1 else ""
            return Judgement(0.25, f"Two times are {int(apart)} steps apart; at least {distance} are asked for.{close}")
        if uniform is None:
            return None
        if torch.equal(tables[0], tables[1]):
            return Judgement(0.25, "Two seeds give the same schedules.")
        if (times == times[0]).all():
            return Judgement(0, "All schedules are the same.")
        slack = total - warmup - (count - 1) * (distance - 1)
        if uniform:
            return even(tables, allowed(count, total, warmup, distance))
        # Without the gaps: any `count` of `slack` numbers, of which the i-th has the mean i (slack + 1) / (count + 1).
        i = torch.arange(1, count + 1, dtype=torch.float64)
        mean = i * (slack + 1) / (count + 1) + warmup + (i - 1) * (distance - 1)
        variance = i * (count + 1 - i) * (slack + 1) * (slack - count) / ((count + 1) ** 2 * (count + 2))
        off = ((times.mean(0) - mean) / (variance / len(times)).sqrt()).abs().max()
        return None if off < 6 else uneven(times.mean(0) - mean)

    return judge


def uneven(shift):
    where = "early" if float(shift.mean()) < 0 else "late"
    return Judgement(0.4, f"The schedules are allowed, but not equally likely: {where} steps are drawn too often.")


def even(tables, sets):
    """A chi-square of what was drawn against equal chances, for all allowed sets."""
    counts = Counter(tuple(int(t) for t in row) for table in tables for row in table.tolist())
    draws = sum(counts.values())
    expected = draws / len(sets)
    missing = [one for one in sets if one not in counts]
    statistic = sum((counts[one] - expected) ** 2 / expected for one in sets)
    freedom = len(sets) - 1
    if statistic < freedom + 6 * math.sqrt(2 * freedom) + 12:
        return None
    if missing and min(counts.values()) > 0.5 * draws / len(counts):
        return Judgement(
            0.4, f"{len(missing)} of {len(sets)} allowed sets are never drawn; which steps do you leave out?"
        )
    times = torch.tensor(list(counts.elements()), dtype=torch.float64)
    return uneven(times.mean(0) - torch.tensor(sets, dtype=torch.float64).mean(0))


# Exercise 4


def when_variant(rng):
    one, other = rng.sample(["smooth", "skip", "shrink", "halve"], 2)
    return {
        "one": one,
        "other": other,
        "asked": rng.choice(["when", "what", "both"]),
        "ceiling": rng.choice(["2.4", "3", "4.5"]),
    }


def effects(rows, variant, ceiling=None):
    """Each seed's three values, as fractions."""
    ceiling = Fraction(variant["ceiling"] if ceiling is None else ceiling)
    loss = {(r["act"], r["time"], r["seed"]): ceiling if r["loss"] is None else Fraction(str(r["loss"])) for r in rows}
    one, other = variant["one"], variant["other"]
    found = {"when": [], "what": [], "both": []}
    for seed in sorted({r["seed"] for r in rows}):
        gain = {act: loss[act, "random", seed] - loss[act, "alarm", seed] for act in (one, other)}
        found["when"].append((gain[one] + gain[other]) / 2)
        total = {act: loss[act, "random", seed] + loss[act, "alarm", seed] for act in (one, other)}
        found["what"].append((total[other] - total[one]) / 2)
        found["both"].append(gain[one] - gain[other])
    return found


def flips(values, tail="two"):
    seen = sum(values)
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    if tail == "one":
        return Fraction(sum(total >= seen for total in sums), len(sums))
    if tail == "strict":
        return Fraction(sum(abs(total) > abs(seen) for total in sums), len(sums))
    return Fraction(sum(abs(total) >= abs(seen) for total in sums), len(sums))


def when_cases(variant, rng):
    cases = []
    for weight, n, lost, what in (
        (1, 5, 0.0, "five seeds"),
        (1, 8, 0.0, "eight seeds"),
        (1, 6, 0.3, "runs that exploded"),
    ):
        shift = {
            (act, time): rng.choice([0, 0.05, 0.1])
            for act in (variant["one"], variant["other"])
            for time in ("alarm", "random")
        }
        while True:
            rows = [
                {
                    "act": act,
                    "time": time,
                    "seed": seed,
                    "loss": None if rng.random() < lost else round(1.6 + shift[act, time] + 0.3 * rng.random(), 2),
                }
                for act, time in shift
                for seed in range(3, 3 + n)
            ]
            values = effects(rows, variant)
            means = {key: sum(v) / len(v) for key, v in values.items()}
            if all(means.values()) and flips(values[variant["asked"]]) < 1:
                break
        rng.shuffle(rows)
        cases.append(Case(weight, (rows,), when_judge(rows, variant, values, means), what))
    return cases


def when_judge(rows, variant, values, means):
    p = float(flips(values[variant["asked"]]))
    exploded = any(row["loss"] is None for row in rows)

    def judge(value):
        if not isinstance(value, dict):
            wrong("when_or_what must return a dict.")
        found = fields(value, ["when", "what", "both", "p"], "what when_or_what returns")
        found = dict(zip(("when", "what", "both", "p"), (float(numbers(v, (), "a part")) for v in found), strict=True))
        share, said = 0.0, []
        for key, right in means.items():
            right = float(right)
            if abs(found[key] - right) < 1e-9:
                share += 0.2
            elif abs(found[key] + right) < 1e-9:
                said.append(f"{key!r} has the other sign.")
            elif abs(found[key] - right / 2) < 1e-9 or abs(found[key] - 2 * right) < 1e-9:
                said.append(f"{key!r} is off by a factor of two: means of two arms, or their difference?")
            elif exploded:
                said.append(f"{key!r} is not right; does a run that exploded count as {variant['ceiling']}?")
            else:
                said.append(f"{key!r} is not right.")
        if abs(found["p"] - p) < 1e-9:
            share += 0.4
        elif abs(found["p"] - float(flips(values[variant["asked"]], "one"))) < 1e-9 or abs(2 * found["p"] - p) < 1e-9:
            said.append("p counts one direction only.")
            share += 0.1
        elif abs(found["p"] - float(flips(values[variant["asked"]], "strict"))) < 1e-9:
            said.append("p leaves out what is exactly as far from 0, among it the observed signs.")
            share += 0.1
        elif any(abs(found["p"] - float(flips(v))) < 1e-9 for v in values.values()):
            said.append("p belongs to another of the three.")
            share += 0.1
        else:
            said.append("p is not right.")
        return Judgement(min(share, 0.95), " ".join(said)) if said else None

    return judge


# Exercise 5

# Measured at the rates 0.07 and 0.08 with 40 seeds each: four guards (gradients no longer than 2 or 3, or scaled to the
# running average) fall short of ENOUGH in at most one of twenty; plain reaches it in one of forty, and at most 0.71;
# gradients scaled to 3 in every other step reach it in one of nine. So two of three seeds decide.
ENOUGH, TRAINS = 0.65, 0.72
BUDGET, STEPS = 160, 200
RUNS = ["plain", "guarded", "control"]
SIZES = [64, *[32] * 10, 10]


def guarded_variant(rng):
    return {"rate": rng.choice(["0.07", "0.075", "0.08"])}


def guarded_cases(variant, rng):
    seeds = [(rng.randint(1000 * i, 1000 * i + 999),) for i in range(3)]
    return [Case(1, seeds, guarded_judge, "three seeds", each=True)]


def accuracy(weights):
    digits = load("digits", dtype=torch.float64)
    if not isinstance(weights, list | tuple) or len(weights) != len(SIZES) - 1:
        wrong(f"weights must be a list of {len(SIZES) - 1} pairs (W, b).")
    h = digits.test_x
    for number, (pair, n, m) in enumerate(zip(weights, SIZES, SIZES[1:], strict=False)):
        W, b = fields(pair, ["W", "b"], f"weights[{number}]")
        h = h @ numbers(W, (m, n), f"W of layer {number}").T + numbers(b, (m,), f"b of layer {number}")
        h = h.clamp_min(0) if number < len(SIZES) - 2 else h
    return float((h.argmax(1) == digits.test_y).double().mean()) if bool(h.isfinite().all()) else 0.0


def steps_of(value, name):
    steps = numbers(value, what=f"{name}: acted").flatten().tolist()
    if len(set(steps)) < len(steps) or not all(s == s // 1 and 1 <= s <= STEPS for s in steps if math.isfinite(s)):
        wrong(f"{name}: acted must hold different steps from 1 to {STEPS}.")
    return steps


def guarded_judge(values):
    good, trains, controls, said = 0, 0, 0, []
    for value in values:
        runs = dict(zip(RUNS, fields(value, RUNS, "what guarded returns"), strict=True))
        found = {}
        for name, run in runs.items():
            weights, acted = fields(run, ["weights", "acted"], name)
            found[name] = accuracy(weights), steps_of(acted, name)
        reached, acted = found["guarded"]
        if not acted or len(acted) > BUDGET:
            said.append(f"The guard acts in {len(acted)} of {STEPS} steps; 1 to {BUDGET} are allowed.")
        elif reached < ENOUGH:
            said.append(f"A guarded run reaches {reached:.2f}; {ENOUGH} is asked for.")
        else:
            good += 1
        trains += found["plain"][0] >= TRAINS or bool(found["plain"][1])
        times = found["control"][1]
        if len(times) != len(acted):
            said.append(f"A control acts {len(times)} times, the guard {len(acted)} times; equally often is asked for.")
        elif sorted(times) == sorted(acted):
            said.append("A control acts at the guard's own times.")
        else:
            controls += 1
    if trains >= 2:
        said.append("The plain runs train, or have acted; are rate, momentum and depth those asked for?")
    share = min(good, 2) * 0.3 + (trains < 2) * 0.2 + controls / len(values) * 0.2
    return Judgement(min(share, 0.95), " ".join(dict.fromkeys(said))) if share < 1 - 1e-9 else None


EXERCISES = {
    "least_growth": Exercise(3, growth_variant, growth_cases),
    "flatten": Exercise(4, flatten_variant, flatten_cases),
    "schedules": Exercise(4, schedules_variant, schedules_cases),
    "when_or_what": Exercise(3, when_variant, when_cases),
    "guarded": Exercise(3, guarded_variant, guarded_cases, seconds=60),
}
