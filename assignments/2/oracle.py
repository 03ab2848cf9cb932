"""How A2 is judged: reflections in fractions, layers by what they do to points and sectors."""

import itertools
import math
from fractions import Fraction

import torch

from pso_lib.checks import wrong
from pso_lib.course import Case, Exercise, Judgement
from pso_lib.course.judges import Partly, expect, fields, numbers


def gaussians(rng, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(rng.getrandbits(40)))


def bent(z, low, high, kink=0.0):
    return low * torch.minimum(z, kink + 0 * z) + high * (z - kink).clamp_min(0)


# Exercise 1: what stands between the creases is one reflection each, on the side that fits how they are given.


def walk_variant(rng):
    kind = rng.choice(["sheet", "table"])
    where = {
        "sheet": "$x$ on the flat sheet, before folding",
        "table": "$Qx + c$ on the table, where the piece on which you stand and the next one touch",
    }
    return {"kind": kind, "where": where[kind]}


def normal(rng, n):
    while True:
        a = [Fraction(rng.randint(-3, 3)) for _ in range(n)]
        if sum(x * x for x in a) not in (0, 1):
            return a


def mirror(a, b):
    """z -> R z + s, the reflection in a . z + b = 0; s = -2 b a / |a|^2."""
    length = sum(x * x for x in a)
    R = [[Fraction(i == j) - 2 * x * y / length for j, y in enumerate(a)] for i, x in enumerate(a)]
    return R, [-2 * b * x / length for x in a]


def times(P, Q):
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*Q, strict=True)] for row in P]


def apply(P, x):
    return [sum(p * u for p, u in zip(row, x, strict=True)) for row in P]


def plus(x, y):
    return [u + v for u, v in zip(x, y, strict=True)]


def compose(outer, inner):
    """The affine map outer after inner, each (matrix, shift)."""
    return times(outer[0], inner[0]), plus(apply(outer[0], inner[1]), outer[1])


def walked(piece, creases, kind, reflect=mirror):
    for a, b in creases:
        piece = compose(piece, reflect(a, b)) if kind == "sheet" else compose(reflect(a, b), piece)
    return piece


def flat(piece):
    return [*itertools.chain(*piece[0]), *piece[1]]


def unscaled(a, b):
    R = [[Fraction(i == j) - 2 * x * y for j, y in enumerate(a)] for i, x in enumerate(a)]
    return R, [-2 * b * x for x in a]


def walk_cases(variant, rng):
    kind, other = variant["kind"], {"sheet": "table", "table": "sheet"}[variant["kind"]]
    cases = []
    for weight, n, count, what in (
        (1, 2, 1, "one crease in the plane"),
        (1, 2, 4, "four creases in the plane"),
        (2, rng.choice([3, 4]), rng.choice([3, 5]), "several creases in space"),
    ):
        start, _ = walked(([[Fraction(i == j) for j in range(n)] for i in range(n)], [Fraction(0)] * n),
                          [(normal(rng, n), Fraction(0)) for _ in range(2)], "sheet")  # fmt: skip
        c = [Fraction(rng.choice([-3, -2, -1, 1, 2, 3])) for _ in range(n)]
        creases = [(normal(rng, n), Fraction(rng.choice([-2, -1, 1, 3]))) for _ in range(count)]
        right = walked((start, c), creases, kind)
        no_shift = (right[0], c)
        turned = walked((start, c), [(a, -b) for a, b in creases], kind)
        mistakes = {
            "The mirrors stand on the other side: read whether the creases lie on the sheet or on the table.": Partly(
                flat(walked((start, c), creases, other)), 0.25
            ),
            "The mirror needs a normal of length 1, or a division by its square.": Partly(
                flat(walked((start, c), creases, kind, unscaled)), 0.25
            ),
            "Q is right; c has not changed, though each mirror has a place of its own.": Partly(flat(no_shift), 0.5),
            "Q is right; the creases stand on the wrong side of the origin: a . z + b = 0.": Partly(flat(turned), 0.5),
            "The creases are crossed in the reverse order.": Partly(
                flat(walked((start, c), creases[::-1], kind)), 0.25
            ),
        }
        close = expect(flat(right), mistakes, tol=1e-9, what="walk")

        def judge(value, close=close, n=n):
            Q, c = fields(value, ["Q", "c"], "what walk returns")
            return close([*numbers(Q, (n, n), "Q").flatten().tolist(), *numbers(c, (n,), "c").tolist()])

        cases.append(Case(weight, (start, c, creases), judge, what))
    return cases


