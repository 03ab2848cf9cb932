"""Every path on the device against the CPU in float64; in float32 within what its rounding explains.

A check is a function of a device and a dtype that returns numbers. Its numbers on the device must be those of the CPU
in float64, up to a tolerance relative to the largest of them. A check that fails stops nothing.
"""

import contextlib
import copy
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pso_lib import data
from pso_lib.analysis import persistence, singularity
from pso_lib.analysis.jacobian import cumulative_jacobians, gradient_norms, jacobian, spectrum_by_depth
from pso_lib.analysis.kinks import kink_distance, kink_margin
from pso_lib.analysis.recorder import QUANTITIES, Recorder
from pso_lib.data.text import load_text
from pso_lib.experiments import names, passes, runner
from pso_lib.nn.init import haar, seeded, shared_orthogonal_
from pso_lib.nn.networks import deep_network
from pso_lib.nn.transformer import GPT, next_token_loss
from pso_lib.smoothing import METHODS, AtSteps, EnergyTrigger, Guard, StableRankTrigger, randomised_svd, smooth_
from pso_lib.train import monitored, stacked, workloads
from pso_lib.train.baselines import BASELINES
from pso_lib.train.ensemble import Ensemble
from pso_lib.train.loop import train
from stages.report import Options, Report, say

__all__ = ["Check", "checks", "run"]

CPU, EXACT = torch.device("cpu"), torch.float64
KINDS: dict[str, dict] = {
    "type B": {"layer": "residual", "beta": -2.0, "orthogonal": "start"},
    "type A": {"layer": "feedforward"},
    "fold": {"layer": "fold", "hidden": 5},
    "B = I": {"layer": "feedforward", "outer": "identity"},
    "B = I, abs": {"layer": "feedforward", "outer": "identity", "activation": "abs"},
    "B = I, tanh": {"layer": "feedforward", "outer": "identity", "beta": 0.7, "activation": "tanh"},
    "wide, silu": {"layer": "residual", "hidden": 12, "beta": 0.5, "activation": "silu"},
    "gelu": {"layer": "residual", "outer": "identity", "beta": -0.5, "activation": "gelu"},
    "no bias, leaky": {"layer": "residual", "bias": False, "beta": 0.5, "activation": "leaky_relu"},
}


class Check(NamedTuple):
    """Its numbers by device and dtype; relative tolerances in float64 and float32 (None: float64 alone).

    What stands before a colon is its family; ``--smoke`` has two of each.
    """

    name: str
    numbers: Callable[[torch.device, torch.dtype], object]
    exact: float = 1e-9
    single: float | None = 1e-3


def points(device, dtype, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=EXACT, device=CPU).to(device, dtype)


def network(device, dtype, seed: int = 0, depth: int = 6, **options) -> nn.Module:
    if options.get("layer") != "fold":
        options = {"layer": "residual", "beta": -2.0, "orthogonal": "start"} | options
    return deep_network(depth, 8, device=device, dtype=dtype, generator=seeded(seed), **options)


def stack(device, dtype, count: int = 5, depth: int = 12, **options) -> Ensemble:
    return Ensemble([network(device, dtype, e, depth, inputs=64, classes=10, **options) for e in range(count)])


def digits(device, dtype) -> data.Images:
    return data.load("digits", device=device, dtype=dtype)


# ---------------------------------------------------------------------------------------------- the engine


@contextlib.contextmanager
def uncaptured() -> Iterator[None]:
    """The engine launches kernel by kernel."""
    take, stacked.Group._capture = stacked.Group._capture, lambda self: None
    try:
        yield
    finally:
        stacked.Group._capture = take


def engine(device, dtype, *, steps: int = 12, at=None, **options):
    """Losses and what is left of the weights."""
    ensemble = stack(device, dtype, **options)
    rates = [1e-3 * (1 + e) for e in range(len(ensemble))]
    draws = [torch.Generator(at or CPU).manual_seed(e) for e in range(len(ensemble))]
    found = ensemble.train(
        digits(device, dtype), steps=steps, lr=rates, batch=32, generators=draws, eval_every=steps // 2
    )
    return torch.tensor([history.loss for history in found]), ensemble.weights, [h.test_accuracy for h in found]


def captured_as_launched(device, dtype):
    """The same twice on the device; the CPU has one way only."""
    whole = engine(device, dtype)
    with uncaptured():
        apart = engine(device, dtype)
    gap = (whole[1] - apart[1]).abs().max() / whole[1].abs().max()
    if gap > (1e-12 if dtype == EXACT else 1e-5):
        raise AssertionError(f"with and without a graph the weights differ by {gap:.1e}")
    return whole


