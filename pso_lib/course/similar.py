"""Pairs of submissions that resemble each other, by what their code does and not by how it is written.

Names of the student's own, constants, docstrings, types and formatting are taken out of the syntax tree; of what is
left, runs of a few nodes are compared, as in Schleimer, Wilkerson and Aiken, "Winnowing" (SIGMOD 2003). What the
starter gave, and what most of the class has written, counts for nothing. A pair is a reason to look, not a proof.
"""

import ast
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path

from pso_lib.course.assignment import Assignment
from pso_lib.course.submission import Submission, read_submission

__all__ = ["Pair", "similar", "tokens"]

RUN = 6  # nodes compared together
LEAST = 15  # different runs in an answer below which it is too short to say anything
COMMON = 0.5  # of the class: what more have written is the task's own
CLASS = 8  # submissions from which on that is known


@dataclass(frozen=True)
class Pair:
    """Two files that resemble each other: the share of the shorter one's runs that the other has too, by exercise.

    Attributes:
        student: whose stamp both bear, "" if they do not: files of one student, or one's answers in another's name.
    """

    one: str
    other: str
    share: float
    by_exercise: dict[str, float]
    student: str = ""


def similar(
    assignment: Assignment,
    files: Iterable[Path],
    folder: Path,
    *,
    public: Iterable[Path] = (),
    least: float = 0.8,
) -> list[Pair]:
    """The pairs whose share is at least ``least``, the most alike first; those that bear one student's stamp last.

    Args:
        public: solutions that anybody can read, notebooks or Python files: each answer is compared with each of their
            functions.
    """
    read = [read_submission(path, folder) for path in files]
    given = {name: _runs(_starter(assignment, name)) for name in assignment.exercises}
    prints = {found.file: _prints(found, assignment, given) for found in read if not found.problem}
    special = _without_common(prints)
    pairs = []
    names = sorted(special)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            pairs += _compared(one, special[one], other, special[other], least)
    for path in public:
        source = read_submission(path)
        functions = [(name, runs) for name, runs in _functions(source) if len(runs) >= LEAST]
        for one in names:
            best = {}
            for exercise, runs in prints[one].items():
                known = [(r - given[exercise]) for _, r in functions]
                best[exercise] = max(known, key=lambda r: _share(runs, r), default=frozenset())
            pairs += _compared(one, prints[one], str(path), best, least)
    stamped = {found.file: {urllib.parse.unquote(stamp[1]) for stamp in found.stamps} - {""} for found in read}
    for number, pair in enumerate(pairs):
        both = stamped.get(pair.one, set()) & stamped.get(pair.other, set())
        pairs[number] = replace(pair, student=", ".join(sorted(both)))
    return sorted(pairs, key=lambda pair: (bool(pair.student), -pair.share, pair.one, pair.other))


def _compared(one: str, mine: dict, other: str, theirs: dict, least: float) -> list[Pair]:
    both = [name for name in mine if len(mine[name]) >= LEAST and len(theirs.get(name, ())) >= LEAST]
    shares = {name: _share(mine[name], theirs[name]) for name in both}
    sizes = {name: min(len(mine[name]), len(theirs[name])) for name in both}
    share = sum(shares[name] * sizes[name] for name in both) / max(1, sum(sizes.values()))
    alike = {name: round(value, 2) for name, value in shares.items() if value >= least}
    return [Pair(one, other, round(share, 2), alike)] if alike else []


def _share(one: frozenset, other: frozenset) -> float:
    return len(one & other) / max(1, min(len(one), len(other)))


def _without_common(prints: dict[str, dict[str, frozenset]]) -> dict[str, dict[str, frozenset]]:
    """Without the runs that most of the class has."""
    if len(prints) < CLASS:
        return prints
    count = Counter((name, run) for each in prints.values() for name, runs in each.items() for run in runs)
    most = COMMON * len(prints)
    return {
        file: {name: frozenset(run for run in runs if count[name, run] <= most) for name, runs in each.items()}
        for file, each in prints.items()
    }


def _starter(assignment: Assignment, name: str) -> ast.AST:
    return ast.parse(assignment.starter(name).replace("{{", "").replace("}}", ""))


def _prints(found: Submission, assignment: Assignment, given: dict) -> dict[str, frozenset]:
    """The runs of each answer, with those of the functions that it uses."""
    own = dict(_definitions(found))
    prints = {}
    for name in assignment.exercises:
        node = found.node(name)
        if node is None:
            continue
        used: dict[str, ast.AST] = {name: node}
        new: list[ast.AST] = [node]
        while new:
            called = {n.id for n in ast.walk(new.pop()) if isinstance(n, ast.Name)}
            for helper in sorted(called & own.keys() - used.keys() - assignment.exercises.keys()):
                used[helper] = own[helper]
                new.append(own[helper])
        prints[name] = frozenset().union(*(_runs(part, set(own)) for part in used.values())) - given[name]
    return prints


def _definitions(found: Submission) -> Iterator[tuple[str, ast.AST]]:
    for cell in range(len(found.cells)):
        for node in found.tree(cell).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name, node


def _functions(found: Submission) -> list[tuple[str, frozenset]]:
    own = dict(_definitions(found))
    return [(name, _runs(node, set(own))) for name, node in own.items()]


def _runs(node: ast.AST, names: Set[str] = frozenset()) -> frozenset:
    words = list(tokens(node, names))
    return frozenset(tuple(words[n : n + RUN]) for n in range(max(1, len(words) - RUN + 1))) if words else frozenset()


def tokens(node: ast.AST, names: Set[str] = frozenset()) -> Iterator[str]:
    """The kinds of the nodes in order; of names, those that come from outside: ``torch``, ``range``, ``.sum``.

    Args:
        names: of the student's own functions.
    """
    own = set(names)
    own |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    own |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    own |= {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    yield from _walked(node, own)


def _walked(node: ast.AST, own: set[str]) -> Iterator[str]:
    if isinstance(node, ast.expr_context | ast.arguments | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Name):
        yield "name" if node.id in own else node.id
        return
    if isinstance(node, ast.AnnAssign):
        node = ast.Assign([node.target], node.value or ast.Constant(None))
    yield f".{node.attr}" if isinstance(node, ast.Attribute) else type(node).__name__
    for field, value in ast.iter_fields(node):
        if field not in ("returns", "annotation", "type_comment"):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST):
                    yield from _walked(part, own)