# Exercise 2


def half_variant(rng):
    low, high = rng.choice([("0.5", "-1"), ("0.25", "2"), ("-1", "3"), ("1", "0.2"), ("-0.5", "-2")])
    kink = rng.choice(["0.5", "-1", "2", "-0.5"])
    side = rng.choice(["above", "below"])
    return {
        "low": low,
        "high": high,
        "kink": kink,
        "below": scaled(low, "z"),
        "beyond": rf"{scaled(high, f'(z {-float(kink):+g})')} {float(low) * float(kink):+g}",
        "side": side,
        "moving": "$a \\cdot x > t$" if side == "above" else "$a \\cdot x < t$",
    }


def scaled(factor, what):
    """The product as one writes it: x and -x without their 1."""
    return {"1": what, "-1": f"-{what}"}.get(factor, rf"{factor}\,{what}")


def half_cases(variant, rng):
    low, high, kink = (float(variant[key]) for key in ("low", "high", "kink"))
    cases = []
    for weight, n, long, what in (
        (1, 2, False, "the plane, a normal of length 1"),
        (1, 2, True, "the plane, a longer normal"),
        (2, rng.choice([3, 5]), True, "more dimensions"),
    ):
        a = gaussians(rng, n)
        a = a / a.norm() * (rng.choice([0.5, 2.0, 3.0]) if long else 1.0)
        t = rng.choice([-1.5, -0.7, 0.7, 1.5])
        cases.append(Case(weight, (a, t), half_judge(a, t, variant["side"], low, high, kink, rng), what))
    return cases


def half_judge(a, t, side, low, high, kink, rng):
    n = len(a)
    foot = t * a / (a @ a)
    x = foot + 2 * gaussians(rng, 60, n)
    x = x[((x @ a - t).abs() / a.norm()) > 1e-2]
    over = (x @ a - t) > 0

    def folded(moves, length):
        return torch.where(moves[:, None], x - 2 * (x @ a - t)[:, None] * a / length, x)

    moves = over if side == "above" else ~over
    right = folded(moves, a @ a)

    def judge(value):
        M, c, v, w, d = fields(value, ["M", "c", "v", "w", "d"], "what half_space returns")
        M, c, v = numbers(M, (n, n), "M"), numbers(c, (n,), "c"), numbers(v, (n,), "v")
        w, d = numbers(w, (n,), "w"), numbers(d, (), "d")
        found = x @ M.T + c + bent(x @ w + d, low, high, kink)[:, None] * v
        if not bool(found.isfinite().all()):
            return Judgement(0, "The layer returns what is no finite number.")

        def like(target):
            return torch.allclose(found, target, rtol=1e-6, atol=1e-6)

        if like(right):
            return None
        if like(folded(~moves, a @ a)):
            return Judgement(0.5, "It folds, but the other half is the one to be turned over.")
        if not torch.allclose(a @ a, torch.ones((), dtype=a.dtype)) and like(folded(moves, 1.0)):
            return Judgement(0.5, "The fold is a mirror only if the normal has length 1; divide by its square.")
        shift = (found - right).mean(0)
        if like(right + shift):
            return Judgement(
                0.5, "All is shifted by the same vector: an activation is not zero at its kink; c undoes it."
            )
        stay = torch.allclose(found[~moves], right[~moves], rtol=1e-6, atol=1e-6)
        if stay:
            return Judgement(0.25, "One half stays, as it must; the other is not its mirror image.")
        if torch.allclose(found[moves], right[moves], rtol=1e-6, atol=1e-6):
            return Judgement(
                0.25, "One half is turned over rightly, but the other does not stay: the slope there is not zero."
            )
        crease = (kink - d) / w.norm() if bool(w.norm() > 0) else math.inf
        if w.norm() > 0 and abs(float(crease - t / a.norm() * torch.sign(w @ a))) > 1e-6:
            return Judgement(0, "The crease lies elsewhere: the unit bends where w . x + d is at its kink.")
        return Judgement(0, "The crease lies where it should, but neither half is where it should be.")

    return judge


# Exercise 3


