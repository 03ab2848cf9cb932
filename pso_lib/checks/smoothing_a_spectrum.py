"""Checks of the chapter on smoothing a spectrum."""

import torch

from pso_lib.analysis.singularity import leading_count
from pso_lib.analysis.spectrum import spectrum_stable_rank
from pso_lib.checks._compare import require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import gaussian, seeded
from pso_lib.smoothing import Detector, smooth_, smoothed_spectrum


def _fires_at(r: float, tau: float, alpha: float, *, shift: int = 0, limit: int = 2000) -> int | None:
    """The growing step at which the library's detector fires; the first ``shift`` grown values are held back."""
    detector = Detector(tau, alpha, warmup=0, cooldown=0)
    detector.update(1.0)
    for step in range(1, limit + 1):
        if r**step > 1e250:
            return None
        if detector.update(float(r**step)):
            return step + shift
    return None


@exercise("smoothing-a-spectrum/detector-delay")
def _delay(delay) -> str:
    """``delay(r, tau, alpha)``: the growing step at which the detector fires, or None."""
    for tau, alpha in ((2.5, 0.9), (1.5, 0.5), (4.0, 0.99)):
        edge = alpha + tau * (1 - alpha)
        for r in (0.97 * edge, 1.005 * edge, 1.05 * edge, 1.5 * edge, 1.1 * tau, 10.0):
            if r <= 1:
                continue
            answer, wanted = delay(r, tau, alpha), _fires_at(r, tau, alpha)
            case = f"for r = {r:.3f}, tau = {tau}, alpha = {alpha}"
            if answer == wanted and not isinstance(answer, bool):
                continue
            if wanted is None:
                wrong(f"{case} it never fires: the ratio stays below (r - alpha) / (1 - alpha), which is below tau.")
            if answer is None:
                wrong(f"{case} it fires, at growing step {wanted}; the threshold is alpha + tau (1 - alpha).")
            answer = require_shape(answer, (), "the delay").item()
            if answer == wanted - 1:
                wrong(f"{case} you count from 0; the first value that has grown is number 1.")
            if answer == wanted + 1:
                wrong(f"{case} you are one late: g is compared with the average of the values before it.")
            if answer == _against_new_average(r, tau, alpha):
                wrong(f"{case} you compare g with an average that holds g already.")
            wrong(f"{case} it fires at growing step {wanted}, not {answer:g}.")
    return "the ratio climbs towards its limit, and crosses tau late if the limit is close"


def _against_new_average(r: float, tau: float, alpha: float) -> int | None:
    m = 1.0
    for step in range(1, 600):
        g = r**step
        if g > 1e250:
            return None
        m = alpha * m + (1 - alpha) * g
        if g > tau * m:
            return step
    return None


@exercise("smoothing-a-spectrum/sharpening-convolution")
def _sharpening(spectrum) -> str:
    """A spectrum (r,), largest first, whose stable rank falls under convolution with the paper's k."""
    s = torch.as_tensor(spectrum, device="cpu").detach().to(torch.float64)
    if s.ndim != 1 or len(s) < 2:
        wrong(f"the answer has shape {tuple(s.shape)}; give a list of two singular values or more.")
    if not s.isfinite().all() or (s < 0).any() or s[0] <= 0:
        wrong("singular values are finite and not negative, and not all of them zero here.")
    if (s[1:] > s[:-1]).any():
        wrong("put the values in order, the largest first.")
    before = spectrum_stable_rank(s)
    k = int(leading_count(before, rank=len(s)))
    if k < 3:
        wrong(
            f"the stable rank is {before:.3g}, so k = {k}: convolution then "
            + ("changes nothing." if k == 1 else "only moves two values towards each other.")
            + " A long tail of small values makes k larger."
        )
    after = spectrum_stable_rank(smoothed_spectrum(s, "convolution", k))
    if after >= before - 1e-9:
        by_hand = spectrum_stable_rank(smoothed_spectrum(s, "convolution", len(s)))
        hint = " (With all values it would fall; k is the stable rank rounded down.)" if by_hand < before - 1e-9 else ""
        wrong(
            f"with k = {k} the stable rank goes from {before:.4g} to {after:.4g}; it does not fall.{hint} Put a cliff "
            "behind two equal values, inside the first k."
        )
    return f"from {before:.3g} to {after:.3g}, with k = {k}: the second value falls off the cliff, the first stays"


