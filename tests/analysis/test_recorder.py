"""The recorder: it follows training, disturbs nothing, and says None where there is nothing."""

import json

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from pso_lib.analysis.recorder import Recorder
from pso_lib.analysis.spectrum import stable_rank
from pso_lib.nn.init import seeded


def draw(*shape, seed=0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


class Attention(nn.Module):
    """One attention layer on characters, its readout tied to the table; with dropout, which a probe must not draw."""

    def __init__(self, width: int = 8, letters: int = 11):
        super().__init__()
        self.table = nn.Embedding(letters, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.drop = nn.Dropout(0.5)
        self.readout = nn.Linear(width, letters, bias=False)
        self.readout.weight = self.table.weight
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(draw(*p.shape, seed=i, dtype=p.dtype) / 3)

    def forward(self, x):
        h = self.table(x)
        q, k, v = self.qkv(h).chunk(3, -1)
        return self.readout(h + self.mix(self.drop(scaled_dot_product_attention(q, k, v, is_causal=True))))


def text(examples=6, length=5):
    x = torch.randint(0, 11, (examples, length), generator=seeded(3))
    return x, x.roll(-1, 1)


def letter_loss(logits, y):
    return cross_entropy(logits.flatten(0, 1), y.flatten())


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
