"""What others do against unstable training: each does what its paper says, on a step one can check by hand."""

import math

import pytest
import torch
from three_networks import network, transformer
from torch import nn

from pso_lib.nn.init import seeded
from pso_lib.nn.weights import hidden_matrices
from pso_lib.train.baselines import BASELINES, Clip, SigmaReparam, ZClip, orthogonality, sigma_reparam_, spectral_norm_


def norms(model) -> dict[str, float]:
    """The largest singular value of each hidden matrix that the network uses."""
    found = {}
    for name in hidden_matrices(model):
        path, _, leaf = name.replace(".parametrizations", "").removesuffix(".original").rpartition(".")
        found[name] = torch.linalg.matrix_norm(getattr(model.get_submodule(path), leaf).flatten(1), 2).item()
    return found


class Gradient:
    """A module with one weight, whose gradient has the norm one asks for."""

    def __init__(self):
        self.module = nn.Linear(4, 1, bias=False)

    def give(self, norm: float) -> float:
        """Set the gradient, return its norm after ``step``."""
        self.module.weight.grad = torch.full((1, 4), norm / 2)
        self.proceed = self.stepper.step()
        return self.module.weight.grad.norm().item()


# -------------------------------------------------------------------------------------------- gradients


def test_clip_is_torchs():
    gradient = Gradient()
    gradient.stepper = Clip(gradient.module, 1.0)
    assert gradient.give(0.5) == pytest.approx(0.5) and gradient.give(8.0) == pytest.approx(1.0, rel=1e-5)
    assert gradient.proceed and gradient.stepper.interventions == [{"step": 2, "norm": 8.0}]
    gradient.give(math.nan)
    assert gradient.proceed and gradient.stepper.interventions[-1] == {"step": 3, "norm": None}
    with pytest.raises(ValueError, match="max_norm must be a number above 0"):
        Clip(gradient.module, 0.0)


def test_zclip_by_hand():
    """Norms 1, 3 in the warm-up: mean 2, deviation 1. Then an outlier, an ordinary one and a NaN."""
    gradient = Gradient()
    gradient.stepper = z = ZClip(gradient.module, alpha=0.9, threshold=2.0, warmup=2)
    assert gradient.give(1.0) == pytest.approx(1) and gradient.give(3.0) == pytest.approx(3)
    assert (z.mean, z.variance) == (pytest.approx(2), pytest.approx(1))
    assert gradient.give(10.0) == pytest.approx(2 + 4 / 8, rel=1e-4)  # z = 8: clipped to 2 + threshold^2 / z
    assert z.mean == pytest.approx(0.9 * 2 + 0.1 * 2.5, rel=1e-5)  # the clipped norm enters
    assert z.variance == pytest.approx(0.9 + 0.1 * (2.5 - z.mean) ** 2, rel=1e-5)
    assert gradient.give(2.5) == pytest.approx(2.5) and len(z.interventions) == 1
    mean = z.mean
    gradient.give(math.inf)
    assert not gradient.proceed and z.mean == mean and z.interventions[-1] == {"step": 5, "norm": None}
    with pytest.raises(ValueError, match="warmup be 2 or more"):
        ZClip(gradient.module, warmup=1)


# ------------------------------------------------------------------------------------- loss and weights


@pytest.mark.parametrize("name", ["transformer", "mlp", "cnn"])
def test_orthogonality_is_zero_exactly_at_orthonormal_weights(name):
    model, _ = network(name)
    expected = 0.0
    for W in hidden_matrices(model).values():
        s = torch.linalg.svdvals(W.detach().flatten(1))
        expected += 1e-4 * (s.square() - 1).square().sum().item()
    assert orthogonality(model).item() == pytest.approx(expected, rel=1e-9) and expected > 0
    with torch.no_grad():
        for W in hidden_matrices(model).values():
            U, _, Vh = torch.linalg.svd(W.flatten(1), full_matrices=False)
            W.copy_((U @ Vh).view_as(W))
    assert orthogonality(model).item() < 1e-25


