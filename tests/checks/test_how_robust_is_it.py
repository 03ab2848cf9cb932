"""The checks of the chapter on robustness: the solution passes, each likely mistake is named; the chapter's law."""

import math

import pytest
import torch

from pso_lib.analysis.jacobian import jacobian
from pso_lib.analysis.persistence import persistent_dimension
from pso_lib.analysis.spectrum import singular_values
from pso_lib.checks import Wrong, check
from pso_lib.experiments import summary
from pso_lib.nn import activations
from pso_lib.nn.init import block_, shared_orthogonal_
from pso_lib.nn.networks import deep_network


def law(n, k):
    return (n - k) / 2, 0.5 ** (n - k)


def training_rates(runs, arm, depth, margin, *, pick="mean", keep=lambda r: True, arms=None, flip=False):
    runs = [r for r in runs if depth in (None, r["depth"]) and keep(r)]
    means = {key: getattr(spread, pick) for key, spread in summary(runs, "arm", "lr").items()}
    best = max(m for (a, _), m in means.items() if a in (arms or (arm,)))
    return sorted((lr for (a, lr), m in means.items() if a == arm and m >= best - margin), reverse=flip)


def rest(g):
    u = 1.0
    for _ in range(10_000):
        u = math.tanh(g * u)
    return u


def rate(g):
    return math.log(g) if g <= 1 else math.log(g * (1 - rest(g) ** 2))


def smooth(z):
    middle = z.clamp(0, 1)
    return torch.where(z > 1, z, 2 * middle**2 - middle**3)


def smooth_fold(z):
    return torch.where(z.abs() > 1, z.abs(), (z**2 + 1) / 2)  # |z| with its kink rounded off


@pytest.mark.parametrize(
    "name, answer",
    [
        ("how-robust-is-it/chance-of-none", law),
        ("how-robust-is-it/rates-that-train", training_rates),
        ("how-robust-is-it/tanh-layers-cost", rate),
        ("how-robust-is-it/smooth-and-persistent", smooth),
        ("how-robust-is-it/smooth-and-persistent", smooth_fold),
    ],
)
def test_a_solution_passes(name, answer, capsys):
    check(name, answer)
    assert capsys.readouterr().out.startswith(f"✓ {name}")


def of(**options):
    return lambda runs, arm, depth, margin: training_rates(runs, arm, depth, margin, **options)


