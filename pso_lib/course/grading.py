"""Grade a folder of submissions: a process for each, a sandbox in it, a child of that for each exercise.

The sandbox holds the student's code and the arguments; the judges, and what they compute, stay outside it. Whatever
happens to an exercise costs that exercise. What is graded is written down line by line, so the same command goes on
where it was stopped.
"""

import hashlib
import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from pso_lib.course.assignment import Assignment, CourseError, Exercise
from pso_lib.course.judging import judged, shown
from pso_lib.course.sandbox import Worker, WorkerEnded, choose
from pso_lib.course.submission import GUESSED, Submission, read_submission, variants_mark, whose
from pso_lib.course.wire import encoded

__all__ = ["Graded", "grade"]

PATIENCE = 3  # as in worker, which the grader's own process does not import
SILENCE = 300.0  # seconds beyond an exercise's own after which its process counts as lost


@dataclass
class Graded:
    """One submission, graded.

    Attributes:
        file, digest: of the submission.
        student: whose it is; ``variant`` the student whose variant the questions were, "" for that of all.
        remarks: for the instructor.
        problem: why nothing could be graded.
        results: by exercise: points, out_of, problem, and cases, each with what, weight, share and message.
    """

    file: str
    digest: str = ""
    student: str = ""
    variant: str = ""
    remarks: list[str] = field(default_factory=list)
    problem: str = ""
    results: dict[str, dict] = field(default_factory=dict)

    @property
    def points(self) -> float:
        return sum(result["points"] for result in self.results.values())


def grade(
    assignment: Assignment,
    files: Iterable[Path],
    folder: Path,
    secret: bytes,
    out: Path,
    *,
    roster: Iterable[str] | None = None,
    jobs: int = 1,
    mode: str | None = None,
    again: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Graded]:
    """Grade the files, in order.

    Args:
        folder: that the files are named relative to.
        secret: from which the variants were drawn.
        out: gets ``graded.jsonl``, from which the same call goes on, and ``logs/``; not to be handed out.
        roster: the students' IDs, if they are known.
        jobs: submissions graded at a time.
        mode: of the sandbox; None for the best that works here.
        again: grade anew what has been graded.

    Raises:
        CourseError: the sandbox that is asked for does not work here, or stops working; what is graded is kept.
    """
    mode = choose(mode)
    for (
        name
    ) in assignment.exercises:  # an oracle that cannot ask is the instructor's to mend, before anything is graded
        assignment.cases(secret, "", name)
    out.mkdir(parents=True, exist_ok=True)
    journal = Journal(out / "graded.jsonl")
    known = {} if again else journal.read()
    students = None if roster is None else list(roster)
    paths = list(files)
    done = [Graded(str(path.relative_to(folder))) for path in paths]
    waiting = list(range(len(paths)))[::-1]
    running: dict[Connection, _Job] = {}

    def start(number: int) -> None:
        read_end, write_end = multiprocessing.Pipe(duplex=False)
        what = (paths[number], folder, assignment, secret, students, mode, dict(known), read_end, write_end)
        process = multiprocessing.get_context("fork").Process(target=_job, args=what)
        process.start()
        write_end.close()
        running[read_end] = _Job(number, process)

    def told(connection: Connection, job: _Job) -> None:
        """Take what a submission's process says next, or its end."""
        one = done[job.number]
        job.since = time.monotonic()
        try:
            kind, *body = connection.recv()
        except (EOFError, OSError):
            job.process.join()
            del running[connection]
            if job.begun:  # a judge took the process with it: the others go on in a new one
                key, name = job.begun
                known[key] = _lost(assignment.exercises[name])
                journal.write(key, one.file, name, known[key])
                waiting.append(job.number)
                return
            if job.process.exitcode:
                one.problem = "the file could not be read; your instructor looks at it."
                one.remarks.append("reading it ended the process")
            say(f"{one.file}: {_in_short(one, assignment)}{job.doubts}")
            return
        if kind == "stop":
            raise CourseError(body[0])
        if kind == "head":
            one.digest, one.student, one.variant, doubts, remarks, one.problem = body
            one.remarks = [*doubts, *remarks]
            doubts = [doubt for doubt in doubts if not (one.problem and doubt == GUESSED)]
            job.doubts = f" ({'; '.join(doubts)})" if doubts else ""
        elif kind == "begin":
            job.begun = (body[0], body[1])
        else:
            key, name, result, log = body
            one.results[name] = result
            if job.begun:
                known[key] = result
                journal.write(key, one.file, name, result)
                _write_log(out, one.file, name, log)
            job.begun = None

    try:
        while waiting or running:
            while waiting and len(running) < max(1, jobs):
                start(waiting.pop())
            for connection in wait(list(running), timeout=1.0):
                assert isinstance(connection, Connection)
                told(connection, running[connection])
            for job in running.values():
                limit = SILENCE + PATIENCE * (assignment.exercises[job.begun[1]].seconds if job.begun else 0)
                if time.monotonic() - job.since > limit:
                    job.process.kill()
    finally:
        for job in running.values():
            job.process.terminate()
            job.process.join()
    return done


