"""The roster, the table of grades, what lateness costs, and what each student is told."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from pso_lib.course.assignment import Assignment, CourseError, filled
from pso_lib.course.grading import Graded, safe_name

__all__ = ["Late", "read_roster", "write_feedback", "write_grades"]

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that a spreadsheet would run


def read_roster(path: Path) -> dict[str, dict[str, str]]:
    """The students by ID, with their other columns: ``student`` (or ``id``), and ``due`` where one has more time.

    Raises:
        CourseError: there is no such column, or an ID stands twice.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [
                {str(k).strip().lower(): (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(file)
            ]
    except OSError as error:
        raise CourseError(f"--roster {path}: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CourseError(f"--roster {path} is no table in UTF-8: save it as CSV. ({error})") from error
    column = next((name for name in ("student", "id") if rows and name in rows[0]), None)
    if column is None:
        raise CourseError(f"--roster {path} needs a line for each student, under a heading `student`.")
    students = [row[column] for row in rows if row[column]]
    if twice := [name for name, count in Counter(students).items() if count > 1]:
        raise CourseError(f"--roster {path} names {', '.join(twice[:5])} twice; keep one line for each.")
    return {row[column]: row for row in rows if row[column]}


class Late:
    """What a late submission keeps. ``policy``: "none", or as in "10%/day"; a day that has begun counts."""

    def __init__(self, policy: str = "none", due: str | None = None, roster: dict[str, dict[str, str]] | None = None):
        found = re.fullmatch(r"\s*([\d.]+)\s*%\s*/\s*day\s*", policy)
        if policy != "none" and not found:
            raise CourseError(f"--late {policy!r} is no policy: write none, or a share for each day as in 10%/day.")
        self.share = float(found[1]) / 100 if found else 0.0
        self.due = _date("--due", due) if due else None
        rows = (roster or {}).items()
        self.own = {student: _date(f"due of {student}", row["due"]) for student, row in rows if row.get("due")}
        if found and self.due is None and not self.own:
            raise CourseError("--late needs a date: --due 2027-01-31T18:00, or a column `due` in the roster.")

    def of(self, student: str, modified: float) -> tuple[float, str]:
        """The factor on the points, and the remark, of a file that was last changed at that time (seconds, Unix)."""
        due = self.own.get(student, self.due)
        over = datetime.fromtimestamp(modified) - due if due else timedelta(0)
        if over <= timedelta(0):
            return 1.0, ""
        days = math.ceil(over / timedelta(days=1))
        return max(0.0, 1 - self.share * days), f"late by {days} day{'s' * (days > 1)}"


def _date(what: str, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise CourseError(f"{what}: {text!r} is no date; write it as 2027-01-31T18:00.") from error
    if found.tzinfo is not None:
        return found.astimezone().replace(tzinfo=None)
    return found if len(text) > 10 else found + timedelta(days=1)  # until the day's end


def write_grades(
    path: Path,
    assignment: Assignment,
    graded: Iterable[Graded],
    late: Late,
    modified: dict[str, float],
    missing: Iterable[str] = (),
) -> list[dict[str, str]]:
    """Write the table, one submission a line, and return the submissions' lines.

    What was written by hand is kept from the table that is there, and the total follows: points for the rubrics;
    ``by_hand``, points to add (-1 takes one away), on an appeal say; ``note``. All else is written anew.

    Args:
        modified: when each file was last changed, in seconds (Unix).
        missing: students who have handed in nothing; each gets a line without a file.

    Raises:
        CourseError: the table that is there has points that are none.
    """
    rubrics = {section.name: section.points or 0.0 for section in assignment.rubrics}
    by_hand = _by_hand(path, rubrics)
    rows = []
    graded = list(graded)
    count = Counter(one.student for one in graded)
    newest = {one.student: one.file for one in sorted(graded, key=lambda one: modified.get(one.file, 0.0))}
    same = Counter(one.digest for one in graded if one.digest)
    for one in graded:
        factor, remark = late.of(one.student, modified.get(one.file, 0.0))
        remarks = [one.problem, *one.remarks, remark]
        remarks += [f"{name}: {r['problem']}" for name, r in one.results.items() if "two answers" in r["problem"]]
        remarks += [text for result in one.results.values() for text in result.get("remarks", ())]
        if count[one.student] > 1:
            remarks.append(
                f"one of {count[one.student]} files of {one.student}; the last changed is {newest[one.student]}"
            )
        if one.digest and same[one.digest] > 1:
            others = [other.file for other in graded if other.digest == one.digest and other is not one]
            remarks.append(f"the same file as {', '.join(others)}")
        given = by_hand.get(one.file) or by_hand.get(f"\0{one.student}", {})
        row = {"file": one.file, "student": one.student}
        row |= {
            name: f"{one.results[name]['points']:g}" if name in one.results else "0" for name in assignment.exercises
        }
        row |= _rest(one.points, factor, rubrics, given)
        rows.append(row | {"remarks": "; ".join(text.rstrip(".") for text in dict.fromkeys(remarks) if text)})
    empty = []
    for student in missing:
        row = {"file": "", "student": student, **dict.fromkeys(assignment.exercises, "0")}
        row |= _rest(0.0, 1.0, rubrics, by_hand.get(f"\0{student}", {}))
        empty.append(row | {"remarks": "nothing handed in"})
    columns = ["file", "student", *assignment.exercises, *rubrics, "by_hand", "total", "late", "note", "remarks"]
    fresh = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(fresh, "w", newline="", encoding="utf8", errors="backslashreplace") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows({key: _inert(text) for key, text in row.items()} for row in [*rows, *empty])
    fresh.replace(path)
    return rows


def _rest(points: float, factor: float, rubrics: dict[str, float], given: dict[str, str]) -> dict[str, str]:
    """What stands right of the exercises: what was given by hand, and the total."""
    row = {name: given.get(name, "") for name in [*rubrics, "by_hand"]}
    points = max(0.0, points + sum(float(text) for text in row.values() if text))
    total = {"total": f"{round(points * factor, 2):g}", "late": f"{factor:g}" if factor < 1 else ""}
    return row | total | {"note": given.get("note", "")}


def _inert(text: str) -> str:
    return "'" + text if text.startswith(FORMULA) else text


def _by_hand(path: Path, rubrics: dict[str, float]) -> dict[str, dict[str, str]]:
    """What the table that is there says by hand: by the file, and without one by the student, after a null."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        name, student = ((row.get(key) or "").removeprefix("'") for key in ("file", "student"))
        given = {key: (row.get(key) or "").strip().removeprefix("'") for key in (*rubrics, "by_hand")}
        given = {key: text.replace(",", ".").replace("\u2212", "-") for key, text in given.items()}
        for rubric, most in rubrics.items():
            text = given[rubric]
            if text and not (re.fullmatch(r"\d+(\.\d*)?", text) and float(text) <= most):
                raise CourseError(
                    f"{path}: {name or student} has {text!r} under {rubric!r}; write points from 0 to {most:g}."
                )
        if given["by_hand"] and not re.fullmatch(r"[+-]?\d+(\.\d*)?", given["by_hand"]):
            raise CourseError(
                f"{path}: {name or student} has {given['by_hand']!r} under 'by_hand'; write the points to add, as in "
                "1.5 or -1, and words under 'note'."
            )
        found[name or f"\0{student}"] = given | {"note": (row.get("note") or "").removeprefix("'")}
    return found


def write_feedback(
    out: Path, assignment: Assignment, graded: Iterable[Graded], rows: Iterable[dict[str, str]], secret: bytes
) -> None:
    """A page for each submission: points, and mistakes by name; neither questions nor tests."""
    out.mkdir(parents=True, exist_ok=True)
    for one, row in zip(graded, rows, strict=True):
        name = safe_name(one.file) if one.student in one.file else safe_name(f"{one.student}.{one.file}")
        text = feedback(assignment, one, row, assignment.variants(secret, one.variant))
        (out / f"{name}.md").write_text(text, encoding="utf8", errors="backslashreplace")


def feedback(assignment: Assignment, one: Graded, row: dict[str, str], variants: dict[str, dict]) -> str:
    """What the student is told."""
    lines = [
        f"# {assignment.title}",
        "",
        f"{one.student}, `{one.file}`: **{row['total']} of {assignment.points:g} points**",
    ]
    if row["late"]:
        lines += ["", f"Handed in late: counts {100 * float(row['late']):g} %."]
    if row["by_hand"]:
        lines += ["", f"By hand: {float(row['by_hand']):+g} points."]
    if one.problem:
        lines += ["", f"Nothing could be graded: {one.problem}"]
    for section in assignment.sections:
        if section.rubric:
            given = row[section.name] or "to be graded by hand, out of"
            lines += [
                "",
                f"## {section.title}",
                "",
                f"{given}{' of' if row[section.name] else ''} {section.points:g} points",
            ]
        if section.name not in one.results:
            continue
        result = one.results[section.name]
        lines += ["", f"## {filled(section.title, variants[section.name], section.title)}", ""]
        lines += [f"`{section.name}`: {result['points']:g} of {result['out_of']:g} points", ""]
        lines += [f"- ✗ {result['problem']}"] if result["problem"] else []
        told = set()
        for case in result["cases"]:
            mark = "✓" if case["share"] == 1 else "✗" if case["share"] == 0 else "◐"
            message = case["message"]
            said = f": {message}" if message and message not in told else ": as above" if message else ""
            told.add(message)
            lines.append(f"- {mark} {case['what']}{said}")
    return "\n".join([*lines, ""])
