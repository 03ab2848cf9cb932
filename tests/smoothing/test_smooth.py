"""Smoothing a spectrum: what it changes, what it leaves, and where it is only approximate."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import BULK, DECAYING, large, matrix, orthonormal

from pso_lib.analysis.spectrum import stable_rank
from pso_lib.nn.init import seeded
from pso_lib.smoothing import METHODS, randomised_svd, smooth_, smoothed_spectrum

LEADING = ("clip", "log", "softplus", "softmax", "convolution")  # those that only replace sigma_1 … sigma_k
NEVER_LOWER_SR = ("clip", "log", "softplus", "softmax")
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


spectra = st.lists(st.floats(0.01, 100), min_size=2, max_size=9).map(lambda s: sorted(s, reverse=True))


# Formulas


def test_formulas_by_hand():
    s = torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    f = {method: smoothed_spectrum(s, method, 3).tolist() for method in METHODS}
    assert f["clip"] == [2, 2, 2, 1]
    assert f["log"] == pytest.approx([2 + 2 * math.log(4), 2 + 2 * math.log(2), 2, 1])
    assert f["softplus"] == pytest.approx([2 * math.log1p(math.exp(r)) / math.log1p(math.e) for r in (4, 2, 1)] + [1])
    weights = [math.exp(r) for r in (1, 0.5, 0.25)]
    assert f["softmax"] == pytest.approx([14 * w / sum(weights) for w in weights] + [1])
    assert f["convolution"] == pytest.approx([20 / 3, 14 / 3, 8 / 3, 1])
    assert f["published"] == [1, 1, 0.5, 0.25]  # 5 % of four is one at least
    assert f["shrink"] == [2, 1, 0.5, 0.25]
    long = torch.arange(60.0, 0, -1)
    assert smoothed_spectrum(long, "published", 1)[:4].tolist() == [57 / 4, 57 / 4, 57 / 4, 57 / 4]  # 3 of 60


@pytest.mark.parametrize("method", LEADING)
@settings(max_examples=25, deadline=None)
@given(s=spectra, k=st.integers(1, 9), c=st.sampled_from([1e-6, 3.0, 1e6]))
def test_every_spectrum_stays_in_order_and_in_range(method, s, k, c):
    s, k = torch.tensor(s, dtype=torch.float64), min(k, len(s))
    f = smoothed_spectrum(s, method, k)
    slack = 1 + 1e-12
    assert (f[1:] <= f[:-1] * slack).all()
    assert (f <= s[0] * slack).all() and (f[:k] * slack >= s[k - 1]).all()
    assert torch.equal(f[k:], s[k:])
    torch.testing.assert_close(smoothed_spectrum(c * s, method, k), c * f)  # no scale of its own
    if method in ("softmax", "convolution"):
        torch.testing.assert_close(f.sum(), s.sum())
    if method in NEVER_LOWER_SR:
        assert (f / f[0]).square().sum() * slack >= (s / s[0]).square().sum()
    flat = torch.full_like(s, 0.7)
    torch.testing.assert_close(smoothed_spectrum(flat, method, k), flat)  # nothing to smooth


def test_the_stable_rank_can_fall_under_convolution():
    s = torch.tensor([10.0, 10, 1, 1])
    assert smoothed_spectrum(s, "convolution", 4).tolist() == [10, 7, 4, 1]
    W = torch.diag(s)
    done = smooth_(W, "convolution", k=4)
    assert done.stable_rank_before == pytest.approx(2.02) and done.stable_rank_after == pytest.approx(1.66)


@settings(max_examples=30, deadline=None)
@given(s=spectra)
def test_the_last_of_the_leading_values_is_never_tiny(s):
    """k the stable rank rounded down: sigma_k >= sigma_1 / sqrt(r - k + 1)."""
    s = torch.tensor(s, dtype=torch.float64)
    k = int((s / s[0]).square().sum())
    assert s[k - 1] * (1 + 1e-9) >= s[0] / (len(s) - k + 1) ** 0.5


# In place


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_what_is_cut_down_to_rounding_has_no_stable_rank(dtype, scale):
    """The published code sets the largest of 6 singular values to the next: of rank 1 nothing is left."""
    g = seeded(0)
    u, v = (torch.randn(size, generator=g, dtype=torch.float64) for size in (6, 9))
    W = (scale * torch.outer(u, v)).to(dtype)
    size = W.abs().max()
    found = smooth_(W, "published", factor=1.0)
    assert found.stable_rank_before == pytest.approx(1) and math.isnan(found.stable_rank_after)
    assert W.abs().max() <= 100 * torch.finfo(dtype).eps * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_singular_vectors_and_the_rest_stay(method, shape, dtype):
    s = torch.linspace(3, 0.1, 24, dtype=torch.float64) ** 1.5
    leading = int((s / s[0]).square().sum())
    W, U, V = matrix(s, *shape, dtype=dtype)
    at = W.data_ptr()
    done = smooth_(W, method)
    assert W.data_ptr() == at and done.changed
    k = leading if method in LEADING else len(s)
    expected = smoothed_spectrum(s, method, leading)
    inner = U.T @ W.double() @ V  # diagonal if and only if the singular vectors are those of before
    tolerance = TOLERANCE[dtype] * s[0].item()
    torch.testing.assert_close(inner, torch.diag(expected), rtol=0, atol=tolerance)
    torch.testing.assert_close(U @ inner @ V.T, W.double(), rtol=0, atol=tolerance)
    values = torch.linalg.svdvals(W.double())
    torch.testing.assert_close(values, expected.sort(descending=True)[0], rtol=0, atol=tolerance)
    torch.testing.assert_close(values[k:], s[k:], rtol=0, atol=tolerance)
    if method != "shrink":
        assert done.stable_rank_before == pytest.approx((s / s[0]).square().sum().item(), rel=1e-5)
        assert done.stable_rank_after == pytest.approx(stable_rank(W).item(), rel=1e-5)
        torch.testing.assert_close(done.after.double(), values, rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", NEVER_LOWER_SR)
@settings(max_examples=10, deadline=None)
@given(m=st.integers(2, 12), n=st.integers(2, 12), seed=st.integers(0, 999), k=st.sampled_from(["floor", "ceil", 2]))
def test_the_stable_rank_never_falls(method, m, n, seed, k):
    W = torch.randn(m, n, generator=seeded(seed), dtype=torch.float64) @ torch.diag(2.0 ** -torch.arange(n).double())
    before = stable_rank(W)
    smooth_(W, method, k=k)
    assert stable_rank(W) >= before * (1 - 1e-12)


def test_clipping_twice_is_clipping_once_at_a_given_k():
    W, _, _ = matrix([8, 4, 2, 1, 0.5])
    smooth_(W, "clip", k=3)
    once = W.clone()
    smooth_(W, "clip", k=3)
    torch.testing.assert_close(W, once, rtol=0, atol=1e-14)
    # with k from the stable rank it is not: the rank has risen, and more values lead
    W, _, _ = matrix([3, 2.5, 2, 1.9, 1.8])
    assert smooth_(W, "clip").k < smooth_(W, "clip").k


@pytest.mark.parametrize("method", LEADING)
def test_a_stable_rank_below_two_is_left_alone_by_the_papers_k(method):
    W, _, _ = matrix([8, 4, 2, 1])
    before = W.clone()
    assert not smooth_(W, method).changed and torch.equal(W, before)
    assert smooth_(W, method, k="ceil").changed and stable_rank(W) > stable_rank(before)


def test_kernels_are_smoothed_as_matrices_whatever_their_memory():
    W = torch.randn(6, 4, 3, 3, generator=seeded())
    flat = W.flatten(1).clone()
    kernel = W.clone().to(memory_format=torch.channels_last)
    smooth_(flat, "log")
    smooth_(kernel, "log")
    torch.testing.assert_close(kernel.flatten(1), flat)
    assert kernel.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    W = matrix(torch.linspace(3, 1, 8))[0].to(dtype)
    full = W.float()
    smooth_(W, "clip", k=4)
    smooth_(full, "clip", k=4)
    assert W.dtype == dtype
    torch.testing.assert_close(W.float(), full, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_of_extreme_weights_do_not_matter(scale):
    W = matrix([4, 3, 3, 1], dtype=torch.float32)[0] * scale
    done = smooth_(W, "clip")
    assert done.k == 2 and done.stable_rank_after == pytest.approx(28 / 9, rel=1e-5)
    torch.testing.assert_close(torch.linalg.svdvals(W.double() / scale)[0].item(), 3.0, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_orthogonal_weight_has_its_whole_rank_and_nothing_to_smooth(dtype):
    W = (orthonormal(20, 12, 3) * 0.3).to(dtype)
    before = W.clone()
    assert smooth_(W, "log").k == 12
    torch.testing.assert_close(W, before, rtol=0, atol=TOLERANCE[dtype])


def test_a_zero_weight_is_left_alone():
    W = torch.zeros(3, 4)
    done = smooth_(W, "log")
    assert done.k == 0 and not done.changed and math.isnan(done.stable_rank_before) and not W.any()


# The randomised decomposition


@pytest.mark.parametrize("kind, error", [(DECAYING, 1e-5), (BULK, 0.01)])
def test_smoothing_by_the_randomised_svd_is_near_the_full_one(kind, error):
    full, fast, again = large(kind), large(kind), large(kind)
    a = smooth_(full, "clip", full_up_to=640)
    b = smooth_(fast, "clip", generator=seeded(1))
    smooth_(again, "clip", generator=seeded(1))
    assert torch.equal(fast, again)  # the generator decides
    assert a.k == b.k and len(b.after) < 200 < len(a.after)
    assert b.stable_rank_before == pytest.approx(a.stable_rank_before, rel=1e-4)
    # in the bulk sigma_k is a little low, so the top is cut a little lower
    torch.testing.assert_close(b.after[0], a.after[0], rtol=0, atol=error * a.before[0].item())
    assert b.stable_rank_after >= b.stable_rank_before


@pytest.mark.parametrize(
    "rows, k, full_up_to, found",
    [
        (42, 6, 42, 42),  # small enough for a full one
        (42, 6, 41, 18),  # 3 k
        (42, 7, 41, 42),  # 3 k is half of them
        (43, 7, 42, 21),
    ],
)
def test_when_a_full_decomposition_is_taken(rows, k, full_up_to, found):
    W = matrix(torch.linspace(9, 1, rows), rows, 50)[0]
    assert len(smooth_(W, "log", k=k, full_up_to=full_up_to, generator=seeded()).before) == found


@pytest.mark.parametrize("full_up_to", [512, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_stable_rank_after_a_deep_cut(dtype, full_up_to):
    """Four decades are cut off: what remains must not be a difference of squares of what was there."""
    s = torch.cat([torch.logspace(4, 0, 8), torch.full((52,), 0.5)])
    W = matrix(s, 60, 70, dtype=dtype)[0]
    done = smooth_(W, "clip", k=8, full_up_to=full_up_to, generator=seeded())
    assert (len(done.before) < 60) == (full_up_to == 2)
    assert done.stable_rank_after == pytest.approx(8 + 52 / 4, rel=2e-3 if dtype == torch.float32 else 1e-5)


# Bad input


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda W: smooth_(W, "clipp"), ["Did you mean 'clip'"]),
        (lambda W: smooth_(W, k=9), ["k=9", "4"]),
        (lambda W: smooth_(W, k=0), ["k", "at least 1"]),
        (lambda W: smooth_(W, k="round"), ["floor", "ceil"]),
        (lambda W: smooth_(W, "log", k=4), ["k=4", "smaller k"]),  # its rank is 3
        (lambda W: smooth_(W, "shrink", factor=0), ["factor", "above 0"]),
        (lambda W: smooth_(W, "published", factor=math.nan), ["factor", "nan"]),
        (lambda W: smooth_(W, full_up_to=0), ["full_up_to"]),
        (lambda W: smooth_(W.fill_(math.nan)), ["W holds 16 non-finite"]),
        (lambda W: smooth_(W, k=True), ["True"]),
    ],
)
def test_bad_input_names_the_remedy_and_leaves_the_weight(call, parts):
    W, _, _ = matrix([4, 3, 2, 0])
    before = W.clone()
    with pytest.raises(ValueError) as caught:
        call(W)
    for part in parts:
        assert part in str(caught.value)
    assert torch.equal(W, before) or W.isnan().all()


@pytest.mark.parametrize(
    "call, part",
    [
        (lambda: smooth_(torch.ones(3)), "two axes"),
        (lambda: smooth_(torch.ones(3, 3, dtype=torch.int64)), "int64"),
        (lambda: smoothed_spectrum(torch.tensor([1.0, 2.0]), "clip", 1), "largest first"),
        (lambda: smoothed_spectrum(torch.tensor([2.0, 1.0]), "clip", 3), "k=3"),
        (lambda: randomised_svd(torch.ones(3, 2), 3), "q=3"),
    ],
)
def test_bad_shapes(call, part):
    with pytest.raises(ValueError, match=part):
        call()
