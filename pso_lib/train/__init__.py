"""Training: one loop, an engine for many networks at once, optimisers, baselines, and what counts as failure.

loop          a plain loop for any network on images
ensemble      many networks of one shape at once; stacked is its step, stackable what it accepts
optimizers    torch's by name, Muon, AdamW of hidden matrices, several as one
workloads     the networks whose training is made unstable: Transformer, MLP, CNN
baselines     what others do against unstable training
monitored     one run of a workload, watched
failure       what counts as an explosion
progress      a bar, where someone is watching
"""
