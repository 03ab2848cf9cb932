"""What a field may hold, what every recorded run holds, and which runs a configuration implies."""

import json
import math

import pytest

from pso_lib.experiments import experiment, load, record
from pso_lib.experiments.record import ResultError, path_of
from pso_lib.experiments.registry import suite_of
from pso_lib.experiments.schema import Field, flaw


@pytest.mark.parametrize("name", ["depth", "learning_rate", "pss_controls", "rescue", "survival"])
def test_units_have_the_runs_that_the_configuration_implies(name):
    for scale in ("smoke", "quick", "full"):
        plan = experiment(name, scale)
        kind = suite_of(plan)
        implied = kind.schema.implied(record.configuration(plan))
        assert sum(kind.size(plan, unit) for unit in kind.units(plan)) == len(implied) == len(set(implied))


@pytest.mark.parametrize(
    "field, words, good, bad",
    [
        (Field(str), "a text", ["x"], ["", 3, None]),
        (Field(bool), "true or false", [True, False], [0, 1, "true", None]),
        (Field(int, least=1), "an integer of at least 1", [1, 10**9], [0, -5, 1.0, True, math.nan, None]),
        (
            Field(float, above=0),
            "a finite number above 0",
            [1e-300, 3],
            [0, 0.0, -1, math.nan, math.inf, 10**400, True, "1"],
        ),
        (
            Field(float, least=0, most=1, none=True),
            "a finite number from 0 to 1 or null",
            [0, 1, 0.5, None],
            [7, -1e-9],
        ),
        (Field(float), "a finite number", [-1.7e308, 0], [-math.inf, math.inf, math.nan]),
        (
            Field(list, each=Field(int, least=0), filled=True),
            "a list of one or more, each an integer of at least 0",
            [[0], [3, 1]],
            [[], [-1], [0, None], "12", None, {}],
        ),
        (Field(list, each=Field(bool)), "a list of any number, each true or false", [[], [True]], [[1]]),
    ],
)
def test_a_field_holds_its_kind_in_its_range(field, words, good, bad):
    assert str(field) == words
    assert all(map(field.holds, good)) and not any(map(field.holds, bad))


def test_a_flaw_names_the_field_and_what_is_allowed():
    fields = {"lr": Field(float, above=0)}
    assert flaw({"lr": 1e-3, "more": [None]}, fields) is None
    assert flaw({}, fields) == "'lr' is missing; it must be a finite number above 0"
    assert flaw({"lr": -1}, fields) == "'lr' is -1; it must be a finite number above 0"
    assert flaw([5], fields) == "[5] stands in place of an object"
    assert flaw({}, {}, fields) is None and "'lr' is nan" in flaw({"lr": math.nan}, {}, fields)


RECORDS = sorted(path.name.removesuffix(".full.json") for path in record.RESULTS.glob("*.full.json"))


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_recorded_is_read(name):
    assert load(name)["runs"]


