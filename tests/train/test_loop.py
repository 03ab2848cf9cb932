"""The training loop: what it records, what it refuses, that it repeats itself."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pso_lib.data import load
from pso_lib.nn.init import seeded
from pso_lib.train.loop import History, accuracy, train


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def small(seed: int = 0, **kind) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32, **kind), nn.ReLU(), nn.Linear(32, 10, **kind))


@pytest.mark.parametrize(
    "optimizer, lr, options",
    [
        ("adam", 3e-3, {}),
        ("adamw", 3e-3, {"weight_decay": 0.1}),
        ("sgd", 0.1, {"momentum": 0.9}),
        ("adagrad", 0.03, {}),
        ("rmsprop", 1e-3, {}),
    ],
)
def test_it_learns(digits, optimizer, lr, options):
    history = train(small(), digits, steps=200, lr=lr, generator=seeded(), optimizer=optimizer, **options)
    assert history.final_accuracy > 0.85
    assert len(history.loss) == 200 and history.loss[-1] < 0.3 < history.loss[0]
    assert not history.diverged and history.diverged_at is None and history.seconds > 0


def test_it_equals_the_naive_loop(digits):
    """The record and the weights are those of six obvious lines, in float64."""
    images = digits.to(dtype=torch.float64)
    ours, naive = small(dtype=torch.float64), small(dtype=torch.float64)
    history = train(ours, images, steps=25, lr=1e-3, batch=100, generator=seeded(3))
    optimizer, draw, losses = torch.optim.Adam(naive.parameters(), lr=1e-3, foreach=False), seeded(3), []
    for step in range(25):
        if step % 14 == 0:  # 1,437 images, 14 whole batches of 100
            order = torch.randperm(1437, generator=draw)
        rows = order[step % 14 * 100 : step % 14 * 100 + 100]
        loss = nn.functional.cross_entropy(naive(images.train_x[rows]), images.train_y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(torch.tensor(history.loss), torch.tensor(losses), rtol=1e-6, atol=0)
    for p, q in zip(ours.parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_it_repeats_itself(digits):
    first, second, other = (train(small(), digits, steps=30, lr=1e-3, generator=seeded(s)) for s in (1, 1, 2))
    assert first.loss == second.loss and first.test_accuracy == second.test_accuracy
    assert first.loss != other.loss


def test_an_epoch_shows_every_example_once():
    seen = []

    class Recorder(nn.Linear):
        def forward(self, x):
            if self.training:
                seen.append(x[:, 0].detach().clone())
            return super().forward(x)

    x = torch.arange(12.0)[:, None]
    images = SimpleNamespace(train_x=x, train_y=torch.arange(12) % 2, test_x=x, test_y=torch.arange(12) % 2)
    train(Recorder(1, 2), images, steps=6, lr=1e-3, batch=4, generator=seeded())
    for epoch in (seen[:3], seen[3:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(12))
    assert [s.tolist() for s in seen[:3]] != [s.tolist() for s in seen[3:]]


def test_when_accuracy_is_measured(digits):
    looks = []
    history = train(
        small(), digits, steps=25, lr=1e-3, generator=seeded(), eval_every=10, at_eval=lambda s, n: looks.append(s)
    )
    assert history.steps == looks == [0, 10, 20, 25]
    assert len(history.test_accuracy) == 4 and history.final_accuracy == history.test_accuracy[-1]
    assert train(small(), digits, steps=3, lr=1e-3).steps == [3]


def test_measuring_does_not_change_the_run(digits):
    often = train(small(), digits, steps=20, lr=1e-3, generator=seeded(), eval_every=1)
    seldom = train(small(), digits, steps=20, lr=1e-3, generator=seeded())
    assert often.loss == seldom.loss


def test_divergence_is_reported_not_raised(digits):
    history = train(small(), digits, steps=2000, lr=1e30, optimizer="sgd", generator=seeded(), eval_every=500)
    assert history.diverged and 1 < history.diverged_at < 20
    assert len(history.loss) == history.diverged_at and not math.isfinite(history.loss[-1])
    assert all(map(math.isfinite, history.loss[:-1]))
    assert history.steps == [0] and math.isnan(history.final_accuracy)


def test_weights_lost_in_the_last_step_are_noticed(digits):
    """The loss is taken before the update, so the last update is looked at by itself."""
    network = small()
    network[0].weight.register_hook(lambda g: g * math.inf)
    history = train(network, digits, steps=1, lr=0.1, optimizer="sgd", generator=seeded())
    assert history.diverged and history.diverged_at == 1 and math.isfinite(history.loss[0])


def test_modes_are_put_back(digits):
    network = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 10))
    network[1].eval()
    before = network[1].running_mean.clone()
    accuracy(network, digits.test_x, digits.test_y)
    assert network.training and not network[1].training and network[2].training
    assert torch.equal(network[1].running_mean, before)
    network.eval()
    train(network, digits, steps=2, lr=1e-3)
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("chunk", [1, 7, 360, 4096])
def test_accuracy_in_chunks(digits, chunk):
    network, x, y = small(), digits.test_x[:50], digits.test_y[:50]
    expected = (network(x).argmax(-1) == y).double().mean().item()
    assert accuracy(network, x, y, chunk=chunk) == pytest.approx(expected, abs=1e-12)


def test_accuracy_counts_nan_as_wrong_and_checks_rows():
    x = torch.full((4, 10), math.nan)
    assert accuracy(nn.Identity(), x, torch.zeros(4, dtype=torch.int64)) == 0.0
    with pytest.raises(ValueError, match="4 rows and y 3"):
        accuracy(nn.Identity(), x, torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"lr": 0}, "lr must be a finite number above 0, got 0"),
        ({"lr": math.nan}, "lr must be"),
        ({"lr": "1e-3"}, "lr must be"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"batch": 0}, "batch must be"),
        ({"batch": 5000}, r"batch=5,000 exceeds the 1,437"),
        ({"eval_every": 0}, "eval_every must be"),
        ({"optimizer": "adm"}, "Did you mean 'adam'"),
    ],
)
def test_bad_arguments(digits, change, message):
    with pytest.raises(ValueError, match=message):
        train(small(), digits, **({"steps": 1, "lr": 1e-3} | change))


def test_a_misspelt_option_names_the_nearest(digits):
    with pytest.raises(TypeError, match="Did you mean 'eval_every'"):
        train(small(), digits, steps=1, lr=1e-3, evalevery=3)
    with pytest.raises(TypeError, match="optimizer 'adam'"):
        train(small(), digits, steps=1, lr=1e-3, momentum=0.9)


def test_non_finite_weights_and_inputs_are_named(digits):
    network = small()
    with torch.no_grad():
        network[2].bias[4] = math.nan
    with pytest.raises(ValueError, match=r"network parameter '2.bias' holds 1 non-finite"):
        train(network, digits, steps=1, lr=1e-3)
    images = digits.to()
    bad = images.train_x.clone()
    bad[5, 6] = math.inf
    images = SimpleNamespace(train_x=bad, train_y=images.train_y, test_x=images.test_x, test_y=images.test_y)
    with pytest.raises(ValueError, match=r"images.train_x holds 1 non-finite.*\[5, 6\]"):
        train(small(), images, steps=1, lr=1e-3)


def test_network_and_images_must_fit(digits):
    with pytest.raises(ValueError, match="one output per class"):
        train(nn.Linear(64, 9), digits, steps=1, lr=1e-3)
    with pytest.raises(ValueError, match=r"images.to\(dtype=torch.float64\)"):
        train(small(dtype=torch.float64), digits, steps=1, lr=1e-3)
    with pytest.raises(ValueError, match="is on meta, the images are on cpu"):
        train(small(device="meta"), digits, steps=1, lr=1e-3)
    with pytest.raises(ValueError, match="no parameter to train"):
        train(nn.Sequential(nn.Flatten()), digits, steps=1, lr=1e-3)


def test_frozen_weights_stay(digits):
    network = small()
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    train(network, digits, steps=3, lr=0.1)
    assert torch.equal(network[0].weight, before)


def test_history_of_a_fresh_run_is_empty():
    assert History().loss == [] and History().steps == []


# ------------------------------------------------------------------------------- labels, modes, generators


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda y: y[:, None], r"y has shape \(50, 1\).*y.flatten"),
        (lambda y: y.double(), "one integer per row"),
        (lambda y: y > 4, "one integer per row"),
        (lambda y: y[:49], "50 rows and y 49 labels"),
        (lambda y: y - 1, "label -1"),
        (lambda y: y + 91, r"the labels need \(50, 101\)"),
    ],
)
def test_accuracy_checks_labels(digits, change, words):
    network, x, y = small(), digits.test_x[:50], digits.test_y[:50]
    with pytest.raises(ValueError, match=words):
        accuracy(network, x, change(y))
    assert accuracy(network, x, y.to(torch.uint8)) == accuracy(network, x, y)


def test_arrays_are_no_tensors(digits):
    with pytest.raises(TypeError, match="x is a ndarray; give a tensor"):
        accuracy(small(), digits.test_x.numpy(), digits.test_y)
    with pytest.raises(TypeError, match="y is a ndarray"):
        accuracy(small(), digits.test_x, digits.test_y.numpy())


def test_accuracy_checks_outputs():
    class Column(nn.Module):
        def forward(self, x):
            return x[:, None]  # (N, 1, 10): against labels (N,) it would be compared crosswise

    with pytest.raises(ValueError, match=r"maps \(4, 10\) to \(4, 1, 10\)"):
        accuracy(Column(), torch.eye(4, 10), torch.arange(4))


@pytest.mark.parametrize("part", ["train_y", "test_y"])
@pytest.mark.parametrize(
    "change, words",
    [
        (lambda y: y[:, None], r"images.{part} has shape"),
        (lambda y: y - 1, "images.{part} holds the label -1"),
        (lambda y: y[1:], "images.{part} .* labels; give equally many"),
        (lambda y: y.int(), r"images.{part} is torch.int32.*{part}.long\(\)"),
    ],
)
def test_train_checks_labels_before_it_begins(digits, part, change, words):
    parts = {name: getattr(digits, name) for name in ("train_x", "train_y", "test_x", "test_y")}
    network, images = small(), SimpleNamespace(**parts | {part: change(parts[part])})
    before = [p.clone() for p in network.parameters()]
    with pytest.raises(ValueError, match=words.format(part=part)):
        train(network, images, steps=1, lr=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_frozen_batchnorm_stays_frozen(digits):
    network = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 10))
    network[1].eval()
    mean = network[1].running_mean.clone()
    modes = []
    hook = network[2].register_forward_hook(lambda m, *_: modes.append((m.training, network[1].training)))
    train(network, digits, steps=3, lr=1e-3, eval_every=1, generator=seeded())
    assert torch.equal(network[1].running_mean, mean) and (True, False) in modes and (True, True) not in modes
    assert [m.training for m in network] == [True, False, True, True]
    hook.remove()
    network.eval()  # as a whole: then it is trained as a whole, and comes back as it was
    train(network, digits, steps=3, lr=1e-3, generator=seeded())
    assert not torch.equal(network[1].running_mean, mean) and not any(m.training for m in network.modules())


def test_modes_are_put_back_after_an_error(digits):
    network = nn.Sequential(nn.Linear(64, 10), nn.Dropout(0.5))
    network[1].eval()

    def stop(step, network):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(network, digits, steps=2, lr=1e-3, at_eval=stop)
    assert network[0].training and not network[1].training


def test_a_seed_is_no_generator(digits):
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator or None, got 0.*manual_seed\(0\)"):
        train(small(), digits, steps=1, lr=1e-3, generator=0)


def test_numpys_numbers_are_numbers(digits):
    with_numpy = train(
        small(),
        digits,
        steps=np.int64(3),
        lr=np.float32(0.5),
        batch=np.int32(20),
        generator=seeded(),
        eval_every=np.int8(2),
    )
    plain = train(small(), digits, steps=3, lr=0.5, batch=20, generator=seeded(), eval_every=2)
    assert with_numpy.loss == plain.loss and with_numpy.steps == plain.steps == [0, 2, 3]
    with pytest.raises(ValueError, match="steps must be an integer, got True"):
        train(small(), digits, steps=True, lr=1e-3)


@pytest.mark.parametrize("option", [{"betas": (1.5, 0.9)}, {"eps": -1.0}, {"weight_decay": -0.1}])
def test_torch_refuses_bad_options_of_its_optimisers(digits, option):
    with pytest.raises(ValueError, match="Invalid"):
        train(small(), digits, steps=1, lr=1e-3, **option)
