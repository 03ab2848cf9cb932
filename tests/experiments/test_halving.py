"""Rates chosen by halving, on trials that are made up: what is tried, what wins, and when nothing trains."""

import json
import math
from dataclasses import replace

import pytest

from pso_lib.experiments import experiment, record, run
from pso_lib.experiments.depth import DEPTH
from pso_lib.experiments.halving import Halving, beyond, choose, final, ranked, screen

GRID = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
CHANCE = 0.13
PLAN = Halving()


class Trials:
    """Answers with a given accuracy by rate, spread over three seeds, and remembers what was asked."""

    def __init__(self, accuracy: dict, loss=lambda rate: 1.0, other: float = 0.1):
        self.accuracy, self.loss, self.other, self.asked = accuracy, loss, other, []

    def __call__(self, rates):
        self.asked += rates
        return [
            {"lr": rate, "held_out_accuracy": self.accuracy.get(rate, self.other) + change, "loss": self.loss(rate)}
            for rate in rates
            for change in (-0.01, 0.0, 0.01)
        ]


def search(short, full, plan=PLAN):
    screened = screen(GRID, plan, CHANCE, short)
    entries = final(screened, plan, CHANCE, full)
    return choose(screened, entries, CHANCE)


@pytest.mark.parametrize(
    "rate, upwards, wanted",
    [(1e-4, True, 3e-4), (3e-4, True, 1e-3), (1e-4, False, 3e-5), (3e-4, False, 1e-4), (2e-4, True, 3e-4)]
    + [(1e-7, False, None), (1e-1, True, None), (3e-7, False, 1e-7), (3e-2, True, 1e-1)],
)
def test_the_next_half_decade(rate, upwards, wanted):
    assert beyond(rate, upwards, (1e-7, 1e-1)) == wanted


def test_the_end_of_full_runs_decides():
    short = Trials({3e-5: 0.4, 1e-4: 0.6, 3e-4: 0.8, 1e-3: 0.7})
    full = Trials({3e-4: 0.9, 1e-3: 0.95})
    assert search(short, full) == {
        "trains": True,
        "best": 1e-3,
        "edge": False,
        "lr": 1e-3,
        "held_out_accuracy": 0.95,
        "chance": CHANCE,
    }
    assert short.asked == list(GRID) and full.asked == [3e-4, 1e-3]  # the two best of the grid, and no more


def test_the_mean_over_seeds_decides():
    """One lucky seed does not."""
    entries = [{"lr": 1e-4, "held_out_accuracy": a, "loss": 1.0} for a in (0.9, 0.2, 0.1)]
    entries += [{"lr": 1e-3, "held_out_accuracy": a, "loss": 1.0} for a in (0.5, 0.5, 0.4)]
    assert ranked(entries, CHANCE) == [1e-3, 1e-4]


def test_a_smaller_rate_is_tried_when_the_long_run_wants_one():
    short = Trials({3e-5: 0.4, 1e-4: 0.6, 3e-4: 0.8, 1e-3: 0.7})
    full = Trials({3e-5: 0.85, 1e-4: 0.93, 3e-4: 0.9, 1e-3: 0.2})
    choice = search(short, full)
    assert full.asked == [3e-4, 1e-3, 1e-4, 3e-5] and choice["best"] == 1e-4


@pytest.mark.parametrize("bounds, asked, best", [((1e-7, 1e-1), [3e-6, 1e-6], 3e-6), ((3e-6, 1e-1), [3e-6], 3e-6)])
def test_a_winner_at_the_lower_edge_widens_the_grid(bounds, asked, best):
    accuracy = {1e-6: 0.3, 3e-6: 0.6, 1e-5: 0.5, 3e-5: 0.3}
    short, full = Trials(accuracy), Trials(accuracy)
    choice = search(short, full, Halving(bounds=bounds))
    assert short.asked[len(GRID) :] == asked and choice["best"] == best
    assert choice["edge"] is (bounds[0] == best)  # its neighbour may not be tried, and that is said
    assert all(rate >= bounds[0] for rate in short.asked + full.asked)


