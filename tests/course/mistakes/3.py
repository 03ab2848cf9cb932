"""Typical mistakes in A3: edits of the reference solution, the share they earn at most, and what the feedback says."""

MISTAKES = {
    "predict": {
        "steps counted once": ([("z > depth * shift", "z > shift")], 0.7, "survive all layers"),
        "one side of abs": ([("kept += 1\n", "kept += z > 0\n")], 0.4, "both sides"),
        "leaky on both sides": ([('if kind == "abs":', 'if kind in ("abs", "leaky"):')], 0.4, "leaky"),
        "off by one": ([("found.append(kept)", "found.append(kept - 1)")], 0.0, "one too small"),
    },
    "law": {
        "one input": ([("2**inputs", "2")], 0.7, "all inputs"),
        "the variance": ([("m * p * (1 - p), fewer", "m * p, fewer")], 0.7, "p \\(1 - p\\)"),
        "at most": ([("range(max(least - absolute, 0))", "range(max(least - absolute + 1, 0))")], 0.7, "fewer"),
        "one side of abs": (
            [
                ("m = relu + leaky", "m = relu + leaky + absolute"),
                ("return absolute + m", "return m"),
                ("least - absolute", "least"),
            ],
            0.7,
            "one side",
        ),
    },
    "measure": {
        "the product alone": (
            [("for J in jacobians:", "for J in [torch.linalg.multi_dot(list(jacobians.flip(0)))]:")],
            0.9,
            "in between|drowns|large",
        ),
        "no cleaning": (
            [("        U = kept @ (kept.T @ U)  # what rounding has leaked would grow\n", "")],
            0.9,
            "drowns|small|another",
        ),
        "the wrong order": ([('== "last layer first"', '!= "last layer first"')], 0.8, ""),
        "the carried one": ([("return V.shape[1], V", "return V.shape[1], U")], 0.5, "another subspace"),
        "the transpose": ([("return V.shape[1], V", "return V.shape[1], V.T")], 0.5, "transpose"),
    },
    "start": {
        "shared orthogonal": (
            [
                (
                    "    return A, B, torch",
                    "    A[:] = haar(n, n, generator)\n"
                    '    B[:] = -A if variant["alpha"] else A\n'
                    "    return A, B, torch",
                )
            ],
            0.25,
            "take turns",
        ),
        "the same layer": (
            [
                ("O = haar(d, d, generator)", "O = torch.eye(d, dtype=torch.float64)"),
                ("share = 0.2 + 1.6 * torch.rand(m, 1, dtype=torch.float64, generator=generator)", "share = 0.5"),
            ],
            0.5,
            "same function",
        ),
        "no seed": ([("generator = seeded(seed)\n    d", "generator = seeded(0)\n    d")], 0.0, "Two seeds"),
        "twice too much": ([("frame = haar(n, n, generator)", "frame = 2 * haar(n, n, generator)")], 0.0, "stretches"),
    },
    "trained": {
        "He": (
            [("    for layer in network.layers:\n        O = haar", "    for layer in []:\n        O = haar")],
            0.3,
            "accuracy",
        ),
        "no training": ([("steps=120, lr=1e-3", "steps=1, lr=1e-12")], 0.1, "chance|not moved"),
        "one seed": (
            [("generator = seeded(seed)\n    network", "generator = seeded(0)\n    network")],
            0.5,
            "same weights",
        ),
    },
}
