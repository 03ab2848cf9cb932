"""Typical mistakes in A2: edits of the reference solution, the share they earn at most, and what the feedback says."""

MISTAKES = {
    "walk": {
        "the other side": ([('["kind"] == "sheet"', '["kind"] != "sheet"')], 0.4, "other side"),
        "normals of any length": ([(" / a.dot(a)", "")], 0.3, "length 1"),
        "no shift": ([("return Q.tolist(), list(c)", "return Q.tolist(), [0] * len(list(c))")], 0.2, ""),
        "the place of the mirror": ([("shift = -2 * b", "shift = 2 * b")], 0.6, "wrong side of the origin"),
        "wrong shape": ([("return Q.tolist(), list(c)", "return Q.tolist(), Q.tolist()")], 0.0, "shape"),
    },
    "half_space": {
        "the other half": ([('== "above" else', '!= "above" else')], 0.5, "other half"),
        "a of length 1": ([(" / (a @ a)", "")], 0.65, "length 1"),
        "no shift": ([("c = -low * d * v", "c = 0 * v")], 0.5, "shifted"),
        "as if the slope were 0": ([("- low * torch.outer(v, w)", "")], 0.3, ""),
        "a kink at 0": ([("d = kink - side * t", "d = -side * t")], 0.3, "crease lies elsewhere"),
    },
    "repairs": {
        "neighbours stay": (
            [
                (
                    "            found.append(",
                    "            rest = [q for q in angles if q != angles[i]]\n"
                    "            if any(bool(q < angles[i]) != bool(q < degrees) for q in rest):\n"
                    "                continue\n            found.append(",
                )
            ],
            0.9,
            "neighbours|of all are found",
        ),
        "counted from 1": ([("found.append((i,", "found.append(((i + 1) % len(angles),")], 0.5, "condition|numbers"),
        "one alone": ([("return found", "return found[:1]")], 0.5, "of all are found"),
    },
    "pencil": {
        "Q never changes": ([("Q = Q + (high - low) * torch.outer(V[i], A[i])", "pass")], 0.4, "Q changes on the way"),
        "ReLU": ([("/ (high - low)", ""), ("Q + (high - low) * ", "Q + "), (" - low * V.T @ A", "")], 0.5, "with ReLU"),
        "creases for normals": (
            [("[math.cos(t), math.sin(t)]", "[-math.sin(t), math.cos(t)]")],
            0.0,
            "directions of the creases",
        ),
        "in the order given": (
            [("sorted(range(len(angles)), key=lambda i: float(angles[i]) % 180)", "range(len(angles))")],
            0.9,
            "region",
        ),
        "sign flipped": ([("V[i] = -2", "V[i] = 2")], 0.4, "region"),
    },
    "needle": {
        "every number is reached": (
            [("if v >= 0 else set()", ""), ("if v <= t else set()", ""), ("if v + t >= 0 else set()", "")],
            0.6,
            "reach",
        ),
        "twice on the crease": (
            [
                ("points = {y}", "points = [y]"),
                ("before = set()", "before = []"),
                ("before |= {t + v, t - v} if v >= 0 else set()", "before += [t + v, t - v] if v >= 0 else []"),
                ("before |= {t - v, v - t} if v <= t else set()", "before += [t - v, v - t] if v <= t else []"),
                (
                    "before |= {v + t, -v - t} if v + t >= 0 else set()",
                    "before += [v + t, -v - t] if v + t >= 0 else []",
                ),
            ],
            0.9,
            "counted twice",
        ),
        "the wrong order": ([("reversed(ts)", "ts")], 0.5, ""),
    },
}