def diverging(device, dtype):
    """One network of three is lost at its first step; the others are as they would be without it."""
    images = digits(device, dtype)
    ensemble = stack(device, dtype, count=3)
    ensemble.weights[1].mul_(1e150 if dtype == EXACT else 1e25)
    kept = ensemble.weights[1].clone()
    found = ensemble.train(images, steps=8, lr=1e-3, batch=32, generators=[seeded(e) for e in range(3)])
    if not torch.equal(ensemble.weights[1], kept):
        raise AssertionError("a diverged network was moved")
    return [found[0].loss, found[2].loss], [history.diverged_at or 0 for history in found], ensemble.weights[[0, 2]]


def engine_gradients(device, dtype, options):
    ensemble, images = stack(device, dtype, **options), digits(device, dtype)
    losses, gradients = ensemble.gradients(images.train_x[:64], images.train_y[:64])
    return losses, [value for one in gradients for value in one.values()]


def second_device(device, dtype):
    """Weights on another GPU than the current one, where there are two."""
    others = [f"cuda:{i}" for i in range(torch.cuda.device_count()) if i != (device.index or 0)]
    return engine(torch.device(others[0]) if device.type == "cuda" and others else device, dtype)


def tf32(device, dtype):
    """The door of an ensemble does not take TF32's rounding for another network, in torch's newer words."""
    before, torch.backends.cuda.matmul.fp32_precision = torch.backends.cuda.matmul.fp32_precision, "tf32"
    try:
        return engine(device, dtype, steps=2)[0]
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def side_by_side(device, dtype):
    """Shapes on streams of their own; float32, as the experiments are."""
    plan = runner.experiment("depth_tuned", "smoke")
    images = digits(device, torch.float32)
    requests = [
        passes.Request(images, depth, 16, 64, 10, 5, [(arm, seed, 1e-3) for arm in plan.arms for seed in (0, 1)])
        for depth in (3, 6, 9)
    ]
    together = passes._train_all(requests)
    before, passes.STREAMS = passes.STREAMS, 1
    try:
        apart = passes._train_all(requests)
    finally:
        passes.STREAMS = before
    found = [torch.tensor([history.loss for part in way for history in part]) for way in (together, apart)]
    if (gap := (found[0] - found[1]).abs().max()) > 1e-4:
        raise AssertionError(f"losses differ by {gap:.1e} from those of one shape after the other")
    return found[0]


def plain_loop(device, dtype):
    model = network(device, dtype, inputs=64, classes=10)
    found = train(model, digits(device, dtype), steps=12, lr=1e-3, batch=32, generator=seeded(), eval_every=6)
    return found.loss, found.test_accuracy, list(model.parameters())


# ---------------------------------------------------------------------------------------------- analysis


def jacobians(device, dtype):
    f, x = network(device, dtype), points(device, dtype, 5, 8)
    return jacobian(f, x), cumulative_jacobians(f, x), spectrum_by_depth(f, x)


def kinks(device, dtype):
    f, x = network(device, dtype), points(device, dtype, 5, 8)
    return kink_margin(f, x), kink_distance(f, x), jacobian(f, x, on_kink="flag")[1]


def gradients_by_depth(device, dtype):
    f = network(device, dtype, inputs=64, classes=10)
    return gradient_norms(f, points(device, dtype, 5, 64), torch.arange(5, device=device))


def persistent(device, dtype):
    f, x = network(device, dtype, layer="feedforward", beta=1.0), points(device, dtype, 5, 8)
    shared_orthogonal_(f, seeded())
    bounds = persistence.gradient_bounds(f, x, points(device, dtype, 5, 8, seed=1))
    found = persistence.persistent_dimension(f, x), persistence.separation(f, x), persistence.coherence(f, x)
    if any(value.device.type != device.type for value in found):
        raise AssertionError("a result lies elsewhere than the points")
    return *found, bounds.lower, bounds.value, bounds.upper, bounds.no_layer_stretches


def tangent_kernel(device, dtype):
    f, x = network(device, dtype, inputs=64, classes=10), points(device, dtype, 6, 64)
    h = points(device, dtype, 3, 7, 5)
    gram = singularity.ntk_gram(f, cross_entropy, x, torch.arange(6, device=device))
    return gram, singularity.token_similarity(h), singularity.stable_rank(points(device, dtype, 3, 9, 6))


def recorder(device, dtype):
    model, x = network(device, dtype, inputs=64, classes=10), points(device, dtype, 6, 64)
    labels = torch.arange(6, device=device)
    look = Recorder(
        model, [q for q in QUANTITIES if q != "token_similarity"], every=1, probe=(x, labels), loss=cross_entropy
    )
    cross_entropy(model(x), labels).backward()
    look.step()
    return list(look.values.values())


# --------------------------------------------------------------------------------------------- smoothing


