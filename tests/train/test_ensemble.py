"""The ensemble: equal to networks trained one by one, deaf to a neighbour's divergence, clear about what it refuses."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.utils import parametrizations, weight_norm

from pso_lib.data import load
from pso_lib.nn.activations import PiecewiseAffine
from pso_lib.nn.layers import Layer
from pso_lib.nn.networks import DeepNetwork, deep_network, plain_network
from pso_lib.train import ensemble as engine
from pso_lib.train.ensemble import Ensemble
from pso_lib.train.loop import accuracy, train

KINDS = {
    "residual": {"layer": "residual", "beta": -2.0, "orthogonal": "start"},
    "feedforward": {"layer": "feedforward"},
    "fold": {"layer": "fold", "hidden": 5},
    "modified": {"layer": "modified_feedforward"},
    "textbook": {"layer": "feedforward", "outer": "identity"},
    "textbook abs": {"layer": "feedforward", "outer": "identity", "activation": "abs"},
    "identity tanh": {"layer": "feedforward", "outer": "identity", "beta": 0.7, "activation": "tanh"},
    "identity gelu": {"layer": "residual", "outer": "identity", "beta": -0.5, "activation": "gelu"},
    "wide silu": {"layer": "residual", "hidden": 12, "beta": 0.5, "activation": "silu"},
    "no bias": {"layer": "residual", "bias": False, "beta": 0.5, "activation": "leaky_relu"},
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def build(count: int = 3, depth: int = 5, dim: int = 8, dtype=torch.float32, **options) -> list:
    def one(seed: int):
        generator = torch.Generator().manual_seed(seed)
        return deep_network(depth, dim, inputs=64, classes=10, dtype=dtype, generator=generator, **options)

    return [one(seed) for seed in range(count)]


def seeded(count: int = 3) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(10 + e) for e in range(count)]


def close(ours, theirs, dtype) -> None:
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_equal_separate_trainings(digits, kind, dtype):
    images, rates = digits.to(dtype=dtype), [1e-3, 3e-4, 1e-4]
    networks = build(dtype=dtype, **KINDS[kind])
    alone = copy.deepcopy(networks)
    together = Ensemble(networks)
    histories = together.train(images, steps=10, lr=rates, batch=64, generators=seeded(), eval_every=4)
    assert together.unstack() == networks
    for e, generator in enumerate(seeded()):
        wanted = train(alone[e], images, steps=10, lr=rates[e], batch=64, generator=generator, eval_every=4)
        assert histories[e].steps == wanted.steps == [0, 4, 8, 10]
        torch.testing.assert_close(histories[e].loss, wanted.loss, rtol=1e-5, atol=0)  # train keeps them in float32
        assert histories[e].test_accuracy == pytest.approx(wanted.test_accuracy, abs=1.01 / 360)
        assert not histories[e].diverged and histories[e].seconds > 0
        for ours, theirs in zip(networks[e].parameters(), alone[e].parameters(), strict=True):
            close(ours, theirs, dtype)


@pytest.mark.parametrize("fused", [True, False])
def test_a_diverged_network_is_frozen_reported_and_harmless(digits, monkeypatch, fused):
    if not fused:
        monkeypatch.setattr(torch, "_fused_adam_", lambda *a, **o: (_ for _ in ()).throw(RuntimeError()))
    # float64: how many networks share a product of matrices depends on the threads, and with it the rounding
    options, digits = {"layer": "feedforward", "depth": 12, "dtype": torch.float64}, digits.to(dtype=torch.float64)
    alone = Ensemble([build(**options)[i] for i in (0, 2)])
    alone.train(digits, steps=40, lr=1e-3, generators=[seeded()[i] for i in (0, 2)])
    together = Ensemble(build(**options))
    weights = {}
    histories = together.train(
        digits,
        steps=40,
        lr=[1e-3, 1e40, 1e-3],
        generators=seeded(),
        eval_every=10,
        at_eval=lambda step, ensemble: weights.update({step: ensemble.weights.clone()}),
    )
    assert [h.diverged for h in histories] == [False, True, False]
    at = histories[1].diverged_at
    assert 1 < at < 20 and len(histories[1].loss) == at and math.isnan(histories[1].final_accuracy)
    assert not math.isfinite(histories[1].loss[-1]) and all(map(math.isfinite, histories[1].loss[:-1]))
    assert torch.equal(weights[20][1], weights[40][1]) and not torch.equal(weights[0][1], weights[20][1])
    assert torch.isfinite(weights[40][1]).all()  # the update of the step that failed was not made
    torch.testing.assert_close(together.weights[[0, 2]], alone.weights, rtol=1e-8, atol=1e-8)


def test_all_diverged_ends_the_run(digits):
    ensemble = Ensemble(build(layer="feedforward", depth=12))
    histories = ensemble.train(digits, steps=10_000, lr=1e4, generators=seeded())
    assert all(h.diverged and h.diverged_at < 100 and h.test_accuracy == [] for h in histories)


def test_accuracy_and_logits(digits):
    networks = build()
    ensemble = Ensemble(networks)
    shares = ensemble.accuracy(digits.test_x, digits.test_y, chunk=100)
    assert shares.tolist() == [accuracy(network, digits.test_x, digits.test_y) for network in networks]
    close(ensemble.logits(digits.test_x)[1], networks[1](digits.test_x).detach(), torch.float32)


def test_it_learns_with_one_rate_for_all(digits):
    ensemble = Ensemble([plain_network(3, 32, inputs=64, classes=10) for _ in range(2)])
    histories = ensemble.train(digits, steps=200, lr=3e-3)
    assert all(h.final_accuracy > 0.85 for h in histories)


@pytest.mark.parametrize(
    "networks, words",
    [
        (lambda: [], "empty"),
        (lambda: [torch.nn.Linear(2, 2)], "deep_network"),
        (
            lambda: build(1) + build(1, depth=6),
            r"networks\[1\] has depth 6, networks\[0\] has 5.*one Ensemble for each",
        ),
        (lambda: build(1) + build(1, layer="residual"), "alpha"),
        (lambda: build(1) + build(1, activation="abs"), "activation"),
        (lambda: build(1) + build(1, dtype=torch.float64), "dtype"),
        (lambda: build(activation="maxmin"), "no kernels.*training.train"),
        (lambda: build(activation=PiecewiseAffine("steep", [0], [0, 2])), "no kernels"),
        (lambda: build(orthogonal="always"), 'orthogonal="start"'),
        (lambda: [deep_network(2, 4)], "inputs= and classes="),
    ],
)
def test_it_refuses(networks, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Ensemble(networks())


def test_it_refuses_frozen_and_broken_weights():
    frozen, broken = build(), build()
    frozen[1].lift.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad_"):
        Ensemble(frozen)
    with torch.no_grad():
        broken[2].layers[0].A[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"networks\[2\].*lower learning rate"):
        Ensemble(broken)


def changed(change) -> list:
    networks = build()
    change(networks)
    return networks


class Doubled(Layer):
    def forward(self, x):
        return 2 * super().forward(x)


class Shifted(DeepNetwork):
    def trunk(self, h):
        return super().trunk(h) + 1


class Bent(PiecewiseAffine):
    def forward(self, z):
        return super().forward(z) ** 2


def doubled(networks) -> None:
    networks[1].layers[2] = Doubled(8, alpha=0.0, beta=1.0)


def reordered(networks) -> None:
    lift = networks[2].lift
    del networks[2].lift
    modules = networks[2]._modules
    networks[2]._modules = {"lift": lift, **modules}


def bent(networks) -> None:
    networks[0].layers[1].activation = Bent("relu", [0], [0, 1])


def wrapped(networks) -> None:
    forward = networks[1].lift.forward
    networks[1].lift.forward = lambda x: 2 * forward(x)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda n: parametrizations.weight_norm(n[1].lift),
            r"networks\[1\].lift.weight is parametrised by _WeightNorm",
        ),
        (lambda n: parametrizations.weight_norm(n[1].layers[2], "A"), r"networks\[1\].layers\[2\].A is parametrised"),
        (lambda n: parametrizations.spectral_norm(n[2].readout), r"networks\[2\].readout.weight .* by _SpectralNorm"),
        (lambda n: parametrizations.orthogonal(n[0].layers[0], "_B"), r"layers\[0\]._B is parametrised"),
        (lambda n: weight_norm(n[1].lift), "lift has a hook"),
        (lambda n: n[1].layers[3].register_forward_hook(lambda m, x, y: 2 * y), "layers.3 has a hook"),
        (lambda n: n[1].register_forward_pre_hook(lambda m, x: None), r"networks\[1\] has a hook"),
        (lambda n: n[1].lift.register_full_backward_hook(lambda m, i, o: None), "lift has a hook .backward_hooks"),
        (lambda n: n[1].lift.register_full_backward_pre_hook(lambda m, o: None), "lift has a hook"),
        (lambda n: n[1].layers[0].activation.register_forward_hook(lambda m, x, y: -y), "activation has a hook"),
        (lambda n: n[2].lift.bias.register_hook(lambda g: 2 * g), "lift.bias has a hook on its gradient"),
        (lambda n: n[2].lift.bias.register_post_accumulate_grad_hook(lambda p: None), "hook on its gradient"),
        (doubled, "layers.2. is a Doubled with a forward of its own"),
        (lambda n: n.append(Shifted(n[0].layers, n[0].lift, n[0].readout)), "Shifted with a trunk of its own"),
        (wrapped, "lift is a Linear with a forward of its own"),
        (bent, "no kernels here"),
        (lambda n: setattr(n[1], "scale", torch.nn.Parameter(torch.ones(3))), "another parameter, 'scale'"),
        (lambda n: n[1].register_buffer("mean", torch.zeros(3)), "has a buffer, 'mean'"),
        (lambda n: setattr(n[1].layers[1], "A", torch.nn.Parameter(torch.ones(8, 4))), "'layers.1.A' of shape .8, 4."),
        (reordered, "another order"),
        (lambda n: n[1].layers.__setitem__(1, n[1].layers[0]), "shared or in another order"),
        (lambda n: n.append(n[0]), r"networks\[3\].layers.0.A is networks\[0\].layers.0.A; .*two copies"),
        (lambda n: setattr(n[2], "lift", n[1].lift), r"networks\[2\].lift.weight is networks\[1\].lift.weight"),
        (lambda n: n.append(deep_network(5, 8, inputs=64, classes=10, device="meta")), "is on meta and has no numbers"),
    ],
)
def test_it_refuses_by_name_what_it_does_not_compute(change, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Ensemble(changed(change))


def test_what_slips_through_is_caught_by_its_numbers(monkeypatch):
    """Whatever makes a network compute something else: here the check for hooks itself is put out of action."""
    monkeypatch.setattr(engine, "HOOKS", ())
    for place in ("layers.4", "lift", "readout", ""):
        networks = build()
        networks[1].get_submodule(place).register_forward_hook(lambda m, x, y: 1.001 * y)
        with pytest.raises(ValueError, match=rf"networks\[1\]{place and '.' + place} computes something else"):
            Ensemble(networks)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_deep_and_wild_networks_are_accepted(dtype):
    """Rounding grows through 200 layers, numbers over- and underflow: none of it is another network."""
    for options in ({"layer": "residual"}, {"activation": "tanh"}, {"layer": "feedforward"}, {"layer": "fold"}):
        networks = build(2, depth=200, dtype=dtype, **options)
        for layer in networks[1].layers:
            layer.set_weights(A=3 * layer.A)
        Ensemble(networks)


def test_weights_of_any_layout_survive_the_stack():
    """A transposed weight has no flat view; and a weight tied outside stays the same tensor."""
    networks = build(2)
    networks[0].lift.weight = torch.nn.Parameter(torch.randn(64, 8).T)
    kept, before = networks[0].lift.weight, networks[0].lift.weight.detach().clone()
    Ensemble(networks).unstack()
    assert networks[0].lift.weight is kept and torch.equal(kept, before)


def test_a_network_changed_since_is_refused():
    networks = build()
    together = Ensemble(networks)
    parametrizations.weight_norm(networks[1].lift)
    with pytest.raises(ValueError, match=r"networks\[1\] has other parameters"):
        together.unstack()
    with pytest.raises(ValueError, match="parametrised"):
        together.restack()


def test_labels_and_rows_are_checked_at_the_door(digits):
    together, x, y = Ensemble(build()), digits.test_x[:30], digits.test_y[:30]
    for bad, words in (
        (y[:, None], r"y has shape \(30, 1\).*flatten"),
        (y.float(), "one integer per row"),
        (torch.nn.functional.one_hot(y).bool(), "argmax"),
        (y[:7], "30 rows and y 7 labels"),
        (y - 1, "label -1; .*from 0 to 9"),
        (y + 5, "label 14"),
    ):
        with pytest.raises(ValueError, match=words):
            together.accuracy(x, bad)
        if bad.shape != y.shape or bad.is_floating_point() or "label" in words:
            with pytest.raises(ValueError):
                together.gradients(x, bad)
    for points in (x[:, :63], x[None], x[0], x.double()):
        with pytest.raises(ValueError, match="x has shape|x is torch.float64"):
            together.logits(points)
    with pytest.raises(ValueError, match="y has shape"):
        together.gradients(x[:30].expand(3, 30, 64), y.expand(2, 30))
    with pytest.raises(ValueError, match="images.train_y has shape"):
        together.train(replace(digits, train_y=digits.train_y[:, None]), steps=1, lr=1e-3)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"betas": (1.5, 0.9)}, "betas must be two numbers in"),
        ({"betas": (0.9, math.nan)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"eps": -1.0}, "eps must be"),
        ({"eps": math.inf}, "eps must be"),
        ({"lr": [1e-3] * 2}, "one per network"),
        ({"lr": [1e-3, 0.0, 1e-3]}, "above 0"),
        ({"generators": seeded(2)}, "one generator per network"),
        ({"generators": seeded(1) * 3}, "seed them alike"),
        ({"steps": 0}, "steps"),
        ({"batch": 5000}, "lower batch"),
    ],
)
def test_training_refuses(digits, options, words):
    with pytest.raises(ValueError, match=words):
        Ensemble(build()).train(digits, **{"steps": 1, "lr": 1e-3, **options})


def test_non_finite_images_are_refused(digits):
    x = digits.train_x.clone()
    x[3, 3] = math.inf
    with pytest.raises(ValueError, match="train_x"):
        Ensemble(build()).train(replace(digits, train_x=x), steps=1, lr=1e-3)


def test_numbers_too_small_for_float32_are_flushed_and_the_setting_is_put_back():
    """Vanishing gradients must not make a step ten times slower; nor may training change the caller's arithmetic."""
    tiny, seen = torch.tensor(1e-40), []
    network = deep_network(2, 8, inputs=64, classes=10, generator=torch.Generator().manual_seed(0))
    Ensemble([network]).train(
        load("digits"), steps=2, lr=1e-3, batch=16, eval_every=1, at_eval=lambda *_: seen.append((tiny * 1).item())
    )
    assert seen[1:] == [0.0, 0.0] and (tiny * 1).item() != 0
