"""Many networks in few passes of the engine: what is asked for at once and has one shape trains side by side.

A deep narrow network keeps a GPU busy for a hundredth of the time. There the units of an experiment are run side by
side (``found``), a thread each: they choose their rates as they would alone, but whenever all of them wait for a
training, these are put together, shape by shape, and the shapes share the device, each on a stream of its own. What a
network becomes does not depend on who trains beside it.
"""

import copy
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from pso_lib.data import Images
from pso_lib.experiments.rivals import alone, network, prepare
from pso_lib.experiments.starts import Start, scale_of
from pso_lib.experiments.suite import Sources, Unit
from pso_lib.nn.init import seeded
from pso_lib.nn.networks import DeepNetwork
from pso_lib.train.ensemble import Ensemble
from pso_lib.train.loop import History, train

__all__ = ["Job", "Request", "found", "trained"]

TOGETHER = {"cpu": 10, "cuda": 200}  # networks per pass: what fits the caches, or the memory
AT_ONCE = 12  # units side by side, in the order of the plan: what is lost if they are interrupted
STREAMS = 16  # shapes that share a GPU
SEEN = 512  # training images that a start may look at

Job = tuple[Start, int, float]  # an arm, a seed, a rate


@dataclass(frozen=True, eq=False)
class Request:
    """Networks to be trained: each job's arm, seed and rate, all on the same images for as many steps."""

    images: Images
    depth: int
    width: int
    batch: int
    steps: int
    eval_every: int
    jobs: Sequence[Job]

    def shape(self, arm: Start) -> tuple:
        """What must agree in one pass: the engine trains networks of one activation, one beta and one h at a time."""
        beta = scale_of(arm, self.depth) if arm.layer == "B" else 0
        kind = arm.activation, beta, arm.hidden, arm.outer, alone(arm)
        return (*kind, id(self.images), self.depth, self.width, self.batch, self.steps, self.eval_every)


def trained(request: Request) -> list[History]:
    """A history for each job; where units run side by side, trained with what the others ask for."""
    gatherer = _gatherer.get()
    return _train_all([request])[0] if gatherer is None else gatherer.trained(request)


def _train_all(requests: Sequence[Request]) -> list[list[History]]:
    shapes: dict[tuple, list[tuple[int, int]]] = {}
    for r, request in enumerate(requests):
        for j, (arm, _, _) in enumerate(request.jobs):
            shapes.setdefault(request.shape(arm), []).append((r, j))
    device = requests[0].images.train_x.device
    together = TOGETHER.get(device.type, TOGETHER["cuda"])
    passes = [
        places[first : first + together] for places in shapes.values() for first in range(0, len(places), together)
    ]

    def run(places: list[tuple[int, int]]) -> list[History]:
        return _pass(requests[places[0][0]], [requests[r].jobs[j] for r, j in places])

    histories: dict[tuple[int, int], History] = {}
    with _streams(device, len(passes)) as each:
        for places, some in zip(passes, each(run, passes), strict=True):
            histories |= zip(places, some, strict=True)
    return [[histories[r, j] for j in range(len(request.jobs))] for r, request in enumerate(requests)]


@contextmanager
def _streams(device: torch.device, count: int) -> Iterator[Callable]:
    """A ``map``: on CUDA by threads, each with a stream of its own, which starts where the current one is now."""
    if device.type != "cuda" or min(count, STREAMS) == 1:
        yield map
        return
    before = torch.cuda.current_stream(device)
    mine = threading.local()

    def start() -> None:
        mine.stream = torch.cuda.Stream(device)
        mine.stream.wait_stream(before)

    def on_stream(run, places):
        with torch.cuda.stream(mine.stream):
            return run(places)

    with ThreadPoolExecutor(min(count, STREAMS), initializer=start) as pool:
        yield lambda run, passes: pool.map(lambda places: on_stream(run, places), passes)


