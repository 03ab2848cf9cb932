"""pso-lib course make | grade | similar | export: assignments, from handing out to the table of grades."""

import argparse
import os
import secrets
import signal
import sys
from pathlib import Path

from pso_lib.course.assignment import Assignment, CourseError, read

SECRET = Path(".course-secret")


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_args(argv)
    command = {"make": _make, "grade": _grade, "similar": _similar, "export": _export}[options.command]
    try:
        return command(options, read(options.assignment, options.assignments, oracle=getattr(options, "oracle", None)))
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}. What is finished is kept.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pso-lib course", description="Assignments: make, grade, compare, hand over.")
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("assignment", help="its name, as in 1, or its folder")
    common.add_argument(
        "--assignments", type=Path, default=Path("assignments"), help="folder of all (default: %(default)s)"
    )
    secret = argparse.ArgumentParser(add_help=False)
    secret.add_argument("--secret-file", type=Path, default=SECRET, help="what variants are drawn from; keep it")
    secret.add_argument("--roster", type=Path, help="CSV with a column student, and due where one has more time")

    make = commands.add_parser("make", parents=[common, secret], help="notebooks for the students, and the solutions'")
    make.add_argument(
        "--student", action="append", default=[], help="one student's ID; without it or a roster, one for all"
    )
    make.add_argument(
        "--solutions", type=Path, help="a file of reference solutions, or the folder of n.py: makes theirs too"
    )
    make.add_argument("--colab", help="where the notebooks will lie on GitHub, owner/repository/blob/branch/folder")
    make.add_argument("--out", type=Path, default=Path("handout"), help="folder (default: %(default)s)")

    grade = commands.add_parser("grade", parents=[common, secret], help="every notebook and Python file of a folder")
    grade.add_argument("submissions", type=Path, help="folder; names and folders inside are free")
    grade.add_argument("--oracle", type=Path, help="an oracle of your own")
    grade.add_argument("--csv", type=Path, default=Path("grades.csv"), help="table of grades (default: %(default)s)")
    grade.add_argument(
        "--feedback",
        type=Path,
        default=Path("feedback"),
        help="folder of pages for the students (default: %(default)s); logs and state are beside it, in ...-private",
    )
    grade.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="submissions at a time (default: %(default)s)"
    )
    grade.add_argument("--regrade", action="store_true", help="also what is graded; what is by hand is kept")
    grade.add_argument("--late", default="none", help="none, or as in 10%%/day")
    grade.add_argument("--due", help="date of those whom the roster gives no other, as in 2027-01-31T18:00")
    grade.add_argument("--sandbox", choices=("bubblewrap", "unshare", "plain"), help="default: the first that works")

    similar = commands.add_parser("similar", parents=[common], help="pairs that resemble each other")
    similar.add_argument("submissions", type=Path)
    similar.add_argument(
        "--public", type=Path, action="append", default=[], help="solutions that anybody can read; a folder"
    )
    similar.add_argument(
        "--least", type=float, default=0.8, help="share from which a pair is told (default: %(default)s)"
    )

    export = commands.add_parser("export", parents=[common, secret], help="the assignment for another grader")
    export.add_argument("--to", choices=("nbgrader", "otter", "canvas"), required=True)
    export.add_argument("--csv", type=Path, default=Path("grades.csv"), help="canvas: the table of grades")
    export.add_argument("--out", type=Path, default=Path("export"), help="folder (default: %(default)s)")
    return parser


def _secret(path: Path, new: bool = False) -> bytes:
    if new and not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        print(f"{path}: a new secret. The variants come from it: keep it, and show it to no student.")
    if not path.exists():
        raise CourseError(f"--secret-file {path} is not there. It is what `make` wrote when it made the notebooks.")
    found = path.read_bytes().strip()
    if len(found) < 16:
        raise CourseError(f"--secret-file {path} must hold at least 16 characters.")
    return found


def _solutions(path: Path | None, assignment: Assignment) -> Path | None:
    found = path / f"{assignment.name}.py" if path and path.is_dir() else path
    if found and not found.is_file():
        raise CourseError(f"--solutions {found} is not there.")
    return found


def _beside(path: Path, tail: str) -> Path:
    """A folder of that name and tail: what is not to be handed out lies there, and not inside."""
    path = path.resolve() if path.name in ("", "..") else path
    return path.with_name(path.name + tail)