def completions(others):
    """Every angle that makes an odd pencil one that folds, modulo 180: alternate sectors add up to 90."""
    others = sorted(Fraction(o) % 180 for o in others)
    sectors = [(q - p) % 180 for p, q in zip(others, others[1:] + others[:1], strict=True)]
    found = []
    for j, start in enumerate(others):
        # The sector j is cut into u and s_j - u. Go round from there: u, s_j - u, s_{j+1}, s_{j+2}, …
        rest = [sectors[(j + k) % len(sectors)] for k in range(1, len(sectors))]
        u = 90 - sum(rest[0::2])
        if 0 < u < sectors[j]:
            found.append((start + u) % 180)
    return found


def folds(angles):
    """Kawasaki's condition in fractions."""
    angles = sorted(Fraction(a) % 180 for a in angles)
    return len(set(angles)) == len(angles) and sum(q - p for p, q in zip(angles[::2], angles[1::2], strict=True)) == 90


def all_repairs(angles):
    return {(i, x) for i in range(len(angles)) for x in completions(angles[:i] + angles[i + 1 :])}


def broken(rng, m):
    """Angles that do not fold, of which some repairs leave their sector and some do not."""
    while True:
        angles = rng.sample(range(0, 180, rng.choice([1, 5])), m)
        if folds(angles):
            continue
        own = inside(angles)
        if len(all_repairs(angles)) > len(own) >= 1:
            return angles


def inside(angles):
    """The repairs that keep the order of the creases."""
    order = sorted(range(len(angles)), key=lambda i: angles[i])
    keep = set()
    for i, x in all_repairs(angles):
        k = order.index(i)
        before, after = angles[order[k - 1]], angles[order[(k + 1) % len(order)]]
        if 0 < (x - before) % 180 < (after - before) % 180:
            keep.add((i, x))
    return keep


def repairs_variant(rng):
    count = rng.choice([4, 6])
    angles = broken(rng, count)
    return {"own": angles, "count": count, "angles": ", ".join(map(str, angles[:-1])) + f" and {angles[-1]}"}


def repairs_cases(variant, rng):
    cases = []
    for weight, angles, what in (
        (1, variant["own"], "your own angles"),
        (1.5, broken(rng, variant["count"]), "other angles"),
        (1.5, broken(rng, variant["count"]), "other angles, again"),
    ):
        cases.append(Case(weight, (list(angles),), repairs_judge(list(angles)), what))
    return cases


def repairs_judge(angles):
    right = {(i, float(x)) for i, x in all_repairs(angles)}
    narrow = {(i, float(x)) for i, x in inside(angles)}

    def judge(value):
        if not isinstance(value, list | tuple | set):
            wrong("repairs must return a list of pairs (i, angle).")
        got = set()
        for pair in value:
            i, x = fields(pair, ["i", "angle"], "a repair")
            i, x = float(numbers(i, (), "i")), float(numbers(x, (), "angle"))
            if not math.isfinite(x) or i not in range(len(angles)):
                return Judgement(0, f"A repair names the normal {i:g}; there are those from 0 to {len(angles) - 1}.")
            got.add((int(i), x % 180))
        hits = {r for r in right if any(same(r, g) for g in got)}
        false = [g for g in got if not any(same(r, g) for r in right)]
        if len(hits) == len(right) and not false:
            return None
        if not false and {r for r in narrow if r in hits} == narrow == hits:
            return Judgement(0.5, "Each crease is moved only as far as its neighbours; it may also pass them.")
        if false and all(any(same((i + k, x), r) for r in right for k in (-1, 1)) for i, x in false):
            return Judgement(0.4, "The angles are right, their numbers are not: count from 0, in the order given.")
        share = max(0.0, len(hits) / len(right) - 0.5 * len(false) / len(right))
        said = []
        if false:
            i, x = false[0]
            clash = any(abs((x - a + 90) % 180 - 90) < 1e-9 for k, a in enumerate(angles) if k != i)
            said.append(
                "one lays a crease on another"
                if clash
                else f"{len(false)} of your pencils do not satisfy the condition"
            )
        if len(hits) < len(right):
            said.append(f"{len(hits)} of all are found")
        return Judgement(min(share, 0.9), "repairs: " + ", and ".join(said) + ".")

    return judge


def same(r, g):
    return r[0] == g[0] and abs((r[1] - g[1] + 90) % 180 - 90) < 1e-6


# Exercise 4


