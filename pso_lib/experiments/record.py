"""Result files: small JSON with provenance, one run a line, written atomically, validated when read.

While an experiment runs, each finished unit is one line of a journal beside the result; a kill at any moment
loses the unit that ran and nothing else. The journal becomes the result file when the last unit is done.
"""

import contextlib
import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, NoReturn

from pso_lib.experiments.schema import DEPTH, PROVENANCE, SCHEMAS, TABLE, TEXT, UNIT, UNIT_TOO, Schema, flaw
from pso_lib.experiments.summaries import summary

try:
    import fcntl
except ImportError:  # Windows: two processes are then not kept apart
    fcntl = None  # type: ignore[assignment]  # a module has no other type

__all__ = [
    "RESULTS",
    "Journal",
    "ResultError",
    "configuration",
    "fingerprint",
    "load",
    "path_of",
    "recorded_path",
    "schema_of",
    "select",
    "source",
    "summary",
    "units_done",
    "without_timings",
    "write",
]

# In a checkout its results/; where the library is installed as a package, results/ of the current folder, and for
# reading also the records that came with the package.
CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = (CHECKOUT if (CHECKOUT / "pyproject.toml").exists() else Path.cwd()) / "results"
RECORDED = Path(__file__).resolve().parents[1] / "recorded"
FORMAT = "pso_lib experiment result"
VERSION = 1
UNTIMED = ("seconds", "date", "commit", "sittings")
YOUNGER = ("hidden", "halving", "outer")

_TOP = {"experiment": TEXT, "scale": TEXT, "configuration": TABLE, "provenance": TABLE}


class ResultError(ValueError):
    """A result or journal is damaged, foreign, or of another configuration. The text says what to do."""


def path_of(name: str, scale: str, folder: Path | None = None) -> Path:
    """Where the result of an experiment at a scale lies."""
    return Path(folder or RESULTS) / f"{name}.{scale}.json"


def recorded_path(name: str, scale: str, folder: Path | None = None) -> Path:
    """Where to read the result: in the folder, by default ``results/``, else among the records of the package."""
    path, packaged = path_of(name, scale, folder), path_of(name, scale, RECORDED)
    return packaged if folder in (None, RESULTS) and not path.exists() and packaged.exists() else path


def configuration(experiment) -> dict:
    """The experiment as plain JSON data."""

    def fields(items: list) -> dict:  # those younger than the first records are left out where they say nothing
        return {key: value for key, value in items if key not in YOUNGER or value is not None}

    return json.loads(json.dumps(asdict(experiment, dict_factory=fields)))