def _pass(request: Request, jobs: Sequence[Job]) -> list[History]:
    """Networks of one shape."""
    images = request.images
    built: dict[tuple[Start, int], nn.Module] = {}
    shape = request.depth, request.width, images.train_x.shape[1], images.classes

    def make(arm: Start, seed: int) -> nn.Module:
        """A start is drawn once for all its rates."""
        if (arm, seed) in built:
            return copy.deepcopy(built[arm, seed])
        one = network(arm, *shape, seed, device=images.train_x.device)
        prepare(arm, one, images.train_x[:SEEN])
        return built.setdefault((arm, seed), one)

    arms, seeds, rates = zip(*jobs, strict=True)
    networks = [make(arm, seed) for arm, seed in zip(arms, seeds, strict=True)]
    draws = [seeded(seed) for seed in seeds]
    options: dict[str, Any] = {"steps": request.steps, "batch": request.batch, "eval_every": request.eval_every}
    if not alone(arms[0]):
        return Ensemble(cast(list[DeepNetwork], networks)).train(images, lr=rates, generators=draws, **options)
    return [
        train(one, images, lr=rate, generator=draw, **options)
        for one, rate, draw in zip(networks, rates, draws, strict=True)
    ]


# ------------------------------------------------------------------------------------------- side by side


class _Gatherer:
    """Trains what ``count`` threads ask for, once all that are still at work wait."""

    def __init__(self, count: int):
        self.count = count
        self.waiting: list[tuple[Request, Future]] = []
        self.error: BaseException | None = None  # the first: nobody trains any more
        self.lock = threading.Lock()

    def trained(self, request: Request) -> list[History]:
        future: Future = Future()
        with self.lock:
            self.waiting.append((request, future))
            due = self._due()
        self._serve(due)
        return future.result()

    def leave(self) -> None:
        """A thread is done, or has failed."""
        with self.lock:
            self.count -= 1
            due = self._due()
        self._serve(due)

    def stop(self, error: BaseException) -> None:
        """What is under way comes to its end, and nothing is begun."""
        self.error = self.error or error

    def _due(self) -> list[tuple[Request, Future]]:
        due: list[tuple[Request, Future]] = []
        if self.waiting and len(self.waiting) == self.count:
            due, self.waiting = self.waiting, []
        return due

    def _serve(self, due: list[tuple[Request, Future]]) -> None:
        if not due:
            return
        try:
            if self.error is not None:
                raise CancelledError("another unit broke down") from self.error
            for (_, future), histories in zip(due, _train_all([request for request, _ in due]), strict=True):
                future.set_result(histories)
        except BaseException as error:
            for _, future in due:
                future.set_exception(error)


_gatherer: ContextVar[_Gatherer | None] = ContextVar("gatherer", default=None)


def found(
    work: Callable, units: Sequence[Unit], needs: Mapping[str, list[str]], parts: Mapping[str, dict], sources: Sources,
    *, at_once: int | None = None, fits: Callable[[float], bool] = lambda work: True,
) -> Generator[tuple[Unit, dict]]:  # fmt: skip
    """(unit, what was found), ``at_once`` units side by side in this process; see ``runner.run_unit``.

    Args:
        work: ``work(unit, finished, sources)``.
        needs: keys of the units that each goes on from; ``parts``: what is finished, filled by the caller.
        fits: whether so much work may still be begun; if not, the rest is left.

    A unit's seconds are its share, by work, of those that were run with it.
    """
    left = list(units)
    while left:
        ready = [unit for unit in left if all(key in parts for key in needs[unit.key])][: at_once or AT_ONCE]
        whole = sum(unit.work for unit in ready)
        if not fits(whole):
            return
        begin = time.monotonic()
        gatherer = _Gatherer(len(ready))

        def alone_in_a_thread(unit: Unit, gatherer=gatherer) -> dict:
            _gatherer.set(gatherer)
            try:
                with _device_of(sources):
                    return work(unit, {key: parts[key] for key in needs[unit.key]}, sources)
            except BaseException as error:
                gatherer.stop(error)
                raise
            finally:
                gatherer.leave()

        with ThreadPoolExecutor(len(ready)) as pool:
            try:
                made = list(pool.map(alone_in_a_thread, ready))
            except BaseException as error:  # Ctrl-C comes here too
                gatherer.stop(error)
                raise (gatherer.error or error) from None
        seconds = time.monotonic() - begin
        for unit, part in zip(ready, made, strict=True):
            left.remove(unit)
            yield unit, part | {"seconds": round(seconds * unit.work / whole, 1)}


def _device_of(sources: Sources):
    """A new thread begins on the first device."""
    device = torch.device(sources.device)
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
