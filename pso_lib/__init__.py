"""pso_lib: layers that fold space, and the tools to see why very deep networks train.

The companion library of the book *Folded Space: why very deep networks train*.
Each module is one idea and imports only from the modules above it in this list:

activations   continuous piecewise-affine functions, slopes and kinks known exactly
symbolic      orthogonality conditions, rigidity and mirrors in sympy
hinges        layers as sums of hinges, their affine pieces, exact
regions       the regions of a plane network, as polygons
arrangement   the cells of hyperplanes in any dimension
folds         folded maps: one hidden layer that folds space
origami       pencils of creases, Kawasaki's condition, the normal form
splitting     the creases that fold in any dimension: single directions and pencils
init          starting weights, in place, on a stack of layers
layers        F(x) = alpha x + beta B^T sigma(A x + b)
networks      lift, L layers, readout
jacobian      exact Jacobians, spectra, isometry error, gradient norms by depth
persistence   the subspace on which every layer keeps lengths; what happens between inputs
singularity   how singular the weights are: stable rank, its energy, tangent kernel, tokens
recorder      any of these followed while any model trains, as JSON
pss           singularity smoothing: smoothing a spectrum, triggers, the guard of a training loop
modes         training and evaluation mode, module by module
scale         smoke, quick or full: how much an experiment runs
download      the folder data sets live in, and the download into it
image_files   pictures in class folders, in a tar, in idx files
image_sources where the data sets come from
data          images on the device once
text          characters of a text, in windows
training      a plain training loop
gpt           a small Transformer language model
patients      the three networks made unstable: Transformer, deep MLP, residual CNN
optimizers    AdamW, and Muon beside it
peers         what others do against unstable training
stability     the loop of the experiments on instability, and what failure is
ensemble      many networks of one shape in one pass (stacked: its buffers and its step)
experiments   named experiments as data; run, resume, record, load
plots         one look for all figures
checks        what the exercises call
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("pso_lib")
except PackageNotFoundError:  # a clone that was not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
