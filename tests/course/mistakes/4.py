"""Typical mistakes in A4: edits of the reference solution, the share they earn at most, and what the feedback says."""

MISTAKES = {
    "least_seeds": {
        "the other tail": (
            [('sides = VARIANT["least_seeds"]["sides"]', 'sides = 3 - VARIANT["least_seeds"]["sides"]')],
            0.25,
            "one direction",
        ),
        "possible, not likely": (
            [("if counts and at_least(counts[0], n, p) >= power", "if counts")],
            0.7,
            "not yet likely",
        ),
        "below alpha": (
            [("* at_least(w, n, Fraction(1, 2)) <= alpha", "* at_least(w + 1, n, Fraction(1, 2)) <= alpha")],
            0.5,
            "",
        ),
        "off by one": ([("            return n", "            return n + 1")], 0.5, "too many|above"),
    },
    "verdict": {
        "chosen on test": ([("[held for held, _ in", "[held for _, held in")], 0.5, "test images"),
        "diverged runs dropped": (
            [
                (
                    "    for row in rows:\n",
                    "    for row in rows:\n        if row['test'] is None:\n            continue\n",
                ),
                ("for seed in first]", "for seed in first if seed in second]"),
            ],
            0.8,
            "left out",
        ),
        "the other average": (
            [('{"mean": fmean, "median": median}', '{"median": fmean, "mean": median}')],
            0.9,
            "chosen by the",
        ),
        "unpaired": (
            [
                (
                    "differences = [first[seed][1] - second[seed][1] for seed in first]",
                    "differences = [a - b for _, a in first.values() for _, b in second.values()]",
                )
            ],
            0.9,
            "seed by seed",
        ),
        "no edge": ([('"edge": edge', '"edge": []')], 0.95, "edge"),
        "sign flipped": ([("first[seed][1] - second[seed][1]", "second[seed][1] - first[seed][1]")], 0.7, "other sign"),
        "the other tie": ([('== "larger"', '!= "larger"')], 0.95, "equal rates"),
    },
    "sweep": {
        "one rate for all": ([("lr=rate", "lr=1e-5")], 0.4, "below"),
        "a seed that does nothing": ([("seeded(seed)", "seeded(0)")], 0.3, "must make a difference"),
        "half of the runs": (
            [('for arm in VARIANT["sweep"]["names"]:', 'for arm in VARIANT["sweep"]["names"][:1]:')],
            0.0,
            "missing",
        ),
        "shapes": ([("argmax(1)", "argmax(0)")], 0.0, "shape"),
    },
}
