"""Stable rank, the energy on leading directions, the tangent kernel, tokens."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import Attention, draw, letter_loss, text
from torch import nn
from torch.nn.functional import cross_entropy

from pso_lib.analysis import singularity
from pso_lib.analysis.recorder import Recorder
from pso_lib.analysis.singularity import (
    leading_count,
    ntk_gram,
    ntk_top_eigenvalue,
    stable_jacobian_energy,
    token_similarity,
)
from pso_lib.analysis.spectrum import spectrum_stable_rank, stable_rank
from pso_lib.errors import UndefinedError
from pso_lib.nn.init import seeded
from pso_lib.nn.weights import as_matrix, chosen_weights

# Which weights


def test_the_stable_rank_has_one_home():
    assert singularity.stable_rank is stable_rank
    M = draw(3, 5, 4)
    torch.testing.assert_close(spectrum_stable_rank(torch.linalg.svdvals(M)), stable_rank(M))


def test_chosen_weights():
    model = Attention()
    assert list(chosen_weights(model)) == ["qkv.weight", "mix.weight"]  # neither biases nor the tied table
    assert list(chosen_weights(model, "*.weight")) == ["table.weight", "qkv.weight", "mix.weight"]
    assert list(chosen_weights(model, lambda name, p: p.shape == (8, 8))) == ["mix.weight"]
    model.mix.weight.requires_grad_(False)
    assert list(chosen_weights(model)) == ["qkv.weight"]
    normed = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    assert list(chosen_weights(normed)) == ["1.weight"]


def test_a_kernel_is_flattened_by_its_inputs():
    W = draw(4, 3, 2, 2)
    assert torch.equal(as_matrix(W), W.reshape(4, 12))
    assert as_matrix(W.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_does_not_lose_a_whole_rank(dtype):
    for n in range(2, 40):
        Q = torch.linalg.qr(draw(n, n, seed=n, dtype=dtype))[0] * 0.37
        for k in ("floor", "ceil"):
            assert leading_count(stable_rank(Q), k, rank=n) == n
    assert leading_count(torch.tensor(2.5), "floor", rank=4) == 2
    assert leading_count(torch.tensor(2.5), "ceil", rank=4) == 3


# The stable Jacobian energy


def test_energy_by_hand():
    W = torch.diag(torch.tensor([2.0, 2.0, 1.0, 0.5]))  # stable rank 2.3
    G = torch.diag(torch.tensor([1.0, 2.0, 2.0, 4.0]))
    G[0, 3] = 5.0  # moves singular vectors only
    assert stable_jacobian_energy(W, G).item() == pytest.approx(5 / 25)
    assert stable_jacobian_energy(W, G, k="ceil").item() == pytest.approx(9 / 25)
    assert stable_jacobian_energy(W, G, denominator="gradient").item() == pytest.approx(5 / 50)
    assert stable_jacobian_energy(W, G, k=4).item() == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(m=st.integers(1, 7), n=st.integers(1, 7), seed=st.integers(0, 999), scale=st.sampled_from([1e-100, 1.0, 1e100]))
def test_energy_is_a_share_and_has_no_scale(m, n, seed, scale):
    W, G = draw(2, m, n, seed=seed), draw(2, m, n, seed=seed + 1)
    pairs, gradient = (stable_jacobian_energy(W, G, denominator=d) for d in ("pairs", "gradient"))
    assert (gradient <= pairs + 1e-12).all() and (0 <= gradient).all() and (pairs <= 1 + 1e-12).all()
    torch.testing.assert_close(stable_jacobian_energy(W, scale * G), pairs)
    each = torch.stack([stable_jacobian_energy(w, g) for w, g in zip(W, G, strict=True)])
    torch.testing.assert_close(each, pairs)


def turned(m: int, n: int, s: list[float], G: torch.Tensor, seed: int, dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights with the singular values s, and gradients that are G (r, r) between their pairs; both in random bases."""
    U, V = (torch.linalg.qr(draw(size, size, seed=seed + size))[0][:, : len(s)] for size in (m, n))
    return ((U * torch.tensor(s, dtype=U.dtype)) @ V.T).to(dtype), (U @ G.to(U) @ V.T).to(dtype)


