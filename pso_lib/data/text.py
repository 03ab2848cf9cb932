"""Text as characters: one tensor of numbers for training, one for validation.

    text = load_text("tinyshakespeare")         # or "topics", or the path of a text file
    tokens = text.batch(16, 64, generator)      # (16, 65): inputs are [:, :-1], targets [:, 1:]

Tiny Shakespeare is looked for in ``tinyshakespeare/input.txt`` under the data root (``root=``, else the
environment variable ``PSO_DATA``, else ``~/.cache/pso_lib``) and downloaded there when absent. "topics"
is the English text of Python's own help, ``pydoc_data.topics``: no download. Nothing is ever replaced by
something else: what is missing raises ``DataError``, and ``Text.description`` says what was read.
"""

import hashlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from pso_lib.data.download import data_root, fetch_file, known_name, obtain
from pso_lib.errors import DataError, checked, device_of, require_positive_int
from pso_lib.scale import scale

__all__ = ["TEXTS", "Text", "for_scale", "load_text"]

TEXTS = ("tinyshakespeare", "topics")
_SHARE = 0.9  # of the characters, by position, are for training
_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_SIZE = 1_115_394
_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@dataclass(frozen=True, eq=False)
class Text:
    """A text in memory, as numbers: character number i of ``vocabulary`` is token i."""

    train: torch.Tensor  # (N,) int64, the first nine tenths
    val: torch.Tensor  # (M,) int64, the rest
    vocabulary: str  # all characters of the whole text, sorted
    description: str

    @checked
    def encode(self, characters: str) -> torch.Tensor:
        """A string of length T to tokens (T,). Raises ``ValueError`` for a character not in the vocabulary."""
        if not isinstance(characters, str):
            raise TypeError(f"characters must be a string, got {characters!r}.")
        return _encode(characters, self.vocabulary).to(self.train.device)

    @checked
    def decode(self, tokens: torch.Tensor) -> str:
        """Tokens (T,) to a string of length T; the inverse of ``encode``."""
        if tokens.ndim != 1 or tokens.is_floating_point():
            raise ValueError(
                f"tokens has shape {tuple(tokens.shape)} and dtype {tokens.dtype}; it must be (T,) integers."
            )
        numbers = tokens.tolist()
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(self.vocabulary):
            raise ValueError(
                f"tokens holds numbers from {min(numbers)} to {max(numbers)}, the vocabulary has "
                f"{len(self.vocabulary)}: 0 to {len(self.vocabulary) - 1}."
            )
        return "".join(self.vocabulary[number] for number in numbers)

    def to(self, device) -> "Text":
        """The same text on another device."""
        return replace(self, train=self.train.to(device), val=self.val.to(device))

    @checked
    def batch(self, size: int, length: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """(size, length + 1) tokens: windows of the training text that start anywhere, drawn with replacement.

        A window holds one token more than ``length``, so that each of the first ``length`` has a successor.
        """
        size = require_positive_int("size", size)
        length = _require_length(length, len(self.train), "training")
        where = device_of(generator, self.train.device)
        starts = torch.randint(len(self.train) - length, (size, 1), generator=generator, device=where)
        return self.train[starts.to(self.train.device) + torch.arange(length + 1, device=self.train.device)]

    def batches(self, size: int, length: int, generator: torch.Generator | None = None) -> Iterator[torch.Tensor]:
        """Results of ``batch`` without end, from one generator."""
        while True:
            yield self.batch(size, length, generator)

    @checked
    def windows(self, length: int, limit: int | None = None) -> torch.Tensor:
        """(W, length + 1) tokens: the validation text cut into windows, always the same, each target once.

        ``limit``: at most so many windows, spread evenly over the text.
        """
        length = _require_length(length, len(self.val), "validation")
        windows = self.val.unfold(0, length + 1, length)  # neighbours share one token: input here, target there
        limit = len(windows) if limit is None else require_positive_int("limit", limit)
        if limit >= len(windows):
            return windows
        return windows[torch.arange(limit, device=windows.device) * len(windows) // limit]


def load_text(
    name: str | os.PathLike = "tinyshakespeare",
    root: str | os.PathLike | None = None,
    device=None,
    *,
    download: bool = True,
) -> Text:
    """Load a text: "tinyshakespeare", "topics", or the path of a UTF-8 file.

    The first 90 % of the characters are the training part, the rest is for validation.

    Args:
        root: where data sets live; see ``pso_lib.data.download.data_root``. Only for "tinyshakespeare".
        download: False never touches the network.

    Raises:
        DataError: absent and not downloadable, not the file it should be, not UTF-8, shorter than 20 characters.
        ValueError: an unknown name.
    """
    key = _key(name)
    if key == "tinyshakespeare":
        characters, title = _tinyshakespeare(data_root(root), download), "Tiny Shakespeare"
    elif key == "topics":
        characters, title = _topics(), f"pydoc_data.topics of Python {platform.python_version()}"
    else:
        path = Path(name).expanduser()
        characters, title = _decoded(path.read_bytes(), path), path.name
    if len(characters) < 20:
        raise DataError(f"{title} has {len(characters)} characters; 20 are the least to split. Give a longer text.")
    vocabulary = "".join(sorted(set(characters)))
    tokens = _encode(characters, vocabulary).to(torch.empty(0).device if device is None else device)
    cut = int(_SHARE * len(tokens))
    description = f"{title}, {cut:,}/{len(tokens) - cut:,} characters"
    return Text(tokens[:cut], tokens[cut:], vocabulary, description)


def for_scale(name: str | os.PathLike = "tinyshakespeare", **options) -> Text:
    """ "topics" at scale ``smoke`` (no download), else ``load_text(name, **options)``.

    At ``smoke`` the name is still checked, and ``device`` holds. ``description`` says which text it is.
    """
    if scale() != "smoke":
        return load_text(name, **options)
    _key(name)
    return load_text("topics", device=options.get("device"))


def _key(name) -> str | None:
    """The known name meant by ``name``, or None for the path of a file."""
    return known_name(name, TEXTS, Path.is_file, "text file")


def _tinyshakespeare(root: Path, allowed: bool) -> str:
    path = root / "tinyshakespeare" / "input.txt"
    if not path.is_file():
        layout = "that holds it as tinyshakespeare/input.txt"
        fetch = partial(fetch_file, [_URL], path, _SIZE, f"sha256:{_SHA256}")
        obtain("Tiny Shakespeare", root, allowed, [_URL], fetch, layout, "load_text('topics')")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise DataError(
            f"{path} ({len(data):,} bytes) is not Tiny Shakespeare ({_SIZE:,} bytes, SHA-256 {_SHA256[:12]}…). Delete "
            "it and load again: it is then downloaded anew; or give its path to load it as a text of its own."
        )
    return data.decode()


def _topics() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError(
            "this Python comes without pydoc_data.topics, the text of its help; install the whole standard "
            "library, or load another text: load_text('tinyshakespeare'), or the path of a text file."
        ) from error
    return "\n".join(topics[name] for name in sorted(topics))


def _decoded(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}. Convert it to UTF-8 first.") from error


def _encode(characters: str, vocabulary: str) -> torch.Tensor:
    numbers = {character: number for number, character in enumerate(vocabulary)}
    if unknown := sorted(set(characters) - set(numbers)):
        raise ValueError(
            f"the character {unknown[0]!r} is not in the vocabulary of {len(vocabulary)} characters "
            f"({''.join(vocabulary[:20])!r}…); leave it out or replace it."
        )
    return torch.tensor([numbers[character] for character in characters], dtype=torch.int64, device="cpu")


def _require_length(length: int, available: int, part: str) -> int:
    length = require_positive_int("length", length)
    if length >= available:
        raise ValueError(f"length={length:,} leaves no window in the {available:,} {part} characters; lower it.")
    return length