class _Job:
    def __init__(self, number: int, process: Any):
        self.number, self.process, self.since = number, process, time.monotonic()
        self.begun: tuple[str, str] | None = None
        self.doubts = ""  # of whose it is


class Journal:
    """What is graded, one JSON line for each exercise of a submission; a line cut short by a kill is passed over."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[str, dict]:
        found = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    found[entry["key"]] = entry["result"]
                except (ValueError, KeyError, TypeError):
                    continue
        return found

    def write(self, key: str, file: str, exercise: str, result: dict) -> None:
        line = json.dumps({"key": key, "file": file, "exercise": exercise, "result": result})
        with open(self.path, "a+b") as journal:
            if journal.tell() and journal.seek(-1, os.SEEK_END) >= 0 and journal.read(1) != b"\n":
                journal.write(b"\n")
            journal.write(line.encode() + b"\n")


def safe_name(file: str) -> str:
    """The file's name as one that any file system takes."""
    return re.sub(r"[^\w.-]+", "_", file)[-120:]


def _in_short(one: Graded, assignment: Assignment) -> str:
    whole = sum(exercise.points for exercise in assignment.exercises.values())
    return one.problem or f"{one.points:g} of {whole:g} points"


def _write_log(out: Path, file: str, exercise: str, log: str) -> None:
    path = out / "logs" / safe_name(file) / f"{exercise}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(log, encoding="utf8", errors="backslashreplace")


# ---- one submission, in a process of its own ----
def _job(
    path: Path,
    folder: Path,
    assignment: Assignment,
    secret: bytes,
    students: list[str] | None,
    mode: str,
    known: dict[str, dict],
    parents: Connection,
    connection: Connection,
) -> None:
    parents.close()  # so that this process ends with its parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, _leave)
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    worker: list[Worker] = []
    try:
        found = read_submission(path, folder)
        student, variant, doubts = whose(found, assignment, secret, students)
        if GUESSED in doubts and students is not None:
            found.problem = found.problem or "whose is it? Put the ID into its name."
        remarks = [] if found.problem else _oddities(found, assignment.variants(secret, variant), secret)
        connection.send(("head", found.digest, student, variant, doubts, remarks, found.problem))
        answers, cells = found.definitions(assignment.exercises) if not found.problem else ({}, [])
        for name in answers:
            key = _key(found.digest, variant, name, assignment.digest, secret)
            if key in known:
                connection.send(("done", key, name, known[key], ""))
                continue
            connection.send(("begin", key, name))
            one = assignment.exercises[name]
            if problem := answers[name].problem:
                result, log = _nothing(one, problem), problem
            else:
                asked = _exercise(assignment, name, secret, variant, cells, found.left_out(), mode, worker)
                result, log = asked
            connection.send(("done", key, name, result, log))
    except CourseError as error:
        connection.send(("stop", str(error)))
    finally:
        for one_worker in worker:
            one_worker.close()
        connection.close()


def _oddities(found: Submission, variants: dict[str, dict], secret: bytes) -> list[str]:
    """Remarks on the variants that a file bears."""
    remarks = []
    if any(mark not in variants_mark(variants, secret) for mark in found.variants):
        remarks.append("made for another variant: the assignment or the secret has changed since")
    if "VARIANT" in found.names():
        remarks.append("defines VARIANT as the public solutions do: see `similar --public`")
    return remarks