def test_a_winner_at_the_upper_edge_widens_the_grid():
    short = Trials({1e-3: 0.5, 3e-3: 0.6, 1e-2: 0.7, 3e-2: 0.4})
    full = Trials({3e-3: 0.6, 1e-2: 0.7})
    choice = search(short, full)
    assert short.asked[len(GRID) :] == [1e-2, 3e-2] and choice["best"] == 1e-2 and not choice["edge"]
    # the short winner lies inside, but the second wins the long run, at the edge: the next is run as well
    short = Trials({1e-3: 0.6, 3e-3: 0.5})
    full = Trials({1e-3: 0.6, 3e-3: 0.7, 1e-2: 0.3})
    assert search(short, full)["best"] == 3e-3 and full.asked == [1e-3, 3e-3, 1e-2]


def test_nothing_above_chance_has_no_best_rate():
    """Accuracy ranks nothing then: the loss says which rates are worth a long run, and at which to report."""

    def loss(rate):
        return None if rate >= 1e-3 else 2.3 + abs(math.log10(rate / 1e-4))

    short, full = Trials({1e-5: 0.115}, loss), Trials({}, loss)
    choice = search(short, full)
    assert choice["trains"] is False and choice["best"] is None and choice["lr"] == 1e-4 and not choice["edge"]
    assert short.asked == list(GRID) and len(full.asked) == 2 and full.asked[0] == 1e-4


def test_where_every_run_diverged_the_smallest_rate_is_reported():
    def lost(rate):
        return None

    plan = Halving(bounds=(1e-5, 3e-3))
    assert search(Trials({}, lost, other=0.01), Trials({}, lost, other=0.01), plan)["lr"] == 1e-5


def test_what_broke_later_does_not_hide_a_rate_that_trains():
    """Both finalists end at chance; the third, above chance when screened, is run before "does not train" is said."""
    short, full = Trials({3e-5: 0.3, 1e-4: 0.4, 3e-4: 0.8, 1e-3: 0.9}), Trials({1e-4: 0.6, 3e-5: 0.5})
    choice = search(short, full)
    assert choice["trains"] and choice["best"] == 1e-4 and full.asked == [1e-3, 3e-4, 1e-4, 3e-5]
    assert search(short, Trials({}))["trains"] is False


# ------------------------------------------------------------------------------- in an experiment


@pytest.fixture(scope="module")
def tiny():
    """Two arms, two depths: twelve units."""
    whole = experiment("depth_tuned", "smoke")
    arms = tuple(arm for arm in whole.arms if arm.name in ("shared", "independent_folds"))
    return replace(whole, arms=arms, depths=(3, 2))


@pytest.fixture(scope="module")
def recorded(tiny, tmp_path_factory):
    lines = []
    return run(tiny, "smoke", folder=tmp_path_factory.mktemp("results"), progress=lines.append), lines


def test_units_go_from_what_says_most_to_what_says_least(recorded):
    keys = [line.partition(": ")[0] for line in recorded[1][:-1]]
    assert keys == [
        f"digits/L={depth}/{arm}/{stage}"
        for depth in (3, 2)
        for arm in ("shared", "independent_folds")
        for stage in ("screen", "final", "report")
    ]


def test_the_record_says_how_rates_were_chosen(recorded, tiny):
    result, _ = recorded
    assert result["held_out"] == {"digits": 200}
    assert {one["seed"] for one in result["choosing"]} == {1000, 1001}
    assert {one["seed"] for one in result["runs"]} == {0, 1}
    assert len(result["choices"]) == 4
    for choice in result["choices"]:
        where = [choice[field] for field in ("arm", "depth", "dataset")]
        mine = [c for c in result["choosing"] if [c["arm"], c["depth"], c["dataset"]] == where]
        full = [c for c in mine if c["stage"] == "final"]
        assert {c["lr"] for c in mine if c["stage"] == "screen"} >= set(tiny.rates)
        assert all(sum(c["lr"] == rate for c in full) == 2 for rate in {c["lr"] for c in full})
        means = {r: sum(c["held_out_accuracy"] for c in full if c["lr"] == r) / 2 for r in {c["lr"] for c in full}}
        assert choice["trains"] and choice["best"] == choice["lr"] == max(means, key=means.get)
        runs = [r for r in result["runs"] if [r["arm"], r["depth"], r["dataset"]] == where]
        assert {r["lr"] for r in runs} == {choice["lr"]}


