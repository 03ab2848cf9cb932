"""Which creases one hidden layer can fold, in any dimension: single directions and plane pencils, all perpendicular.

The theorem on folds of space: the span of the normals splits into mutually orthogonal lines and planes. A line carries
any number of parallel creases. A plane carries one pencil: an even number m >= 4 through one flat, with Kawasaki's
condition.
"""

from dataclasses import dataclass

from pso_lib.exact.origami import NotFlatFoldable, crossings
from pso_lib.exact.symbolic import exact_planes, sign, tidy

__all__ = ["Splitting", "orthogonal_decomposition"]


@dataclass(frozen=True)
class Splitting:
    """The creases by part of the splitting, each as the tuple of their indices.

    Attributes:
        lines: creases of one direction, parallel to each other.
        pencils: creases through one flat, four or more.
    """

    lines: tuple[tuple[int, ...], ...]
    pencils: tuple[tuple[int, ...], ...]

    @property
    def rank(self) -> int:
        """The dimension of the span of the normals."""
        return len(self.lines) + 2 * len(self.pencils)


def orthogonal_decomposition(normals, offsets=None) -> Splitting:
    """Split distinct hyperplanes a_i . x + b_i = 0 into directions and pencils. Exact.

    Creases that are not perpendicular belong to one part. So the parts are found from the dot products alone, and
    each is looked at by itself.

    Raises:
        NotFlatFoldable: some part is neither; no layer folds these creases. The text names them.
    """
    normals, offsets = exact_planes(normals, offsets)
    lines, pencils = [], []
    for part in _parts(normals):
        found = crossings([normals[k] for k in part], [offsets[k] for k in part])
        if not found:
            lines.append(part)
        elif len(found) == 1 and len(found[0].creases) == len(part) and found[0].holds:
            pencils.append(part)
        else:
            flaw = "do not share one flat" if len(found) > 1 else "cross, but not as Kawasaki's condition asks"
            raise NotFlatFoldable(
                f"creases {part} hang together by angles other than 90° and {flaw}; one layer folds such a group only "
                "if it is one pencil, an even number through one flat with alternating sum 90°."
            )
    return Splitting(tuple(lines), tuple(pencils))


def _parts(normals) -> list[tuple[int, ...]]:
    """The groups linked by pairs that are not perpendicular, each in order."""
    parts: list[set[int]] = []
    for k, a in enumerate(normals):
        linked = [part for part in parts if any(sign(tidy((a.T * normals[i])[0])) for i in part)]
        parts = [part for part in parts if part not in linked] + [{k}.union(*linked)]
    return sorted(tuple(sorted(part)) for part in parts)