def smoothing(device, dtype, method: str, full_up_to: int):
    """A spectrum with a gap behind the third value, so that the randomised SVD is exact too."""
    U, V = haar(30, 12, seeded(1)), haar(20, 12, seeded(2))
    W = ((U * torch.tensor([9.0, 7, 5] + [1e-3] * 9, dtype=EXACT, device=CPU)) @ V.T).to(device, dtype)
    plan = smooth_(W, method, k=3, full_up_to=full_up_to, oversampling=1, generator=seeded())
    return W, plan.stable_rank_before, plan.after[:3]


def randomised(device, dtype):
    """So many iterations that it is exact, whatever the directions it starts from."""
    M = points(device, dtype, 40, 30) * 0.7 ** torch.arange(30, device=device)
    return randomised_svd(M, 6, iterations=30, generator=seeded())[1][:4]


def guarded(device, dtype, trigger):
    model = network(device, dtype, inputs=64, classes=10)
    optimizer, images = torch.optim.AdamW(model.parameters(), lr=1e-3), digits(device, dtype)
    guard = Guard(model, method="log", trigger=trigger(), k=3, moments="reset", optimizer=optimizer, skip_step=False)
    for step in range(6):
        optimizer.zero_grad()
        cross_entropy(model(images.train_x[step::50]), images.train_y[step::50]).backward()
        if guard.step():
            optimizer.step()
    again = Guard(model, method="log", trigger=trigger(), k=3)
    again.load_state_dict(copy.deepcopy(guard.state_dict()))
    return len(again.interventions), list(model.parameters())


def mixed_precision(device, dtype):
    """Autocast in bfloat16 with a guard, and a scaler where there is CUDA: finite, and the guard has looked."""
    model, images = network(device, torch.float32, inputs=64, classes=10), digits(device, torch.float32)
    optimizer, scaler = torch.optim.AdamW(model.parameters(), lr=1e-3), torch.amp.GradScaler(device.type)
    guard = Guard(model, method="clip", trigger=AtSteps([2]), k=2, skip_step=False)
    for step in range(4):
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            loss = cross_entropy(model(images.train_x[step::50]), images.train_y[step::50])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if guard.step():
            scaler.step(optimizer)
        scaler.update()
    finite = all(p.isfinite().all() for p in model.parameters())
    return len(guard.interventions), guard.refused, float(finite)


# ------------------------------------------------------------------------------- data, arms, experiments


def images_and_text(device, dtype):
    images, text = digits(device, dtype), load_text("topics", device=device)
    held = images.hold_out(100, seed=0)
    return images.train_x, held.test_x, held.test_y, text.batch(4, 16, seeded()), text.windows(16, 5)


def arm(device, dtype, name: str):
    """Four steps of a small Transformer; in float32 on both, as it is trained."""
    text = load_text("topics", device=device)
    task = workloads.transformer_workload(text, batch=4, context=16, width=32, layers=2, windows=8, device=device)
    found = monitored.run(task, BASELINES[name], lr=1e-3, seed=0, steps=4, warmup=1)
    return found.losses, found.gradient_norms, found.final_loss


def on_images(device, dtype, make):
    task = make(digits(device, torch.float32))
    found = monitored.run(task, BASELINES["plain"], lr=1e-3, seed=0, steps=4, warmup=1)
    return found.losses, found.final_loss


def generated(device, dtype):
    """In float64 on both: two tokens may be all but equally likely."""
    text = load_text("topics", device=device)
    model = GPT(len(text.vocabulary), 16, 32, 2, 4, generator=seeded(), device=device, dtype=EXACT)
    return model.generate(text.encode("The ")[None], 20, temperature=0), next_token_loss(model, text.windows(16, 3))


def an_experiment(device, dtype, name: str):
    """All its units at smoke: the first losses, which small differences have not yet pulled apart."""
    with tempfile.TemporaryDirectory() as folder:
        result = runner.run(name, "smoke", device=str(device), folder=Path(folder), progress=lambda line: None)
    if result["provenance"]["device"] != runner._name(str(device)):
        raise AssertionError(f"the record names {result['provenance']['device']!r}")
    rates = result["configuration"].get("rates", ())
    if screened := [c for c in result.get("choosing", ()) if c.get("stage") == "screen" and c["lr"] in rates]:
        return [c["loss"] or 0.0 for c in screened]  # which rate is best may hang by a hair
    return [run["curve"]["loss"][0] or 0.0 for run in result["runs"]]