def cut(part: dict, **changes) -> None:
    """The entries of lists, replaced at their end."""
    for name, value in changes.items():
        part[name] = [*part[name][:-1], value]


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("depth", lambda run: run.update(lr=math.nan), "'lr' is nan; it must be a finite number above 0"),
        ("depth", lambda run: run.update(lr=-1), "'lr' is -1; .*above 0"),
        ("depth", lambda run: run.update(younger=-math.inf), "'younger' is -inf; no number"),
        ("depth", lambda run: run.update(lr=True), "'lr' is True"),
        ("depth", lambda run: run.update(width=-5), "'width' is -5; it must be an integer of at least 1"),
        ("depth", lambda run: run.update(width=64.0), "'width' is 64.0"),
        ("depth", lambda run: run.update(diverged=0), "'diverged' is 0; it must be true or false"),
        ("depth", lambda run: run.update(diverged="no"), "'diverged' is 'no'"),
        ("depth", lambda run: run.update(test_accuracy=7), "'test_accuracy' is 7; .* from 0 to 1"),
        ("depth", lambda run: run.update(arm=""), "'arm' is ''; it must be a text"),
        ("depth", lambda run: run.update(epochs=None), "'epochs' is None"),
        ("depth", lambda run: run.pop("layer"), "'layer' is missing; it must be a text"),
        ("depth", lambda run: run.update(curve={}), "'curve' has no steps"),
        (
            "depth",
            lambda run: run.update(curve={"steps": [], "test_accuracy": []}),
            "test_accuracy is \\[\\]; .*one or more",
        ),
        ("depth", lambda run: run.update(curve=[]), "'curve' is \\[\\]; it must be an object"),
        (
            "depth",
            lambda run: cut(run["curve"], test_accuracy="junk"),
            "the curve's test_accuracy|column 'test_accuracy'",
        ),
        ("depth", lambda run: cut(run["curve"], test_accuracy=1.5), "the curve's test_accuracy is"),
        ("depth", lambda run: cut(run["curve"], steps=0), "the steps of 'curve' do not increase"),
        ("depth", lambda run: cut(run["curve"], loss=math.inf), "'curve' has the column 'loss'"),
        ("rescue", lambda run: run.update(final_loss=-5), "'final_loss' is -5; .*at least 0 or null"),
        ("rescue", lambda run: run.update(accuracy=7), "'accuracy' is 7"),
        ("rescue", lambda run: run.update(exploded=None), "'exploded' is None; it must be true or false"),
        ("rescue", lambda run: run.update(triggers=[1, "two"]), "'triggers' is .*each an integer of at least 1"),
        ("rescue", lambda run: run.update(seconds=math.nan), "'seconds' is nan"),
        ("rescue", lambda run: run.update(overhead=-0.1), "'overhead' is -0.1"),
        ("rescue", lambda run: run.update(exploded_at=0), "'exploded_at' is 0"),
        ("rescue", lambda run: cut(run["watched"], stable_rank={}), "'watched' has the column 'stable_rank'"),
        ("survival", lambda run: run.update(depth=0), "'depth' is 0"),
        ("survival", lambda run: run.update(model=3), "'model' is 3; it must be a text"),
    ],
)
def test_a_damaged_value_in_a_run_is_named(tmp_path, name, change, words):
    result = load(name)
    change(result["runs"][3])
    path = path_of(name, "full", tmp_path)
    path.write_text(json.dumps(result))
    with pytest.raises(ResultError, match=rf"{path.name} is not a valid .*: run 3: .*({words})"):
        load(name, folder=tmp_path)
    with pytest.raises(ResultError, match="run 3"):
        record.write(path, result)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda r: r.update(provenance={}), "provenance: 'device' is missing"),
        (lambda r: r["provenance"].update(threads=0), "provenance: 'threads' is 0"),
        (lambda r: r["provenance"].update(seconds=math.nan), "provenance: 'seconds' is nan"),
        (lambda r: r["provenance"].update(data=[]), "provenance: 'data' is .*one or more, each a text"),
        (lambda r: r["provenance"].pop("protocol_epochs"), "provenance: 'protocol_epochs' is missing"),
        (lambda r: r.update(experiment=7), "'experiment' is 7; it must be a text"),
        (lambda r: r.update(configuration=[]), "'configuration' is .*an object"),
        (lambda r: r["choosing"][2].update(held_out_accuracy=7), "choosing 2: 'held_out_accuracy' is 7"),
        (lambda r: r.update(choosing={}), "'choosing' is no list"),
        (
            lambda r: r["configuration"].update(seeds=10**15),
            "its configuration has 1,000,.*,000 seeds, and it holds 300",
        ),
        (lambda r: r["runs"].__setitem__(3, None), "run 3: None stands in place of an object"),
    ],
)
def test_a_damaged_head_is_named(tmp_path, change, words):
    result = load("depth")
    change(result)
    path = path_of("depth", "full", tmp_path)
    path.write_text(json.dumps(result))
    with pytest.raises(ResultError, match=f"{path.name} is not a valid .*: {words}"):
        load("depth", folder=tmp_path)