@pytest.mark.parametrize(
    "name, answer, part",
    [
        ("how-robust-is-it/chance-of-none", lambda n, k: 0.5 ** (n - k), "two numbers"),
        ("how-robust-is-it/chance-of-none", lambda n, k: (n - k, 0.5 ** (n - k)), "only those that are active"),
        ("how-robust-is-it/chance-of-none", lambda n, k: (n / 2, 0.5 ** (n - k)), "keep nothing"),
        ("how-robust-is-it/chance-of-none", lambda n, k: (k / 2, 0.5 ** (n - k)), "*not* isometric"),
        ("how-robust-is-it/chance-of-none", lambda n, k: ((n - k) / 2, 0.5**k), "must be off"),
        ("how-robust-is-it/chance-of-none", lambda n, k: ((n - k) / 2, 1 - 0.5 ** (n - k)), "1 minus it"),
        ("how-robust-is-it/chance-of-none", lambda n, k: ((n - k) / 2, 0.5), "but all"),
        ("how-robust-is-it/chance-of-none", lambda n, k: ((n - k) / 2, 0.25 ** (n - k)), "share with none"),
        ("how-robust-is-it/chance-of-none", lambda n, k: (0.7, 0.5 ** (n - k)), "the mean is"),
        ("how-robust-is-it/rates-that-train", of(flip=True), "increasing order"),
        ("how-robust-is-it/rates-that-train", of(pick="max"), "means over the seeds"),
        ("how-robust-is-it/rates-that-train", of(keep=lambda r: not r["diverged"]), "diverged"),
        ("how-robust-is-it/rates-that-train", of(arms=("he", "shared")), "arm's own best"),
        (
            "how-robust-is-it/rates-that-train",
            lambda runs, arm, depth, margin: training_rates(runs, arm, None, margin),
            "mix the depths",
        ),
        ("how-robust-is-it/rates-that-train", lambda *a: [1.0], "expected"),
        ("how-robust-is-it/tanh-layers-cost", math.log, "other fixed point"),
        (
            "how-robust-is-it/tanh-layers-cost",
            lambda g: rate(g) if g <= 1 else math.log(1 - rest(g) ** 2),
            "factor g is missing",
        ),
        ("how-robust-is-it/tanh-layers-cost", lambda g: -rate(g), "sign is wrong"),
        ("how-robust-is-it/tanh-layers-cost", lambda g: math.exp(rate(g)), "factor per layer"),
        ("how-robust-is-it/tanh-layers-cost", lambda g: rate(g) - 0.01 * (g == 1), "power law"),
        ("how-robust-is-it/tanh-layers-cost", lambda g: -1.0, "the rate is"),
        ("how-robust-is-it/smooth-and-persistent", lambda z: z.detach(), "differentiate"),
        ("how-robust-is-it/smooth-and-persistent", torch.relu, "a kink"),
        ("how-robust-is-it/smooth-and-persistent", lambda z: torch.where(z > 0, z + 1, z), "not continuous"),
        ("how-robust-is-it/smooth-and-persistent", lambda z: torch.where(z > 0, z * z.sqrt(), 0 * z), "not finite"),
        ("how-robust-is-it/smooth-and-persistent", lambda z: -z, "affine"),
        ("how-robust-is-it/smooth-and-persistent", torch.tanh, "no coordinate has slope 1"),
        ("how-robust-is-it/smooth-and-persistent", torch.nn.functional.gelu, "no coordinate has slope 1"),
        (
            "how-robust-is-it/smooth-and-persistent",
            lambda z: torch.where(z > 1, z - 0.5, z.clamp(0, 1) ** 2 / 2),
            "map it into itself",
        ),
    ],
)
def test_a_likely_mistake_is_named(name, answer, part):
    with pytest.raises(Wrong) as caught:
        check(name, answer)
    assert part in str(caught.value)


KEEP = {"relu": lambda u: u > 0, "leaky_relu": lambda u: u > 0, "abs": lambda u: u == u}


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs", "tanh", "gelu", "silu"])
def test_shared_layers_iterate_the_activation_on_each_coordinate(name):
    generator = torch.Generator().manual_seed(3)
    network = deep_network(20, 10, activation=name, generator=generator, dtype=torch.float64)
    shared_orthogonal_(network, generator)
    x = 2 * torch.randn(4, 10, generator=generator, dtype=torch.float64)
    u = (x @ network.layers[0].A.T).detach().requires_grad_()
    sigma, out = activations.get(name), u
    for _ in range(20):
        out = sigma(out)
    (d,) = torch.autograd.grad(out.sum(), u)
    found = singular_values(jacobian(network.trunk, x, on_kink="ignore"))
    torch.testing.assert_close(found, d.abs().sort(descending=True).values, rtol=0, atol=1e-12)
    kept = KEEP.get(name, lambda u: u != u)(u).sum(1)
    assert persistent_dimension(network, x).tolist() == kept.tolist()


@pytest.mark.parametrize("n, k", [(8, 3), (8, 7)])
def test_the_block_start_keeps_its_active_isometric_units(n, k):
    generator = torch.Generator().manual_seed(4)
    network = deep_network(12, n, generator=generator, dtype=torch.float64)
    block_(network, k, generator=generator)
    x = torch.randn(6, n, generator=generator, dtype=torch.float64)
    active = (x @ network.layers[0].A.T > 0)[:, : n - k].sum(1)
    assert persistent_dimension(network, x).tolist() == active.tolist()
