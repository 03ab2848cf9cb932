"""The recorder in other people's training: frozen, replaced and stacked weights, tokens by place."""

import pytest
import torch
from small_models import Sequence, backward, draw, mlp, sequence_backward, start
from torch import nn
from torch.nn.functional import cross_entropy

from pso_lib.analysis.recorder import Recorder


def test_a_frozen_weight_has_a_spectrum_but_no_gradient():
    model = mlp()
    recorder = Recorder(model, ("stable_rank", "gradient_norm", "sje"), every=1)
    backward(model)
    recorder.step()
    model[0].weight.requires_grad_(False)
    recorder.step()
    first, second = recorder.values["gradient_norm"]["0.weight"]
    assert first > 0 and second is None and recorder.values["sje"]["0.weight"][1] is None
    assert recorder.values["stable_rank"]["0.weight"][0] == recorder.values["stable_rank"]["0.weight"][1]


def test_a_replaced_weight_is_followed_and_a_lost_one_missed():
    model = mlp()
    recorder = Recorder(model, "top_singular_value", every=1)
    recorder.step()
    model[2] = start(nn.Linear(8, 7).double())
    recorder.step()
    expected = torch.linalg.matrix_norm(model[2].weight, 2).item()
    assert recorder.values["top_singular_value"]["2.weight"][1] == pytest.approx(expected)
    nn.utils.parametrizations.spectral_norm(model[0])
    with pytest.raises(ValueError, match="'0.weight' is gone"):
        recorder.step()


def test_stacked_matrices_have_a_record_each():
    model = start(Sequence())
    recorder = Recorder(model, ("stable_rank", "gradient_norm"))
    sequence_backward(model)
    recorder.step()
    key = model.attention.in_proj_weight[8:16]
    grad = model.attention.in_proj_weight.grad[8:16]
    name = "attention.in_proj_weight[key]"
    expected = (key.square().sum() / torch.linalg.matrix_norm(key, 2) ** 2).item()
    assert recorder.values["stable_rank"][name][0] == pytest.approx(expected, rel=1e-5)
    assert recorder.values["gradient_norm"][name][0] == pytest.approx(grad.norm().item(), rel=1e-5)


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.idle, self.head = nn.Conv2d(1, 4, 3), nn.Linear(2, 2), nn.Linear(4, 3)
        self.first = nn.Flatten(2)

    def forward(self, x):
        return self.head(self.first(self.conv(x)).mean(-1))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(2, 2)

    def forward(self, x, mask):
        return self.map(x) * mask


PROBE = (draw(5, 1, 6, 6, dtype=torch.float32), torch.zeros(5, dtype=torch.long))


def similarity_of(name, model=None, x=PROBE[0]):
    recorder = Recorder(model or Pictures(), "token_similarity", probe=(x, x), tokens=name)
    recorder.step()
    return recorder.values["token_similarity"][name][0]


def test_channels_by_place_are_tokens_where_they_come_as_such():
    assert abs(similarity_of("first")) <= 1  # (5, 4, 16)


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda: similarity_of("conv"), ["'conv' gives (5, 4, 4, 4)", "(N, T, d)"]),
        (lambda: similarity_of("head"), ["'head' gives (5, 3)"]),
        (lambda: similarity_of("idle"), ["'idle' does not run"]),
        (lambda: Recorder(Pair(), "ntk", probe=PROBE, loss=cross_entropy), ["Pair.forward", "mask", "wrap"]),
        (lambda: Recorder(Pair(), "ntk", probe=(PROBE, PROBE[1]), loss=cross_entropy), ["probe", "two tensors"]),
        (lambda: Recorder(Pictures(), "ntk", probe=(PROBE[0], PROBE[1][:2]), loss=cross_entropy), ["equally many"]),
        (lambda: Recorder(Pictures(), "ntk", probe=PROBE, loss="ce"), ["loss", "'ce'"]),
        (lambda: Recorder(mlp(), "sje", k=4), ["k=4", "'4.weight' has 3"]),
        (lambda: Recorder(mlp()).load_state_dict({}), ["record", "values"]),
    ],
)
def test_the_recorder_refuses_what_it_cannot_measure(call, parts):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


def test_sequence_first_is_not_taken_for_batch_first():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn = nn.Identity()

        def forward(self, x):
            return self.turn(x.transpose(0, 1))

    with pytest.raises(ValueError, match=r"gives \(4, 3, 2\).*N = 3"):
        similarity_of("turn", Turned(), draw(3, 4, 2))


def test_a_record_of_a_compiled_model_goes_on_uncompiled():
    plain = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    what = {"quantities": ("stable_rank", "token_similarity"), "probe": (x := torch.randn(5, 3, 4), x), "tokens": "1"}
    compiled = Recorder(torch.compile(plain, backend="eager"), **what)
    compiled.step()
    recorder = Recorder(plain, **what)
    recorder.load_state_dict(compiled.state_dict())
    recorder.look(1)
    assert list(recorder.values["stable_rank"]) == ["0.weight", "2.weight"]
    assert all(first == second for of in recorder.values.values() for first, second in of.values())
