"""What an assignment is: a folder of three files, and the variant of it that each student gets.

``assignment.md`` is what the student reads: ``# A1 · Title`` and prose, then a section for each exercise.
``## Title (4 points)`` has prose and one fenced ``python`` block with the starter, which is one
``def name(arguments):`` whose body is a docstring and ``...`` (imports may stand above it); the function's name is the
exercise's. A ``python helper`` block is a cell that is no answer (training, plots).
``## Title (6 points, by rubric)`` has no starter but a fenced ``rubric`` block, one "points: criterion" a line. A
heading without points is prose. ``{{key}}`` in an exercise's section is replaced by that exercise's variant; its values
should read well: write ``"slopes_text": "0.5 and 2"`` beside ``"slopes": [0.5, 2]``.

``public.py`` is shown to the student, in one folded cell: ``CHECKS = {"name": (points, check)}``, where
``check(function, variant)`` returns why the answer holds, or raises ``pso_lib.checks.Wrong`` with the mistake's name.
A check of the form alone (shapes, finite numbers) has 0 points.

``oracle.py`` stays with the instructor: ``EXERCISES = {"name": Exercise(points, variant, cases)}``. It judges by
properties and by computing the truth itself, so that reading it gives nothing away::

    def variant(rng: random.Random) -> dict: ...              # plain data: structure and numbers
    def cases(variant: dict, rng: random.Random) -> list[Case]: ...
    EXERCISES = {"signed_distance": Exercise(4, variant, cases)}

Reference solutions, kept elsewhere, are plain Python: functions by the exercises' names, and ``VARIANT["name"]["key"]``
where an answer depends on the variant; ``VARIANT`` is written above them for each student.

The functions run in a process of their own and see only their arguments. These and what they return are plain data:
None, booleans, numbers, fractions, strings, lists, tuples, dicts, tensors and arrays (which stay what they are, with
their dtype); what else is returned is refused by name before a judge sees it.
"""

import ast
import hashlib
import hmac
import random
import re
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Assignment", "Case", "CourseError", "Exercise", "Judgement", "Section", "read", "variant_rng"]


class CourseError(ValueError):
    """An assignment, a roster or a command line is not what it should be. The text holds the remedy."""


@dataclass(frozen=True)
class Judgement:
    """What a judge found: the share of the case's weight that is earned, from 0 to 1, and the mistake's name.

    The message says what is likely wrong ("the transpose", "without the factor 2"), never the right value.
    """

    share: float
    message: str = ""


@dataclass(frozen=True)
class Case:
    """One question to the student's function.

    Attributes:
        weight: its part of the exercise's points, relative to the other cases' weights.
        arguments: what the function is called with, as a tuple of plain data; with ``each``, a list of such tuples.
        judge: called in the grader's process with the value that came back (with ``each``, the list of values): None
            if it is right; a ``Judgement`` for a part, or for a mistake by name. ``pso_lib.checks.Wrong``, which
            ``require_close`` and its like raise, counts as nothing earned.
        what: the case in the student's words, without its numbers: "a point on the crease".
        each: one call for each tuple of ``arguments``, for properties that need several values.
    """

    weight: float
    arguments: Sequence
    judge: Callable[[Any], Judgement | None]
    what: str
    each: bool = False


def _no_variant(rng: random.Random) -> dict:
    return {}


def _no_cases(variant: dict, rng: random.Random) -> list[Case]:
    return []


@dataclass(frozen=True)
class Exercise:
    """How one function is judged.

    Attributes:
        points: as in ``assignment.md``.
        variant: draws what differs from student to student, as plain data.
        cases: from the variant and a generator of the student's own, the questions.
        seconds: of computing, for all cases together; three times as long by the clock.
        megabytes: memory beyond what Python with torch takes.
    """

    points: float
    variant: Callable[[random.Random], dict] = _no_variant
    cases: Callable[[dict, random.Random], list[Case]] = _no_cases
    seconds: float = 20.0
    megabytes: int = 2048


