"""Checks for A5 that you may see. They cover 8 of 20 points: what passes here can still fail where you cannot see."""

import math

import torch

from pso_lib.checks import as_number, as_numbers, require_parts, wrong


def check_least_growth(function, variant):
    tau, alpha = 2.5, 0.9
    right = tau if variant["kind"] == "before" else tau * alpha / (1 - tau * (1 - alpha))
    found = as_number(function(tau, alpha, 1), "least_growth(2.5, 0.9, 1)")
    if not abs(found - right) < 1e-5:
        wrong(f"with a single step the value must exceed {right:.6g} (tau = 2.5, alpha = 0.9); you say {found:.6g}.")
    longer = as_number(function(tau, alpha, 20), "least_growth(2.5, 0.9, 20)")
    if not 1 < longer < found:
        wrong("the longer the growth may take, the smaller a factor is heard.")
    return "one step is right, and more steps hear more"


def check_flatten(function, variant):
    s = torch.tensor([4.0, 3.0, 2.5, 1.0], dtype=torch.float64)
    k = 2 if variant["rounding"] == "rounded down" else 3
    generator = torch.Generator().manual_seed(1)
    U = torch.linalg.qr(torch.randn(6, 4, dtype=torch.float64, generator=generator))[0]
    V = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))[0]
    W = U @ torch.diag(s) @ V.T
    found = as_numbers(function(W.clone()), "flatten(W)")
    if found.shape != W.shape:
        wrong(f"flatten must keep the shape {tuple(W.shape)}; yours is {tuple(found.shape)}.")
    inner = U.T @ found @ V
    if (inner - torch.diag(inner.diagonal())).abs().max() > 1e-6:
        wrong("the singular vectors have changed; they must stay.")
    new = inner.diagonal()
    kept = ((new - s).abs() < 1e-6).nonzero().flatten().tolist()
    if kept != list(range(k, 4)):
        wrong(
            f"the stable rank of (4, 3, 2.5, 1) is 2.02, {variant['rounding']} {k}; you keep those at {kept} (from 0)."
        )
    if (new[:k] - new[0]).abs().max() > 1e-6 or not s[k - 1] < new[0] < s[0]:
        wrong("the leading values must all become their mean.")
    return "the right number of singular values have become one, and all else has stayed"


def check_schedules(function, variant):
    count, total, warmup, draws = 3, 40, 10, 200
    table = as_numbers(function(count, total, warmup, draws, 0), "schedules(3, 40, 10, 200, 0)")
    if table.shape != (draws, count):
        wrong(f"200 schedules of 3 steps have the shape (200, 3); yours is {tuple(table.shape)}.")
    if table.min() <= warmup or table.max() > total:
        wrong(f"steps from 11 to 40 are allowed; yours go from {int(table.min())} to {int(table.max())}.")
    apart = int((table[:, 1:] - table[:, :-1]).min())
    if apart < variant["distance"]:
        wrong(f"two firings must be at least {variant['distance']} steps apart; yours come as near as {apart}.")
    if len({tuple(row) for row in table.tolist()}) < 100 or math.isnan(float(table.sum())):
        wrong("200 draws must hold many different schedules.")
    return "all schedules are allowed ones; whether each is equally likely, this does not test"


def check_when_or_what(function, variant):
    acts, times = (variant["one"], variant["other"]), ("alarm", "random")
    rows = [
        {"act": act, "time": time, "seed": seed, "loss": 1.0 + 0.1 * seed + 0.3 * len(act) / (seed + len(time))}
        for seed in range(3)
        for act in acts
        for time in times
    ]
    found = function(rows)
    if not isinstance(found, dict) or set(found) != {"when", "what", "both", "p"}:
        wrong('return a dict with "when", "what", "both" and "p".')
    if not all(math.isfinite(as_number(value, name)) for name, value in found.items()) or not 0 < found["p"] <= 1:
        wrong("all four are finite numbers, and p is a share of the signs, above 0 and at most 1.")
    return "four numbers; whether they are right, this does not test"


def check_guarded(function, variant):
    found = function(0)
    if not isinstance(found, dict) or set(found) != {"plain", "guarded", "control"}:
        wrong('return a dict with "plain", "guarded" and "control".')
    sizes = [64, *[32] * 10, 10]
    for name, run in found.items():
        if not isinstance(run, dict) or set(run) != {"weights", "acted"} or len(run["weights"]) != 11:
            wrong(f'{name} must be a dict with "weights", a list of 11 pairs, and "acted".')
        for pair, n, m in zip(run["weights"], sizes, sizes[1:], strict=False):
            require_parts(pair, {f"W of {name}": (m, n), f"b of {name}": (m,)})
        if not set(as_numbers(run["acted"], "acted").tolist()) <= set(range(1, 201)):
            wrong(f'"acted" of {name} must list steps, from 1 to 200.')
    return "three runs with weights and steps of the right form; their accuracies, this does not test"


# The points are those of what is tested, so a check of the form alone has none.
CHECKS = {
    "least_growth": (2, check_least_growth),
    "flatten": (3, check_flatten),
    "schedules": (3, check_schedules),
    "when_or_what": (0, check_when_or_what),
    "guarded": (0, check_guarded),
}
