"""Measures of a network: Jacobians and their spectra, persistent subspaces, singular weights, a recorder."""
