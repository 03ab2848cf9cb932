"""The recorder: it follows training, disturbs nothing, and says None where there is nothing."""

import json

import pytest
import torch
from small_models import Attention, letter_loss, text
from torch import nn

from pso_lib.analysis.recorder import Recorder
from pso_lib.analysis.spectrum import stable_rank


def train(model, recorder=None, steps=5):
    x, y = text()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        letter_loss(model(x), y).backward()
        if recorder is not None:
            recorder.step()
        optimizer.step()


EVERYTHING = ("stable_rank", "top_singular_value", "sje", "gradient_norm", "ntk", "token_similarity")


def recorder_of(model, **options):
    return Recorder(model, EVERYTHING, every=2, probe=text(), loss=letter_loss, tokens=["mix", "readout"], **options)


def test_a_recorder_follows_training_and_does_not_disturb_it():
    torch.manual_seed(0)
    alone = Attention()
    train(alone)
    torch.manual_seed(0)
    model = Attention()
    recorder = recorder_of(model)
    start = stable_rank(model.qkv.weight.detach()).item()
    train(model, recorder)
    for p, q in zip(alone.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)  # dropout drew the same numbers
    assert not any(m._forward_hooks for m in model.modules()) and model.training
    assert recorder.steps == [0, 2, 4] and recorder.seconds > 0
    assert list(recorder.values) == list(EVERYTHING)
    assert list(recorder.values["stable_rank"]) == ["qkv.weight", "mix.weight"]
    assert recorder.values["stable_rank"]["qkv.weight"][0] == pytest.approx(start)
    assert list(recorder.values["token_similarity"]) == ["mix", "readout"]
    assert all(v is not None for of in recorder.values.values() for values in of.values() for v in values)


def test_a_record_goes_to_json_and_back():
    torch.manual_seed(0)
    model = Attention()
    whole = recorder_of(model)
    train(model, whole, 3)
    resumed = recorder_of(model)
    resumed.from_json(whole.to_json())
    assert resumed.to_json() == whole.to_json() and json.loads(whole.to_json())["steps"] == [0, 2]
    train(model, resumed, 2)
    assert resumed.steps == [0, 2, 4] and len(resumed.values["ntk"]["model"]) == 3
    with pytest.raises(ValueError, match="every=2"):
        Recorder(model, EVERYTHING[:1]).from_json(whole.to_json())
    with pytest.raises(ValueError, match="quantities"):
        Recorder(model, EVERYTHING[:1], every=2).from_json(whole.to_json())


def test_what_is_not_defined_is_none():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[1].weight, torch.nan)
    recorder = Recorder(model, ("stable_rank", "sje"))
    recorder.look(0)  # before any gradient; ``step`` would say so
    found = {name: values[0] for name, values in recorder.values["stable_rank"].items()}
    assert found["0.weight"] is None and found["1.weight"] is None and found["2.weight"] >= 1
    assert recorder.values["sje"]["2.weight"] == [None]  # no gradient yet
    json.loads(recorder.to_json())
