"""The three workloads: one interface, seeded starts, held-out measures."""

import math
from dataclasses import replace

import pytest
import torch

from pso_lib.data import load
from pso_lib.data.text import load_text
from pso_lib.nn.convnet import ConvNet
from pso_lib.nn.init import seeded
from pso_lib.nn.weights import hidden_matrices
from pso_lib.train.workloads import cnn_workload, image_workload, mlp_workload, transformer_workload


@pytest.fixture(scope="module")
def tasks():
    images = load("digits")
    text = load_text("topics")
    return {
        "transformer": transformer_workload(text, batch=8, context=16, width=16, layers=2, heads=2, windows=8),
        "mlp": mlp_workload(images, depth=4, width=24),
        "cnn": cnn_workload(images, blocks=2, width=8),
    }


@pytest.mark.parametrize("name", ["transformer", "mlp", "cnn"])
def test_one_interface(tasks, name):
    task = tasks[name]
    assert task.name == name
    first, again, other = task.model(1), task.model(1), task.model(2)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    losses = [task.loss(first, task.batch(seeded(4))) for _ in range(2)]
    assert losses[0].equal(losses[1]) and losses[0].ndim == 0 and losses[0].requires_grad
    losses[0].backward()
    assert all(p.grad is not None for p in first.parameters())
    before = torch.get_rng_state()
    first.train()
    measured = task.evaluate(first)
    assert math.isfinite(measured["loss"]) and first.training and torch.equal(before, torch.get_rng_state())
    assert measured == task.evaluate(first)
    assert ("accuracy" in measured) == (name != "transformer")


def test_evaluation_is_the_mean_over_the_held_out_data(tasks):
    task, model = tasks["transformer"], tasks["transformer"].model(0)
    windows = load_text("topics").windows(16, 8)
    assert task.evaluate(model)["loss"] == pytest.approx(task.loss(model, windows).item(), rel=1e-5)
    task, images = tasks["cnn"], load("digits")
    model = task.model(0)
    logits = model(images.test_x)
    measured = task.evaluate(model)
    assert measured["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, images.test_y).item(), rel=1e-5)
    assert measured["accuracy"] == pytest.approx((logits.argmax(-1) == images.test_y).double().mean().item())


def test_only_the_loss_of_images_has_a_floor(tasks):
    assert tasks["transformer"].floor == 0 and tasks["mlp"].floor == tasks["cnn"].floor == 0.1 * math.log(10)


def test_hidden_matrices(tasks):
    found = {name: hidden_matrices(task.model(0)) for name, task in tasks.items()}
    assert len(found["transformer"]) == 2 * 6 and len(found["mlp"]) == 4 and len(found["cnn"]) == 2 * 2
    assert all("norm" not in name for names in found.values() for name in names)
    assert {w.ndim for w in found["cnn"].values()} == {4}
    with pytest.raises(ValueError, match=r"Linear has no matrix below .blocks or .layers"):
        hidden_matrices(torch.nn.Linear(2, 2))


def test_options_reach_the_model_and_others_are_refused(tasks):
    assert isinstance(tasks["transformer"].model(0, norm="post").norm, torch.nn.Identity)
    assert isinstance(tasks["cnn"].model(0, norm="none").norm, torch.nn.Identity)
    with pytest.raises(ValueError, match="the mlp has no option 'qk_norm'; it has start, activation, ends"):
        tasks["mlp"].model(0, qk_norm=True)
    with pytest.raises(ValueError, match="Did you mean 'norm'"):
        tasks["cnn"].model(0, nrm="none")


@pytest.mark.parametrize("name, rate, steps", [("mlp", 3e-3, 100), ("cnn", 1e-2, 60)])
def test_they_learn(tasks, name, rate, steps):
    task = tasks[name]
    model, draw = task.model(0), seeded(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(model, task.batch(draw)).backward()
        optimizer.step()
    assert task.evaluate(model)["accuracy"] > 0.6


def test_bad_sizes(tasks):
    with pytest.raises(ValueError, match="norm='batch' is unknown"):
        ConvNet((1, 8, 8), 10, norm="batch")
    with pytest.raises(ValueError, match="blocks must be"):
        ConvNet((1, 8, 8), 10, 0)
    with pytest.raises(ValueError, match="last axis must have length 64"):
        tasks["cnn"].model(0)(torch.zeros(2, 63))
    with pytest.raises(ValueError, match="batch must be"):
        mlp_workload(load("digits"), batch=0)


@pytest.mark.parametrize("make", [mlp_workload, cnn_workload])
@pytest.mark.parametrize("part", ["train", "test"])
def test_images_are_checked_at_the_door(make, part):
    images = load("digits")
    x, y = getattr(images, f"{part}_x"), getattr(images, f"{part}_y")
    for change, words in (
        ({f"{part}_y": y[:, None]}, f"images.{part}_y has shape"),
        ({f"{part}_y": y - 1}, f"images.{part}_y holds the label -1"),
        ({f"{part}_y": y + 1}, f"images.{part}_y holds the label 10; labels must lie from 0 to 9"),
        ({f"{part}_y": y[1:]}, "give equally many"),
        ({f"{part}_x": x / 0}, f"images.{part}_x holds"),
    ):
        with pytest.raises(ValueError, match=words):
            make(replace(images, **change))


def test_wrong_dtypes_and_generators_are_named(tasks):
    with pytest.raises(ValueError, match="x is torch.float64, the weights are torch.float32"):
        tasks["cnn"].model(0)(torch.zeros(2, 64).double())
    for task in tasks.values():
        with pytest.raises(TypeError, match=r"generator must be a torch.Generator or None, got 0"):
            task.batch(0)


def test_a_workload_on_images_is_the_plain_loop():
    """Batches drawn with replacement; loss and accuracy of the first held-out images, a row with an infinity wrong."""
    images = load("digits")

    def build(generator) -> torch.nn.Linear:
        layer = torch.nn.Linear(64, 10)
        torch.nn.init.normal_(layer.weight, generator=generator)
        return layer

    task = image_workload("linear", images, build, batch=8, held_out=50, kind="a linear map", chunk=7)
    model = task.model(3)
    rows = torch.randint(len(images.train_y), (8,), generator=seeded(5))
    x, y = task.batch(seeded(5))
    assert torch.equal(x, images.train_x[rows]) and torch.equal(y, images.train_y[rows])
    logits = model(images.test_x[:50])
    by_hand = [-row.log_softmax(0)[label].item() for row, label in zip(logits, images.test_y[:50], strict=True)]
    found = task.evaluate(model)
    assert found["loss"] == pytest.approx(sum(by_hand) / 50, rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == images.test_y[:50]).double().mean().item())
    assert task.floor == pytest.approx(0.1 * math.log(10))
    model.bias.data[0] = math.inf
    assert task.evaluate(model)["accuracy"] == 0
