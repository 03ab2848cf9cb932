"""Which weights count as matrices: by the module that owns them, in other people's models and in the book's."""

import pytest
import torch
from torch import nn

from pso_lib.analysis.spectrum import stable_rank
from pso_lib.nn.convnet import ConvNet
from pso_lib.nn.networks import deep_network, plain_network
from pso_lib.nn.transformer import GPT
from pso_lib.nn.weights import as_matrix, chosen_matrices, chosen_weights, hidden_matrices, require_ranks


class Vision(nn.Module):
    """Everything that has two axes and is no matrix."""

    def __init__(self):
        super().__init__()
        self.positions, self.token = nn.Parameter(torch.zeros(5, 8)), nn.Parameter(torch.zeros(1, 1, 8))
        self.table = nn.Parameter(torch.zeros(7, 8))  # used through F.embedding
        self.embedding, self.bag = nn.Embedding(7, 8), nn.EmbeddingBag(7, 8)
        self.norms = nn.ModuleList(
            [nn.LayerNorm((4, 8, 8)), nn.RMSNorm((4, 8)), nn.GroupNorm(2, 8), nn.BatchNorm2d(8)]
            + [nn.InstanceNorm2d(8, affine=True)]
        )
        self.prelu, self.bilinear = nn.PReLU(8), nn.Bilinear(2, 3, 4)
        self.attention = nn.MultiheadAttention(8, 2)
        self.cross = nn.MultiheadAttention(8, 2, kdim=3, vdim=5, add_bias_kv=True)
        self.lstm, self.gru, self.cell = nn.LSTM(3, 4, proj_size=2), nn.GRU(3, 4), nn.RNNCell(3, 4)
        self.conv, self.up = nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose1d(4, 6, 3)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
        self.bounded = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
        self.head = nn.Linear(8, 7)
        self.tied = nn.Linear(8, 7)
        self.tied.weight = self.embedding.weight


def test_by_owner_and_role():
    assert list(chosen_weights(Vision())) == [
        "attention.in_proj_weight", "attention.out_proj.weight",
        "cross.q_proj_weight", "cross.k_proj_weight", "cross.v_proj_weight", "cross.out_proj.weight",
        "lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.weight_hr_l0", "gru.weight_ih_l0", "gru.weight_hh_l0",
        "cell.weight_ih", "cell.weight_hh", "conv.weight", "up.weight", "head.weight",
    ]  # fmt: skip


def test_the_old_weight_norm_is_left_out():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model[0])
    assert list(chosen_weights(model)) == ["1.weight"]
    assert list(chosen_weights(model, "0.weight_v")) == ["0.weight_v"]  # who asks for it gets it


def test_stacked_matrices_come_apart():
    model = Vision()
    found = chosen_matrices(model)
    parts = [name for name in found if "[" in name]
    assert parts == [
        *(f"attention.in_proj_weight[{part}]" for part in ("query", "key", "value")),
        *(f"lstm.weight_{s}_l0[{g}]" for s in ("ih", "hh") for g in ("input", "forget", "cell", "output")),
        *(f"gru.weight_{s}_l0[{g}]" for s in ("ih", "hh") for g in ("reset", "update", "new")),
        "conv.weight[0]", "conv.weight[1]",
    ]  # fmt: skip
    W = model.attention.in_proj_weight
    W.grad = torch.arange(float(W.numel())).view_as(W)
    key = found["attention.in_proj_weight[key]"].tensor()
    assert torch.equal(key, W[8:16]) and torch.equal(key.grad, W.grad[8:16])
    with torch.no_grad():
        key.zero_()  # a view: the model's own rows
    assert not W[8:16].any() and W[:8].any() and W[16:].any()
    assert found["head.weight"].tensor() is model.head.weight


def test_a_group_of_channels_is_a_matrix():
    """The convolution on two groups is block-diagonal: its norm is the larger one, that of the stack is another."""
    conv = nn.Conv1d(4, 6, 1, groups=2, bias=False)
    acts = conv(torch.eye(4)[:, :, None])[:, :, 0].T  # (6, 4), block-diagonal
    tops = [torch.linalg.matrix_norm(as_matrix(m.tensor().detach()), 2) for m in chosen_matrices(conv).values()]
    torch.testing.assert_close(torch.linalg.matrix_norm(acts, 2), max(tops))


