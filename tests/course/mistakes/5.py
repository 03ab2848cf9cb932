"""Typical mistakes in A5: edits of the reference solution, the share they earn at most, and what the feedback says."""

MISTAKES = {
    "least_growth": {
        "the limit": (
            [
                (
                    "    low, high = 1.0, 2.0",
                    "    limit = alpha / (1 - tau * (1 - alpha)) if after else alpha + tau * (1 - alpha)\n"
                    "    return limit\n    low, high = 1.0, 2.0",
                )
            ],
            0.65,
            "limit of long growth",
        ),
        "the other rule": ([('["kind"] == "after"', '["kind"] != "after"')], 0.6, "contain the newest"),
        "one step more": ([("range(1, steps + 1)", "range(1, steps + 2)")], 0.7, "steps 1 to T"),
        "no average": ([("m = new", "pass")], 0.5, ""),
    },
    "flatten": {
        "rounded the other way": ([('== "rounded down"', '!= "rounded down"')], 0.7, "the other way"),
        "all of them": ([("lead = s[:k]", "k = len(s[s > 1e-9])\n    lead = s[:k]")], 0.3, "only the leading"),
        "another mean": (
            [
                ('"geometric mean": lead.log().mean().exp()', '"geometric mean": lead.mean()'),
                ("(lead**2).mean().sqrt()", "lead.log().mean().exp()"),
                ("1 / (1 / lead).mean()", "lead.log().mean().exp()"),
            ],
            0.7,
            "",
        ),
        "flat kernel": ([(".reshape(W.shape)", "")], 0.95, "as a kernel"),
        "transposed": ([("U * s @ Vh", "(U * s @ Vh).T")], 0.3, ""),
    },
    "schedules": {
        "early steps": (
            [
                (
                    "    return [[step",
                    "    def greedy():\n"
                    "        times = [rng.randint(warmup + 1, total - (gap + 1) * (count - 1))]\n"
                    "        while len(times) < count:\n"
                    "            left = count - len(times) - 1\n"
                    "            times.append(rng.randint(times[-1] + gap + 1, total - (gap + 1) * left))\n"
                    "        return times\n\n"
                    "    return [greedy() for _ in range(draws)]\n    return [[step",
                )
            ],
            0.7,
            "equally likely: late",
        ),
        "no gap": ([("step + gap * i", "step"), ("total - gap * (count - 1) + 1", "total + 1")], 0.3, "apart"),
        "one too near": (
            [('gap = VARIANT["schedules"]["gap"]', 'gap = VARIANT["schedules"]["gap"] - 1')],
            0.3,
            "One step more",
        ),
        "warm-up": ([("range(warmup + 1, ", "range(warmup, ")], 0.3, "warm-up"),
        "no seed": ([("random.Random(seed)\n    #", "random.Random(0)\n    #")], 0.5, "same schedules"),
    },
    "when_or_what": {
        "sign": (
            [
                (
                    'loss[one, "random", seed] - loss[one, "alarm", seed]\n',
                    'loss[one, "alarm", seed] - loss[one, "random", seed]\n',
                ),
                (
                    'loss[other, "random", seed] - loss[other, "alarm", seed]\n',
                    'loss[other, "alarm", seed] - loss[other, "random", seed]\n',
                ),
            ],
            0.6,
            "other sign",
        ),
        "one direction": (
            [("abs(total) >= abs(sum(asked))", "total >= sum(asked)")],
            0.7,
            "one direction|p is not right|exactly",
        ),
        "no half": ([("(gain_one + gain_other) / 2", "gain_one + gain_other")], 0.8, "factor of two"),
        "strictly farther": (
            [("- 1e-9 for total", "+ 1e-9 for total"), ("abs(total) >=", "abs(total) >")],
            0.7,
            "exactly as far",
        ),
        "exploded runs as 0": ([('ceiling if r["loss"] is None', '0.0 if r["loss"] is None')], 0.9, "exploded"),
    },
    "guarded": {
        "no guard": ([("norm > 3", "norm > 1e9")], 0.4, "acts in 0"),
        "always": ([("norm > 3 and len(acted) < 160", "True")], 0.4, "are allowed"),
        "the guard's own times": (
            [('random.Random(seed).sample(range(1, 201), len(guard["acted"]))', 'guard["acted"]')],
            0.8,
            "own times",
        ),
        "a small rate": ([('rate = float(VARIANT["guarded"]["rate"])', "rate = 0.01")], 0.8, "plain runs train"),
    },
}
