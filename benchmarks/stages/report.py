"""What the stages share: their options, a record on disk that grows as they go, and clocks."""

import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

__all__ = ["Options", "Report", "milliseconds", "say", "synchronize"]


@dataclass(frozen=True)
class Options:
    """Those of the command line."""

    out: Path
    device: torch.device | str
    minutes: float
    experiments: str | None
    at_once: int | None
    only: str | None
    smoke: bool

    def on(self, device: torch.device) -> "Options":
        return replace(self, device=device)


def say(line: str) -> None:
    print(line, flush=True)


class Report:
    """One stage's findings, in ``out/<stage>.json``, written anew with each."""

    def __init__(self, stage: str, options: Options):
        options.out.mkdir(parents=True, exist_ok=True)
        self.path, self.environment = options.out / f"{stage}.json", _environment(options.device)
        self.found: dict = {}

    def add(self, name: str, value) -> None:
        self.found[name] = value
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps({"environment": self.environment, "found": self.found}, indent=1, default=str))
        beside.replace(self.path)


def _environment(device: torch.device) -> dict:
    """The device as torch names it, versions, the date."""
    found = {"device": f"{device.type}: {platform.processor() or platform.machine()}"}
    if device.type == "cuda":
        of = torch.cuda.get_device_properties(device)
        found = {
            "device": f"{device}: {of.name}",
            "memory": f"{of.total_memory / 2**30:.0f} GiB",
            "multiprocessors": of.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    return found | {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(work: Callable[[], object], device: torch.device, repetitions: int = 5, warm: int = 2) -> float:
    """The median time of a call: by CUDA events on a CUDA device, by the wall elsewhere."""
    for _ in range(warm):
        work()
    synchronize(device)
    times = []
    for _ in range(repetitions):
        if device.type == "cuda":
            with torch.cuda.device(device):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                work()
                end.record()
                end.synchronize()
            times.append(begin.elapsed_time(end))
        else:
            start = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)