def test_a_transposed_convolution_has_the_spectrum_of_its_weight():
    up = nn.ConvTranspose1d(4, 6, 1, bias=False)
    acts = up(torch.eye(4)[:, :, None])[:, :, 0].T
    torch.testing.assert_close(stable_rank(acts), stable_rank(as_matrix(up.weight.detach())))


def gpt_names(layers, head):
    kinds = [f"attention.{name}" for name in ("query", "key", "value", "out")] + ["mlp.up", "mlp.down"]
    return [f"blocks.{i}.{kind}.weight" for i in range(layers) for kind in kinds] + head


def conv_names(blocks):
    return ["stem.weight", *(f"blocks.{i}.conv{j}.weight" for i in range(blocks) for j in (1, 2)), "head.weight"]


def layer_names(depth, kinds):
    return [f"layers.{i}.{kind}" for i in range(depth) for kind in kinds] + ["lift.weight", "readout.weight"]


@pytest.mark.parametrize(
    "model, names",
    [
        (lambda: GPT(5, 4, 8, 2, 2), gpt_names(2, [])),
        (lambda: GPT(5, 4, 8, 2, 2, norm="post", qk_norm=True, tied=False), gpt_names(2, ["head.weight"])),
        (lambda: ConvNet((1, 8, 8), 10, 2, 8), conv_names(2)),
        (lambda: ConvNet((3, 32, 32), 10, 2, 8, norm="none"), conv_names(2)),
        (lambda: plain_network(3, 8, inputs=6, classes=4), layer_names(3, ["A"])),
        (lambda: deep_network(3, 8, inputs=6, classes=4), layer_names(3, ["A", "_B"])),
        (lambda: deep_network(3, 8, layer="fold", inputs=6, classes=4), layer_names(3, ["A"])),
    ],
)
def test_the_books_models(model, names):
    """Recorded runs name these, in this order; and what lies between the ends is what ``hidden_matrices`` finds."""
    model = model()
    found = chosen_weights(model)
    assert list(found) == names == list(chosen_matrices(model))
    within = [name for name in found if name.startswith(("blocks.", "layers."))]
    assert within == list(hidden_matrices(model))


def test_kept_orthogonal_is_no_free_matrix():
    model = deep_network(2, 4, orthogonal="always", inputs=3, classes=2)
    assert list(chosen_weights(model)) == ["lift.weight", "readout.weight"]


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda: chosen_weights(nn.Sequential(nn.LayerNorm((2, 3)))), ["no parameter", "0.weight", "weights="]),
        (lambda: chosen_weights(nn.LazyLinear(3)), ["'weight' has no shape yet", "one batch"]),
        (lambda: require_ranks(3, {"W": torch.ones(4, 1, 2)}), ["k=3", "'W'", "2 singular values"]),
    ],
)
def test_bad_input_names_the_remedy(call, parts):
    with pytest.raises(ValueError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


def test_as_many_as_the_rank_is_not_too_many():
    require_ranks(2, {"W": torch.ones(4, 1, 2)})
    require_ranks("ceil", {"W": torch.ones(1, 1)})


def test_none_may_be_left_where_that_is_allowed():
    model = nn.Linear(3, 3)
    model.weight.requires_grad_(False)
    assert chosen_weights(model, empty=True) == {}
    with pytest.raises(ValueError, match=r"no parameter of Linear.*weight"):
        chosen_weights(model)


def test_a_compiled_models_matrices_have_the_names_it_has_uncompiled():
    """Also those of a part that was compiled alone; either name chooses them."""
    plain = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 2)), nn.MultiheadAttention(2, 1))
    names = list(chosen_matrices(plain))
    partly = nn.Sequential(plain[0], torch.compile(plain[1], backend="eager"), plain[2])
    for model in (torch.compile(plain, backend="eager"), partly):
        found = chosen_matrices(model)
        assert list(found) == names and found["1.0.weight"].parameter is plain[1][0].weight
        parameters = dict(model.named_parameters())
        (own,) = (name for name, p in parameters.items() if p is plain[1][0].weight)
        for name in (own, "1.0.weight", "1.*weight"):
            assert list(chosen_weights(model, [name])) == [own]