def _folder(path: Path) -> list[Path]:
    from pso_lib.course.submission import find_files

    if not path.is_dir():
        raise CourseError(f"{path} is no folder; name the folder of the submissions.")
    files, others = find_files(path)
    for other in others:
        print(f"left out, neither a notebook nor Python: {other}", file=sys.stderr)
    if not files:
        raise CourseError(f"{path} holds neither notebooks nor Python files.")
    return files


def _make(options: argparse.Namespace, assignment: Assignment) -> int:
    from pso_lib.course.gradebook import read_roster
    from pso_lib.course.notebook import file_name, make, write_notebook

    students = [*(read_roster(options.roster) if options.roster else []), *options.student] or [""]
    solutions = _solutions(options.solutions, assignment)
    secret = _secret(options.secret_file, new=True)
    for student in students:
        name = file_name(assignment, student)
        colab = f"{options.colab.rstrip('/')}/{name}" if options.colab else None
        write_notebook(make(assignment, secret, student, colab=colab), options.out / name)
        if solutions:
            answered = make(assignment, secret, student, solutions=solutions)
            write_notebook(answered, _beside(options.out, "-solutions") / name)
    beside = f", solutions in {_beside(options.out, '-solutions')}" if solutions else ""
    print(f"{len(students)} notebook{'s' * (len(students) > 1)} in {options.out}{beside}")
    return 0


def _grade(options: argparse.Namespace, assignment: Assignment) -> int:
    from pso_lib.course.gradebook import Late, read_roster, write_feedback, write_grades
    from pso_lib.course.grading import grade
    from pso_lib.course.sandbox import choose, why_not

    roster = read_roster(options.roster) if options.roster else None
    late = Late(options.late, options.due, roster)
    secret = _secret(options.secret_file)
    files = _folder(options.submissions)
    mode = choose(options.sandbox)
    if mode == "plain":
        reasons = "; ".join(
            f"{name}: {why_not(name) or 'works, but was not asked for'}" for name in ("bubblewrap", "unshare")
        )
        print(
            f"warning: no sandbox ({reasons}). Students' code runs with your rights: it can read and change your files "
            "and use the network. Install bubblewrap, or grade in a container.",
            file=sys.stderr,
        )
    graded = grade(
        assignment,
        files,
        options.submissions,
        secret,
        _beside(options.feedback, "-private"),
        roster=roster,
        jobs=options.jobs,
        mode=mode,
        again=options.regrade,
        say=lambda line: print(line, flush=True),
    )
    modified = {str(path.relative_to(options.submissions)): path.stat().st_mtime for path in files}
    missing = [name for name in roster or () if name not in {one.student for one in graded}]
    rows = write_grades(options.csv, assignment, graded, late, modified, missing)
    write_feedback(options.feedback, assignment, graded, rows, secret)
    if missing:
        print(f"nothing from {', '.join(missing)}")
    print(
        f"{len(graded)} graded: {options.csv}, pages for the students in {options.feedback}; for you, logs in "
        f"{_beside(options.feedback, '-private')}"
    )
    return 0


def _similar(options: argparse.Namespace, assignment: Assignment) -> int:
    from pso_lib.course.similar import similar
    from pso_lib.course.submission import find_files

    public = [file for path in options.public for file in (find_files(path)[0] if path.is_dir() else [path])]
    pairs = similar(assignment, _folder(options.submissions), options.submissions, public=public, least=options.least)
    for pair in pairs:
        by = ", ".join(f"{name} {share:.0%}" for name, share in pair.by_exercise.items())
        both = f"  both with the stamp of {pair.student}" if pair.student else ""
        print(f"{pair.share:4.0%}  {pair.one}  ~  {pair.other}  ({by}){both}")
    print(f"{len(pairs)} pairs of which an answer is alike by {options.least:.0%} or more")
    return 0


def _export(options: argparse.Namespace, assignment: Assignment) -> int:
    from pso_lib.course.export import export
    from pso_lib.course.gradebook import read_roster

    roster = read_roster(options.roster) if options.roster else None
    if roster and options.to != "canvas":
        print(
            f"warning: --roster is not used: {options.to} does not know who hands in, and all get one variant.",
            file=sys.stderr,
        )
    secret = b"" if options.to == "canvas" else _secret(options.secret_file, new=True)
    for path in export(assignment, options.to, options.out, secret, table=options.csv, roster=roster):
        print(path)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to be told to end is Ctrl-C: what is finished is kept
    sys.exit(main())
