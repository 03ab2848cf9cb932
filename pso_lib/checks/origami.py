"""Exercises on folding: zig-zags of leaky units, the fourth crease, sorting by folds, seven planes in space."""

from itertools import combinations, permutations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pso_lib.checks._compare import as_numbers, require_finite, require_function, require_parts
from pso_lib.checks._core import exercise, wrong
from pso_lib.nn.init import seeded


@exercise("origami/zigzag", points=2)
def zigzag(answer) -> str:
    """``zigzag(kinks, s)``: alpha, betas (m,) for which alpha z + Σ betas[i] σ(z - kinks[i]) has slopes 1, -1, 1, …"""
    cases = [
        ([0.0], 0.1),
        ([-1.0, 2.0], 0.5),
        ([0.0, 1.0, 3.0], 0.1),
        ([-2.0, 0.0, 1.0, 4.0, 5.0], -1.0),
        ([1.0, 2.0], 0.0),
    ]

    def exact(kinks, s, jump=2.0, alternate=True, first=1.0):
        steps = [-first * jump * (-1.0 if alternate else 1.0) ** i for i in range(len(kinks))]
        betas = [step / (1 - s) for step in steps]
        return first - s * sum(betas), betas

    mistakes = {
        "This is right for ReLU, whose left slope is 0; here it is s.": lambda kinks, s: exact(kinks, 0.0),
        "The betas are right. Left of all kinks every unit has slope s, and alpha + s (sum of betas) must be 1.": (
            lambda kinks, s: (1.0, exact(kinks, s)[1])
        ),
        "Divide by 1 - s: a unit's slope changes at its kink from s to 1, not from 0 to 1.": lambda kinks, s: (
            1 - s * sum(exact(kinks, 0.0)[1]),
            exact(kinks, 0.0)[1],
        ),
        "The slopes fall by 2 at every kink, to -1, -3, …; the betas must alternate.": (
            lambda kinks, s: exact(kinks, s, alternate=False)
        ),
        "This folds too, but the slopes are -1, 1, -1, …; turn all signs around.": (
            lambda kinks, s: exact(kinks, s, first=-1.0)
        ),
        "The slopes are 1, 0, 1, …: at each kink the slope must change by 2.": lambda kinks, s: exact(
            kinks, s, jump=1.0
        ),
    }
    require_function(
        answer,
        exact,
        cases,
        mistakes,
        form=lambda pair, kinks, s: require_parts(pair, {"alpha": (), "betas": (len(kinks),)}),
        what="zigzag",
    )
    return "slopes 1, -1, 1, … with one to five units and four left slopes"


@exercise("origami/fourth-crease", points=2)
def fourth_crease(answer) -> str:
    """``fourth_creases(a, b, c)``: all normals, in degrees, that complete three creases to a pencil that folds."""
    cases = [(0.0, 40.0, 100.0), (10.0, 33.0, 51.0), (170.0, 20.0, 93.0), (15.0, 168.0, 41.0), (100.0, 5.0, 60.0)]

    def candidates(a, b, c, *, whole=90.0) -> list[tuple[float, float, float]]:
        """Where the fourth would be in each sector: its angle, and the sector's ends."""
        ends, gaps = [(a, b), (b, c), (c, a + 180)], [b - a, c - b, a + 180 - c]
        return [(ends[i][0] + whole - gaps[(i + 1) % 3], *ends[i]) for i in range(3)]

    def exact(*given, order=sorted) -> list[float]:
        return [t for t, low, high in candidates(*order(given)) if low < t < high]

    mistakes = {
        "this is one angle; there may be one in each of the three sectors.": lambda *given: exact(*given)[:1],
        "some of these do not lie in the sector for which you solved: there the alternating sum is another one.": (
            lambda *given: [t for t, *_ in candidates(*sorted(given))]
        ),
        "you set the sum to 180°, as for rays; for full lines it is 90°.": lambda *given: [
            t for t, *_ in candidates(*sorted(given), whole=180.0)
        ],
        "this looks like radians; give degrees.": lambda *given: [t % 180 * torch.pi / 180 for t in exact(*given)],
        "sort the three angles first: they come in any order.": lambda *given: exact(*given, order=tuple),
    }

    def form(value, *given) -> Tensor:
        value = list(value) if isinstance(value, set) else value
        angles = as_numbers(value, "what fourth_creases returns").reshape(-1) % 180
        if any((angles - angle).abs().min() < 1e-6 for angle in given if len(angles)):
            wrong(f"for the creases {given} you return one that is there already; on one line two creases are one.")
        return angles.sort().values

    require_function(answer, exact, cases, mistakes, form=form, what="fourth_creases")
    return "all completions of five sets of three creases, one or three each"


