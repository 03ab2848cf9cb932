"""Right calls of the public functions, from which ``mistakes.py`` makes wrong ones."""

import math

import sympy as sp
import torch
from mistakes import Case
from torch import nn
from torch.nn.functional import cross_entropy

from pso_lib.analysis.jacobian import (
    cumulative_jacobians,
    gradient_norms,
    jacobian,
    kink_distance,
    kink_margin,
    spectrum_by_depth,
)
from pso_lib.analysis.persistence import (
    coherence,
    gradient_bounds,
    layer_jacobians,
    persistent_dimension,
    persistent_subspace,
    separation,
)
from pso_lib.analysis.recorder import Recorder
from pso_lib.analysis.singularity import (
    leading_count,
    ntk_gram,
    ntk_top_eigenvalue,
    stable_jacobian_energy,
    token_similarity,
)
from pso_lib.analysis.spectrum import isometry_error, singular_values, spectrum_stable_rank, stable_rank
from pso_lib.data import Images, load
from pso_lib.data.text import Text, load_text
from pso_lib.exact.arrangement import arrangement
from pso_lib.exact.folds import fold, fold_directions, from_activation, from_fold, from_modified_feedforward
from pso_lib.exact.hinges import from_torch, hinged_layer
from pso_lib.exact.origami import (
    crossings,
    fold_pencil,
    kawasaki,
    kawasaki_completion,
    kawasaki_equation,
    normal_form,
    paper_condition,
    require_foldable,
    unit_normal,
)
from pso_lib.exact.orthogonal_decomposition import orthogonal_decomposition
from pso_lib.exact.regions import regions
from pso_lib.exact.symbolic import (
    exact_matrix,
    mirror_solutions,
    reflection,
    rigidity_solution,
    rigidity_system,
    solve_scalar,
)
from pso_lib.experiments import experiment
from pso_lib.experiments.starts import build, tailored_slope
from pso_lib.nn.activations import PiecewiseAffine, get, householder, leaky_relu, zigzag
from pso_lib.nn.convnet import ConvNet
from pso_lib.nn.init import (
    block_,
    gain_of,
    gaussian,
    haar,
    kaiming_,
    layers_of,
    looks_linear_,
    orthogonal_,
    projection_,
    seeded,
    shared_orthogonal_,
    xavier_,
)
from pso_lib.nn.layers import FeedForward, Fold, Layer, ModifiedFeedForward, Residual
from pso_lib.nn.networks import DeepNetwork, deep_network, plain_network
from pso_lib.nn.transformer import GPT, next_token_loss
from pso_lib.nn.weights import chosen_matrices, chosen_weights, hidden_matrices
from pso_lib.norms import cosines, norm, unit
from pso_lib.smoothing import (
    AtSteps,
    Detector,
    EnergyTrigger,
    Guard,
    StableRankTrigger,
    randomised_svd,
    smooth_,
    smoothed_spectrum,
)
from pso_lib.smoothing.smooth import plan_smoothing
from pso_lib.train.baselines import BASELINES, Clip, ZClip, orthogonality, sigma_reparam_, spectral_norm_
from pso_lib.train.ensemble import Ensemble
from pso_lib.train.failure import Explosion, explosion, recovery_time, trains
from pso_lib.train.loop import accuracy, train
from pso_lib.train.monitored import rate_factor, run
from pso_lib.train.optimizers import ChainedOptimizer, adamw, muon, sgd
from pso_lib.train.workloads import cnn_workload, mlp_workload, transformer_workload

N = 6


