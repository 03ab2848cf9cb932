"""Checks for A3 that you may see. They cover 8 of 20 points: what passes here can still fail where you cannot see."""

from fractions import Fraction

import torch

from pso_lib.checks import as_number, as_numbers, require_close, require_parts, require_shape, wrong


def check_predict(function, variant):
    slope, shift = float(variant["slope"]), float(variant["shift"])
    eye = torch.eye(4, dtype=torch.float64)
    x = torch.tensor([[1.0, -1.0, 2.0, 9.0], [-3.0, 2.0, -1.0, 0.5]], dtype=torch.float64)
    found = as_numbers(function(eye, ["relu", "abs", "leaky", "step"], x, 10)).flatten().tolist()
    if len(found) != 2:
        wrong(f"two inputs have two dimensions; you return {len(found)} numbers.")
    if found[0] != 4:
        wrong(f"at (1, -1, 2, 9), with Q = I, all four units keep lengths through ten layers; you say {found[0]:g}.")
    if found[1] != 1:
        wrong(
            f"at (-3, 2, -1, 0.5), with Q = I, relu is off, leaky has the slope {slope:g}, and ten steps of {shift:g} "
            f"are more than 0.5; one unit is left, but you say {found[1]:g}."
        )
    return "two inputs with Q = I are right"


def check_law(function, variant):
    least = variant["least"]
    found = as_numbers(list(function(1, 0, 0, 1)), "law(1, 0, 0, 1)")
    chance = Fraction(1, 2) if least == 1 else 1
    require_close(found, [Fraction(1, 2), Fraction(1, 4), chance], tol=1e-12, what="law(1, 0, 0, 1), one coin,")
    found = as_numbers(list(function(0, 5, 0, 7)), "law(0, 5, 0, 7)")
    require_close(found, [5, 0, 0], tol=1e-12, what="law(0, 5, 0, 7), where nothing is left to chance,")
    return "one coin is right, and so is what does not depend on luck"


def check_start(function, variant):
    depth, n = 5, 8
    low = {"relu": 0.0, "abs": -1.0, "leaky": float(variant["slope"])}[variant["activation"]]
    A, B, b = function(depth, n, 1)
    A, B, b = (
        require_shape(A, (depth, n, n), "A"),
        require_shape(B, (depth, n, n), "B"),
        require_shape(b, (depth, n), "b"),
    )
    wanted = variant["quarters"] * n // 4
    for seed in (0, 1):
        x = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        G = torch.eye(n, dtype=torch.float64)
        for A_l, B_l, b_l in zip(A, B, b, strict=True):
            z = A_l @ x + b_l
            d = torch.where(z > 0, 1.0, low).to(z.dtype)
            J = variant["alpha"] * torch.eye(n, dtype=torch.float64) + (B_l.T * d) @ A_l
            if float(torch.linalg.matrix_norm(J, 2)) > 1 + 1e-6:
                wrong("a layer stretches some direction; none may.")
            G, x = J @ G, variant["alpha"] * x + B_l.T @ (d * z)
        found = int(((torch.linalg.svdvals(G) - 1).abs() < 1e-6).sum())
        if found != wanted:
            wrong(f"at an input {found} dimensions persist through {depth} layers; {wanted} of {n} are asked for.")
    return "two inputs have the dimension asked for, and no layer stretches"


def check_measure(function, variant):
    jacobians = torch.diag(torch.tensor([1.0, 1.0, 2.0, 0.5], dtype=torch.float64)).repeat(3, 1, 1)
    found = function(jacobians)
    if not isinstance(found, tuple | list) or len(found) != 2 or as_number(found[0], "d") not in range(5):
        wrong("return two things, the dimension, a whole number, and the basis.")
    d = int(as_number(found[0], "d"))
    basis = require_shape(found[1], (4, d), "the basis of V")
    if not torch.allclose(basis.mT @ basis, torch.eye(d, dtype=torch.float64), atol=1e-8):
        wrong("the columns of the basis must be orthonormal.")
    return "a whole number and as many orthonormal columns; whether they persist, this does not test"


def check_trained(function, variant):
    found = function(0)
    if not isinstance(found, dict) or set(found) != {"lift", "readout", "first", "last"}:
        wrong('return a dict with "lift", "readout", "first" and "last".')
    depth = variant["depth"]
    layers = {"A": (depth, 32, 32), "B": (depth, 32, 32), "b": (depth, 32)}
    require_parts(found["lift"], {"the lift's weight": (32, 64), "its bias": (32,)})
    require_parts(found["readout"], {"the readout's weight": (10, 32), "its bias": (10,)})
    if torch.equal(require_parts(found["first"], layers), require_parts(found["last"], layers)):
        wrong('"first" and "last" are the same: keep copies of the weights before you train.')
    return "all weights have their shapes; how well they classify, this does not test"


# The points are those of what is tested, so a check of the form alone has none.
CHECKS = {
    "predict": (2, check_predict),
    "law": (2, check_law),
    "measure": (0, check_measure),
    "start": (4, check_start),
    "trained": (0, check_trained),
}
