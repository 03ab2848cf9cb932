"""Time of a training step per model: pso_lib.train.ensemble against three other ways to train many deep networks.

    python benchmarks/ensemble.py [--json FILE] [--quick]

Every contender trains E residual networks x + beta B^T relu(Ax + b), L = 200, n = 64, beta = -2, on batches of
128, with Adam in float32; a step is minibatch, forward, loss, backward and update. Repetitions are interleaved,
so that a busy moment of the machine falls on all alike; a figure is a median.
"""

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from pso_lib.nn.init import shared_orthogonal_
from pso_lib.nn.networks import deep_network
from pso_lib.train.ensemble import Ensemble, _Run

WIDTH, BATCH, INPUTS, CLASSES, IMAGES, RATE = 64, 128, 784, 10, 4096, 1e-5
LARGE = 2048  # the side of the square matrices whose product is the limit
COUNTS = (1, 5, 20)
NAMES = {"engine": "this engine", "module": "nn.Module loop", "func": "torch.func", "jax": "JAX jit(vmap(grad(scan)))"}


def layer_flops(depth: int) -> float:
    """Of the layers alone, per model and step: six products of (128, 64) with (64, 64) each."""
    return depth * 6 * 2 * BATCH * WIDTH * WIDTH


def networks(count: int, depth: int, device) -> list:
    def one(seed: int):
        generator = torch.Generator().manual_seed(seed)
        network = deep_network(depth, WIDTH, layer="residual", beta=-2.0, inputs=INPUTS, classes=CLASSES)
        shared_orthogonal_(network, generator)  # other starts overflow at this depth, and numbers lost cost less time
        return network.to(device)

    return [one(seed) for seed in range(count)]


def engine(count: int, depth: int, images, total: int) -> Callable[[int], None]:
    """A function that goes on by so many steps. ``total``: how many there will be in all."""
    ensemble = Ensemble(networks(count, depth, images.train_x.device))
    run = _Run(ensemble, images, total, [RATE] * count, BATCH, [None] * count, (0.9, 0.999), 1e-8)

    def advance(steps: int) -> None:
        run.advance(run.done + steps)

    return advance


def module(count: int, depth: int, images, total: int) -> Callable[[int], None]:
    models = networks(count, depth, images.train_x.device)
    pairs = [(model, torch.optim.Adam(model.parameters(), lr=RATE, fused=True)) for model in models]

    def advance(steps: int) -> None:
        for _ in range(steps):
            for model, adam in pairs:
                rows = torch.randint(IMAGES, (BATCH,), device=images.train_x.device)
                loss = cross_entropy(model(images.train_x[rows]), images.train_y[rows])
                adam.zero_grad()
                loss.backward()
                adam.step()

    return advance


def func(count: int, depth: int, images, total: int) -> Callable[[int], None]:
    models = networks(count, depth, images.train_x.device)
    weights, _ = stack_module_state(models)
    adam = torch.optim.Adam(weights.values(), lr=RATE, fused=True)

    def loss(one, x, y):
        return cross_entropy(functional_call(models[0], one, (x,)), y)

    gradient = vmap(grad(loss))

    def advance(steps: int) -> None:
        for _ in range(steps):
            rows = torch.randint(IMAGES, (count, BATCH), device=images.train_x.device)
            for name, value in gradient(weights, images.train_x[rows], images.train_y[rows]).items():
                weights[name].grad = value
            adam.step()

    return advance


def jax_scan(count: int, depth: int, images, total: int) -> Callable[[int], None]:
    import jax
    import jax.numpy as jnp

    def numbers(start):
        return jnp.stack([jnp.asarray(start(m).detach().numpy()) for m in models])

    models = networks(count, depth, "cpu")
    weights = {
        "A": numbers(lambda m: torch.stack([layer.A for layer in m.layers])),
        "B": numbers(lambda m: torch.stack([layer.B for layer in m.layers])),
        "b": numbers(lambda m: torch.stack([layer.b for layer in m.layers])),
        "lift": numbers(lambda m: m.lift.weight),
        "lift_b": numbers(lambda m: m.lift.bias),
        "readout": numbers(lambda m: m.readout.weight),
        "readout_b": numbers(lambda m: m.readout.bias),
    }
    all_x, all_y = jnp.asarray(images.train_x.cpu().numpy()), jnp.asarray(images.train_y.cpu().numpy())

    def loss(w, x, y):
        def layer(h, part):
            A, B, b = part
            return h - 2.0 * jax.nn.relu(h @ A.T + b) @ B, None

        h, _ = jax.lax.scan(layer, x @ w["lift"].T + w["lift_b"], (w["A"], w["B"], w["b"]))
        log_p = jax.nn.log_softmax(h @ w["readout"].T + w["readout_b"])
        return -jnp.take_along_axis(log_p, y[:, None], 1).mean()

    gradient = jax.vmap(jax.grad(loss))

    def step(w, m, v, t, key):
        key, own = jax.random.split(key)
        rows = jax.random.randint(own, (count, BATCH), 0, IMAGES)
        g = gradient(w, all_x[rows], all_y[rows])
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        one, two = 1 - 0.9**t, 1 - 0.999**t
        w = jax.tree.map(lambda w, m, v: w - RATE * (m / one) / (jnp.sqrt(v / two) + 1e-8), w, m, v)
        return w, m, v, t + 1, key

    step = jax.jit(step, donate_argnums=(0, 1, 2))
    zeros = lambda: jax.tree.map(jnp.zeros_like, weights)  # noqa: E731
    state = [(weights, zeros(), zeros(), jnp.float32(1), jax.random.PRNGKey(0))]

    def advance(steps: int) -> None:
        for _ in range(steps):
            state[0] = step(*state[0])
        jax.block_until_ready(state[0])

    return advance


