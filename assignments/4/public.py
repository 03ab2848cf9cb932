"""Checks for A4 that you may see. They cover 8 of the 10 points that are not graded by hand, and not every case."""

from fractions import Fraction

from pso_lib.checks import as_number, as_numbers, wrong


def check_least_seeds(function, variant):
    sides = variant["sides"]
    half = Fraction(1, 2)
    certain = {1: 5, 2: 6}[sides]  # where the first start always wins
    found = as_number(function(Fraction(1), Fraction(1, 20), half), "least_seeds(1, 1/20, 1/2)")
    if found != certain:
        wrong(f"a start that always wins shows it at the level 1/20 with {certain} seeds; you say {found:g}.")
    known = {1: 5, 2: 6}[sides]
    found = as_number(function(Fraction(9, 10), Fraction(1, 20), half), "least_seeds(9/10, 1/20, 1/2)")
    if found != known:
        wrong(f"with p = 9/10, the level 1/20 and power 1/2 the answer is {known}, not {found:g}.")
    return "two cases are right"


def check_verdict(function, variant):
    runs = {  # (rate, seed): held_out, test
        "first": {(0.1, 1): (0.5, 0.6), (0.1, 2): (0.5, 0.6), (0.3, 1): (0.8, 0.7), (0.3, 2): (0.8, 0.9),
                  (1.0, 1): (0.7, 0.8), (1.0, 2): (0.7, 0.9)},
        "second": {(0.1, 1): (0.6, 0.5), (0.1, 2): (0.6, 0.4), (0.3, 1): (0.5, 0.7), (0.3, 2): (0.5, 0.9),
                   (1.0, 1): (None, None), (1.0, 2): (0.5, 0.5)},
    }  # fmt: skip
    rows = [
        {"start": start, "rate": rate, "seed": seed, "held_out": held, "test": test}
        for start, table in runs.items()
        for (rate, seed), (held, test) in table.items()
    ]
    found = function(rows)
    if not isinstance(found, dict):
        wrong("verdict must return a dict.")
    if as_numbers(found["rates"]).tolist() != [0.3, 0.1]:
        wrong("in the small table of this check, held-out images choose the rates 0.3 and 0.1.")
    for name, value in (("mean", 0.35), ("lowest", 0.2), ("highest", 0.5)):
        if abs(as_number(found[name], name) - value) > 1e-9:
            wrong(f"in the small table of this check, the differences are 0.2 and 0.5; your {name} is {found[name]}.")
    if list(found["edge"]) != ["second"]:
        wrong("0.1 is the smallest rate that was tried, and the second start chose it: say so in edge.")
    return "a small table with two seeds is judged rightly"


def check_sweep(function, variant):
    rows = function([0.001], [1])
    found = sorted(str(row["arm"]) for row in rows)
    if found != sorted(variant["names"]):
        wrong(f"one rate and one seed make a row for each of {variant['names']}; yours are for {found}.")
    from pso_lib.data import load

    labels, said = load("digits").test_y, []
    for row in rows:
        guess = as_numbers(row["predictions"], "predictions")
        if guess.shape != labels.shape:
            wrong(f"predictions must hold the classes of the 360 test images; yours have shape {tuple(guess.shape)}.")
        said.append(f"{row['arm']} {float((guess == labels).double().mean()):.2f}")
    return "the rows have their form (accuracies at rate 0.001: " + ", ".join(said) + ")"


CHECKS = {
    "least_seeds": (2, check_least_seeds),
    "verdict": (3, check_verdict),
    "sweep": (3, check_sweep),
}