def randn(*shape, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def net(depth: int = 3, **options) -> DeepNetwork:
    return deep_network(depth, N, generator=seeded(), dtype=torch.float64, **options)


def classifier(**options) -> DeepNetwork:
    return net(inputs=5, classes=3, **options)


def labels(count: int = 4) -> torch.Tensor:
    return torch.arange(count) % 3


def images() -> Images:
    x, y = randn(40, 5), labels(40)
    return Images(x[:30], y[:30], x[30:], y[30:], 3, (1, 1, 5), "toy", ("a", "b", "c"), (0.0,), (1.0,))


def text() -> Text:
    return load_text("topics")


def state(network: nn.Module) -> dict:
    return network.state_dict()


def started(start):
    """The network after a start was drawn into it."""

    def call(layers, **options):
        start(layers, **options)
        return layers.state_dict()

    return call


def weights(layer) -> list[torch.Tensor]:
    return [p.detach() for p in layer.parameters()]


def fields_of(layer) -> list:
    """A hinged layer's numbers."""
    return [layer.M, layer.c, layer.G, layer.e, layer.D]


# As with any torch module: what is not finite stays so, and no rows in are no rows out.
ROWS = {"nan", "inf", "empty"}
# A generator may be None, which is torch's global one; a size may be None where the docstring gives it a meaning.
RANDOM = {"generator": {"None"}}
CHUNK = {"chunk_size": {"None"}}

CASES = [
    # nn
    Case("haar", haar, lambda: dict(rows=3, columns=4, generator=seeded()), fine=RANDOM),
    Case("gaussian", gaussian, lambda: dict(rows=3, columns=4, std=0.5, generator=seeded()), fine=RANDOM),
    *(
        Case(start.__name__, started(start), lambda: dict(layers=net(), generator=seeded()), fine=RANDOM)
        for start in (kaiming_, xavier_, shared_orthogonal_)
    ),
    Case(
        "orthogonal_",
        started(orthogonal_),
        lambda: dict(layers=net(), gain=1.5, generator=seeded()),
        fine=RANDOM | {"gain": {"None"}},  # the activation's own
    ),
    Case(
        "looks_linear_",
        started(looks_linear_),
        lambda: dict(layers=net(outer="identity"), generator=seeded()),
        fine=RANDOM,
    ),
    *(
        Case(
            start.__name__,
            started(start),
            lambda: dict(layers=net(), k=2, blocks="he", generator=seeded()),
            fine=RANDOM,
        )
        for start in (block_, projection_)
    ),
    *(
        Case(
            kind.__name__,
            kind,
            lambda: dict(dim=4, hidden=3, activation="relu", generator=seeded()),
            fine=RANDOM | {"hidden": {"None"}},  # dim
            result=weights,
        )
        for kind in (FeedForward, Residual)
    ),
    Case(
        "Fold",
        Fold,
        lambda: dict(dim=4, hidden=3, orthogonal="start", generator=seeded()),
        fine=RANDOM | {"hidden": {"None"}},
        result=weights,
    ),
    Case(
        "ModifiedFeedForward",
        ModifiedFeedForward,
        lambda: dict(dim=4, orthogonal="start", generator=seeded()),
        fine=RANDOM,
        result=weights,
    ),
    Case(
        "Layer",
        Layer,
        lambda: dict(
            dim=4, hidden=3, alpha=1.0, beta=-2.0, activation="relu", outer="free", orthogonal="no", generator=seeded()
        ),
        fine=RANDOM | {"hidden": {"None"}, "alpha": {"negative"}, "beta": {"negative"}},  # any real number
        result=weights,
    ),
    Case(
        "Layer.set_weights",
        lambda **given: (
            layer := Layer(4, 3, alpha=1.0, beta=1.0, dtype=torch.float64),
            layer.set_weights(**given),
            weights(layer),
        )[2],
        lambda: dict(A=randn(3, 4), B=randn(3, 4), b=randn(3)),
        fine={
            "A": {"None", "integers", "bfloat16"},
            "B": {"None", "integers", "bfloat16"},
            "b": {"None", "integers", "bfloat16", "number", "0-d"},
        },  # None: as it is; the numbers given are the weights, to the precision given
    ),
    Case(
        "deep_network",
        deep_network,
        lambda: dict(depth=3, dim=4, layer="fold", inputs=5, classes=3, ends="orthogonal", generator=seeded()),
        fine=RANDOM | {"inputs": {"None"}, "classes": {"None"}},  # no lift, no readout
        result=state,
    ),
    Case(
        "plain_network",
        plain_network,
        lambda: dict(depth=3, dim=4, start="he", activation="relu", generator=seeded()),
        fine=RANDOM,
        result=state,
    ),
    Case(
        "DeepNetwork", DeepNetwork, lambda: dict(layers=list(net().layers)), result=state, also={"layers": ("layer",)}
    ),
    Case(
        "DeepNetwork(x)",
        lambda network, x: network(x),
        lambda: dict(network=classifier(), x=randn(4, 5)),
        skip=("network",),
        fine={"x": {"more axes", "fewer axes", *ROWS}},
    ),
    Case(
        "PiecewiseAffine",
        lambda **given: PiecewiseAffine(**given)(torch.linspace(-2, 2, 9)),
        lambda: dict(name="zigzag", kinks=[-1, 1], slopes=[1, -1, 1], at_zero=0),
        skip=("name",),
        fine={"at_zero": {"negative", "half", "float"}},
    ),
    Case("get", lambda activation: get(activation).name, lambda: dict(activation="relu")),
    Case(
        "GPT",
        GPT,
        lambda: dict(vocabulary=7, context=8, width=8, layers=1, heads=2, norm="pre", std=0.02, generator=seeded()),
        fine=RANDOM,
        result=state,
    ),
    Case(
        "GPT(tokens)",
        lambda model, tokens: model(tokens),
        lambda: dict(model=GPT(7, 8, 8, 1, 2, generator=seeded()), tokens=torch.arange(10).view(2, 5) % 7),
        skip=("model",),
        fine={"tokens": {"empty", "one less"}},  # fewer sequences
    ),
    Case(
        "next_token_loss",
        next_token_loss,
        lambda: dict(model=GPT(7, 8, 8, 1, 2, generator=seeded()), tokens=torch.arange(12).view(2, 6) % 7),
        fine={"tokens": {"one less"}},
    ),
    Case(
        "GPT.generate",
        lambda **given: GPT(7, 8, 8, 1, 2, generator=seeded()).generate(**given),
        lambda: dict(tokens=torch.arange(10).view(2, 5) % 7, count=3, temperature=0.5, generator=seeded()),
        fine=RANDOM | {"tokens": {"empty", "one less"}},
    ),
    Case(
        "ConvNet",
        ConvNet,
        lambda: dict(shape=(1, 8, 8), classes=3, blocks=2, width=4, norm="group", generator=seeded()),
        fine=RANDOM,
        result=state,
    ),
    Case(
        "chosen_weights",
        lambda model, weights: list(chosen_weights(model, weights)),
        lambda: dict(model=classifier(), weights="layers.*.A"),
        fine={"weights": {"None", "list"}},
    ),
    Case("hidden_matrices", lambda model: list(hidden_matrices(model)), lambda: dict(model=classifier())),
    # analysis
    Case("jacobian", jacobian, lambda: dict(f=net(), x=randn(4, N), chunk_size=2, on_kink="raise"), fine=CHUNK),
    Case(
        "jacobian of a function",
        jacobian,
        lambda: dict(f=torch.tanh, x=randn(4, N)),
        also={"f": ("f maps",)},
        fine={"x": {"other precision", "a column less", "transposed"}},
    ),  # any width
    Case(
        "cumulative_jacobians",
        cumulative_jacobians,
        lambda: dict(network=net(), x=randn(4, N), chunk_size=2),
        fine=CHUNK,
    ),
    Case("spectrum_by_depth", spectrum_by_depth, lambda: dict(network=net(), x=randn(4, N))),
    Case("gradient_norms", gradient_norms, lambda: dict(network=classifier(), x=randn(4, 5), y=labels())),
    Case(
        "kink_margin",
        kink_margin,
        lambda: dict(f=net(), x=randn(4, N)),
        fine={"x": {"more axes"}},  # one example of several points
    ),
    Case("kink_distance", kink_distance, lambda: dict(f=net(), x=randn(4, N), chunk_size=2), fine=CHUNK),
    *(
        Case(
            f.__name__,
            f,
            lambda: dict(M=randn(4, 3)),
            fine={"M": {"more axes", "a column less", "transposed", *empty}},
        )
        for f, empty in ((singular_values, {"empty"}), (stable_rank, ()))  # no rows, no singular values
    ),
    Case(
        "isometry_error",
        isometry_error,
        lambda: dict(J=randn(4, 3)),
        fine={"J": {"more axes", "a column less", "transposed", "nan", "inf"}},  # as far off as can be, and says so
    ),
    Case(
        "spectrum_stable_rank",
        spectrum_stable_rank,
        lambda: dict(s=torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)),
        fine={"s": {"more axes", "one less", "integers"}},
    ),
    Case(
        "persistent_subspace",
        lambda **given: persistent_subspace(**given).dimension,
        lambda: dict(network=started_net(), x=randn(N), tolerance=1e-6),
        fine={"tolerance": {"None"}},
    ),
    Case(
        "persistent_dimension",
        persistent_dimension,
        lambda: dict(network=started_net(), x=randn(3, N), tolerance=1e-6),
        fine={"tolerance": {"None"}},
    ),
    Case(
        "gradient_bounds",
        lambda **given: gradient_bounds(**given).value,
        lambda: dict(network=started_net(), x=randn(3, N), g=randn(3, N, seed=2), tolerance=1e-6),
        fine={"tolerance": {"None"}},
    ),
    Case("layer_jacobians", layer_jacobians, lambda: dict(network=started_net(), x=randn(3, N))),
    Case("separation", separation, lambda: dict(network=started_net(), x=randn(4, N))),
    Case("coherence", coherence, lambda: dict(network=started_net(), x=randn(4, N))),
    Case(
        "stable_jacobian_energy",
        stable_jacobian_energy,
        lambda: dict(W=randn(4, 3), G=randn(4, 3, seed=2), k="floor", denominator="pairs"),
        fine={"k": {"number"}},
    ),
    Case(
        "leading_count",
        leading_count,
        lambda: dict(stable_rank=torch.tensor([2.5, 1.5]), k="floor", rank=4),
        fine={"k": {"number"}, "stable_rank": {"more axes", "one less", "0-d", "empty"}},
    ),
    Case(
        "ntk_gram",
        ntk_gram,
        lambda: dict(model=classifier(), loss=cross_entropy, x=randn(4, 5), y=labels(), chunk_size=2),
    ),
    Case(
        "ntk_top_eigenvalue",
        ntk_top_eigenvalue,
        lambda: dict(model=classifier(), loss=cross_entropy, x=randn(4, 5), y=labels()),
    ),
    Case(
        "token_similarity",
        token_similarity,
        lambda: dict(h=randn(2, 5, 4)),
        fine={"h": {"more axes", "fewer axes", "a column less", "transposed", "integers", "empty"}},
    ),
    *(
        Case(
            f.__name__,
            f,
            lambda: dict(x=randn(4, 3)),
            fine={
                "x": {
                    "more axes",
                    "fewer axes",
                    "a column less",
                    "transposed",
                    "integers",
                    "flat",
                    "nan",
                    "inf",
                    "empty",
                    "0-d",
                }
            },
        )
        for f in (norm, unit, cosines)
    ),
    Case(
        "Recorder",
        lambda **given: Recorder(**given).quantities,
        lambda: dict(
            model=classifier(), quantities="stable_rank", weights="layers.*.A", every=5, k="floor", denominator="pairs"
        ),
        fine={"quantities": {"list"}, "weights": {"list", "None"}, "k": {"number"}},
    ),
    # smoothing
    Case(
        "Detector",
        lambda **given: Detector(**given).tau,
        lambda: dict(tau=2.5, alpha=0.9, warmup=5, cooldown=3, nonfinite="fire", side="above"),
    ),
    Case(
        "Detector.update",
        lambda value: Detector(warmup=0).update(value),
        lambda: dict(value=1.5),
        fine={"value": {"nan", "inf"}},
    ),  # they fire
    Case(
        "StableRankTrigger",
        lambda **given: StableRankTrigger(**given),
        lambda: dict(share=0.8, alpha=0.9, every=2, warmup=1, cooldown=1, iterations=2, seed=0),
        result=None,
    ),
    Case(
        "EnergyTrigger",
        EnergyTrigger,
        lambda: dict(tau=1.5, alpha=0.9, every=2, warmup=1, cooldown=1, k="floor", denominator="gradient"),
        result=None,
        fine={"k": {"number"}},
    ),
    Case("AtSteps", AtSteps, lambda: dict(steps=[3, 5]), result=None, fine={"steps": {"empty", "longer"}}),
    Case(
        "Guard",
        lambda **given: Guard(**given).method,
        lambda: dict(
            model=classifier(),
            method="clip",
            trigger=Detector(),
            weights="layers.*.A",
            k="floor",
            factor=0.25,
            moments="keep",
            norm="sum",
            full_up_to=64,
            seed=0,
        ),
        fine={"trigger": {"None"}, "weights": {"None", "list"}, "k": {"number"}},
    ),
    Case(
        "smoothed_spectrum",
        smoothed_spectrum,
        lambda: dict(s=torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64), method="clip", k=2, factor=0.25),
        fine={"s": {"one less", "integers"}},
    ),
    Case(
        "smooth_",
        lambda W, **given: (smooth_(W, **given), W)[1],
        lambda: dict(W=randn(4, 3), method="clip", k="floor", factor=0.25, full_up_to=64, oversampling=3, iterations=4),
        fine={"k": {"number"}, "W": {"a column less", "transposed", "more axes"}},
    ),
    Case(
        "randomised_svd",
        lambda **given: randomised_svd(**given)[1],
        lambda: dict(M=randn(8, 6), q=3, iterations=4, generator=seeded()),
        fine=RANDOM | {"M": {"a column less", "transposed", "integers"}},
    ),
    # train
    Case(
        "train",
        lambda network, **given: train(network, **given).loss,
        lambda: dict(
            network=classifier(),
            images=images(),
            steps=3,
            lr=1e-3,
            batch=5,
            generator=seeded(),
            optimizer="adam",
            eval_every=2,
        ),
        fine=RANDOM | {"eval_every": {"None"}},
    ),
    Case(
        "accuracy",
        accuracy,
        lambda: dict(network=classifier(), x=randn(4, 5), y=labels(), chunk=2),
        fine={"x": {"nan", "inf"}},  # a row that overflows counts as wrong
    ),
    Case("Ensemble", lambda networks: len(Ensemble(networks)), lambda: dict(networks=[classifier(), classifier()])),
    Case(
        "Ensemble.logits",
        lambda x: Ensemble([classifier()]).logits(x),
        lambda: dict(x=randn(4, 5)),
        fine={"x": {"more axes", *ROWS}},  # (1, N, d): rows for each network, here one
    ),
    Case(
        "Ensemble.accuracy",
        lambda x, y, chunk: Ensemble([classifier()]).accuracy(x, y, chunk=chunk),
        lambda: dict(x=randn(4, 5), y=labels(), chunk=2),
        fine={"x": {"nan", "inf"}},  # a row that overflows counts as wrong
    ),
    Case(
        "Ensemble.gradients",
        lambda x, y: Ensemble([classifier()]).gradients(x, y)[0],
        lambda: dict(x=randn(4, 5), y=labels()),
        fine={"x": {"more axes", "nan", "inf"}, "y": {"more axes"}},
    ),
    Case(
        "Ensemble.train",
        lambda **given: Ensemble([classifier()]).train(generators=[seeded()], **given)[0].loss,
        lambda: dict(images=images(), steps=3, lr=1e-3, batch=5, eval_every=2, eps=1e-8),
        fine={"eval_every": {"None"}, "lr": {"list"}},
    ),
    *(
        Case(f.__name__, f, lambda: dict(model=classifier(), lr=1e-3), result=lambda made: made.param_groups[0]["lr"])
        for f in (adamw, sgd, muon)
    ),
    Case(
        "Clip",
        lambda **given: Clip(**given).max_norm,
        lambda: dict(model=classifier(), max_norm=1.0),
        fine={"max_norm": {"inf"}},
    ),
    Case(
        "ZClip",
        lambda **given: ZClip(**given).alpha,
        lambda: dict(model=classifier(), alpha=0.9, threshold=2.5, warmup=5),
    ),
    Case("orthogonality", orthogonality, lambda: dict(model=classifier(), strength=0.1)),
    Case("spectral_norm_", spectral_norm_, lambda: dict(model=classifier()), result=None),
    Case("sigma_reparam_", sigma_reparam_, lambda: dict(model=classifier()), result=None),
    Case(
        "mlp_workload",
        lambda **given: mlp_workload(**given).name,
        lambda: dict(images=images(), batch=4, depth=2, width=4, held_out=8),
    ),
    Case(
        "transformer_workload",
        lambda **given: transformer_workload(**given).name,
        lambda: dict(text=text(), batch=2, context=8, width=8, layers=1, heads=2, windows=4),
    ),
    Case("Explosion", lambda **given: Explosion(**given).factor, lambda: dict(factor=1.5, patience=3, floor=0.1)),
    Case(
        "explosion",
        explosion,
        lambda: dict(losses=[1.0, 2.0, 3.0, 4.0], factor=1.5, patience=2),
        fine={"losses": {"nan", "longer", "empty"}},  # no step, no explosion
    ),
    Case("rate_factor", rate_factor, lambda: dict(step=5, steps=10, warmup=2, schedule="cosine", end=0.1)),
    Case(
        "recovery_time",
        recovery_time,
        lambda: dict(losses=[1.0] * 8, step=4, window=2, slack=0.02),
        fine={"losses": {"nan", "longer", "empty"}},
    ),
    Case(
        "trains",
        trains,
        lambda: dict(final_loss=1.0, exploded=False, best=0.95, margin=0.1),
        fine={"final_loss": {"None", "nan", "inf", "negative"}, "best": {"negative", "inf"}},  # a loss is any number
    ),
    Case(
        "run",
        lambda **given: run(**given).losses,
        lambda: dict(
            task=mlp_workload(images(), batch=4, depth=2, width=4),
            arm=BASELINES["plain"],
            lr=1e-3,
            seed=0,
            steps=3,
            warmup=1,
            schedule="constant",
            stop="lost",
        ),
    ),
    Case(
        "build",
        lambda **given: build(**given),
        lambda: dict(arm=experiment("depth").arms[0], depth=2, width=4, inputs=5, classes=3, seed=0),
        result=state,
    ),
    # data
    Case(
        "load",
        lambda **given: load(**given).train_x[:2],
        lambda: dict(name="digits", limit=50),
        fine={"limit": {"None"}},
    ),
    Case("load_text", lambda **given: load_text(**given).train[:9], lambda: dict(name="topics")),
    Case(
        "Text.windows",
        lambda **given: text().windows(**given),
        lambda: dict(length=8, limit=4),
        fine={"limit": {"None"}},  # all of them
    ),
    Case(
        "Text.batch",
        lambda **given: text().batch(**given),
        lambda: dict(size=3, length=8, generator=seeded()),
        fine=RANDOM,
    ),
    Case(
        "Text.decode",
        lambda tokens: text().decode(tokens),
        lambda: dict(tokens=torch.arange(9)),
        fine={"tokens": {"one less", "empty"}},
    ),
    Case(
        "Images.hold_out",
        lambda **given: images().hold_out(**given).test_x,
        lambda: dict(count=5, seed=0),
        fine={"seed": {"negative"}},  # torch takes them
    ),
    Case(
        "Images.pictures",
        lambda x: images().pictures(x),
        lambda: dict(x=randn(4, 5)),
        fine={"x": {"more axes", "fewer axes", "flat", "integers", *ROWS}},
    ),
    Case(
        "Text.encode",
        lambda characters: text().encode(characters),
        lambda: dict(characters="a good text"),
        also={"characters": ("character",)},
        fine={"characters": {"empty", "misspelt", "upper"}},  # any text will do
    ),
    # exact
    Case("exact_matrix", lambda value: exact_matrix("value", value), lambda: dict(value=[[1, 2], [3, 4]])),
    Case("reflection", reflection, lambda: dict(a=[3, 4]), fine={"a": {"longer"}}),
    Case("mirror_solutions", mirror_solutions, lambda: dict(Q=[[1, 0], [0, 1]], a=[3, 4]), skip=("Q",)),
    Case("rigidity_solution", rigidity_solution, lambda: dict(n=2)),
    Case(
        "hinged_layer",
        lambda **given: fields_of(hinged_layer(**given)),
        lambda: dict(A=[[1, 2], [3, 4]], b=[1, 0], alpha=1, beta=-2, activation="relu"),
        fine={"alpha": {"negative"}, "beta": {"negative"}, "b": {"None"}},
    ),
    Case(
        "from_torch",
        lambda layer: fields_of(from_torch(layer)),
        lambda: dict(layer=Fold(2, generator=seeded(), dtype=torch.float64)),
    ),
    Case(
        "regions",
        lambda **given: len(regions(**given)),
        lambda: dict(layers=[from_fold([[1, 0]])], number="exact", most=100),
        also={"layers": ("layer",)},
    ),
    Case(
        "arrangement",
        lambda **given: len(arrangement(**given)),
        lambda: dict(normals=[[1, 0], [0, 1]], offsets=[0, 1]),
        fine={"offsets": {"None"}},
    ),
    Case(
        "fold",
        lambda **given: fields_of(fold(**given)),
        lambda: dict(Q=[[1, 0], [0, 1]], normals=[[1, 0], [0, 1]], offsets=[0, 1]),
        fine={"offsets": {"None"}},
    ),
    Case(
        "from_activation", lambda **given: from_activation(**given).is_orthogonal, lambda: dict(activation="abs", dim=2)
    ),
    Case(
        "from_fold",
        lambda **given: fields_of(from_fold(**given)),
        lambda: dict(A=[[1, 0]], b=[1]),
        fine={"b": {"None"}},
    ),
    Case(
        "from_modified_feedforward",
        lambda **given: fields_of(from_modified_feedforward(**given)),
        lambda: dict(A=[[1, 0], [0, 1]], B=[[0, 1], [1, 0]], b=[1, 0]),
        fine={"b": {"None"}},
    ),
    Case(
        "kawasaki",
        lambda angles: kawasaki(angles).holds,
        lambda: dict(angles=[sp.rad(0), sp.rad(45), sp.rad(90), sp.rad(135)]),
    ),
    Case("kawasaki_completion", kawasaki_completion, lambda: dict(angles=[sp.rad(0), sp.rad(30), sp.rad(50)])),
    Case("unit_normal", unit_normal, lambda: dict(angle=sp.pi / 3), fine={"angle": {"number", "text"}}),  # or a symbol
    Case(
        "crossings",
        lambda **given: len(crossings(**given)),
        lambda: dict(normals=[[1, 0], [0, 1]], offsets=[0, 0]),
        fine={"offsets": {"None"}},
    ),
    Case(
        "orthogonal_decomposition",
        lambda **given: orthogonal_decomposition(**given).rank,
        lambda: dict(normals=[[1, 0], [0, 1]], offsets=[0, 0]),
        fine={"offsets": {"None"}},
    ),
    Case("normal_form", lambda folded: str(normal_form(folded)), lambda: dict(folded=from_fold([[1, 0]]))),
    Case("seeded", lambda seed: seeded(seed).initial_seed(), lambda: dict(seed=3), fine={"seed": {"negative"}}),
    Case("gain_of", gain_of, lambda: dict(activation=get("relu"))),
    Case("layers_of", lambda layers: len(layers_of(layers)), lambda: dict(layers=net())),
    Case(
        "chosen_matrices",
        lambda model, weights: list(chosen_matrices(model, weights)),
        lambda: dict(model=classifier(), weights="layers.*.A"),
        fine={"weights": {"None", "list"}},
    ),
    Case(
        "plan_smoothing",
        lambda **given: plan_smoothing(**given).after,
        lambda: dict(W=randn(4, 3), method="clip", k="floor", factor=0.25, full_up_to=64),
        fine={"k": {"number"}, "W": {"a column less", "transposed", "more axes"}},
    ),
    Case(
        "cnn_workload",
        lambda **given: cnn_workload(**given).name,
        lambda: dict(images=images(), batch=4, blocks=2, width=4, held_out=8),
    ),
    Case(
        "Workload.model",
        lambda seed: state(mlp_workload(images(), batch=4, depth=2, width=4).model(seed)),
        lambda: dict(seed=3),
        fine={"seed": {"negative"}},  # torch takes them
    ),
    *(
        Case(
            kind.__name__,
            lambda make=kind, **given: make(**given)(torch.linspace(-2, 2, 8)),
            lambda given=given: given,
            fine={
                argument: {"negative", "half", "number", "longer", "empty"} for argument in given
            },  # any exact numbers
        )
        for kind, given in (
            (leaky_relu, {"slope": "1/10"}),
            (zigzag, {"kinks": [-1, 1]}),
            (householder, {"angle": sp.pi / 3}),
        )
    ),
    Case(
        "fold_directions",
        fold_directions,
        lambda: dict(Q=[[1, 0], [0, 1]], normals=[[1, 0], [0, 1]], offsets=[0, 1], start=[5, 5]),
        fine={"offsets": {"None"}, "start": {"None"}},
    ),
    Case(
        "fold_pencil",
        lambda angles: fields_of(fold_pencil(angles)),
        lambda: dict(angles=[sp.rad(0), sp.rad(45), sp.rad(90), sp.rad(135)]),
    ),
    Case("kawasaki_equation", kawasaki_equation, lambda: dict(m=3)),
    Case("paper_condition", paper_condition, lambda: dict(m=3)),
    Case("rigidity_system", rigidity_system, lambda: dict(n=2)),
    Case(
        "require_foldable",
        require_foldable,
        lambda: dict(normals=[[1, 0], [0, 1]], offsets=[0, 0]),
        fine={"offsets": {"None"}},
    ),
    Case("tailored_slope", tailored_slope, lambda: dict(depth=50, target=0.9)),
    Case("solve_scalar", solve_scalar, lambda: dict(slopes=[0, 1]), fine={"slopes": {"longer"}}),
    Case(
        "ChainedOptimizer",
        lambda optimizer: len(ChainedOptimizer(optimizer).param_groups),
        lambda: dict(optimizer=sgd(classifier(), 0.1)),
        also={"optimizer": ("optimiser", "optimizers")},
    ),
]


