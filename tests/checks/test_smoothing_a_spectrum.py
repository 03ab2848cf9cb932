"""The checks of the chapter on smoothing: the solution passes, each likely mistake is named."""

import pytest
import torch

from pso_lib.checks import Wrong, check


def delay(r, tau, alpha, *, first=1, ever=True, new=False):
    if ever and r <= alpha + tau * (1 - alpha):
        return None
    x, step = 1.0, first
    for _ in range(1000):
        after = alpha * x / r + 1 - alpha
        if (1 / after if new else r / x) > tau:
            return step
        x, step = after, step + 1
    return step


def clip_kernel(W, *, extra=0, level=None, shape=None):
    M = W.flatten(1)
    U, s, Vh = torch.linalg.svd(M, full_matrices=False)
    k = int(s.square().sum() / s[0] ** 2) + extra
    s = s.clone()
    s[:k] = s[k - 1] if level is None else level(s, k)
    return ((U * s) @ Vh).reshape(W.shape if shape is None else shape(M))


def slices(W):
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    k = (s.square().sum(-1, keepdim=True) / s[..., :1] ** 2 + 1e-9).long()
    s = torch.where(torch.arange(s.shape[-1]) < k, s.gather(-1, k - 1), s)
    return (U * s[..., None, :]) @ Vh


def turned(W):
    return clip_kernel(W.transpose(0, 1)).transpose(0, 1)


def in_place(W):
    W.copy_(clip_kernel(W))
    return W


def at_one_level(W):
    U, s, Vh = torch.linalg.svd(W.flatten(1), full_matrices=False)
    k = int(s.square().sum() / s[0] ** 2)
    return ((U * s[k - 1]) @ Vh).reshape(W.shape)


ORDER = ["scale and backward", "unscale", "guard", "clip", "scaler.step", "scaler.update"]


def swapped(a, b):
    order = list(ORDER)
    order[a], order[b] = order[b], order[a]
    return order


@pytest.mark.parametrize(
    "name, answer",
    [
        ("smoothing-a-spectrum/detector-delay", delay),
        ("smoothing-a-spectrum/sharpening-convolution", [10.0] * 2 + [1.0] * 101),
        ("smoothing-a-spectrum/sharpening-convolution", torch.tensor([5.0] * 3 + [0.5] * 200)),
        ("smoothing-a-spectrum/kernel-clip", clip_kernel),
        ("smoothing-a-spectrum/loop-order", ORDER),
        ("smoothing-a-spectrum/loop-order", tuple(ORDER)),
    ],
)
def test_a_solution_passes(name, answer, capsys):
    check(name, answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}")


@pytest.mark.parametrize(
    "name, answer, part",
    [
        ("smoothing-a-spectrum/detector-delay", lambda r, t, a: delay(r, t, a, ever=False), "never fires"),
        ("smoothing-a-spectrum/detector-delay", lambda r, t, a: None, "it fires, at growing step"),
        ("smoothing-a-spectrum/detector-delay", lambda r, t, a: delay(r, t, a, first=0), "count from 0"),
        ("smoothing-a-spectrum/detector-delay", lambda r, t, a: delay(r, t, a, first=2), "one late"),
        ("smoothing-a-spectrum/detector-delay", lambda r, t, a: delay(r, t, a) and 99, "fires at growing step"),
        ("smoothing-a-spectrum/sharpening-convolution", [10.0, 10.0, 1.0, 1.0], "only moves two values"),
        ("smoothing-a-spectrum/sharpening-convolution", [10.0, 1.0, 1.0], "changes nothing"),
        ("smoothing-a-spectrum/sharpening-convolution", [1.0] * 5, "does not fall"),
        ("smoothing-a-spectrum/sharpening-convolution", [10.0, 10.0, 10.0, 1.0, 1.0], "rounded down"),
        ("smoothing-a-spectrum/sharpening-convolution", [1.0, 2.0], "in order"),
        ("smoothing-a-spectrum/sharpening-convolution", [1.0, -2.0], "not negative"),
        ("smoothing-a-spectrum/sharpening-convolution", 3.0, "shape"),
        ("smoothing-a-spectrum/kernel-clip", slices, "by itself"),
        ("smoothing-a-spectrum/kernel-clip", turned, "axis 0"),
        ("smoothing-a-spectrum/kernel-clip", in_place, "a copy"),
        ("smoothing-a-spectrum/kernel-clip", lambda W: W, "unchanged"),
        ("smoothing-a-spectrum/kernel-clip", at_one_level, "those after it stay"),
        ("smoothing-a-spectrum/kernel-clip", lambda W: clip_kernel(W, extra=1), "round the stable rank up"),
        ("smoothing-a-spectrum/kernel-clip", lambda W: clip_kernel(W, level=lambda s, k: s[:k].mean()), "their mean"),
        ("smoothing-a-spectrum/kernel-clip", lambda W: clip_kernel(W, level=lambda s, k: s[k]), "after the first k"),
        ("smoothing-a-spectrum/kernel-clip", lambda W: clip_kernel(W, shape=lambda M: M.shape), "bring it back"),
        ("smoothing-a-spectrum/kernel-clip", lambda W: 0.25 * W, "off by"),
        ("smoothing-a-spectrum/loop-order", swapped(1, 2), "unscale first"),
        ("smoothing-a-spectrum/loop-order", swapped(2, 3), "sees clipped gradients"),
        ("smoothing-a-spectrum/loop-order", swapped(0, 1), "before backward"),
        ("smoothing-a-spectrum/loop-order", swapped(3, 4), "judged and clipped"),
        ("smoothing-a-spectrum/loop-order", swapped(4, 5), "updated last"),
        (
            "smoothing-a-spectrum/loop-order",
            ["scale and backward", "clip", "unscale", "guard", "scaler.step", "scaler.update"],
            "unscale",
        ),
        ("smoothing-a-spectrum/loop-order", ORDER[:5], "occurs 0 times"),
        ("smoothing-a-spectrum/loop-order", ["optimizer.step", *ORDER], "none of the six"),
    ],
)
def test_a_likely_mistake_is_named(name, answer, part):
    with pytest.raises(Wrong) as caught:
        check(name, answer)
    assert part in str(caught.value)


def test_an_average_that_holds_the_new_value_is_named():
    def with_it(r, tau, alpha):
        if r <= alpha + tau * (1 - alpha):
            return None
        m, g = 1.0, 1.0
        for step in range(1, 400):
            g *= r
            m = alpha * m + (1 - alpha) * g
            if g > tau * m:
                return step
        return 400

    with pytest.raises(Wrong, match="one late|holds g already|fires at growing step"):
        check("smoothing-a-spectrum/detector-delay", with_it)
