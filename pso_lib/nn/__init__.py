"""What readers meet first: activations, layers, their starting weights, networks."""
