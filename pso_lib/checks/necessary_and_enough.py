"""Checks of the chapter on whether persistence is necessary, and enough."""

import torch

from pso_lib.analysis.spectrum import isometry_error
from pso_lib.checks._compare import require_shape
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import gaussian, seeded
from pso_lib.nn.networks import deep_network


@exercise("necessary-and-enough/folded-together")
def _together(A, b, x, y) -> str:
    """A (h, 2) with orthonormal rows, b (h,), and two points of the plane, off the creases, with one image."""
    A, b, x, y = (torch.as_tensor(value, device="cpu").detach().to(torch.float64) for value in (A, b, x, y))
    if A.ndim != 2 or A.shape[1] != 2:
        wrong(f"A has shape {tuple(A.shape)}; a fold of the plane needs (h, 2).")
    for name, value, size in (("b", b, len(A)), ("x", x, 2), ("y", y, 2)):
        if tuple(value.shape) != (size,):
            wrong(f"{name} has shape {tuple(value.shape)}; it must be ({size},).")
    if len(A) > 2 or isometry_error(A.mT) > 1e-6:
        wrong("the rows of A are not orthonormal, so this layer is no fold.")
    if (x - y).norm() < 1e-6:
        wrong("x and y are the same point.")
    z = torch.stack([A @ x + b, A @ y + b])
    if z.abs().min() < 1e-9:
        wrong("a point lies on a crease, where the layer has no Jacobian; move it.")
    images = torch.stack([x, y]) - 2 * torch.relu(z) @ A
    gap = (images[0] - images[1]).norm().item()
    if gap > 1e-6:
        if ((z > 0) == (z[:1] > 0)).all():
            wrong(f"both points lie on the same side of every crease; there the fold keeps their distance, {gap:.2g}.")
        wrong(f"the images are {gap:.2g} apart. Mirror x in a crease it does not lie on: y = x - 2 (a·x + b) a.")
    return "two points, one image, and the Jacobian is orthogonal at both"


@exercise("necessary-and-enough/softened-dimension")
def _softened(softened) -> str:
    """``softened(G, c)`` counts the singular values in [c, 1/c] of each of the Jacobians G (N, n, n): (N,)."""
    n = 6
    values = torch.tensor([[1, 1, 1, 1, 1, 1], [9, 3, 1.5, 0.7, 0.4, 0.1], [5, 4, 3, 2.5, 2.2, 2.1]]).double()
    U, V = (torch.linalg.qr(gaussian(n, n, 1.0, seeded(seed))).Q for seed in (0, 1))
    G = U @ torch.diag_embed(values) @ V
    for c in (0.5, 0.25):
        target = ((values >= c - 1e-9) & (values <= 1 / c + 1e-9)).sum(1)
        answer = torch.as_tensor(softened(G, c), device="cpu").detach()
        if answer.ndim == 0:
            wrong(f"you return one number; return one count for each of the {len(G)} Jacobians.")
        answer = require_shape(answer, (len(G),), "the counts")
        wanted = (values >= c).sum(1)
        above = (values <= 1 / c).sum(1)
        eigen = torch.linalg.eigvals(G).abs()
        eigen = ((eigen >= c) & (eigen <= 1 / c)).sum(1)
        if torch.equal(answer, target.double()):
            continue
        if torch.equal(answer, wanted.double()):
            wrong("you count every singular value of at least c, exploding ones too; the upper end is 1/c.")
        if torch.equal(answer, above.double()):
            wrong("you count every singular value of at most 1/c, vanishing ones too; the lower end is c.")
        if torch.equal(answer, target / n):
            wrong("you return shares of the width; return counts.")
        if torch.equal(answer, eigen.double()):
            wrong("you count eigenvalues; lengths are what singular values measure.")
        wrong(f"for c = {c} the counts are {target.tolist()}, not {answer.tolist()}.")
    return "counted between c and 1/c: neither vanishing nor exploding"


@exercise("necessary-and-enough/drift-tolerance")
def _tolerance(p) -> str:
    """The exponent p in: the drift at which half of the separation is left falls with depth as L^(-p)."""
    p = require_shape(p, (), "the exponent").item()
    if -0.3 < p < -0.08:
        wrong("the sign is turned round: the tolerated drift falls with depth, and p is the positive exponent.")
    if 0.4 < p < 0.6:
        wrong("one half is the law for losses that multiply; measure it, the networks bear more drift than that.")
    if 3 < p < 12:
        wrong("this is the exponent of L over d; you fitted log depth against log drift. Take the inverse.")
    if not 0.08 < p < 0.3:
        wrong(f"p = {p:.2g} is not what we measure. Compare with the separation without drift, and fit logarithms.")
    return "far below one half: states come to rest where all cones meet, and later layers take little"


@exercise("necessary-and-enough/skipped-layers")
def _skipped(skipped) -> str:
    """``skipped(network, x)``: the share of rows whose largest output changes when one layer is left out, (L,)."""
    network = deep_network(5, 8, layer="fold", inputs=6, classes=4, generator=seeded(0), dtype=torch.float64)
    x = gaussian(200, 6, 1.0, seeded(1))
    answer = require_shape(skipped(network, x), (5,), "the shares")
    with torch.no_grad():
        states, readout = network.states(x), network.readout
        assert readout is not None
        full = readout(states[-1]).argmax(1)

        def changed(h, layers) -> torch.Tensor:
            for layer in layers:
                h = layer(h)
            return (readout(h).argmax(1) != full).double().mean()

        layers = list(network.layers)
        right = torch.stack([changed(states[i], layers[i + 1 :]) for i in range(5)])
        first = torch.stack([changed(states[i], []) for i in range(5)])
        last = torch.stack([changed(states[0], layers[i + 1 :]) for i in range(5)])
    if torch.allclose(answer, right, atol=1e-9):
        return "one layer at a time, the others as they are"
    if torch.allclose(answer, 1 - right, atol=1e-9):
        wrong("you return the share of answers that stay; asked is the share that changes.")
    if torch.allclose(answer, 100 * right, atol=1e-6):
        wrong("you return per cent; return shares between 0 and 1.")
    if torch.allclose(answer, first, atol=1e-9):
        wrong("you leave out the layer and all after it; the later layers must still act.")
    if torch.allclose(answer, last, atol=1e-9):
        wrong("you leave out the layer and all before it; start from the state that enters the layer.")
    if torch.allclose(answer, right.flip(0), atol=1e-9):
        wrong("the layers are counted from the end.")
    wrong(f"the shares are off by up to {(answer - right).abs().max():.2g}; leave out one layer and keep all others.")