@pytest.mark.parametrize("dtype, accuracy", [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("seed", range(5))
def test_energy_does_not_depend_on_the_null_vectors(seed, dtype, accuracy):
    """Of rank 3 among 6 pairs: stable rank 1.6, pairs by hand; what lies on the other three is no pair's."""
    G = torch.tensor([[1.0, 5, 0], [0, 2, 3], [1, 1, 2]])
    W, inside = turned(6, 8, [2.0, 1.5, 0.25], G, seed, dtype)
    outside = draw(6, 8, seed=seed).to(dtype)
    left, right = torch.linalg.qr(W[:, :3])[0], torch.linalg.qr(W[:3].T)[0]
    outside = outside - left @ (left.T @ outside)
    outside = outside - (outside @ right) @ right.T
    found = stable_jacobian_energy(W, inside + outside)
    assert found.item() == pytest.approx(1 / (1 + 4 + 4), rel=accuracy)
    assert stable_jacobian_energy(W, inside + outside, k=5).item() == pytest.approx(1, rel=accuracy)
    with pytest.raises(UndefinedError, match="no pairs energy"):
        stable_jacobian_energy(W, outside)


@pytest.mark.parametrize("dtype, accuracy", [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("seed", range(5))
def test_energy_does_not_depend_on_the_vectors_of_equal_singular_values(seed, dtype, accuracy):
    """3, 2, 2, 2: the three move together by the eigenvalues of the symmetric part of their block."""
    G = torch.tensor([[1.0, 7, 0, 0], [0, 1, 2, 0], [0, 4, -1, 0], [2, 0, 2, 0]])
    block = torch.tensor([[1.0, 3, 0], [3, -1, 1], [0, 1, 0]])  # of squared norm 22
    W, grad = turned(5, 4, [3.0, 2, 2, 2], G, seed, dtype)
    assert torch.linalg.eigvalsh(block).square().sum().item() == pytest.approx(22)
    assert stable_jacobian_energy(W, grad, k=1).item() == pytest.approx(1 / 23, rel=accuracy)
    assert stable_jacobian_energy(W, grad, k=2).item() == pytest.approx((1 + 22 / 3) / 23, rel=accuracy)
    share = stable_jacobian_energy(W, grad, k=4, denominator="gradient").item()
    assert share == pytest.approx(23 / G.square().sum().item(), rel=accuracy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("s", [[1.0] * 6, [6.0, 5, 4, 3, 2, 1]])
def test_a_gradient_that_only_turns_has_no_energy_on_pairs(s, dtype):
    for seed in range(5):
        G = draw(6, 6, seed=seed)
        W, grad = turned(9, 7, s, G - G.T, seed, dtype)
        with pytest.raises(UndefinedError, match="no pairs energy"):
            stable_jacobian_energy(W, grad)
        assert stable_jacobian_energy(W, grad, denominator="gradient").item() < 1e-8


# The tangent kernel


def test_the_gram_matrix_is_that_of_gradients_taken_one_by_one():
    model, (x, y) = Attention().double(), text()
    model.eval()
    rows = []
    for i in range(len(x)):
        model.zero_grad()
        letter_loss(model(x[i : i + 1]), y[i : i + 1]).backward()
        rows.append(torch.cat([p.grad.flatten() for p in chosen_weights(model).values()]))
    rows = nn.functional.normalize(torch.stack(rows))
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # vmap warns where it has to loop
        found = ntk_gram(model, letter_loss, x, y, chunk_size=4)
    assert model.training
    torch.testing.assert_close(found, rows @ rows.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(ntk_gram(model, letter_loss, x, y, chunk_size=1), found)


def test_the_top_eigenvalue_counts_agreeing_examples():
    model = nn.Linear(6, 1, bias=False).double()
    y = torch.zeros(6, 1, dtype=torch.float64)

    def loss(out, target):
        return (out - target - 1).sum()  # gradient by the weights: the input

    assert ntk_top_eigenvalue(model, loss, torch.eye(6, dtype=torch.float64), y) == pytest.approx(1)
    same = draw(1, 6).expand(6, 6) * torch.arange(1.0, 7.0)[:, None]
    assert ntk_top_eigenvalue(model, loss, same, y) == pytest.approx(6)


# Tokens


def test_token_similarity_is_the_mean_over_pairs():
    h = draw(3, 7, 5)
    unit = nn.functional.normalize(h, dim=-1)
    cosines = unit @ unit.mT
    i, j = torch.triu_indices(7, 7, 1)
    torch.testing.assert_close(token_similarity(h), cosines[:, i, j].mean(1))
    assert token_similarity(h[0, :1].expand(4, 5)).item() == pytest.approx(1)
    assert token_similarity(torch.eye(5)).item() == pytest.approx(0)


# What is refused, and extremes


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda: as_matrix(torch.ones(3)), ["(3,)", "two axes"]),
        (lambda: chosen_weights(Attention(), ["mx.weight"]), ["mx.weight", "Did you mean 'mix.weight'"]),
        (lambda: chosen_weights(Attention(), ["mix.bias"]), ["mix.bias", "two axes"]),
        (lambda: chosen_weights(nn.ReLU()), ["no parameter"]),
        (lambda: leading_count(torch.tensor(2.0), 5, rank=4), ["k=5", "4"]),
        (lambda: leading_count(torch.tensor(2.0), "flor", rank=4), ["Did you mean 'floor'"]),
        (lambda: stable_jacobian_energy(torch.ones(2, 3), torch.ones(3, 2)), ["(2, 3)", "(3, 2)"]),
        (lambda: stable_jacobian_energy(torch.ones(2, 3), torch.zeros(2, 3)), ["zero gradient"]),
        (lambda: stable_jacobian_energy(torch.zeros(2, 3), torch.ones(2, 3)), ["zero matrix"]),
        (lambda: stable_jacobian_energy(torch.ones(2, 2), torch.ones(2, 2) / 0), ["G holds 4 non-finite"]),
        (lambda: stable_jacobian_energy(*torch.ones(2, 2, 2), denominator="pair"), ["Did you mean 'pairs'"]),
        (lambda: token_similarity(torch.ones(1, 4)), ["T >= 2"]),
        (lambda: ntk_gram(Attention(), letter_loss, text()[0], text(3)[1]), ["6 examples", "3"]),
        (lambda: Recorder(Attention(), ["stable_ranks"]), ["Did you mean 'stable_rank'"]),
        (lambda: Recorder(Attention(), ["ntk"]), ["ntk", "probe="]),
        (lambda: Recorder(Attention(), ["token_similarity"], probe=text(), tokens="mixx"), ["Did you mean 'mix'"]),
        (lambda: Recorder(Attention(), every=0), ["every", "0"]),
    ],
)
def test_bad_input_names_the_remedy(call, parts):
    with pytest.raises(ValueError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-25, 1e20, 1e38])
def test_token_similarity_knows_no_scale(size):
    h = torch.randn(3, 5, 4, generator=seeded(), dtype=torch.float64).float().clamp(-3, 3)
    expected = token_similarity(h.double())
    found = token_similarity(h * torch.tensor(size, dtype=torch.float32))
    tolerance = 1e-2 if size < 1e-37 else 1e-5  # numbers below the smallest normal one have few digits
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    same = torch.full((2, 8), size)
    assert abs(token_similarity(same).item() - 1) < 1e-3


def test_token_similarity_in_half_precision():
    h = 100 * torch.randn(2, 64, 4096, generator=seeded())  # squares and sums that float16 cannot hold
    for dtype in (torch.float16, torch.bfloat16):
        expected = token_similarity(h.to(dtype).double())
        torch.testing.assert_close(token_similarity(h.to(dtype)).double(), expected, rtol=0, atol=1e-5)


def test_ntk_where_gradients_vanish_and_explode():
    """150 layers that shrink every gradient below what float32 can square; and a loss times 1e25."""
    from pso_lib.nn.networks import plain_network

    network = plain_network(150, 16, start="xavier", inputs=8, classes=3, generator=seeded())
    x, y = torch.randn(6, 8, generator=seeded(1)), torch.arange(6) % 3
    exact = ntk_gram(network.double(), cross_entropy, x.double(), y)
    assert 1 <= torch.linalg.eigvalsh(exact)[-1] <= 6
    first = "layers.0.A"
    assert (
        torch.autograd.grad(cross_entropy(network(x.double()), y), network.get_parameter(first))[0].abs().max() < 1e-19
    )
    found = ntk_gram(network.float(), cross_entropy, x, y, weights=[first]).double()
    torch.testing.assert_close(
        found, ntk_gram(network.double(), cross_entropy, x.double(), y, weights=[first]), rtol=0, atol=1e-3
    )
    large = ntk_gram(network.float(), lambda a, b: 1e25 * cross_entropy(a, b), x, y)
    torch.testing.assert_close(large.double(), exact, rtol=0, atol=1e-3)
