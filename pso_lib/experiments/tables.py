"""What ``show`` prints of experiments that compare methods over learning rates."""

from collections.abc import Iterator

from pso_lib.experiments.verdict import trained

__all__ = ["rate_table"]


def rate_table(result: dict) -> Iterator[str]:
    """Methods down, rates across: mean final loss [min, max], how many seeds trained, and triggers per 1,000 steps."""
    runs, margin = result["runs"], result["configuration"]["margin"]
    good = {id(run): flag for run, flag in zip(runs, trained(runs, margin), strict=True)}
    yield f"final loss [min, max], runs that trained (within {margin:g} nats of the best, no explosion), triggers/1,000"
    for model in dict.fromkeys(run["model"] for run in runs):
        mine = [run for run in runs if run["model"] == model]
        rates = sorted({run["lr"] for run in mine})
        yield f"\n{model:24}" + "".join(f"{f'lr = {rate:g}':>34}" for rate in rates)
        for method in dict.fromkeys(run["method"] for run in mine):
            cells = [[r for r in mine if (r["method"], r["lr"]) == (method, rate)] for rate in rates]
            yield f"{method:24}" + "".join(f"{_cell(cell, good):>34}" for cell in cells)


def _cell(cell: list[dict], good: dict[int, bool]) -> str:
    if not cell:
        return "–"
    losses = [run["final_loss"] for run in cell if run["final_loss"] is not None]
    fired = 1000 * sum(len(run["triggers"]) for run in cell) / max(1, sum(run["steps"] for run in cell))
    spread = f"{_loss(sum(losses) / len(losses))} [{_loss(min(losses))}, {_loss(max(losses))}]" if losses else "lost"
    return f"{spread} {sum(good[id(run)] for run in cell)}/{len(cell)} {fired:.3g}"


def _loss(value: float) -> str:
    return f"{value:.3f}" if value < 1000 else f"{value:.0e}"


def survival_table(result: dict) -> Iterator[str]:
    """Means over seeds: what was watched at the first look and at the last."""
    keys = (
        "persistent_dimension",
        "loose_dimension",
        "softened_count",
        "jacobian_stable_rank",
        "stable_rank",
        "departure",
    )
    yield "mean over seeds, before training -> at the last look"
    yield f"{'start, L, rate, method':44}{'accuracy':>9}{'triggers':>9}" + "".join(f"{key:>22}" for key in keys)
    groups: dict[tuple, list[dict]] = {}
    for run in result["runs"]:
        groups.setdefault((run["start"], run["depth"], run["lr"], run["method"]), []).append(run)
    for (start, depth, lr, method), runs in groups.items():
        fired = sum(len(run["triggers"]) for run in runs) / len(runs)
        ends = (f"{_mean(runs, key, 0)} -> {_mean(runs, key, -1)}" for key in keys)
        accuracy = sum(run["accuracy"] or 0.0 for run in runs) / len(runs)
        row = f"{start} {depth} {lr:g} {method}"
        yield f"{row:44}{accuracy:>9.3f}{fired:>9.1f}" + "".join(f"{end:>22}" for end in ends)


def _mean(runs: list[dict], key: str, index: int) -> str:
    values = [run["watched"][key][index] for run in runs]
    return "–" if None in values else f"{sum(values) / len(values):.3g}"