def pencil_variant(rng):
    low, high = rng.choice([("0.25", "1"), ("-1", "0.5"), ("2", "0.5"), ("-0.2", "1.3")])
    return {"low": low, "high": high, "below": scaled(low, "z"), "above": scaled(high, "z")}


def foldable(rng, m):
    while True:
        others = rng.sample(range(180), m - 1)
        found = [x for x in completions(others)]
        if found:
            angles = [*others, found[0]]
            gaps = sorted(Fraction(a) % 180 for a in angles)
            if min((q - p) % 180 for p, q in zip(gaps, gaps[1:] + gaps[:1], strict=True)) >= 6:
                rng.shuffle(angles)
                return [int(a) if a == int(a) else Fraction(a) for a in angles]


def pencil_cases(variant, rng):
    low, high = float(variant["low"]), float(variant["high"])
    cases = []
    for weight, m, what in ((1, 4, "four creases"), (2, 6, "six creases"), (2, 8, "eight creases")):
        angles = foldable(rng, m) if m > 4 else rng.sample([a := rng.randint(5, 40), a + 45, a + 90, a + 135], 4)
        cases.append(Case(weight, (angles,), pencil_judge(angles, low, high), what))
    return cases


def sectors_of(angles):
    """Directions in the middle of all 2m regions, in turn: a crease with its normal at t has the direction t + 90."""
    walls = sorted(math.radians(float(a) + 90 + turn) % (2 * math.pi) for a in angles for turn in (0, 180))
    middles = [(p + q) / 2 for p, q in zip(walls, [*walls[1:], walls[0] + 2 * math.pi], strict=True)]
    return torch.tensor([[math.cos(m), math.sin(m)] for m in middles], dtype=torch.float64)


def pencil_judge(angles, low, high):
    m = len(angles)
    x = sectors_of(angles)
    wanted = torch.tensor([[math.cos(math.radians(float(a))), math.sin(math.radians(float(a)))] for a in angles])
    wanted = wanted.to(torch.float64)

    def orthogonal(J):
        return (J.mT @ J - torch.eye(2, dtype=J.dtype)).abs().amax((1, 2)) < 1e-6

    def judge(value):
        M, V, A = fields(value, ["M", "V", "A"], "what pencil returns")
        M, V, A = numbers(M, (2, 2), "M"), numbers(V, (m, 2), "V"), numbers(A, (m, 2), "A")
        length = A.norm(dim=1)
        if not bool((torch.cat([M, V, A]).isfinite()).all()) or not bool((length > 0).all()):
            return Judgement(0, "The weights hold what is no finite number, or a normal of length 0.")
        across = (A[:, 0] * wanted[:, 1] - A[:, 1] * wanted[:, 0]).abs() / length
        if bool((across > 1e-6).any()):
            along = ((A * wanted).sum(1).abs() / length < 1e-6).all()
            turned = " These are the directions of the creases; a_i is the normal." if bool(along) else ""
            return Judgement(0, f"{int((across > 1e-6).sum())} of the a_i do not have the direction asked for.{turned}")
        on = x @ A.T > 0

        def jacobians(slopes):
            return M + torch.einsum("ki,si,il->skl", V.T, slopes, A)

        J = jacobians(torch.where(on, high, low).to(x.dtype))
        good = orthogonal(J)
        if bool(good.all()):
            if bool((V.norm(dim=1) * length < 1e-6).any()):
                return Judgement(0.25, "A crease is missing: its v is zero.")
            return None
        if bool(orthogonal(jacobians(on.to(x.dtype))).all()):
            return Judgement(0.5, "It would fold with ReLU; your activation has other slopes on both sides.")
        if bool(orthogonal(jacobians(torch.where(on, low, high).to(x.dtype))).all()):
            return Judgement(0.5, "It would fold if the two slopes changed sides.")
        steps = (high - low) * V.norm(dim=1) * length
        if bool(((steps - 2).abs() < 1e-6).all()):
            return Judgement(
                0.1 + 0.3 * float(good.double().mean()),
                f"Every v has the right length, but J is orthogonal in {int(good.sum())} of {2 * m} regions only: "
                "v_i is -2 Q a_i for the Q next to that crease, and Q changes on the way round.",
            )
        if bool(good.any()):
            text = f"The Jacobian is orthogonal in {int(good.sum())} of {2 * m} regions only."
            return Judgement(0.4 * float(good.double().mean()), text)
        return Judgement(0, "The Jacobian is orthogonal in no region; begin with the one where you know it.")

    return judge