@pytest.mark.parametrize("name", ["transformer", "mlp", "cnn"])
def test_spectral_norm(name):
    model, x = network(name)
    before = torch.get_rng_state()
    spectral_norm_(model)
    assert torch.equal(before, torch.get_rng_state())
    for _ in range(30):  # one power iteration each
        model(x)
    model.eval()  # or looking at the weight iterates once more
    assert all(norm == pytest.approx(1, abs=0.02) for norm in norms(model).values())
    again, _ = network(name)
    spectral_norm_(again)
    for _ in range(30):
        again(x)
    assert torch.equal(model(x), again.eval()(x))
    with pytest.raises(ValueError, match="already have a parametrisation"):
        spectral_norm_(model)


@pytest.mark.parametrize("name", ["transformer", "mlp", "cnn"])
def test_sigma_reparam_starts_as_it_was_and_gamma_is_the_norm(name):
    model, x = network(name)
    before, expected = norms(model), model(x)
    sigma_reparam_(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-12)
    assert list(norms(model).values()) == pytest.approx(list(before.values()), rel=1e-9)
    gammas = [module.gamma for module in model.modules() if isinstance(module, SigmaReparam)]
    assert len(gammas) == len(before)
    model(x).square().sum().backward()
    assert all(gamma.grad is not None for gamma in gammas)
    with torch.no_grad():
        for gamma in gammas:
            gamma.fill_(0.7)
        for W in hidden_matrices(model).values():
            W.mul_(5)  # W itself no longer matters, its directions do
    assert list(norms(model).values()) == pytest.approx([0.7] * len(gammas), rel=1e-9)


def test_the_gradient_of_sigma_reparam():
    """Against central differences of gamma W / sigma_1(W) with an exact sigma_1."""
    W = torch.randn(4, 3, dtype=torch.float64, generator=seeded(2))
    weighting = torch.randn(4, 3, dtype=torch.float64, generator=seeded(3))
    part = SigmaReparam(W).eval()
    variable = W.clone().requires_grad_()
    (part(variable) * weighting).sum().backward()

    def exact(M):
        return (part.gamma.item() * M / torch.linalg.matrix_norm(M, 2) * weighting).sum()

    for i, j in ((0, 0), (2, 1), (3, 2)):
        step = torch.zeros_like(W)
        step[i, j] = 1e-6
        slope = (exact(W + step) - exact(W - step)) / 2e-6
        assert variable.grad[i, j].item() == pytest.approx(slope.item(), rel=1e-6)


def test_sigma_reparam_forgives_two_forward_passes():
    model, x = network("mlp")
    sigma_reparam_(model)
    (model(x).sum() + model(2 * x).sum()).backward()
    restored, _ = network("mlp")
    sigma_reparam_(restored)
    restored.load_state_dict(model.state_dict())
    assert torch.equal(restored.eval()(x), model.eval()(x))


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("prepare", [spectral_norm_, sigma_reparam_])
def test_a_zero_or_broken_matrix_cannot_be_divided(prepare):
    for value, words in ((0.0, f"blocks.1.mlp.up.weight is zero, and {prepare.__name__}"), (math.inf, "non-finite")):
        model = transformer()
        names = [name for name, _ in model.named_parameters()]
        nn.init.constant_(model.blocks[1].mlp.up.weight, value)
        with pytest.raises(ValueError, match=words):
            prepare(model)
        assert [name for name, _ in model.named_parameters()] == names  # nothing was prepared


def test_sigma_reparam_in_half_precision():
    model = transformer().bfloat16()
    sigma_reparam_(model)
    assert model(torch.zeros(1, 2, dtype=torch.int64)).isfinite().all()


def test_the_arms_are_all_there():
    names = ["plain", "clip", "orthogonality", "spectral_norm", "sigma_reparam", "qk_norm", "zclip", "muon"]
    assert list(BASELINES) == names and all(arm.name == name for name, arm in BASELINES.items())