def _started(mode: str) -> Worker:
    """A worker; tried twice. ``CourseError`` if none starts, for that is no student's fault."""
    for again in (True, False):
        try:
            return Worker(mode)
        except (WorkerEnded, OSError) as error:
            if not again:
                raise CourseError(
                    f"--sandbox {mode}: no process starts in it: {error}. What is graded is kept."
                ) from error
            time.sleep(1)
    raise AssertionError


def _leave(*_: Any) -> None:
    raise SystemExit(1)


def _key(digest: str, variant: str, name: str, oracle: str, secret: bytes) -> str:
    whole = "\x00".join((digest, variant, name, oracle)).encode("utf8", "surrogateescape")
    return hashlib.sha256(hashlib.sha256(secret).digest() + whole).hexdigest()[:24]


def _nothing(one: Exercise, problem: str) -> dict:
    return {"points": 0.0, "out_of": one.points, "problem": problem, "cases": [], "remarks": []}


def _lost(one: Exercise) -> dict:
    problem = "the answer could not be judged; your instructor looks at it."
    return {**_nothing(one, problem), "remarks": ["the judge's process ended: grade by hand, or with --regrade"]}


def _exercise(
    assignment: Assignment,
    name: str,
    secret: bytes,
    variant: str,
    cells: list,
    left_out: dict[str, str],
    mode: str,
    worker: list[Worker],
) -> tuple[dict, str]:
    """Ask the sandbox, then judge what comes back.

    Args:
        left_out: where the file gives the names that grading does without.
    """
    one = assignment.exercises[name]
    cases = assignment.cases(secret, variant, name)
    request = {
        "function": name,
        "cells": cells,
        "seconds": one.seconds,
        "megabytes": one.megabytes,
        "cases": [
            {
                "calls": [encoded(tuple(a)) for a in (case.arguments if case.each else [case.arguments])],
                "each": case.each,
            }
            for case in cases
        ],
    }
    begin = time.monotonic()
    if not worker:
        worker.append(_started(mode))
    try:
        reply = worker[0].ask(request, PATIENCE * one.seconds + 20)
        answers, printed = reply["results"], str(reply.get("printed", ""))
        if not isinstance(answers, list) or len(answers) != len(cases):
            raise WorkerEnded("the process answered something else")
    except (WorkerEnded, KeyError, TypeError) as error:
        for old in worker:
            old.close()
        worker.clear()
        answers, printed = [{"error": "ended", "text": "took the grader's process down"}] * len(cases), str(error)
    told: list[dict] = []
    remarks: list[str] = []
    lines: list[str] = []
    for case, answer in zip(cases, answers, strict=True):
        if missing := _unknown_name(answer):
            remarks.append(f"{name}: no name {missing!r} when graded")
            if missing in left_out:
                where = f"; {left_out[missing]} gives it, which is not run for grading: give it in the function"
                answer = {**answer, "text": answer["text"] + where}
        verdict, remark = judged(case, answer, one)
        told.append({"what": case.what, "weight": case.weight, "share": verdict.share, "message": verdict.message})
        lines += [f"{case.what}: {verdict.share:g} of 1. {verdict.message}", f"  arguments {case.arguments!r:.500}"]
        lines += [f"  answer {shown(answer):.500}", *([remark] if remark else [])]
        if remark:
            remarks.append(f"{name}: the oracle failed on an answer; see its log")
    whole = sum(case.weight for case in cases)
    share = sum(case["weight"] * case["share"] for case in told) / whole
    result = {
        "points": round(one.points * share, 2),
        "out_of": one.points,
        "problem": "",
        "cases": told,
        "remarks": sorted(set(remarks)),
    }
    log = "\n".join([*lines, f"{time.monotonic() - begin:.2f} s", "printed:", printed, ""])
    return result, log


def _unknown_name(answer: Any) -> str:
    """The name that an answer failed for want of; "" if it did not."""
    text = str(answer.get("text", "")) if isinstance(answer, dict) and answer.get("error") == "raised" else ""
    found = re.match(r"NameError: name '(\w+)' is not defined", text)
    return found[1] if found else ""