def large_product(device) -> Callable[[int], None]:
    """One large float32 product into a buffer: the rate at which the machine multiplies when nothing is in its way."""
    a, b, out = (torch.randn(LARGE, LARGE, device=device) for _ in range(3))

    def advance(steps: int) -> None:
        for _ in range(steps):
            torch.mm(a, b, out=out)

    return advance


def seconds(work: Callable[[int], None], steps: int, device) -> tuple[float, float]:
    """Per step: by the device's own clock on CUDA, the wall's elsewhere; and of all processor cores together."""
    busy = time.process_time()
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work(steps)
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3 / steps, (time.process_time() - busy) / steps
    begin = time.perf_counter()
    work(steps)
    return (time.perf_counter() - begin) / steps, (time.process_time() - busy) / steps


def measure(depth: int, repetitions: int, counts, makers: dict, images, device) -> tuple[dict, dict]:
    """{E: {contender: [seconds per step and model]}}, for "limit" per large product; and the cores' seconds."""
    figures, cores = {}, {}
    for count in counts:
        steps = max(2, 10 // count)
        total = steps * repetitions + 3
        works = {name: (make(count, depth, images, total), steps) for name, make in makers.items()}
        works["limit"] = (large_product(device), 3)
        for work, _ in works.values():
            seconds(work, 3, device)  # warm: compiled, captured, touched
        times, busy = {name: [] for name in works}, {name: [] for name in works}
        for _ in range(repetitions):
            for name, (work, some) in works.items():
                wall, core = seconds(work, some, device)
                times[name].append(wall if name == "limit" else wall / count)
                busy[name].append(core if name == "limit" else core / count)
        figures[count], cores[count] = times, busy
        print(f"E = {count:<3}", *(f"{n} {1e3 * statistics.median(t):.3g} ms" for n, t in times.items()), sep="  ")
    return figures, cores


def environment(device, with_jax: bool) -> dict:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    found = {"device": f"{device.type}: {name}", "threads": torch.get_num_threads(), "torch": torch.__version__}
    found |= {"python": platform.python_version(), "date": datetime.datetime.now().isoformat(timespec="seconds")}
    if with_jax:
        import jax

        found |= {"jax": jax.__version__, "jax device": str(jax.devices()[0])}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    parser.add_argument("--quick", action="store_true", help="20 layers, E of 1 and 5, few repetitions: does it run?")
    parser.add_argument("--repetitions", type=int, metavar="R", help="9 unless said otherwise, 3 with --quick")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    depth, repetitions, counts = (20, 3, COUNTS[:2]) if options.quick else (200, 9, COUNTS)
    repetitions = options.repetitions or repetitions
    images = SimpleNamespace(
        train_x=torch.randn(IMAGES, INPUTS, device=device), train_y=torch.randint(CLASSES, (IMAGES,), device=device)
    )
    makers = {"engine": engine, "module": module, "func": func, "jax": jax_scan}
    try:
        import jax  # noqa: F401
    except ImportError:
        del makers["jax"]
        print("JAX is not installed, so its row is left out; for it: pip install jax  (on CUDA: 'jax[cuda12]')")
    found = environment(device, "jax" in makers)
    print(", ".join(f"{key} {value}" for key, value in found.items()))
    print(f"L = {depth}, n = {WIDTH}, batch {BATCH}, type B, beta = -2, Adam, float32; {repetitions} repetitions\n")
    figures, cores = measure(depth, repetitions, counts, makers, images, device)

    middle = {count: {n: statistics.median(t) for n, t in times.items()} for count, times in figures.items()}
    rates = {count: 2 * LARGE**3 / row["limit"] for count, row in middle.items()}
    rate = max(rates.values())
    print(f"\nms per step and model (share of the rate of a {LARGE} x {LARGE} product, {rate / 1e9:.0f} GFLOP/s)")
    print(f"{'':28}" + "".join(f"{f'E = {count}':>18}" for count in counts))
    share = {n: {c: layer_flops(depth) / middle[c][n] / rate for c in counts} for n in makers}
    for name in makers:
        cells = (f"{1e3 * middle[c][name]:.1f} ({100 * share[name][c]:.0f} %)" for c in counts)
        print(f"{NAMES[name]:28}" + "".join(f"{cell:>18}" for cell in cells))
    at = min(counts, key=lambda count: middle[count]["engine"])  # the engine's best E
    mine = middle[at]["engine"]
    ratios = {f"vs {NAMES[name]}": middle[at][name] / mine for name in makers if name != "engine"}
    ratios["share of the limit"] = share["engine"][at]
    lowest = {name: min(middle[count][name] for count in counts) / mine for name in makers if name != "engine"}
    print("\nrivals at their own best E: " + ", ".join(f"{r:.2f} times {NAMES[n]}" for n, r in lowest.items()))
    if options.json:
        everything = {
            "environment": found,
            "setting": {"depth": depth, "width": WIDTH, "batch": BATCH, "beta": -2, "repetitions": repetitions},
            "seconds_per_step_and_model": figures,
            "core_seconds_per_step_and_model": cores,
            "limit_flops_per_second": rates,
            "share_of_limit": share,
            "best_E": at,
            "ratios": ratios,
            "ratios_rivals_at_their_best_E": lowest,
        }
        with open(options.json, "w") as file:
            json.dump(everything, file, indent=1)
    versus = {
        name: f"{ratios[f'vs {NAMES[name]}']:.2f} times" if name in makers else "no" for name in ("module", "jax")
    }
    print(
        f"ratios at E = {at}: {versus['module']} the nn.Module loop, {versus['jax']} JAX, "
        f"{100 * ratios['share of the limit']:.0f} % of the rate of a large product"
    )


if __name__ == "__main__":
    main()
