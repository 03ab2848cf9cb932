"""Parametric singularity smoothing: watch training, and when the gradient spikes, flatten the weights' spectra.

smooth        the leading singular values of one weight, made more alike
randomised    a few leading singular triples of a large matrix
detector      a stream of numbers, and whether the newest stands out
gradients     their length
triggers      what to watch: gradient norms (the paper), stable rank, Jacobian energy, a fixed timetable
guard         between ``loss.backward()`` and ``optimizer.step()``

The method is that of the paper by Cao and others; where its text, its authors' published code and this package differ,
the docstrings say so.
"""

from pso_lib.smoothing.detector import Detector
from pso_lib.smoothing.guard import Guard
from pso_lib.smoothing.randomised import randomised_svd
from pso_lib.smoothing.smooth import METHODS, Smoothed, smooth_, smoothed_spectrum
from pso_lib.smoothing.triggers import AtSteps, EnergyTrigger, StableRankTrigger, Trigger

__all__ = [
    "AtSteps",
    "Detector",
    "EnergyTrigger",
    "Guard",
    "METHODS",
    "Smoothed",
    "StableRankTrigger",
    "Trigger",
    "randomised_svd",
    "smooth_",
    "smoothed_spectrum",
]
