"""Result files: small JSON with provenance, written atomically, validated when read.

While an experiment runs, each finished unit is one line of a journal beside the result; a kill at any moment
loses the unit that ran and nothing else. The journal becomes the result file when the last unit is done.
"""

import datetime
import hashlib
import json
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path

import torch

from pso_lib.experiments.registry import kind_named
from pso_lib.experiments.spread import summary

__all__ = [
    "RESULTS",
    "Journal",
    "ResultError",
    "load",
    "path_of",
    "provenance",
    "select",
    "source",
    "summary",
    "without_timings",
    "write",
]

# In a checkout its results/; where the library is installed as a package, results/ of the current folder.
_CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = (_CHECKOUT if (_CHECKOUT / "pyproject.toml").exists() else Path.cwd()) / "results"
FORMAT = "pso_lib experiment result"
VERSION = 1

_TOP = {"format": str, "version": int, "experiment": str, "scale": str, "configuration": dict, "provenance": dict}


class ResultError(ValueError):
    """A result or journal is damaged, foreign, or of another configuration. The text says what to do."""


def path_of(name: str, scale: str, folder: Path | None = None) -> Path:
    """Where the result of an experiment at a scale lies."""
    return Path(folder or RESULTS) / f"{name}.{scale}.json"


def configuration(experiment) -> dict:
    """The experiment as plain JSON data."""
    return json.loads(json.dumps(asdict(experiment)))


def fingerprint(experiment) -> str:
    """A hash of the configuration: two experiments with the same one may share a journal."""
    text = json.dumps(configuration(experiment), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def provenance(device: str, dtype: str) -> dict:
    """Versions, device, date and commit."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{os.cpu_count()} CPU cores"
    where = Path(__file__).resolve().parent
    try:
        git = subprocess.run(["git", "-C", str(where), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        commit = git.stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        commit = "unknown"
    return {
        "device": name,
        "dtype": dtype,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": commit,
    }


class Journal:
    """The lines of finished units, one JSON object each, flushed to disk as they come.

    Raises:
        ResultError: the journal on disk belongs to another configuration, or to no experiment.
    """

    def __init__(self, path: Path, experiment, scale: str):
        self.path, self.units = path, {}
        head = {"format": FORMAT + " journal", "fingerprint": fingerprint(experiment), "scale": scale}
        remedy = f"Move {path} away to start afresh."
        if path.exists():
            lines = path.read_bytes().split(b"\n")
            complete = lines[:-1]  # the last piece has no newline: it was cut off, or is empty
            try:
                records = [json.loads(line) for line in complete]
            except ValueError as error:
                raise ResultError(f"{path} is damaged: {error}. {remedy}") from None
            if records and records[0] != head:
                raise ResultError(f"{path} was begun with another configuration of this experiment. {remedy}")
            for record in records[1:]:
                self.units[record["unit"]] = record
            kept = b"".join(line + b"\n" for line in complete)
            if kept != path.read_bytes():
                _atomic(path, kept)
        if not path.exists() or path.stat().st_size == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            _atomic(path, (json.dumps(head) + "\n").encode())

    def add(self, unit: str, record: dict) -> None:
        """Append a finished unit and wait until it is on disk."""
        record = {"unit": unit} | record
        with self.path.open("ab") as file:
            file.write((json.dumps(record) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self.units[unit] = record


def write(path: Path, result: dict) -> None:
    """Validate a result and write it atomically: either the whole new file stands there, or the old one."""
    validate(result, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _atomic(path, (json.dumps(result, indent=None, separators=(",", ":")) + "\n").encode())


def load(name: str, scale: str = "full", folder: Path | None = None) -> dict:
    """Read and validate the recorded result of an experiment.

    Raises:
        ResultError: the file is missing, damaged or foreign; the text names the command that makes it.
    """
    path = path_of(name, scale, folder)
    remedy = f"Make it with: python -m pso_lib.experiments run {name} --scale {scale}"
    if not path.exists():
        raise ResultError(f"{path} does not exist. {remedy}")
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        raise ResultError(f"{path} is damaged: {error}. Restore it, or move it away. {remedy}") from None
    validate(result, path)
    if (result["experiment"], result["scale"]) != (name, scale):
        raise ResultError(f"{path} holds {result['experiment']!r} at {result['scale']!r}; it was renamed. {remedy}")
    return result


def select(result: dict, **wanted) -> list[dict]:
    """The runs whose fields equal the wanted ones: ``select(result, arm="he", depth=50)``."""
    kind = kind_named(result)
    unknown = set(wanted) - set(kind.fields)
    if unknown:
        raise ValueError(f"runs have no field {sorted(unknown)}; they have {sorted(kind.fields)}.")
    return [run for run in result["runs"] if all(run[key] == value for key, value in wanted.items())]


def source(result: dict) -> str:
    """Where a recorded result comes from, and the command that makes it again; for printing under its figure.

    Only options that differ from the plan's own are part of the command.
    """
    name, used, made = result["experiment"], result["configuration"], result["provenance"]
    kind = kind_named(result)
    planned = kind.experiment(name, result["scale"])
    changed = [f" --{key} {used[key]:g}" for key in kind.overrides if used[key] != getattr(planned, key)]
    return "\n".join(
        (
            *made["data"],
            f"{used['seeds']} seeds; {made['device']}, {made['dtype']}, torch {made['torch']}, {made['date']}",
            f"python -m pso_lib.experiments run {name} --scale {result['scale']}{''.join(changed)}",
        )
    )


def without_timings(result: dict) -> dict:
    """A result without what differs from one time to the next: seconds, overhead, date, commit.

    Two results of one experiment, made on one machine with one version of torch, are then equal.
    """
    drop = kind_named(result).timings
    kept = {key: value for key, value in result["provenance"].items() if key not in ("seconds", "date", "commit")}
    runs = [{key: value for key, value in run.items() if key not in drop} for run in result["runs"]]
    return result | {"provenance": kept, "runs": runs}


def validate(result, path: Path) -> None:
    """Raise ``ResultError`` unless ``result`` is a result of this format, complete and with plausible values."""

    def refuse(why: str):
        raise ResultError(f"{path} is not a valid experiment result: {why}. Restore it, or run the experiment again.")

    if not isinstance(result, dict) or result.get("format") != FORMAT:
        refuse("it was not written by pso_lib.experiments")
    if result.get("version") != VERSION:
        refuse(f"its version is {result.get('version')}, this library reads {VERSION}")
    for key, kind in _TOP.items():
        if not isinstance(result.get(key), kind):
            refuse(f"{key!r} is missing or not {kind.__name__}")
    if not isinstance(result.get("runs"), list) or not result["runs"]:
        refuse("it holds no runs")
    kind = kind_named(result)
    if kind is None:
        refuse(f"its kind {result['kind']!r} is unknown to this library")
    for index, run in enumerate(result["runs"]):
        for key, of in kind.fields.items():
            if not isinstance(run, dict) or key not in run or not isinstance(run[key], of):
                refuse(f"run {index}: {key!r} is missing or of the wrong type")
        if flaw := kind.flaw(run):
            refuse(f"run {index}: {flaw}")


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
