"""Every activation: torch equals sympy, and kinks, slopes and margins are the truth."""

import pytest
import sympy as sp
import torch

from pso_lib.nn import activations
from pso_lib.nn.activations import PairFold, PiecewiseAffine, get, known

SCALAR = [name for name in known if name not in ("maxmin", "householder")]
PAIRS = ["maxmin", "householder"]
CUSTOM = [
    PiecewiseAffine("three", ["-1/2", "1/3", 2], [0, 1, "-3/2", "1/4"], at_zero="1/5"),
    PiecewiseAffine("right", [1, 2], [2, -1, 3], at_zero=-1),
    PiecewiseAffine("left", [-3, "-sqrt(2)"], [1, 0, "1/7"]),
    PiecewiseAffine("one kink off zero", ["3/4"], ["-1/3", 5]),
    PiecewiseAffine("one kink, lifted", [0], ["1/3", 5], at_zero=2),
    PiecewiseAffine("one kink, right slope not 1", [0], [2, -3]),
    PiecewiseAffine("line", [], ["5/2"], at_zero=1),
    activations.leaky_relu("1/7"),
    activations.zigzag((-2, "-1/3", 0, 3)),
]
POINTS = [sp.Rational(k, 12) for k in range(-60, 61)]


def piecewise() -> list:
    return [get(n) for n in SCALAR if isinstance(get(n), PiecewiseAffine)] + CUSTOM


@pytest.mark.parametrize("sigma", [get(n) for n in SCALAR] + CUSTOM, ids=lambda s: s.name)
def test_torch_equals_sympy_at_rational_points_and_at_kinks(sigma):
    points = POINTS + list(getattr(sigma, "kinks", ()))
    exact = torch.tensor([float(sigma.sympy(p)) for p in points], dtype=torch.float64)
    z = torch.tensor([float(p) for p in points], dtype=torch.float64)
    torch.testing.assert_close(sigma(z), exact, rtol=0, atol=1e-12)
    torch.testing.assert_close(sigma(z.float()), exact.float(), rtol=0, atol=1e-4)
    symbol = sp.Symbol("z", real=True)
    assert not sigma.sympy(symbol).has(sp.Float)


def test_the_value_at_zero_is_the_one_asked_for():
    values = ["1/5", -1, 0, 0, 2, 0, 1, 0, 0]
    for sigma, value in zip(CUSTOM, values, strict=True):
        assert sigma.sympy(sp.Integer(0)) == sp.Rational(value)


