"""Texts: characters and back, windows, where they come from. Nothing is downloaded."""

import os
from pathlib import Path

import pytest
import torch
from image_samples import no_network  # noqa: F401

from pso_lib.data.text import for_scale, load_text
from pso_lib.errors import DataError

pytestmark = pytest.mark.usefixtures("no_network")

SAMPLE = Path(os.environ.get("PSO_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


@pytest.fixture
def small(tmp_path):
    """0123456789 five times: 45 characters for training, 5 for validation."""
    (tmp_path / "digits.txt").write_text("0123456789" * 5)
    return load_text(tmp_path / "digits.txt")


@pytest.mark.skipif(not (SAMPLE / "tinyshakespeare").exists(), reason="no tinyshakespeare under PSO_DATA")
def test_tiny_shakespeare_as_it_stands():
    play = load_text("tiny-shakespeare", root=SAMPLE)
    assert play.description == "Tiny Shakespeare, 1,003,854/111,540 characters"
    assert len(play.vocabulary) == 65 and play.vocabulary[:3] == "\n !"
    assert play.decode(play.train[:14]) == "First Citizen:"


def test_topics_need_no_download():
    topics = load_text("topics")
    assert "pydoc_data.topics" in topics.description and len(topics.train) > 200_000
    assert abs(len(topics.train) - 9 * len(topics.val)) < 10
    assert "statement" in topics.decode(topics.train[:50_000])


def test_characters_and_back(small):
    assert small.vocabulary == "0123456789" and small.description == "digits.txt, 45/5 characters"
    assert small.encode("2024").tolist() == [2, 0, 2, 4] and small.decode(small.encode("907")) == "907"
    assert torch.cat([small.train, small.val]).tolist() == list(range(10)) * 5
    with pytest.raises(ValueError, match="'x' is not in the vocabulary of 10"):
        small.encode("1x")


def test_batches_are_windows_and_repeat_with_their_generator(small):
    def draw():
        generator = torch.Generator().manual_seed(3)
        return [b for b, _ in zip(small.batches(8, 4, generator), range(3), strict=False)]

    first, second = draw(), draw()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1]) and first[0].shape == (8, 5)
    assert all(((b[:, 1:] - b[:, :-1]) % 10 == 1).all() for b in first)
    starts = small.batch(5_000, 44, torch.Generator().manual_seed(0))[:, 0]
    assert starts.unique().tolist() == [0]  # 45 characters: one window of 45, and it is reached
    assert len(small.batch(5_000, 36, torch.Generator().manual_seed(0))[:, 0].unique()) == 9


def test_windows_predict_each_validation_character_once(small):
    assert small.windows(2).tolist() == [[5, 6, 7], [7, 8, 9]]
    assert small.windows(1, limit=2).tolist() == [[5, 6], [7, 8]]
    assert len(small.windows(1, limit=99)) == 4


def test_tokens_beyond_the_vocabulary_are_no_text(small):
    for bad in (-1, 10):
        with pytest.raises(ValueError, match=r"tokens holds numbers from .* 10: 0 to 9"):
            small.decode(torch.tensor([3, bad]))
    assert small.decode(torch.tensor([], dtype=torch.int64)) == ""
    with pytest.raises(TypeError, match="generator must be"):
        small.batch(1, 2, generator=0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda t: t.batch(0, 4), "size must be an integer of at least 1"),
        (lambda t: t.batch(2, 45), "length=45 leaves no window in the 45 training"),
        (lambda t: t.windows(5), "length=5 leaves no window in the 5 validation"),
        (lambda t: t.windows(2, limit=1.5), "limit must be an integer"),
    ],
)
def test_bad_sizes(small, call, message):
    with pytest.raises(ValueError, match=message):
        call(small)


# -------------------------------------------------------------------------------- names, files, network


def test_unknown_names(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'tinyshakespeare'"):
        load_text("tinyshakespear")
    with pytest.raises(ValueError, match="choose one of 'tinyshakespeare', 'topics', or the path"):
        load_text("zzz")
    with pytest.raises(DataError, match="does not exist; give the path of a text file"):
        load_text(tmp_path / "absent.txt")


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "latin").write_bytes("é".encode("latin-1") * 50)
    with pytest.raises(DataError, match="not UTF-8.*Convert"):
        load_text(tmp_path / "latin")
    (tmp_path / "short").write_text("too short")
    with pytest.raises(DataError, match="has 9 characters"):
        load_text(tmp_path / "short")


def test_absent_without_a_network(tmp_path):
    with pytest.raises(DataError, match="no network.*root=.*PSO_DATA.*tinyshakespeare/input.txt.*'topics'") as caught:
        load_text()
    assert str(tmp_path / "root") in str(caught.value) and not (tmp_path / "root").exists()
    with pytest.raises(DataError, match="download=False"):
        load_text(download=False)


def test_another_file_in_its_place_is_refused(tmp_path):
    path = tmp_path / "root" / "tinyshakespeare" / "input.txt"
    path.parent.mkdir(parents=True)
    path.write_text("First Citizen: " * 9)
    with pytest.raises(DataError, match=r"input.txt \(135 bytes\) is not Tiny Shakespeare.*Delete it"):
        load_text()
    assert load_text(path).description.startswith("input.txt")  # as a text of its own it may be read


def test_for_scale(monkeypatch, small, tmp_path):
    assert for_scale(tmp_path / "digits.txt").vocabulary == "0123456789"
    monkeypatch.setenv("PSO_SCALE", "smoke")
    assert "topics" in for_scale("tinyshakespeare").description
    with pytest.raises(ValueError, match="Did you mean"):
        for_scale("tinyshakespear")