def checks() -> list[Check]:
    """All of them."""
    small = {"exact": 5e-2, "single": None}  # float32 on both sides
    found = [
        *(Check(f"engine: {kind}", lambda d, t, o=o: engine(d, t, **o), single=2e-2) for kind, o in KINDS.items()),
        *(
            Check(f"engine: gradients, {kind}", lambda d, t, o=o: engine_gradients(d, t, o))
            for kind, o in KINDS.items()
        ),
        Check("engine: captured as launched", captured_as_launched, single=2e-2),
        Check("engine: a diverged network is left alone", diverging, single=2e-2),
        Check("engine: the second device", second_device, single=2e-2),
        Check("engine: under TF32", tf32, single=5e-2),
        Check("engine: shapes side by side", side_by_side, **small),
        Check("plain loop", plain_loop, single=2e-2),
        Check("jacobians", jacobians),
        Check("kinks", kinks),
        Check("gradients by depth", gradients_by_depth),
        Check("persistence", persistent, single=1e-2),
        Check("tangent kernel, tokens, ranks", tangent_kernel),
        Check("recorder", recorder, single=1e-2),
        *(
            Check(
                f"smoothing: {method}, {way}",
                lambda d, t, m=method, s=size: smoothing(d, t, m, s),
                exact=1e-6,
                single=2e-3,
            )
            for method in METHODS
            for way, size in (("full", 512), ("randomised", 4))
            if (method, way) != ("published", "randomised")  # which takes other triples than the three large ones
        ),
        Check("smoothing: randomised SVD", randomised, exact=1e-6, single=2e-3),
        *(
            Check(f"guard: {name}", lambda d, t, make=make: guarded(d, t, make), exact=1e-6, single=2e-2)
            for name, make in (
                ("at steps", lambda: AtSteps([2, 5])),
                ("stable ranks", lambda: StableRankTrigger(every=1)),
                ("energies", lambda: EnergyTrigger(every=1)),
            )
        ),
        Check("guard: mixed precision", mixed_precision, single=None),
        Check("images and text", images_and_text, single=1e-6),
        *(Check(f"arm: {name}", lambda d, t, name=name: arm(d, t, name), **small) for name in BASELINES),
        Check(
            "arm: CNN", lambda d, t: on_images(d, t, lambda i: workloads.cnn_workload(i, blocks=2, width=8)), **small
        ),
        Check(
            "arm: MLP", lambda d, t: on_images(d, t, lambda i: workloads.mlp_workload(i, depth=4, width=32)), **small
        ),
        Check("text generated", generated, single=None),
    ]
    order = sorted(names(), key=lambda name: name not in ("learning_rate", "fixed_rates"))  # the shortest
    return found + [
        Check(f"experiment: {name}", lambda d, t, n=name: an_experiment(d, t, n), **small) for name in order
    ]


# ----------------------------------------------------------------------------------------------- judging


def flat(found) -> Tensor:
    """Every number in a nest of tensors, lists and numbers, float64 on the CPU."""
    if isinstance(found, Tensor):
        return found.detach().to(CPU).to(EXACT).flatten()
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, (list, tuple)):
        parts = [flat(one) for one in found]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=EXACT)
    return torch.tensor([float("nan") if found is None else float(found)], dtype=EXACT)


def gap(found, right) -> float:
    """The largest difference, relative to the largest number of each part; infinite where shapes or NaNs differ."""
    if isinstance(found, tuple) and isinstance(right, tuple) and len(found) == len(right):
        return max(gap(*pair) for pair in zip(found, right, strict=True))
    a, b = flat(found), flat(right)
    if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
        return float("inf")
    if a.numel() == 0:
        return 0.0
    keep = b.isfinite()
    scale = b[keep].abs().max().item() if keep.any() else 0.0
    return ((a - b)[keep].abs().max().item() / (scale or 1.0)) if keep.any() else 0.0


def run(options: Options, report: Report) -> bool:
    """All checks, one line each."""
    right = total = 0
    families: Counter = Counter()
    for check in checks():
        families[check.name.partition(":")[0]] += 1
        one_of_many = options.smoke and families[check.name.partition(":")[0]] > 2
        if one_of_many or (options.only and options.only not in check.name):
            continue
        right_ones: list = []
        for dtype, tolerance in ((EXACT, check.exact), (torch.float32, check.single)):
            if tolerance is None or (options.smoke and dtype != EXACT):
                continue
            begin, error, text = time.monotonic(), float("nan"), ""
            try:
                right_ones = right_ones or [check.numbers(CPU, EXACT)]
                error = gap(check.numbers(options.device, dtype), right_ones[0])
            except Exception as problem:  # the other checks go on
                text = f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}"
                report.add(f"traceback of {check.name}, {dtype}", traceback.format_exc())
            good, seconds = error <= tolerance, time.monotonic() - begin
            right, total = right + good, total + 1
            name = f"{check.name}, {str(dtype).removeprefix('torch.')}"
            measured = text or f"off by {error:.1e}, allowed {tolerance:.0e}"
            say(f"{'ok    ' if good else 'FAILED'} {name:58} {measured}  ({seconds:.1f} s)")
            report.add(name, {"ok": good, "error": error, "allowed": tolerance, "problem": text, "seconds": seconds})
    say(f"{right} of {total} checks right")
    report.add("count", {"right": right, "total": total})
    return right == total