# Exercise 5

FOLDS = {
    "abs": (r"|u - t_\ell|", lambda u, t: abs(u - t), lambda v, t: [t + v, t - v] if v >= 0 else []),
    "roof": (r"t_\ell - |u|", lambda u, t: t - abs(u), lambda v, t: [t - v, v - t] if v <= t else []),
    "valley": (r"|u| - t_\ell", lambda u, t: abs(u) - t, lambda v, t: [v + t, -v - t] if v + t >= 0 else []),
}


def needle_variant(rng):
    kind = rng.choice(list(FOLDS))
    return {"kind": kind, "formula": FOLDS[kind][0]}


def hit(ts, y, back):
    points = [y]
    for t in reversed(ts):
        points = [u for v in points for u in back(v, t)]
    return points


def unchecked(ts, y, kind):
    """As if each fold had two preimages everywhere."""
    pair = {"abs": lambda v, t: [t + v, t - v], "roof": FOLDS["roof"][2], "valley": FOLDS["valley"][2]}[kind]
    either = {"abs": pair, "roof": lambda v, t: [t - v, v - t], "valley": lambda v, t: [v + t, -v - t]}[kind]
    return sorted(set(hit(ts, y, either)))


def needle_cases(variant, rng):
    kind = variant["kind"]
    _, forth, back = FOLDS[kind]
    cases = []
    for weight, depth, wanted, what in (
        (1, 2, "some", "two folds"),
        (2, rng.choice([5, 6, 7]), "some", "many folds"),
        (1, 4, "crease", "the needle meets a crease"),
        (0.5, 4, "none", "the needle misses the strip"),
    ):
        while True:
            ts = [Fraction(rng.randint(1, 9), rng.choice([1, 2, 3])) for _ in range(depth)]
            y = Fraction(rng.randint(-12, 12), rng.choice([1, 2]))
            if wanted == "crease":  # the kink of a middle fold, sent on
                u = ts[2] if kind == "abs" else Fraction(0)
                y = forth(forth(u, ts[2]), ts[3])
            points = hit(ts, y, back)
            right = sorted(set(points))
            doubled = len(points) > len(right)
            full = unchecked(ts, y, kind)
            if wanted == "none" and not right and full:
                break
            if wanted == "crease" and doubled and len(right) >= 2:
                break
            if wanted == "some" and right and not doubled and (depth == 2 or 2 < len(right) < len(full)):
                break
        assert all(run(ts, u, forth) == y for u in right)
        cases.append(Case(weight, (ts, y), needle_judge(ts, y, right, points, full, back), what))
    return cases


def run(ts, u, forth):
    for t in ts:
        u = forth(u, t)
    return u


def needle_judge(ts, y, right, points, full, back):
    backwards = sorted(set(hit(ts[::-1], y, back)))

    def judge(value):
        found = numbers(value, what="needle").flatten()
        if found.numel() and not bool(found.isfinite().all()):
            return Judgement(0, "needle returns what is no finite number.")
        got = found.tolist()
        if close(got, right):
            return None
        if close(sorted(got), sorted(points)) and len(points) > len(right):
            return Judgement(0.5, "A point on a crease is counted twice: its two preimages are one.")
        if close(sorted(got), right):
            return Judgement(0.75, "The points are right, but not in increasing order.")
        if close(sorted(set(got)), full):
            return Judgement(0, "Some of these points do not arrive at y: a fold does not reach every number.")
        if close(sorted(set(got)), backwards):
            return Judgement(0.25, "The folds are undone in the wrong order: the last one first.")
        if not right:
            return Judgement(0, "There are no such points: the needle misses the strip.")
        hits = sum(any(abs(g - r) < 1e-9 for g in got) for r in map(float, right))
        return Judgement(0.4 * hits / max(len(right), len(got), 1), f"{hits} of the {len(got)} points given are hit.")

    return judge


def close(got, wanted):
    return len(got) == len(wanted) and all(abs(a - float(b)) < 1e-9 for a, b in zip(got, wanted, strict=True))


EXERCISES = {
    "walk": Exercise(4, walk_variant, walk_cases),
    "half_space": Exercise(4, half_variant, half_cases),
    "repairs": Exercise(4, repairs_variant, repairs_cases),
    "pencil": Exercise(5, pencil_variant, pencil_cases),
    "needle": Exercise(3, needle_variant, needle_cases),
}