@pytest.mark.parametrize("sigma", piecewise(), ids=lambda s: s.name)
def test_slopes_are_the_derivative_and_the_left_one_at_kinks(sigma):
    z = torch.tensor([float(p) + 1 / 29 for p in POINTS], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(sigma(z).sum(), z)
    torch.testing.assert_close(gradient, sigma.slope(z), rtol=0, atol=1e-12)
    step = 1e-7
    numeric = (sigma(z + step) - sigma(z - step)) / (2 * step)
    torch.testing.assert_close(numeric, sigma.slope(z), rtol=0, atol=1e-6)
    kinks = torch.tensor([float(k) for k in sigma.kinks], dtype=torch.float64)
    expected = torch.tensor([float(s) for s in sigma.slopes[:-1]], dtype=torch.float64)
    torch.testing.assert_close(sigma.slope(kinks), expected)


@pytest.mark.parametrize("sigma", piecewise(), ids=lambda s: s.name)
def test_kink_offset_is_the_signed_distance_to_the_nearest_kink(sigma):
    z = torch.tensor([[float(p) for p in POINTS]], dtype=torch.float64)
    offset = sigma.kink_offset(z)
    assert offset.shape == z.shape
    for point, found in zip(POINTS, offset[0].tolist(), strict=True):
        nearest = min((abs(point - k) for k in sigma.kinks), default=sp.oo)
        assert abs(found) == pytest.approx(float(nearest), abs=1e-12)
        if sigma.kinks:  # moved back by the offset, the point is on a kink
            assert min(abs(float(point) - found - float(k)) for k in sigma.kinks) < 1e-12


def test_a_smooth_activation_has_no_kink():
    assert torch.isinf(get("tanh").kink_offset(torch.zeros(3))).all()
    assert not get("tanh").is_affine_in_pieces and get("relu").is_affine_in_pieces


@pytest.mark.parametrize("sigma", [get(n) for n in PAIRS] + [PairFold("p", sp.pi / 5)], ids=lambda s: s.name)
def test_pair_folds_equal_sympy_and_fold(sigma):
    pairs = [(sp.Rational(i, 3), sp.Rational(j, 4)) for i in range(-4, 5) for j in range(-4, 5)]
    exact = torch.tensor([[float(v) for v in sigma.sympy(*p)] for p in pairs], dtype=torch.float64)
    z = torch.tensor([[float(v) for v in p] for p in pairs], dtype=torch.float64)
    torch.testing.assert_close(sigma(z), exact, rtol=0, atol=1e-12)
    torch.testing.assert_close(sigma(z.flatten()), exact.flatten(), rtol=0, atol=1e-12)
    torch.testing.assert_close(sigma(z).norm(dim=1), z.norm(dim=1), rtol=0, atol=1e-12)
    torch.testing.assert_close(sigma(sigma(z)), sigma(z), rtol=0, atol=1e-12)  # a fold is a projection
    a, b = sigma.normal
    heights = torch.tensor([float(a * p[0] + b * p[1]) for p in pairs], dtype=torch.float64)
    torch.testing.assert_close(sigma.kink_offset(z), heights[:, None].expand(-1, 2), rtol=0, atol=1e-12)
    jacobian = torch.func.vmap(torch.func.jacrev(sigma))(z + torch.tensor([1 / 29, 1 / 31]))
    torch.testing.assert_close(jacobian.mT @ jacobian, torch.eye(2).double().expand(81, 2, 2), rtol=0, atol=1e-12)


def test_maxmin_is_max_and_min_of_each_pair():
    z = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = z.unflatten(-1, (-1, 2))
    expected = torch.stack((pairs.amax(-1), pairs.amin(-1)), -1).flatten(-2)
    torch.testing.assert_close(get("maxmin")(z), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [get(n) for n in SCALAR] + CUSTOM, ids=lambda s: s.name)
def test_gradcheck_away_from_kinks(sigma):
    z = torch.tensor([-4.03, -1.71, -0.83, 0.21, 0.61, 1.37, 4.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sigma, (z,))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: PiecewiseAffine("x", [0], [1]), "one slope more"),
        (lambda: PiecewiseAffine("x", [1, 0], [0, 1, 2]), "increase strictly"),
        (lambda: PiecewiseAffine("x", [0, 0], [0, 1, 2]), "increase strictly"),
        (lambda: PiecewiseAffine("x", ["a"], [0, 1]), "a real number"),
        (lambda: PiecewiseAffine("x", [0], [0, sp.I]), "a real number"),
        (lambda: PiecewiseAffine("x", [0], [0, sp.oo]), "a real number"),
        (lambda: PiecewiseAffine("x", [float("nan")], [0, 1]), "a real number"),
        (lambda: get("maxmin")(torch.zeros(3)), "even width"),
        (lambda: get("maxmin").kink_offset(torch.zeros(3)), "even width"),
        (lambda: PairFold("x", "phi"), "angle must be a real number"),
        (lambda: get("rleu"), "Did you mean 'relu'"),
        (lambda: get("nothing like it"), "choose one of 'relu'"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_get_refuses_what_is_neither_name_nor_activation():
    with pytest.raises(TypeError, match="wrap your own"):
        get(torch.relu)
    sigma = get("abs")
    assert get(sigma) is sigma


def test_floats_become_the_rational_they_are_written_as():
    assert activations.leaky_relu(0.1).slopes[0] == sp.Rational(1, 10)
    assert PiecewiseAffine("x", [sp.Float("0.25")], [0, 1]).kinks == (sp.Rational(1, 4),)
    assert PairFold("x", 0.5).angle == sp.Rational(1, 2)


@pytest.mark.parametrize("name", activations.known)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool], ids=str)
def test_integers_count_as_numbers(name, dtype):
    """In an integer dtype the slope 1/10, or a kink at 1/2, would become 0."""
    activation = activations.get(name)
    z = torch.tensor([1, 0, 3, 2] if dtype != torch.int64 else [1, -2, 3, 0]).to(dtype)
    assert torch.equal(activation(z), activation(z.float()))
    assert torch.equal(activation.kink_offset(z), activation.kink_offset(z.float()))
    if hasattr(activation, "slope"):
        assert torch.equal(activation.slope(z), activation.slope(z.float()))


def test_slopes_and_kinks_between_integers():
    bent = activations.PiecewiseAffine("bent", ["1/2", "3/2"], ["1/4", "-1/2", "3"])
    z = torch.tensor([0, 1, 2])
    assert bent.slope(z).tolist() == [0.25, -0.5, 3.0] and bent.kink_offset(z).tolist() == [-0.5, 0.5, 0.5]
    assert activations.leaky_relu().slope(torch.tensor([-3])).item() == pytest.approx(0.1)