# Public names without a case, and why.
LEFT_OUT = {
    "assignments, rosters and submissions: files, tested with wrong ones": (
        "Assignment Case CourseError Exercise Judgement Section read variant_rng Unplain decoded encoded receive send "
        "main Worker WorkerEnded choose why_not Graded grade Found Submission find_files read_submission stamp Late "
        "read_roster write_feedback write_grades make solution_source student_source Pair similar tokens export "
        "require score judged Partly expect fields numbers texts"
    ),
    "results, which functions make": (
        "PersistentSubspace GradientBounds Smoothed History Run Failure FoldedMap Patch Cell HingedLayer "
        "Crossing Kawasaki NormalForm Splitting Facet Region Raw Matrix Spread Journal Images Text Workload"
    ),
    "errors, and what raises them": (
        "DataError ClusterError NonFiniteError UndefinedError NotFlatFoldable ResultError autocast_enabled checked "
        "device_of nearest require_attributes require_choice require_dtype require_finite require_floating require_int "
        "require_keys require_labels require_betas require_matrix require_number require_outside_optimizer "
        "require_positive require_positive_int require_real require_rows require_same_dtype require_shape "
        "require_tensor require_factor require_ranks require_rounding require_plain_surroundings require_same_outputs "
        "require_stackable check_idx check_limit methods_fit Unfinished"
    ),
    "no arguments": ("relu absolute maxmin tanh gelu silu softplus names scale use_style provenance"),
    "plain data and interfaces, checked by what uses them": (
        "Trigger Stepper Baseline Start Experiment Instability Method WorkloadPlan Survival Schema Suite Field "
        "Sources Unit Request Depth Rule Activation PairFold Smooth"
    ),
    "parts of a network": (
        "Attention Block MLP ConvBlock SigmaReparam Fixup FoldStep KeptFolds NormedLayer Penalised PreNorm ReZero"
    ),
    "steps of a run, given what a plan has checked": (
        "Halving alone beyond final network prepare ranked run_unit screen units_done"
    ),
    "steps inside a function that has checked": (
        "lies_on_kink judged lacks_vmap module_of named_dtypes of_points plain_attention plain_kernels row_jacobians "
        "uncompiled finite_or_none fused hits image_workload evaluating modes_kept building gains as_matrix "
        "nearest_kink_offset top_singular_value careful_norm dense norm_on_device Adam Buffers Group rule "
        "bar svd views facet_cells activation_hinges affine_on layer_conditions pattern_of facets exact_number "
        "exact_planes in_order jacobian_conditions scalar_conditions sign tidy"
    ),
    "files and downloads, tested with damaged ones": (
        "known_name data_root fetch_file obtain silence unpack balanced class_folders cut read_pictures read_cifar10 "
        "read_digits read_folder read_mnist for_scale"
    ),
    "run and read experiments: names and records, tested with wrong ones": (
        "experiment live select source summary configuration fingerprint path_of recorded_path schema_of "
        "without_timings found "
        "write flaw suite_named suite_of record_of spectra workload_of baseline_of trigger_of sensitivity scale_of "
        "number distance measure regained Perturbed best_loss trained training_rates choose"
    ),
    "drawing, looked at": (
        "band chance_line creases depth_axis label_ends method_style plane polygons runs_band spectrum_fan"
    ),
}


def started_net() -> DeepNetwork:
    network = net()
    shared_orthogonal_(network, seeded(3))
    return network


assert math.isfinite(len(CASES)) and len({case.name for case in CASES}) == len(CASES)