@exercise("origami/sort-three", points=2)
def sort_three(answer) -> str:
    """Three unit normals in R^3; the folds x - 2 relu(a·x) a, one after the other, sort x in descending order."""
    normals = require_finite(answer, "the list of normals")
    if normals.ndim != 2 or normals.shape[1] != 3:
        wrong(f"give a list of normals with three entries each; this has shape {tuple(normals.shape)}.")
    if (normals.norm(dim=1) - 1).abs().max() > 1e-6:
        wrong("a normal is not of length 1, so its layer stretches; divide it by its length.")
    orders = torch.tensor(list(permutations((3.0, 2.0, 1.0))), dtype=torch.float64)
    x = torch.cat([orders, torch.randn(300, 3, generator=seeded(0), dtype=torch.float64)])
    given, right = x, x.sort(dim=1, descending=True).values
    for a in normals:
        x = x - 2 * torch.relu(x @ a)[:, None] * a
    if len(normals) > 3:
        wrong(f"you use {len(normals)} folds; three are enough.")
    if (x - right).abs().max() < 1e-6:
        return "three folds sort: six pieces, one for each order"
    if (x - right.flip(1)).abs().max() < 1e-6:
        wrong("this sorts in ascending order; turn each normal round.")
    if (x.sort(dim=1).values - given.sort(dim=1).values).abs().max() > 1e-6:
        wrong("the folds change the numbers themselves; the normal of one that exchanges two is like (1, -1, 0)/√2.")
    at = int(((x - right).abs().amax(1) > 1e-6).int().argmax())  # the first
    shown = [", ".join(f"{value:.3g}" for value in row) for row in (given[at].tolist(), x[at].tolist())]
    wrong(f"({shown[0]}) becomes ({shown[1]}), which is not sorted: compare the neighbours as often as it takes.")


WALL = (1.0, 2.0, 2.0)


@exercise("origami/seven-planes", points=3)
def seven_planes(answer) -> str:
    """Seven planes through the origin of R^3, (1, 2, 2) among their normals, which span, and which one layer folds."""
    normals = require_finite(answer, "the list of normals")
    if normals.ndim != 2 or normals.shape[1] != 3 or not normals.any(dim=1).all():
        wrong("each normal is a list of three numbers, not all zero.")
    normals = normalize(normals, dim=1)
    for i, j in combinations(range(len(normals)), 2):
        if torch.linalg.cross(normals[i], normals[j]).norm() < 1e-6:
            wrong(f"normals {i} and {j} are parallel: they name the same plane.")
    if len(normals) != 7:
        wrong(f"you gave {len(normals)} planes; seven are wanted, the given wall among them.")
    wall = normalize(torch.tensor(WALL, dtype=torch.float64), dim=0)
    if (normals @ wall).abs().max() < 1 - 1e-9:
        wrong("the wall with normal (1, 2, 2) is not among them.")
    if torch.linalg.svdvals(normals)[-1] < 1e-6:
        wrong("the normals lie in one plane, so all creases contain one line: that is a pencil; add a wall across it.")
    for line in _common_lines(normals):
        _require_fold(normals, line)
    return "every line that several planes share is perpendicular or meets Kawasaki's condition"


def _common_lines(normals: Tensor) -> list[Tensor]:
    """The lines in which two of the planes or more meet, each once."""
    lines: list[Tensor] = []
    for i, j in combinations(range(len(normals)), 2):
        line = normalize(torch.linalg.cross(normals[i], normals[j]), dim=0)
        if all(torch.linalg.cross(line, other).norm() > 1e-6 for other in lines):
            lines.append(line)
    return lines


def _require_fold(normals: Tensor, line: Tensor) -> None:
    """The theorem's conditions (a) and (b) for the planes that contain the line."""
    through = (normals @ line).abs() < 1e-6
    names, rows = through.nonzero()[:, 0].tolist(), normals[through]
    across = torch.linalg.cross(line, rows[0])
    angles = torch.atan2(rows @ across, rows @ rows[0]) % torch.pi
    angles = torch.where(torch.pi - angles < 1e-6, 0.0, angles).sort().values
    if len(names) % 2:
        wrong(f"the planes {names} share a line, and they are {len(names)}: an odd number never folds.")
    total = torch.rad2deg((angles[1::2] - angles[::2]).sum()).item()
    if abs(total - 90) > 1e-4:
        rule = "are not perpendicular" if len(names) == 2 else "break Kawasaki's condition"
        wrong(f"the planes {names} share a line and {rule}: their angles' alternating sum is {total:.4g}°, not 90°.")
