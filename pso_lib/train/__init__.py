"""Training: one loop, an engine for many networks at once, optimisers, baselines, and what counts as failure."""
