"""pso_lib: layers that fold space, and the tools to see why very deep networks train.

The companion library of the book *Folded Space: why very deep networks train*. Groups, each importing only from those
above it (an import linter holds it):

errors, finite, modes, norms, plots, scale      what everybody uses
nn            activations, layers, their starting weights, networks, a Transformer and a ConvNet
exact         sympy: mirrors, hinges, regions, folds, origami (Kawasaki's condition)
data          images and text, on the device once
analysis      Jacobians, persistent subspaces, singular spectra, a recorder for any training run
smoothing     PSS: when the gradient jumps, flatten the weights' spectra (Guard)
train         a loop, an engine for many networks at once, optimisers, baselines
experiments   named experiments: run, resume, record, load
checks        what the exercises call
course        assignments: make, grade, compare, export

The names below are the ones to reach for first; they are loaded when they are used, so ``import pso_lib`` costs
nothing and needs neither sympy nor matplotlib.
"""

import re
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pso_lib.analysis.jacobian import gradient_norms, jacobian, kink_distance, spectrum_by_depth
    from pso_lib.analysis.persistence import gradient_bounds, persistent_dimension, persistent_subspace, separation
    from pso_lib.analysis.recorder import Recorder
    from pso_lib.analysis.singularity import ntk_top_eigenvalue, stable_jacobian_energy, token_similarity
    from pso_lib.analysis.spectrum import isometry_error, singular_values, stable_rank
    from pso_lib.checks import check
    from pso_lib.experiments import load
    from pso_lib.nn.init import (
        block_,
        haar,
        kaiming_,
        looks_linear_,
        orthogonal_,
        projection_,
        seeded,
        shared_orthogonal_,
        xavier_,
    )
    from pso_lib.nn.layers import FeedForward, Fold, Layer, ModifiedFeedForward, Residual
    from pso_lib.nn.networks import DeepNetwork, deep_network, plain_network
    from pso_lib.nn.transformer import GPT
    from pso_lib.smoothing import Detector, Guard, smooth_
    from pso_lib.train.ensemble import Ensemble

try:
    __version__ = version("pso_lib")
except PackageNotFoundError:  # a clone that was not installed
    __version__ = "0+unknown"

_HOMES = {
    "analysis.jacobian": "gradient_norms jacobian kink_distance spectrum_by_depth",
    "analysis.persistence": "gradient_bounds persistent_dimension persistent_subspace separation",
    "analysis.recorder": "Recorder",
    "analysis.singularity": "ntk_top_eigenvalue stable_jacobian_energy token_similarity",
    "analysis.spectrum": "isometry_error singular_values stable_rank",
    "checks": "check",
    "experiments": "load",
    "nn.init": "block_ haar seeded kaiming_ looks_linear_ orthogonal_ projection_ shared_orthogonal_ xavier_",
    "nn.layers": "FeedForward Fold Layer ModifiedFeedForward Residual",
    "nn.networks": "DeepNetwork deep_network plain_network",
    "nn.transformer": "GPT",
    "smoothing": "Detector Guard smooth_",
    "train.ensemble": "Ensemble",
}
_home_of = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "DeepNetwork",
    "Detector",
    "Ensemble",
    "FeedForward",
    "Fold",
    "GPT",
    "Guard",
    "Layer",
    "ModifiedFeedForward",
    "Recorder",
    "Residual",
    "__version__",
    "block_",
    "check",
    "deep_network",
    "gradient_bounds",
    "gradient_norms",
    "haar",
    "isometry_error",
    "jacobian",
    "kaiming_",
    "kink_distance",
    "load",
    "looks_linear_",
    "ntk_top_eigenvalue",
    "orthogonal_",
    "persistent_dimension",
    "persistent_subspace",
    "plain_network",
    "projection_",
    "separation",
    "seeded",
    "shared_orthogonal_",
    "singular_values",
    "smooth_",
    "spectrum_by_depth",
    "stable_jacobian_energy",
    "stable_rank",
    "token_similarity",
    "xavier_",
]


_GROUPS = tuple(
    "analysis checks course data errors exact experiments finite modes nn norms plots scale smoothing train".split()
)


def __getattr__(name: str):
    if name in _home_of:
        return getattr(import_module(_home_of[name]), name)
    if name in _GROUPS and find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    near = get_close_matches(name, [*_home_of, *_GROUPS], n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]!r}?" if near else "dir(pso_lib) lists what it has; the rest is in its groups."
    if home := _defined_in(name):
        hint = f"It is in {home}: from {home} import {name}"
    raise AttributeError(f"pso_lib has no {name!r} at its top. {hint}")


def _defined_in(name: str) -> str | None:
    """The module that lists a name among its own: for an error, so by reading files, not by importing them."""
    root = Path(__file__).parent
    for file in sorted(root.rglob("[a-z]*.py")):
        if re.search(rf'^__all__ = [^\])]*"{re.escape(name)}"', file.read_text(encoding="utf8"), re.M):
            return ".".join((__name__, *file.relative_to(root).with_suffix("").parts))
    return None


def __dir__() -> list[str]:
    return sorted({*__all__, *_GROUPS})