@dataclass(frozen=True)
class Section:
    """A part of ``assignment.md`` under one heading.

    Attributes:
        title: the heading without its points.
        points: None for prose.
        name: of the exercise's function; for a rubric, its title; "" for prose.
        parts: (kind, text) in order, of the kinds "markdown", "starter", "helper".
        rubric: (points, criterion) pairs.
    """

    title: str
    points: float | None
    name: str
    parts: tuple[tuple[str, str], ...]
    rubric: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Assignment:
    """An assignment, read and found sound.

    Attributes:
        folder: where it lies; its name is the assignment's.
        title, intro: what stands above the first section.
        sections: in order.
        exercises: the oracle's, by name, in the order of the sections.
        public: (points, check) by name; ``public_source`` is their file's text.
        digest: of the text and the oracle: what was graded by another is graded anew.
    """

    folder: Path
    title: str
    intro: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    exercises: dict[str, Exercise]
    public: dict[str, tuple[float, Callable]]
    public_source: str
    digest: str

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def points(self) -> float:
        """Of all exercises and rubrics."""
        return sum(section.points or 0 for section in self.sections)

    @property
    def rubrics(self) -> list[Section]:
        return [section for section in self.sections if section.rubric]

    def starter(self, name: str) -> str:
        """The starter of one exercise, with its placeholders."""
        section = next(section for section in self.sections if section.name == name)
        return next(text for kind, text in section.parts if kind == "starter")

    def variants(self, secret: bytes, student: str) -> dict[str, dict]:
        """What differs for one student, exercise by exercise; "" is the variant for all."""
        found = {}
        for name, one in self.exercises.items():
            found[name] = one.variant(variant_rng(secret, student, self.name, name))
            if not isinstance(found[name], dict):
                raise CourseError(f"oracle.py: the variant of {name!r} must be a dict, not {found[name]!r:.60}.")
        return found

    def cases(self, secret: bytes, student: str, name: str) -> list[Case]:
        """The questions of one exercise to one student; the same at every call."""
        one = self.exercises[name]
        variant = one.variant(variant_rng(secret, student, self.name, name))
        cases = list(one.cases(variant, variant_rng(secret, student, self.name, name, "cases")))
        if not cases or not all(isinstance(case, Case) and case.weight > 0 for case in cases):
            raise CourseError(f"oracle.py: {name!r} needs cases, each a Case with a weight above 0.")
        return cases


def variant_rng(secret: bytes, *names: str) -> random.Random:
    """A generator that depends on the secret and all the names: HMAC-SHA256 seeds it."""
    message = "\x00".join(names).encode("utf8", "surrogateescape")
    return random.Random(hmac.new(secret, message, hashlib.sha256).digest())


def filled(text: str, variant: dict, where: str) -> str:
    """The text with ``{{key}}`` replaced by the variant's value. ``CourseError`` for a key that it lacks."""

    def value(match: re.Match) -> str:
        if match[1] not in variant:
            known = ", ".join(variant) or "nothing"
            raise CourseError(f"{where}: {match[0]} is no key of the variant, which has {known}.")
        return str(variant[match[1]])

    return re.sub(r"\{\{(\w+)\}\}", value, text)


def read(name: str | Path, folder: Path | str = "assignments", *, oracle: Path | str | None = None) -> Assignment:
    """Read an assignment and check that its three files agree.

    Args:
        name: of the assignment's folder in ``folder``, or the path of one.
        oracle: a file to judge by in place of the assignment's own.

    Raises:
        CourseError: it is not there, or its files do not agree; the text says what to write where.
    """
    place = Path(name) if (Path(name) / "assignment.md").is_file() else Path(folder) / str(name)
    place = place.resolve()
    if not (place / "assignment.md").is_file():
        there = sorted(path.parent.name for path in Path(folder).glob("*/assignment.md"))
        raise CourseError(
            f"there is no assignment {str(name)!r} in {folder}; it holds {', '.join(there) or 'none'}. "
            "--assignments names another folder."
        )
    text = (place / "assignment.md").read_text(encoding="utf8")
    oracle = Path(oracle) if oracle else place / "oracle.py"
    title, intro, sections = _parsed(text)
    exercises = _loaded(oracle, "EXERCISES")
    public = _loaded(place / "public.py", "CHECKS")
    source = (place / "public.py").read_text(encoding="utf8")
    _agree(sections, exercises, public, source)
    names = [section.name for section in sections if section.points is not None and not section.rubric]
    digest = hashlib.sha256(text.encode() + b"\0" + oracle.read_bytes()).hexdigest()[:16]
    ordered = {name: exercises[name] for name in names}
    return Assignment(place, title, intro, tuple(sections), ordered, public, source, digest)


HEADING = re.compile(r"^##[ \t]+(?P<title>.*?)(?:[ \t]*\((?P<points>[\d.]+)[ \t]+points?(?P<rubric>,[^)]*)?\))?[ \t]*$")
FENCE = re.compile(r"^(?P<ticks>`{3,})[ \t]*(?P<kind>.*?)[ \t]*$")


def _parsed(text: str) -> tuple[str, tuple, list[Section]]:
    """The title, what stands above the first section, and the sections."""
    lines = text.lstrip("\ufeff").splitlines()
    first = next((line for line in lines if line.strip()), "")
    if not first.startswith("# "):
        raise CourseError("assignment.md must begin with its title, as in `# A1 · Folding by hand`.")
    groups: list[tuple[str, list[str]]] = [("", [])]
    open_fence = ""
    for line in lines[lines.index(first) + 1 :]:
        if fence := FENCE.match(line):
            if not open_fence:
                open_fence = fence["ticks"]
            elif len(fence["ticks"]) >= len(open_fence) and not fence["kind"]:
                open_fence = ""
        if not open_fence and line.startswith("## "):
            groups.append((line, []))
        else:
            groups[-1][1].append(line)
    if open_fence:
        raise CourseError(f"assignment.md: a fenced block under {groups[-1][0]!r} is not closed; add its ```.")
    intro = _parts(groups[0][1])[0]
    return first[2:].strip(), intro, [_section(heading, body) for heading, body in groups[1:]]