def fingerprint(experiment) -> str:
    """A hash of the configuration: two experiments with the same one may share a journal."""
    text = json.dumps(configuration(experiment), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Journal:
    """The lines of finished units, one JSON object each, flushed to disk as they come.

    It is held by one process at a time, from opening to ``close`` or ``finish``, or until the process dies.

    Raises:
        ResultError: the journal on disk belongs to another configuration, or to no experiment, or is held.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, experiment, scale: str):
        self.path = path
        self.units: dict[str, dict] = {}
        head = {"format": FORMAT + " journal", "fingerprint": fingerprint(experiment), "scale": scale}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _held(path)
        try:
            self._read(head)
        except BaseException:
            self.close()
            raise

    def _read(self, head: dict) -> None:
        self._file.seek(0)
        data = self._file.read()
        *complete, rest = data.split(b"\n")  # the last piece has no newline: it was cut off, or is empty
        remedy = f"Move {self.path} away to start afresh."
        try:
            records = [json.loads(line) for line in complete]
        except ValueError as error:
            raise ResultError(f"{self.path} is damaged: {error}. {remedy}") from None
        if records and records[0] != head:
            raise ResultError(f"{self.path} was begun with another configuration of this experiment. {remedy}")
        if not records and not json.dumps(head).encode().startswith(rest):
            raise ResultError(f"{self.path} is no journal of an experiment. {remedy}")
        for number, record in enumerate(records[1:], start=2):
            why = flaw(record, UNIT, UNIT_TOO)
            if not why and record["unit"] in self.units:
                why = f"the unit {record['unit']!r} was there before"
            if why:
                raise ResultError(
                    f"{self.path} is damaged: line {number} is not a finished unit: {why}. Remove the line, and it is "
                    f"run again. Or: {remedy}"
                )
            self.units[record["unit"]] = record
        if rest:
            self._file.truncate(len(data) - len(rest))
        if not records:
            self._append(head)

    def _append(self, record: dict) -> None:
        """The whole line, on disk, or nothing of it."""
        size, left = os.fstat(self._file.fileno()).st_size, memoryview((json.dumps(record) + "\n").encode())
        try:
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise

    def add(self, unit: str, record: dict) -> None:
        """Append a finished unit and wait until it is on disk."""
        record = {"unit": unit} | record
        self._append(record)
        self.units[unit] = record

    def clear(self) -> None:
        """Forget all units."""
        head = self.path.read_bytes().partition(b"\n")[0]
        self._file.truncate(len(head) + 1)
        self.units = {}

    def finish(self) -> None:
        """Remove the journal: its units are in the result. It may be gone already."""
        if fcntl is None:
            self.close()  # Windows removes no open file
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let another process go on with it."""
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _held(path: Path) -> BinaryIO:
    """The file, opened for appending, and locked: what another process removed meanwhile is opened anew."""
    while True:
        file = path.open("a+b", buffering=0)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ResultError(
                f"{path} is held by another process, which runs this experiment. Wait for it, or choose another folder "
                "by folder=, on the command line --out."
            ) from None
        except OSError:
            pass  # a file system without locks
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def write(path: Path, result: dict) -> None:
    """Validate a result and write it atomically: either the whole new file stands there, or the old one.

    One line for each field of its head, and one for each run, so that two results can be compared line by line.
    """
    validate(result, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _atomic(path, as_text(result).encode())


def as_text(result: dict) -> str:
    """A result as JSON, one run a line."""

    def compact(value) -> str:
        return json.dumps(value, separators=(",", ":"))

    def lines(value) -> str:
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            return "[\n" + ",\n".join(map(compact, value)) + "\n]"
        return compact(value)

    return "{\n" + ",\n".join(f"{compact(key)}:{lines(value)}" for key, value in result.items()) + "\n}\n"


def load(name: str, scale: str = "full", folder: Path | None = None) -> dict:
    """Read and validate the recorded result of an experiment.

    Raises:
        ResultError: the file is missing, damaged or foreign, or lacks runs; the text names the command that makes it.
    """
    path = recorded_path(name, scale, folder)
    remedy = f"Make it with: python -m pso_lib.experiments run {name} --scale {scale}"
    try:
        result = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ResultError(f"{path} does not exist. {_why_missing(name, scale, path.parent)}") from None
    except ValueError as error:
        raise ResultError(f"{path} is damaged: {error}. Restore it, or move it away. {remedy}") from None
    validate(result, path)
    if (result["experiment"], result["scale"]) != (name, scale):
        raise ResultError(f"{path} holds {result['experiment']!r} at {result['scale']!r}; it was renamed. {remedy}")
    return result


def _why_missing(name: str, scale: str, folder: Path) -> str:
    """What to do about a result that is not there: another scale, the name that was meant, going on, making it."""
    from pso_lib.errors import nearest  # these, and torch with them, for an error alone
    from pso_lib.experiments.registry import names

    there = {tuple(file.name.split(".")[:2]) for at in (folder, RECORDED) for file in at.glob("*.*.json")}
    scales = sorted(other for one, other in there if one == name)
    if scales:
        return f"It is recorded at {', '.join(map(repr, scales))}: scale={scales[0]!r} (--scale {scales[0]})."
    if name not in names():
        return f"There is no experiment {name!r}.{nearest(name, names())} All of them: `list`, or names()."
    done = units_done(name, scale, folder)
    begun = f"It is unfinished, with {done} units on disk. Go on" if done else "Make it"
    return f"{begun} with: python -m pso_lib.experiments run {name} --scale {scale}"


def schema_of(result: dict) -> Schema:
    """The schema of a valid result's kind."""
    return SCHEMAS[result.get("kind", DEPTH.name)]


def select(result: dict, **wanted) -> list[dict]:
    """The runs whose fields equal the wanted ones: ``select(result, arm="he", depth=50)``."""
    known = schema_of(result).fields
    unknown = set(wanted) - set(known)
    if unknown:
        raise ValueError(f"runs have no field {sorted(unknown)}; they have {sorted(known)}.")
    return [run for run in result["runs"] if all(run[key] == value for key, value in wanted.items())]


def source(result: dict) -> str:
    """Where a recorded result comes from, and the command that makes it again; for printing under its figure.

    Only options that differ from the plan's own are part of the command.
    """
    used, made = result["configuration"], result["provenance"]
    return "\n".join(
        (
            *made["data"],
            f"{used['seeds']} seeds; {made['device']}, {made['dtype']}, torch {made['torch']}, {_dates(made)}",
            command(result),
        )
    )


def command(result: dict) -> str:
    """The command that makes a recorded result again, with the options that differ from the plan's own."""
    from pso_lib.experiments.registry import experiment, names  # the plans, and torch with them

    name, used = result["experiment"], result["configuration"]
    planned = experiment(name, result["scale"]) if name in names() else None
    overrides = schema_of(result).overrides
    changed = [f" --{key} {used[key]:g}" for key in overrides if planned and used[key] != getattr(planned, key)]
    return f"python -m pso_lib.experiments run {name} --scale {result['scale']}{''.join(changed)}"


def _dates(made: dict) -> str:
    """The day, or the first and the last, of a record that was made in several sittings."""
    days = sorted({made["date"], *(one["date"] for one in made.get("sittings", []) if "date" in one)})
    return " to ".join(dict.fromkeys((days[0], days[-1])))


def units_done(name: str, scale: str, folder: Path | None = None) -> int:
    """How many units of an unfinished run are on disk: whole lines of its journal but for the head. Locks nothing."""
    path = path_of(name, scale, folder).with_suffix(".journal.jsonl")
    try:
        return max(0, path.read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def without_timings(result: dict) -> dict:
    """A result without what differs from one time to the next: seconds, overhead, date, commit.

    Two results of one experiment, made on one machine with one version of torch, are then equal.
    """
    drop = schema_of(result).timings
    kept = {key: value for key, value in result["provenance"].items() if key not in UNTIMED}
    runs = [{key: value for key, value in run.items() if key not in drop} for run in result["runs"]]
    return result | {"provenance": kept, "runs": runs}


def validate(result, path: Path) -> None:
    """Raise ``ResultError`` unless ``result`` is a result of this format, with plausible values and all its runs."""

    def refuse(why: str) -> NoReturn:
        raise ResultError(f"{path} is not a valid experiment result: {why}. Restore it, or run it --again.")

    if not isinstance(result, dict) or result.get("format") != FORMAT:
        refuse("it was not written by pso_lib.experiments")
    if result.get("version") != VERSION:
        refuse(f"its version is {result.get('version')}, this library reads {VERSION}")
    if why := flaw(result, _TOP):
        refuse(why)
    if not isinstance(result.get("runs"), list) or not result["runs"]:
        refuse("it holds no runs")
    kind = result.get("kind", DEPTH.name)
    if not isinstance(kind, str) or kind not in SCHEMAS:
        refuse(f"its kind {kind!r} is unknown to this library")
    schema = SCHEMAS[kind]
    if why := flaw(result["provenance"], PROVENANCE | schema.provenance):
        refuse(f"provenance: {why}")
    for index, run in enumerate(result["runs"]):
        if why := schema.flaw(run):
            refuse(f"run {index}: {why}")
    for name, fields in schema.tables.items():
        if not isinstance(result.get(name, []), list):
            refuse(f"{name!r} is no list")
        for index, row in enumerate(result.get(name, [])):
            if why := flaw(row, fields):
                refuse(f"{name} {index}: {why}")
    seeds = result["configuration"].get("seeds")
    if isinstance(seeds, int) and seeds > len(result["runs"]):  # before as many keys are made
        refuse(f"its configuration has {seeds:,} seeds, and it holds {len(result['runs'])} runs")
    try:
        wanted = Counter(schema.implied(result["configuration"]))
        found = Counter(schema.key(run, result["configuration"]) for run in result["runs"])
    except (KeyError, TypeError) as error:
        refuse(f"its configuration is not that of a plan ({type(error).__name__}: {error})")
    if missing := sum((wanted - found).values()):
        refuse(
            f"{missing} of the {wanted.total()} runs of its configuration are missing, {_first(wanted - found)} first"
        )
    if surplus := sum((found - wanted).values()):
        refuse(f"it holds {surplus} run(s) that its configuration does not, {_first(found - wanted)} first")


def _first(runs: Counter) -> str:
    return "/".join(str(part) for part in next(iter(+runs)) if part is not None)


def _atomic(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
