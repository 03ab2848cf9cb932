"""Measures of a network: Jacobians and their spectra, persistent subspaces, singular weights, a recorder.

jacobian      exact Jacobians at a batch of inputs, spectra by depth, norms of gradients
kinks         where a network that is affine in pieces bends, and how far away that is
transforms    derivatives by torch.func, row by row
spectrum      singular values, stable rank, isometry error
persistence   the subspace on which every layer keeps lengths; separation of inputs
singularity   stable Jacobian energy, the neural tangent kernel, similarity of tokens
recorder      all of that while a model trains (Recorder)
"""
