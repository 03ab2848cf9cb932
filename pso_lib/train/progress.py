"""A progress bar where someone is watching: in a notebook, for what takes longer than a moment."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

__all__ = ["bar"]

PATIENCE = 3.0  # seconds; what ends sooner shows nothing


def bar(steps: Iterable | None = None, *, total: int, show: bool | None = None, **options: Any) -> tqdm:
    """A ``tqdm`` bar over ``steps``, or one to be moved by hand.

    Args:
        total: how many steps there will be.
        show: True and False say so; None shows it in a notebook alone, after a few seconds, and takes it away at the
            end. TQDM_DISABLE=1 in the environment hides those that were not asked for by False.
        options: go to ``tqdm``.
    """
    if show is None:
        show = "ipykernel" in sys.modules
        options = {"delay": PATIENCE, "leave": False} | options
    if not show:
        options["disable"] = True
    return tqdm(steps, total=total, **{"unit": "step"} | options)