def test_the_table_says_what_does_not_train_and_what_was_not_bracketed(recorded):
    result = json.loads(json.dumps(recorded[0]))
    first, second, *others = result["choices"]
    first |= {"trains": False, "best": None, "edge": False}
    second |= {"edge": True}
    for one in others:
        one["edge"] = False
    lines = "\n".join(DEPTH.table(result))
    assert f"no rate is above chance: {first['arm']} at L = {first['depth']}\n" in lines
    assert lines.endswith(f"no worse neighbour on one side: {second['arm']} at L = {second['depth']}")


def test_chance_is_the_share_of_the_largest_class_and_a_margin(recorded):
    from pso_lib import data

    labels = data.load("digits").hold_out(200, seed=0).test_y.tolist()
    share = max(labels.count(digit) for digit in range(10)) / 200
    assert {choice["chance"] for choice in recorded[0]["choices"]} == {round(share + 0.02, 5)}


def test_held_out_is_what_there_was(tmp_path):
    """A fifth of 1,437 digits, where the plan would hold out 5,000; also where rates are chosen the plain way."""
    plan = replace(experiment("depth", "smoke"), arms=experiment("depth").arms[:1], depths=(2,), held_out=5000)
    result = run(plan, "smoke", folder=tmp_path, progress=lambda line: None)
    assert result["held_out"] == {"digits": 287}


def test_a_stopped_search_goes_on_and_ends_the_same(recorded, tiny, tmp_path):
    """After a short trial, a choice and a report: what follows reads what was chosen from the journal."""

    class Stop(Exception):
        pass

    def stop(line):
        raise Stop

    for _ in range(5):
        with pytest.raises(Stop):
            run(tiny, "smoke", folder=tmp_path, progress=stop)
    resumed = run(tiny, "smoke", folder=tmp_path, progress=lambda line: None)
    for field in ("runs", "choosing", "choices"):
        assert resumed[field] == recorded[0][field]


def test_configurations_without_halving_do_not_mention_it():
    assert "halving" not in record.configuration(experiment("depth"))
    assert record.configuration(experiment("depth_tuned"))["halving"]["share"] == 0.1


def test_the_plan_that_takes_days_keeps_its_configuration():
    assert record.fingerprint(experiment("depth_tuned", "full")) == "a942a8656f8e41f3"


def test_with_nothing_to_halve_every_rate_has_its_curve(tmp_path):
    plan = replace(experiment("fold_budget_wide", "smoke"), depths=(3,))
    plan = replace(plan, arms=plan.arms[:1])
    result = run(plan, "smoke", folder=tmp_path, progress=lambda line: None)
    assert {one["stage"] for one in result["choosing"]} == {"screen"} and len(result["runs"]) == 2
    for one in result["choosing"]:
        curve = one["curve"]
        assert curve["held_out_accuracy"][-1] == one["held_out_accuracy"] and curve["steps"][-1] == 4  # half an epoch
    means = {
        rate: sum(one["held_out_accuracy"] for one in result["choosing"] if one["lr"] == rate)
        for rate in {one["lr"] for one in result["choosing"]}
    }
    assert {one["lr"] for one in result["runs"]} == {result["choices"][0]["best"]} == {max(means, key=means.get)}


def test_budgets_of_other_widths_and_depths_are_those_of_the_first_plan():
    budgets = {}
    for name in ("fold_budget_wide", "fold_budget_width_32", "fold_budget_width_128", "fold_budget_depth_800"):
        plan = experiment(name)
        budgets[name] = {
            arm.hidden * depth / plan.width for arm in plan.arms if arm.hidden is not None for depth in plan.depths
        }
    first = budgets.pop("fold_budget_wide")
    assert all(other <= first and len(other) >= 3 for other in budgets.values())
    assert len(first) == 6 * 3 - 4  # four budgets are had by 50 and by 200 layers
