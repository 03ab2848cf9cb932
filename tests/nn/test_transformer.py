"""The small Transformer: what it computes, where it starts, what it refuses, that it learns."""

import math

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from pso_lib.data.text import load_text
from pso_lib.nn.init import seeded
from pso_lib.nn.transformer import GPT, next_token_loss


def tiny(seed: int = 0, **options) -> GPT:
    return GPT(11, 6, 8, 2, 2, generator=seeded(seed), **options)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(11, (3, 6), generator=seeded(9))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_it_equals_the_formulas(tokens, norm, qk_norm):
    """Attention written out position by position, in float64."""
    model = tiny(norm=norm, qk_norm=qk_norm, std=0.5, dtype=torch.float64)
    h = model.tokens.weight[tokens] + model.positions.weight[:6]

    def attend(a, x):
        result = torch.zeros_like(x)
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            q, k, v = (x @ m.weight.T[:, part] for m in (a.query, a.key, a.value))
            if qk_norm:
                q, k = layer_norm(q, (4,)), layer_norm(k, (4,))
            for t in range(6):
                share = (q[:, t : t + 1] @ k[:, : t + 1].mT / math.sqrt(4)).softmax(-1)  # (B, 1, t + 1)
                result[:, t, part] = (share @ v[:, : t + 1])[:, 0]
        return result @ a.out.weight.T

    def mlp(m, x):
        return gelu(x @ m.up.weight.T) @ m.down.weight.T

    for block in model.blocks:
        if norm == "pre":
            h = h + attend(block.attention, layer_norm(h, (8,)))
            h = h + mlp(block.mlp, layer_norm(h, (8,)))
        else:
            h = layer_norm(h + attend(block.attention, h), (8,))
            h = layer_norm(h + mlp(block.mlp, h), (8,))
    h = layer_norm(h, (8,)) if norm == "pre" else h
    torch.testing.assert_close(model(tokens), h @ model.tokens.weight.T, rtol=1e-10, atol=1e-12)


def test_no_token_sees_the_future(tokens):
    model = tiny(dtype=torch.float64, std=0.5)
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
    assert (before[:, 4:] - after[:, 4:]).abs().amax(-1).min() > 1e-6


def test_states_are_those_of_the_blocks(tokens):
    model = tiny()
    states = model.states(tokens)
    assert len(states) == 3 and all(s.shape == (3, 6, 8) for s in states)
    torch.testing.assert_close(model.head(model.norm(states[-1])), model(tokens), rtol=0, atol=0)
    torch.testing.assert_close(model.blocks[1](states[1]), states[2], rtol=0, atol=0)


def test_the_start():
    model = GPT(65, 64, 128, 4, generator=seeded())
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            expected = 0.02 / math.sqrt(8) if "out" in name or "down" in name else 0.02
            assert float(weight.detach().std()) == pytest.approx(expected, rel=0.05), name
    assert model.head.weight is model.tokens.weight
    untied = GPT(65, 64, 128, 4, tied=False, generator=seeded())
    assert untied.head.weight is not untied.tokens.weight
    count = sum(p.numel() for p in untied.blocks.parameters() if p.ndim == 2)
    assert count == 4 * 12 * 128**2


def test_the_same_seed_gives_the_same_network_in_every_precision(tokens):
    single, double = tiny(3), tiny(3, dtype=torch.float64)
    for a, b in zip(single.parameters(), double.parameters(), strict=True):
        assert torch.equal(a, b.float())
    assert not torch.equal(tiny(4).tokens.weight, single.tokens.weight)
    assert next_token_loss(double, tokens).dtype == torch.float64


def test_attention_logits_stay_bounded_under_qk_norm(tokens):
    model = tiny(qk_norm=True)
    attention = model.blocks[0].attention
    with torch.no_grad():
        attention.query.weight.mul_(1e4)
        attention.key.weight.mul_(1e4)
    x = model.states(tokens)[0]
    q, k = (
        f(m(x).unflatten(-1, (2, 4)))
        for f, m in ((attention.query_norm, attention.query), (attention.key_norm, attention.key))
    )
    assert torch.einsum("bthc,bshc->bhts", q, k).abs().max() / math.sqrt(4) <= math.sqrt(4) + 1e-4


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_it_learns(norm):
    text = load_text("topics")
    model = GPT(len(text.vocabulary), 16, 32, 2, norm=norm, generator=seeded())
    optimizer, draw = torch.optim.AdamW(model.parameters(), lr=1e-2), seeded(1)
    losses = []
    for _ in range(120):
        loss = next_token_loss(model, text.batch(16, 16, draw))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(len(text.vocabulary)), abs=0.3)
    assert sum(losses[-10:]) / 10 < 3.2


def test_generate():
    model = tiny()
    start = torch.tensor([[1, 2, 3]])
    drawn = model.generate(start, 8, generator=seeded(5))
    assert drawn.shape == (1, 11) and drawn[:, :3].equal(start)  # longer than the context of 6
    assert drawn.equal(model.generate(start, 8, generator=seeded(5)))
    top = model.generate(start, 1, temperature=0)
    assert top[0, -1] == model(start)[0, -1].argmax()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"norm": "mid"}, "norm='mid' is unknown; choose one of 'pre', 'post'"),
        ({"heads": 3}, "width=8 is not a multiple of heads=3"),
        ({"layers": 0}, "layers must be an integer of at least 1"),
        ({"std": 0.0}, "std must be a finite number above 0"),
    ],
)
def test_bad_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        GPT(**{"vocabulary": 11, "context": 6, "width": 8, "layers": 2, "heads": 2} | options)


def test_bad_tokens():
    model = tiny()
    for bad in (torch.zeros(3, dtype=torch.int64), torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 3)):
        with pytest.raises(ValueError, match=r"tokens must be integers of shape \(B, T\) with 1 <= T <= context=6"):
            model(bad)
    with pytest.raises(ValueError, match="temperature"):
        model.generate(torch.zeros(1, 1, dtype=torch.int64), 1, temperature=-1)
    with pytest.raises(ValueError, match="count"):
        model.generate(torch.zeros(1, 1, dtype=torch.int64), 0)


@pytest.mark.parametrize("token", [-1, 11, -100])
def test_tokens_beyond_the_vocabulary_are_named(token):
    """As an input, and as the last target, which is nobody's input; -100 is torch's mark for "leave out"."""
    model = GPT(11, 6, 8, 1, 2, generator=seeded())
    for place in (0, 3):
        tokens = torch.zeros(2, 4, dtype=torch.int64)
        tokens[1, place] = token
        words = rf"numbers from {min(token, 0)} to {max(token, 0)}, .* 11: 0 to 10"
        with pytest.raises(ValueError, match=words):
            next_token_loss(model, tokens)
        with pytest.raises(ValueError, match=words):
            model(tokens)


def test_a_loss_needs_a_successor():
    model = GPT(11, 6, 8, 1, 2, generator=seeded())
    for tokens in (torch.zeros(3, 1, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"must be \(B, T \+ 1\)"):
            next_token_loss(model, tokens)
    with pytest.raises(TypeError, match="generator must be"):
        model.generate(torch.zeros(1, 1, dtype=torch.int64), 2, generator=0)
    with pytest.raises(TypeError, match="generator must be"):
        GPT(11, generator=0)
