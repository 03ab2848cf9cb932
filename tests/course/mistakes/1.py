"""Typical mistakes in A1: edits of the reference solution, the share they earn at most, and what the feedback says."""

MISTAKES = {
    "network_jacobian": {
        "the transposes": ([("return J", "return J.mT")], 0.5, "transposes"),
        "slopes of the other side": ([("z > kink, high, low", "z > kink, low, high")], 0.0, ""),
        "a kink at zero": ([("z > kink, high, low", "z > 0, high, low")], 0.9, ""),
        "layers in the wrong order": ([("J = layer @ J", "J = J @ layer")], 0.6, "wrong order"),
        "shape": ([("return J", "return J[0]")], 0.0, "shape"),
        "the skip forgotten": ([("layer = alpha * torch", "layer = 0 * torch")], 0.0, "skips the activation"),
    },
    "log_spectrum": {
        "float64": (
            [
                (
                    "product = mpmath.eye(matrices.shape[1])",
                    "product = torch.eye(matrices.shape[1], dtype=matrices.dtype)",
                ),
                ("for J in matrices.tolist():", "for J in matrices:"),
                ("mpmath.matrix(J) * product", "J @ product"),
                ("mpmath.svd_r(product, compute_uv=False)", "torch.linalg.svdvals(product).clamp_min(1e-300).tolist()"),
            ],
            0.5,
            "lost to rounding",
        ),
        "each layer's own": (
            [
                (
                    "    return torch.tensor(sorted(logs, reverse=True), dtype=torch.float64)",
                    "    return torch.linalg.svdvals(matrices).log().sum(0) / math.log(base)",
                )
            ],
            0.0,
            "added up",
        ),
        "the diagonals of R": (
            [
                (
                    "    return torch.tensor(sorted(logs, reverse=True), dtype=torch.float64)",
                    "    Q, logs = torch.eye(matrices.shape[1], dtype=matrices.dtype), 0\n"
                    "    for J in matrices:\n"
                    "        Q, R = torch.linalg.qr(J @ Q)\n"
                    "        logs = logs + R.diagonal().abs().log() / math.log(base)\n"
                    "    return logs.sort(descending=True).values",
                )
            ],
            0.4,
            "growth rates",
        ),
        "another base": ([("/ math.log(base)", "/ math.log(3 if base != 3 else 2)")], 0.0, ""),
        "squares": ([("float(mpmath.log(value))", "2 * float(mpmath.log(value))")], 0.25, "squared"),
    },
    "bends": {
        "all units": ([(" if left != right]", "][: len(places) - 2]")], 0.45, "passes its kink"),
        "the ends too": ([("return [t for", "return [0, 1] + [t for")], 0.75, "ends of the segment"),
        "the first layer alone": (
            [
                (
                    "for number, (W, b) in enumerate(layers):",
                    "for number, (W, b) in enumerate([layers[0], ([[1] * len(layers[0][1])], [0])]):",
                )
            ],
            0.5,
            "",
        ),
    },
    "cells": {
        "parallel walls meet": (
            [("combinations(kinks, size)", "combinations([1] * sum(kinks), size)")],
            0.3,
            "Parallel",
        ),
        "the whole space": ([('most = VARIANT["cells"]["slice"]', "most = n")], 0.5, "whole space"),
        "all combinations": ([('most = VARIANT["cells"]["slice"]', "most = len(kinks)")], 0.3, "All combinations"),
        "off by one": ([("range(most + 1)", "range(most)")], 0.2, "too few"),
    },
    "safe_radius": {
        "kinks alone": ([("return torch.minimum(radius, distance.amin(1))", "return radius")], 0.25, "Only the kinks"),
        "boundary alone": (
            [("return torch.minimum(radius, distance.amin(1))", "return distance.amin(1)")],
            0.25,
            "boundary",
        ),
        "no difference": (
            [
                (
                    "normal = f[rows, best][:, None] - f, J[rows, best][:, None] - J",
                    "normal = f[rows, best][:, None] - f, J[rows, best][:, None] + 0 * J",
                )
            ],
            0.5,
            "gradient of the difference",
        ),
    },
    "saw": {
        "one layer's worth": (
            [("A2 = torch.stack([jumps * (-1) ** k", "A2 = torch.stack([0 * jumps + 1")],
            0.0,
            "pieces",
        ),
        "hidden valleys": ([("jumps * (-1) ** k", "jumps"), ("[(-1) ** k for k", "[1 for k")], 0.95, "hidden"),
        "all face right": ([("if j in (1, 2)", "if j < 0")], 0.95, "pieces"),
    },
}