@exercise("smoothing-a-spectrum/kernel-clip")
def _kernel(clip_kernel) -> str:
    """``clip_kernel(W)`` of a kernel (out, in, h, w)."""
    for seed, shape in enumerate(((6, 4, 5, 5), (12, 2, 3, 1))):
        W = gaussian(shape[0], shape[1] * shape[2] * shape[3], 1.0, seeded(seed))
        W = W.double()
        U, _, Vh = torch.linalg.svd(W, full_matrices=False)
        spectrum = torch.tensor([4.0, 3.6, 3.0, 1.5, 1.0, 0.7], dtype=torch.float64)  # of stable rank 2.6
        W = ((U * spectrum) @ Vh).reshape(shape)
        start, right = W.clone(), W.clone()
        smooth_(right, "clip")
        answer = torch.as_tensor(clip_kernel(W), device="cpu").detach()
        if not torch.equal(W, start):
            wrong("the kernel you were given has changed; work on a copy.")
        if tuple(answer.shape) == tuple(W.flatten(1).shape):
            wrong(f"you return the matrix {tuple(answer.shape)}; bring it back to {shape}.")
        answer = require_shape(answer, shape, "the kernel")
        if torch.allclose(answer, right, atol=1e-6):
            continue
        for explanation, other in _kernel_mistakes(start).items():
            if torch.allclose(answer, other, atol=1e-6):
                wrong(explanation)
        wrong(f"the kernel is off by up to {(answer - right).abs().max():.2g}.")
    return "one spectrum for the whole kernel, and its shape is back"


def _kernel_mistakes(W) -> dict[str, torch.Tensor]:
    M = W.flatten(1)
    U, s, Vh = torch.linalg.svd(M, full_matrices=False)
    k = int(leading_count(spectrum_stable_rank(s), rank=len(s)))

    def with_top(count, level):
        new = s.clone()
        new[:count] = level
        return ((U * new) @ Vh).reshape(W.shape)

    slices = W.clone()
    for o in range(W.shape[0]):
        for i in range(W.shape[1]):
            smooth_(slices[o, i], "clip")
    turned = W.transpose(0, 1).flatten(1).clone()
    smooth_(turned, "clip")
    turned = turned.reshape(W.shape[1], W.shape[0], *W.shape[2:]).transpose(0, 1)
    return {
        "the kernel is unchanged; set the first k singular values to the k-th.": W,
        "you smooth every small h x w matrix by itself; flatten the kernel to (out, in h w) first.": slices,
        "you flatten to (in, out h w); the rows are the output channels, axis 0.": turned,
        "you take the singular value after the first k (or round the stable rank up); clip takes sigma_k.": with_top(
            k, s[min(k, len(s) - 1)]
        ),
        "you set all singular values to sigma_k; those after it stay.": with_top(len(s), s[k - 1]),
        "you set the first k values to their mean; clip takes the smallest of them.": with_top(k, s[:k].mean()),
    }


_CALLS = ("scale and backward", "unscale", "guard", "clip", "scaler.step", "scaler.update")


@exercise("smoothing-a-spectrum/loop-order")
def _order(order) -> str:
    """The six calls of a step with mixed precision, a guard and clipping, in order."""
    order = [str(call).strip() for call in order]
    unknown = [call for call in order if call not in _CALLS]
    if unknown:
        wrong(f"{unknown[0]!r} is none of the six calls; they are {', '.join(_CALLS)}.")
    for call in _CALLS:
        if order.count(call) != 1:
            wrong(f"{call!r} occurs {order.count(call)} times; every call happens once.")
    place = {call: order.index(call) for call in _CALLS}
    if place["scale and backward"] != 0:
        wrong("there are no gradients to look at before backward.")
    if place["guard"] < place["unscale"]:
        wrong("the guard judges gradients multiplied by the scale, which changes from time to time; unscale first.")
    if place["clip"] < place["unscale"]:
        wrong("the limit of the clipping is meant for true gradients; unscale first.")
    if place["clip"] < place["guard"]:
        wrong("the guard sees clipped gradients: no spike above the limit of the clipping reaches it.")
    if place["scaler.step"] < max(place["guard"], place["clip"]):
        wrong("the update happens before the gradients have been judged and clipped.")
    if place["scaler.update"] != 5:
        wrong("the scaler is updated last: it asks whether the step overflowed.")
    return "true gradients for the guard, judged ones for the clipping, clipped ones for the update"
