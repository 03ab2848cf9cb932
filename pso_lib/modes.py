"""Training and evaluation mode, module by module: parts of a network may be frozen on purpose."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating", "modes_kept"]


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """Put each module's mode back at the end, also after an error."""
    modes = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode within; afterwards each module's own again."""
    with modes_kept(network):
        network.eval()
        yield
