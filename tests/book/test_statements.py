"""What the chapters state in prose, away from a cell that checks it."""

import math

import pytest
import torch

from pso_lib.data import load as load_images
from pso_lib.experiments import experiment, load, select, summary, trained
from pso_lib.experiments.starts import build
from pso_lib.nn.init import haar
from pso_lib.nn.networks import deep_network
from pso_lib.smoothing import smooth_


@pytest.mark.parametrize(("beta1", "beta2", "limit"), [(0.9, 0.999, 7.27), (0.9, 0.95, 1.165)])
def test_an_entry_moves_under_adam_as_far_as_the_lemma_says(beta1, beta2, limit):
    def most(t):
        q = beta1**2 / beta2
        return (1 - beta1) / (1 - beta1**t) * math.sqrt((1 - beta2**t) / (1 - beta2)) * math.sqrt((1 - q**t) / (1 - q))

    assert most(1) == pytest.approx(1)
    assert max(map(most, range(1, 20_001))) == pytest.approx(limit, abs=5e-3)
    for steps in (1, 20, 300):
        entry = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([entry], lr=1.0, betas=(beta1, beta2), eps=1e-300)
        for t in range(1, steps + 1):
            before = entry.item()
            entry.grad = torch.tensor([(beta2 / beta1) ** (t - steps)], dtype=torch.float64)
            adam.step()
        assert abs(entry.item() - before) == pytest.approx(most(steps), rel=1e-9)  # attained
        worst = 0.0
        entry = torch.zeros(1000, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([entry], lr=1.0, betas=(beta1, beta2), eps=1e-300)
        draw = torch.Generator().manual_seed(0)
        for t in range(1, steps + 1):
            before = entry.detach().clone()
            entry.grad = torch.randn(1000, generator=draw, dtype=torch.float64).mul(3).exp()
            adam.step()
            worst = max(worst, ((entry.detach() - before).abs().max() / most(t)).item())
        assert worst <= 1 + 1e-9


@pytest.mark.parametrize(("side", "expected"), [("left", 0.529), ("right", 0.345)])
def test_clipping_needs_the_law_of_b_on_the_left(side, expected):
    n, draw = 8, torch.Generator().manual_seed(0)
    D = torch.tensor([2.0] + [1.0] * (n - 1), dtype=torch.float64).diag()
    clipped = torch.eye(n, dtype=torch.float64)  # floor(SR) = floor(11 / 4) = 2 values become 1
    library = D.clone()
    smooth_(library, "clip")
    assert torch.allclose(library, clipped)
    after = before = 0.0
    for _ in range(10_000):
        R, S = haar(n, n, draw), haar(n, n, draw)
        x = torch.randn(n, generator=draw, dtype=torch.float64)
        B, clipped_B = (S @ D, S) if side == "left" else (D @ S, S)
        before += (B.T @ torch.relu(D @ R @ x)).square().sum()
        after += (clipped_B.T @ torch.relu(R @ x)).square().sum()
    assert (after / before).item() == pytest.approx(expected, abs=0.015)


def test_a_shared_fold_starts_as_one_layer():
    images = load_images("digits")
    x, y = images.train_x[:64], images.train_y[:64]
    arms = {arm.name: arm for arm in experiment("depth", "full").arms}
    asleep = {}
    for name in ("shared_residual", "shared", "looks_linear"):
        network = build(arms[name], 200, 64, x.shape[1], 10, seed=0)
        loss = torch.nn.functional.cross_entropy(network(x), y)
        grads = torch.autograd.grad(loss, [layer.A for layer in network.layers])
        asleep[name] = sum(bool((g == 0).all()) for g in grads)
    assert asleep == {"shared_residual": 199, "shared": 0, "looks_linear": 0}


@pytest.mark.parametrize(("n", "he", "orthogonal"), [(64, 1.07, 1.11), (8, 2.0, 2.8)])
def test_the_price_of_a_layer_against_its_approximation(n, he, orthogonal):
    k = torch.arange(2, n + 1, dtype=torch.float64)
    coins = torch.distributions.Binomial(n, torch.tensor(0.5, dtype=torch.float64)).log_prob(k).exp()
    gap = (torch.digamma(k / 2) - torch.digamma((k - 1) / 2)) / 2
    price = (coins @ gap / coins.sum()).item()
    assert n * price == pytest.approx(he, abs=0.02)
    assert 2 * n * (price - gap[-1].item()) == pytest.approx(orthogonal, abs=0.02)


def test_how_the_rates_were_chosen():
    cells: dict = {}
    for one in load("depth")["choosing"]:
        cells.setdefault((one["arm"], one["depth"]), {})[one["lr"]] = one["held_out_accuracy"]
    ordered = {key: sorted(found.values(), reverse=True) for key, found in cells.items()}
    best = [max(found, key=found.get) for found in cells.values()]
    assert len(cells) == 60 and sum(a[0] - a[1] <= 0.01 for a in ordered.values()) == 28
    assert (best.count(1e-3), best.count(3e-5)) == (26, 5)
    for name in ("depth_fashion_mnist", "depth_cifar10"):
        for one in load(name)["choosing"]:
            behind = one["arm"] in ("he", "xavier", "he_residual", "independent_folds", "orthogonal")
            if behind and one["depth"] == 200 and (name, one["arm"]) != ("depth_fashion_mnist", "orthogonal"):
                assert abs(one["held_out_accuracy"] - 0.1) < 0.02
    folds = [one for one in load("persistence")["choosing"] if one["arm"] in ("fold_drift_0.3", "fold_drift_1")]
    assert max(one["held_out_accuracy"] for one in folds if one["depth"] == 200) < 0.17


def test_the_numbers_of_the_robustness_chapter():
    k = summary(load("subspace_dimension")["runs"], "arm", "depth")
    lost = {
        (kind, depth, other): k[f"{kind}_k1", depth].mean - k[f"{kind}_k{other}", depth].mean
        for kind in ("block", "projection")
        for depth in (50, 200)
        for other in (48, 56, 63)
    }
    at = {other: [value for key, value in lost.items() if key[2] == other] for other in (48, 56, 63)}
    assert (min(at[48]), max(at[48])) == pytest.approx((0.016, 0.030), abs=6e-4)
    assert sorted(at[56]) == pytest.approx([0.020, 0.032, 0.069, 0.072], abs=6e-4)
    assert (min(at[63]), max(at[63])) == pytest.approx((0.27, 0.67), abs=6e-3)
    acts = summary(load("activations")["runs"], "arm", "depth")
    ends = [acts[f"shared_{name}", 200].mean for name in ("tanh", "gelu", "silu")]
    assert ends == pytest.approx([0.81, 0.44, 0.11], abs=6e-3)
    assert max(spread.max for (arm, depth), spread in acts.items() if depth == 50 and arm[:2] == "he") < 0.445


def test_the_numbers_of_the_chapter_on_rates():
    book = load("stable_learning_rate")
    lost = {}
    for run in book["runs"]:
        if run["model"] in ("mlp", "cnn") and run["exploded"]:
            lost[run["model"], run["method"]] = lost.get((run["model"], run["method"]), 0) + 1
    assert lost["mlp", "pss_clip"] == 3 and ("mlp", "plain") not in lost and ("cnn", "plain") not in lost
    assert (lost["mlp", "pss_published"], lost["cnn", "pss_published"]) == (11, 6)
    assert (lost["mlp", "muon"], lost["cnn", "muon"]) == (5, 2)
    missed = [max(run["curve"]["loss"]) for run in select(book, model="mlp", lr=1e-1, method="plain")]
    assert max(missed) == pytest.approx(19.8, abs=0.05)
    false = [run for run in select(book, model="mlp", lr=1e-2, method="zclip") if run["exploded"]]
    assert [round(run["final_loss"], 2) for run in false] == [0.30]

    flags, pairs = trained(book["runs"], book["configuration"]["margin"]), []
    plain = [
        (run["model"], len(run["would_fire"]), flag)
        for run, flag in zip(book["runs"], flags, strict=True)
        if run["method"] == "plain" and not run["exploded"]
    ]
    for model, alarms, flag in plain:
        rivals = [other for same, other, good in plain if same == model and good]
        pairs += [(alarms > other) + 0.5 * (alarms == other) for other in rivals if not flag]
    assert sum(pairs) / len(pairs) == pytest.approx(0.86, abs=5e-3)
    best = [run["final_loss"] for run in select(book, model="transformer_post", lr=1e-3, method="plain")]
    assert sum(best) / 3 == pytest.approx(2.43, abs=5e-3)
    post = select(load("pss_controls"), model="transformer_post", lr=3e-3, method="plain")
    assert [round(run["final_loss"], 2) for run in post] == [2.46, 2.61, 3.33, 2.58, 2.30]


def test_behind_a_silent_relu_the_hypothesis_of_single_slopes_fails():
    network = deep_network(3, 8, outer="tied", orthogonal="start", dtype=torch.float64)
    for layer in network.layers:
        layer.set_weights(A=torch.eye(8, dtype=torch.float64))
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)[None]
    states = network.states(x)
    assert (states[1][0, :4] == 0).all()  # on the kink of the second layer
    J = torch.autograd.functional.jacobian(network.trunk, x)[0, :, 0]
    assert torch.equal(J, torch.diag((x[0] > 0).double()))
