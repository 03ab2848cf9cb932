"""Milliseconds a step of E networks of 200 layers, with and without a CUDA graph, beside rivals and the limits.

The limits are measured in the same run: a large matrix product, a large copy, and the batched product at the shape of
a layer. What a step must compute and move is counted in ``flops`` and ``bytes_moved``; the time that the larger of both
takes at the measured rates is the roofline.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from ensemble import BATCH, CLASSES, INPUTS, RATE, WIDTH, func, layer_flops, module, networks

from pso_lib.train import ensemble as engine_module
from pso_lib.train.ensemble import Ensemble, _Run
from stages.correctness import uncaptured
from stages.report import Options, Report, milliseconds, say, synchronize

__all__ = ["bytes_moved", "flops", "run"]

IMAGES = 4096
FOUR = 4  # bytes of a float32


def flops(count: int, depth: int) -> float:
    """Of a step: six products (128, 64) by (64, 64) a layer, and six with the lift and the readout together."""
    ends = 6 * BATCH * WIDTH * (INPUTS + CLASSES) - 2 * BATCH * WIDTH * INPUTS  # no gradient by the images
    return count * (layer_flops(depth) + ends)


def bytes_moved(count: int, depth: int) -> dict[str, float]:
    """Of a step, if each tensor is read or written once by each kernel that needs it, and no cache keeps any of it."""
    state, square = BATCH * WIDTH * FOUR, WIDTH * WIDTH * FOUR
    # forward: read x, write z, relu in place (2), read s and x, write out; backward: read d, write dz, relu's (3),
    # dA (2), dB (2), the bias (1), d += dz A (3)
    states = (2 + 2 + 3) + (2 + 3 + 2 + 2 + 1 + 3)
    matrices = 2 + 2 + 2  # A and B forward and backward, their gradients
    parameters = depth * (2 * WIDTH * WIDTH + WIDTH) + WIDTH * (INPUTS + CLASSES) + WIDTH + CLASSES
    return {
        "activations": count * depth * states * state,
        "weights and gradients": count * depth * matrices * square,
        "Adam": count * parameters * 7 * FOUR,  # reads w, g, m, v; writes w, m, v
        "images": count * BATCH * INPUTS * 4 * FOUR,  # gathered, read forward, read backward
    }


def limits(device: torch.device, smoke: bool) -> dict[str, float]:
    """FLOP/s of a large float32 product, bytes/s of a large copy."""
    side, length = (256, 2**20) if smoke else (8192, 2**28)
    a, b, out = (torch.randn(side, side, device=device) for _ in range(3))
    product = milliseconds(lambda: torch.mm(a, b, out=out), device)
    source = torch.randn(length, device=device)
    target = torch.empty_like(source)
    copy = milliseconds(lambda: target.copy_(source), device)
    return {"flops_per_second": 2e3 * side**3 / product, "bytes_per_second": 2e3 * FOUR * length / copy}


def batched_rate(device: torch.device, count: int, smoke: bool) -> float:
    """FLOP/s of torch.bmm at the shape of a layer: (E, 128, 64) by (E, 64, 64), many in a row."""
    repeats = 3 if smoke else 50
    x, A = torch.randn(count, BATCH, WIDTH, device=device), torch.randn(count, WIDTH, WIDTH, device=device)
    out = torch.empty_like(x)

    def work() -> None:
        for _ in range(repeats):
            torch.bmm(x, A, out=out)

    return 2e3 * repeats * count * BATCH * WIDTH**2 / milliseconds(work, device)


def step(advance: Callable[[int], None], steps: int, device: torch.device, repetitions: int) -> float:
    """Milliseconds of one step of all networks."""
    return milliseconds(lambda: advance(steps), device, repetitions) / steps


def rival(make: Callable, count: int, depth: int, images, steps: int, device: torch.device, repetitions: int) -> float:
    return step(make(count, depth, images, steps * (repetitions + 2)), steps, device, repetitions)


class Engine:
    """The ensemble engine, stepping as it does, or launching kernel by kernel. All networks start alike."""

    def __init__(self, count: int, depth: int, images, total: int):
        (first,) = networks(1, depth, images.train_x.device)
        looked, engine_module.require_same_outputs = engine_module.require_same_outputs, lambda ensemble: None
        try:  # hundreds of copies of one network need not be looked at one by one
            ensemble = Ensemble([first, *(copy.deepcopy(first) for _ in range(count - 1))])
        finally:
            engine_module.require_same_outputs = looked
        adam = (0.9, 0.999), 1e-8
        self.run = _Run(ensemble, images, total, [RATE] * count, BATCH, [None] * count, *adam)

    def advance(self, steps: int) -> None:
        self.run.advance(self.run.done + steps)

    def launch(self, steps: int) -> None:
        for queue in self.run.queues:
            for group in queue:
                group.graph = None
        with uncaptured():
            self.advance(steps)


def adam(mine: Engine, device: torch.device) -> float:
    """Milliseconds of the updates alone, a launch per network: recorded and replayed where there is CUDA."""
    groups = [group for queue in mine.run.queues for group in queue]

    def update() -> None:
        for group in groups:
            for span in range(len(group.updates)):
                group._update(span)

    if device.type != "cuda":
        return milliseconds(update, device)
    with torch.cuda.device(device):
        update()
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
            update()
        return milliseconds(graph.replay, device)


def run(options: Options, report: Report) -> bool:
    device = options.device
    depth, counts = (6, (1, 3)) if options.smoke else (200, (1, 10, 50, 100, 200, 400))
    steps, repetitions = (2, 2) if options.smoke else (10, 5)
    images = SimpleNamespace(
        train_x=torch.randn(IMAGES, INPUTS, device=device), train_y=torch.randint(CLASSES, (IMAGES,), device=device)
    )
    limit = limits(device, options.smoke)
    report.add("limits", limit)
    say(f"limits: {limit['flops_per_second'] / 1e12:.3g} TFLOP/s (product), {limit['bytes_per_second'] / 1e9:.4g} GB/s")
    report.add("setting", {"depth": depth, "width": WIDTH, "batch": BATCH, "beta": -2, "dtype": "float32"})
    say(f"L = {depth}, n = {WIDTH}, batch {BATCH}, type B, Adam, float32; ms a step of all E networks")
    good = True
    for count in counts:
        need, moved = flops(count, depth), bytes_moved(count, depth)
        computing = 1e3 * need / limit["flops_per_second"]
        moving = 1e3 * sum(moved.values()) / limit["bytes_per_second"]
        row: dict = {"flops": need, "bytes": moved, "ms computing": computing, "ms moving": moving}
        row["ms roofline"] = max(computing, moving)
        row["batched product, share of the large one"] = (
            batched_rate(device, count, options.smoke) / limit["flops_per_second"]
        )
        total, few = 2 * steps * (repetitions + 2), max(1, steps // 5)
        contenders: dict[str, Callable[[], float]] = {}
        try:
            mine = Engine(count, depth, images, total)
            contenders["engine"] = partial(step, mine.advance, steps, device, repetitions)
            contenders["Adam of it"] = partial(adam, mine, device)
            contenders["engine, no graph"] = partial(step, mine.launch, steps, device, repetitions)
        except torch.OutOfMemoryError as error:
            row["problem of engine"], good = str(error), False
        for name, make, most in (("nn.Module loop", module, 10), ("torch.func", func, 100)):
            if count <= most:  # the loop's time is proportional to E
                contenders[name] = partial(rival, make, count, depth, images, few, device, repetitions)
        for name, measure in contenders.items():
            try:
                row[f"ms {name}"] = measure()
            except (RuntimeError, torch.OutOfMemoryError) as error:
                row[f"ms {name}"], row[f"problem of {name}"] = math.nan, str(error)
                good = good and name in ("nn.Module loop", "torch.func")
            if device.type == "cuda":
                synchronize(device)
                row[f"GiB {name}"] = torch.cuda.max_memory_allocated(device) / 2**30
                torch.cuda.reset_peak_memory_stats(device)
        contenders.clear()
        mine = None
        if device.type == "cuda":
            torch.cuda.empty_cache()
        row["share of the roofline"] = row["ms roofline"] / row.get("ms engine", math.nan)
        report.add(f"E = {count}", row)
        say(
            f"E = {count:<4}"
            + "".join(f"  {k} {v:.3g}" for k, v in row.items() if isinstance(v, float) and k[0] != "f")
        )
    return good