def _parts(lines: list[str]) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """Markdown, starters and helpers in order, and the lines of rubric blocks."""
    parts: list[tuple[str, str]] = []
    rubric: list[str] = []
    prose: list[str] = []
    block: list[str] = []
    kind = ticks = ""

    def flush() -> None:
        if text := "\n".join(prose).strip():
            parts.append(("markdown", text))
        prose.clear()

    for line in lines:
        fence = FENCE.match(line)
        if not ticks and fence:
            ticks, kind = fence["ticks"], " ".join(fence["kind"].split())
            block = [line]
        elif ticks and fence and not fence["kind"] and len(fence["ticks"]) >= len(ticks):
            body = "\n".join(block[1:])
            if kind in ("python", "python helper"):
                flush()
                parts.append(("starter" if kind == "python" else "helper", body))
            elif kind == "rubric":
                rubric += block[1:]
            else:
                prose += [*block, line]
            ticks = ""
        else:
            (block if ticks else prose).append(line)
    flush()
    return tuple(parts), rubric


def _section(heading: str, body: list[str]) -> Section:
    found = HEADING.match(heading)
    assert found is not None  # the pattern takes any heading
    title, points = found["title"], float(found["points"]) if found["points"] else None
    parts, lines = _parts(body)
    where = f"assignment.md, {title!r}"
    starters = [text for kind, text in parts if kind == "starter"]
    rubric = [re.fullmatch(r"[ \t]*([\d.]+)[ \t]*:[ \t]*(.+?)[ \t]*", line) for line in lines if line.strip()]
    if points is None:
        if starters or rubric:
            raise CourseError(f"{where} has a starter or a rubric but no points: write `## {title} (4 points)`.")
        return Section(title, None, "", parts)
    if rubric or found["rubric"]:
        pairs = [(float(match[1]), match[2]) for match in rubric if match]
        if starters or len(pairs) < len(rubric) or not pairs or sum(p for p, _ in pairs) != points:
            raise CourseError(f"{where} needs a rubric block, lines `2: criterion`, whose points add up to {points:g}.")
        return Section(title, points, title, parts, tuple(pairs))
    names = [name for text in starters for name in _defined(text, where)]
    if len(starters) != 1 or len(names) != 1:
        raise CourseError(f"{where} needs one `python` block with one function; `python helper` marks other cells.")
    return Section(title, points, names[0], parts)


def _defined(starter: str, where: str) -> list[str]:
    """The functions at the top of a starter."""
    try:  # placeholders are read as a name
        tree = ast.parse(re.sub(r"\{\{(\w+)\}\}", r"\1", starter))
    except SyntaxError as error:
        raise CourseError(f"{where}: the starter is not Python: {error.msg}, line {error.lineno}.") from error
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def _loaded(path: Path, name: str) -> dict:
    """The dictionary that a file of an assignment defines."""
    if not path.is_file():
        raise CourseError(f"{path} is missing; it must define {name}.")
    module = types.ModuleType(f"assignment_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look for their module there
    exec(compile(path.read_text(encoding="utf8"), str(path), "exec"), module.__dict__)
    found = getattr(module, name, None)
    if not isinstance(found, dict):
        raise CourseError(f"{path} must define {name}, a dict by the names of the exercises' functions.")
    return found


def _agree(sections: list[Section], exercises: dict, public: dict, source: str) -> None:
    """What each file says of the exercises must be what the others say."""
    told = {section.name: section.points for section in sections if section.points is not None and not section.rubric}
    count = sum(1 for section in sections if section.points is not None)
    if not count or len({section.name for section in sections if section.points is not None}) < count:
        raise CourseError("assignment.md must have exercises, each with a name of its own.")
    for name in sorted(told.keys() ^ exercises.keys()):
        here, there = ("assignment.md", "oracle.py") if name in told else ("oracle.py", "assignment.md")
        raise CourseError(f"the exercise {name!r} is in {here} but not in {there}; write it in both.")
    for name, one in exercises.items():
        if not isinstance(one, Exercise) or one.points != told[name]:
            raise CourseError(
                f"oracle.py: {name!r} must be an Exercise of {told[name]:g} points, as assignment.md says."
            )
    for name, check in public.items():
        if name not in told or not isinstance(check, tuple) or not 0 <= check[0] <= told[name]:
            raise CourseError(f"public.py: {name!r} must be an exercise: (points, check), at most its points.")
    if taken := told.keys() & {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}:
        raise CourseError(f"public.py defines {sorted(taken)}, which are the students' names; give it others.")
