"""The layer family: what each class computes, what stays orthogonal, and what is refused."""

import pytest
import torch
from torch.nn.utils import parametrize

from pso_lib.analysis.jacobian import jacobian
from pso_lib.analysis.spectrum import isometry_error
from pso_lib.nn.init import seeded
from pso_lib.nn.layers import FeedForward, Fold, Layer, ModifiedFeedForward, Residual

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}


def points(n: int, count: int = 20, dtype=torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, n, generator=seeded(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("hidden", [3, 5, 8])
@pytest.mark.parametrize("outer", ["free", "tied"])
def test_formula(hidden, outer):
    layer = Layer(5, hidden, alpha=0.3, beta=-1.7, outer=outer, generator=seeded(), dtype=torch.float64)
    layer.set_weights(b=torch.randn(hidden, generator=seeded(2), dtype=torch.float64))
    x = points(5)
    by_hand = torch.stack([0.3 * p - 1.7 * layer.B.T @ torch.relu(layer.A @ p + layer.b) for p in x])
    torch.testing.assert_close(layer(x), by_hand, rtol=0, atol=1e-13)
    assert (layer.B is layer.A) == (outer == "tied")


def test_textbook_layer_is_relu_of_affine():
    layer = FeedForward(4, outer="identity", generator=seeded(), dtype=torch.float64)
    x = points(4)
    torch.testing.assert_close(layer(x), torch.relu(x @ layer.A.T + layer.b))
    assert torch.equal(layer.B, torch.eye(4, dtype=torch.float64))
    assert {name for name, _ in layer.named_parameters()} == {"A", "b"}


def test_type_a_and_type_b():
    assert (FeedForward(3).alpha, FeedForward(3).beta) == (0, 1)
    assert (Residual(3).alpha, Residual(3).beta, Residual(3, beta=-2).beta) == (1, 1, -2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("orthogonal", ["start", "always"])
@pytest.mark.parametrize("make", [lambda n, **o: Fold(n, **o), lambda n, **o: ModifiedFeedForward(n, **o)])
def test_jacobian_is_orthogonal(make, orthogonal, dtype):
    for n in (2, 3, 7, 16):
        layer = make(n, orthogonal=orthogonal, generator=seeded(n), dtype=dtype)
        layer.set_weights(b=torch.randn(n, generator=seeded(n)))
        J = jacobian(layer, points(n, dtype=dtype))
        assert isometry_error(J).max() < TOLERANCE[dtype]


@pytest.mark.parametrize("hidden", [1, 2, 5])
def test_fold_with_fewer_creases_is_orthogonal_and_fixes_the_rest(hidden):
    layer = Fold(6, hidden, generator=seeded(), dtype=torch.float64)
    x = points(6)
    assert isometry_error(jacobian(layer, x)).max() < 1e-12
    untouched = torch.linalg.svd(layer.A)[2][hidden:]  # the rows orthogonal to every crease normal
    torch.testing.assert_close(layer(x) @ untouched.T, x @ untouched.T)


def test_normal_weights_are_not_orthogonal():
    """The isometry tests above would pass for any layer if their measure saw nothing."""
    layer = Fold(16, orthogonal="no", generator=seeded(), dtype=torch.float64)
    assert isometry_error(jacobian(layer, points(16))).max() > 0.1


@pytest.mark.parametrize("orthogonal, kept", [("start", False), ("always", True)])
@pytest.mark.parametrize("hidden", [4, 8])
def test_orthogonality_during_training(orthogonal, kept, hidden):
    layer = Fold(8, hidden, orthogonal=orthogonal, generator=seeded(), dtype=torch.float64)
    start = layer.A.detach().clone()
    x, target = points(8, 64), points(8, 64, seed=9)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimizer.step()
    error = isometry_error(layer.A.detach().T)
    assert (layer.A.detach() - start).abs().max() > 1e-2, "the weights did not move"
    assert bool(error < 1e-12) == kept


@pytest.mark.parametrize("orthogonal", ["no", "start", "always"])
def test_state_dict_round_trip(orthogonal):
    make = lambda seed: ModifiedFeedForward(6, orthogonal=orthogonal, generator=seeded(seed), dtype=torch.float64)  # noqa: E731
    old, new = make(0), make(1)
    x = points(6)
    assert not torch.allclose(old(x), new(x))
    new.load_state_dict(old.state_dict())
    assert torch.equal(old(x), new(x))


def test_same_seed_same_weights_in_every_precision():
    double = Fold(8, generator=seeded(3), dtype=torch.float64)
    single = Fold(8, generator=seeded(3), dtype=torch.float32)
    assert torch.equal(double.A.float(), single.A)


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda: FeedForward(0), ["dim", "0"]),
        (lambda: FeedForward(4, 2.5), ["hidden", "2.5"]),
        (lambda: Fold(4, 5), ["hidden=5", "dim=4", "hidden <= 4"]),
        (lambda: FeedForward(4, 5, outer="identity"), ["hidden=5", 'outer="free"']),
        (lambda: FeedForward(4, outer="tide"), ["outer='tide'", "'tied'"]),
        (lambda: FeedForward(4, orthogonal="allways"), ["Did you mean 'always'"]),
        (lambda: FeedForward(4, activation="rellu"), ["activation='rellu'", "'relu'"]),
        (lambda: Fold(4)(torch.zeros(2, 3)), ["(2, 3)", "length 4"]),
        (lambda: Fold(4).set_weights(A=torch.eye(3)), ["(3, 3)", "(4, 4)"]),
        (lambda: Fold(4).set_weights(A=torch.full((4, 4), torch.nan)), ["A holds 16 non-finite"]),
        (lambda: Fold(4).set_weights(B=torch.eye(4)), ["tied"]),
        (lambda: Fold(4, orthogonal="always").set_weights(A=2 * torch.eye(4)), ["not orthogonal", "start"]),
        (lambda: FeedForward(4, bias=False).set_weights(b=1.0), ["bias=True"]),
        (lambda: FeedForward(4).set_weights(b=torch.ones(3)), ["(3,)", "(4,)"]),
    ],
)
def test_bad_input_names_the_remedy(call, parts):
    with pytest.raises(ValueError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


def test_activation_of_a_wrong_type():
    with pytest.raises(TypeError, match="PiecewiseAffine"):
        FeedForward(4, activation=torch.relu)


def test_weights_are_untouched_after_a_refused_set():
    layer = Fold(4, generator=seeded())
    before = layer.A.detach().clone()
    with pytest.raises(ValueError):
        layer.set_weights(A=torch.full((4, 4), torch.inf))
    assert torch.equal(layer.A, before)


@pytest.mark.parametrize("outer", ["free", "tied"])
def test_only_always_keeps_and_maps_once_a_pass(outer):
    """With "always" weights are parametrised, else plain; a matrix used twice in a pass is made once."""
    for orthogonal in ("no", "start", "always"):
        layer = Layer(6, alpha=1.0, beta=-2.0, outer=outer, orthogonal=orthogonal)
        own = {"A", "_B"} if outer == "free" else {"A"}
        kept = {name for name in ("A", "_B") if parametrize.is_parametrized(layer, name)}
        assert kept == (own if orthogonal == "always" else set())
        calls = []
        for name in kept:
            layer.parametrizations[name][0].register_forward_hook(lambda *_, name=name, calls=calls: calls.append(name))
        layer(torch.ones(3, 6))
        assert sorted(calls) == sorted(kept)


def test_numbers_are_not_rounded_on_their_way_into_a_layer():
    layer = Layer(2, alpha=1.0, beta=1.0, dtype=torch.float64)
    layer.set_weights(A=[[0.1, 0.2], [0.3, 0.7]], b=-0.6)
    assert layer.A.tolist() == [[0.1, 0.2], [0.3, 0.7]] and layer.b.tolist() == [-0.6, -0.6]


@pytest.mark.parametrize("wrong", [{"b": [1.0, 2.0, 3.0]}, {"B": [[1.0, 2.0]]}, {"b": float("nan")}])
def test_a_refusal_changes_no_weight(wrong):
    layer = Layer(2, alpha=1.0, beta=1.0, generator=seeded())
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(ValueError):
        layer.set_weights(A=[[5.0, 6.0], [7.0, 8.0]], **wrong)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
