"""One look for all figures.

A method keeps its colour, line style and marker through the whole book: greys and blues for the
baselines, warm colours for the starts that persist. The colours are Okabe and Ito's, distinct to
colour-blind eyes; line styles and markers tell the methods apart in black and white.
"""

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch

from pso_lib.errors import nearest

__all__ = [
    "METHODS",
    "TRAINERS",
    "DEPTHS",
    "REGION_COLOURS",
    "INK",
    "use_style",
    "method_style",
    "band",
    "runs_band",
    "label_ends",
    "depth_axis",
    "chance_line",
    "spectrum_fan",
    "polygons",
    "creases",
    "plane",
]

DEPTHS = (5, 20, 50, 100, 200)
INK = "#222222"

_BLACK, _GREY, _BLUE, _SKY = "#222222", "#7f7f7f", "#0072B2", "#56B4E9"
_VERMILION, _ORANGE, _GREEN, _PURPLE, _GOLD = "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#B8860B"

# name: (label, colour, line style, marker)
METHODS = {
    "he": ("He", _GREY, "--", "o"),
    "xavier": ("Xavier", _SKY, ":", "s"),
    "orthogonal": (r"orthogonal·√2", _BLUE, "-.", "^"),
    "looks_linear": ("looks-linear", _BLACK, (0, (3, 1, 1, 1)), "v"),
    "independent_folds": ("independent folds", _GREEN, "-", "D"),
    "kept_folds": ("folds, kept orthogonal", _PURPLE, "--", "P"),
    "shared": ("shared orthogonal", _VERMILION, "-", "o"),
    "block": ("block", _ORANGE, "--", "s"),
    "projection": ("projection", _GOLD, "-.", "X"),
    "tanh_orthogonal": ("tanh, orthogonal", "#332288", "-.", "v"),
    "scaled_residual": (r"He, $1/\sqrt{L}$ branches", "#5F7F95", "-", "^"),
    "zero_branch": ("branches from zero", "#8FA9BA", ":", "D"),
}

# The ways to train of Part IV, with colours of their own: peers grey and blue, smoothing warm, controls green.
TRAINERS = {
    "plain": ("plain", _BLACK, "-", "o"),
    "clip": ("gradient clipping", _BLUE, "--", "s"),
    "zclip": ("ZClip", _SKY, "-.", "^"),
    "orthogonality": ("orthogonality penalty", _GREY, ":", "v"),
    "spectral_norm": ("spectral norm", "#5F7F95", "--", "P"),
    "sigma_reparam": (r"$\sigma$Reparam", "#8FA9BA", "-.", "X"),
    "qk_norm": ("QK-norm", "#332288", ":", "D"),
    "muon": ("Muon", "#88CCEE", "-", "*"),
    "pss_clip": ("PSS, clip", _VERMILION, "-", "s"),
    "pss_log": ("PSS, log", _ORANGE, "--", "o"),
    "pss_softplus": ("PSS, softplus", _GOLD, "-.", "v"),
    "pss_softmax": ("PSS, softmax", _PURPLE, ":", "^"),
    "pss_convolution": ("PSS, convolution", "#882255", "--", "D"),
    "pss_published": ("PSS, published code", "#B2431B", "-.", "s"),
    "skip": ("skip the step", _GREEN, "--", "^"),
    "shrink": ("shrink ×0.25", "#117733", "-.", "o"),
    "halve": ("halve the rate", "#44AA99", ":", "s"),
    "random_times": ("smooth at random", "#999933", "--", "v"),
    "periodic": ("smooth periodically", "#6B8E23", "-", "D"),
    "stable_rank": ("on falling stable rank", "#AA3377", "-", "P"),
    "energy": ("on rising energy", "#CC6677", ":", "X"),
    "stable_rank_floor": ("the same, $k$ rounded down", "#CC3311", "--", "<"),
    "stable_rank_skip": ("skip on falling rank", "#009988", "-.", ">"),
    "random_times_ceil": ("at random, $k$ rounded up", "#BBBB33", ":", "d"),
    "periodic_ceil": ("periodically, $k$ rounded up", "#225522", "-.", "p"),
    "stable_rank_shrink": ("shrink on falling rank", "#661100", ":", "o"),
}

# Eight pale grounds for regions, told apart by lightness as well as hue.
REGION_COLOURS = ("#F4D9C6", "#CFE3F1", "#F7E7B5", "#CDE8DC", "#E9D3E3", "#DDDDDD", "#B9D3EA", "#EFC3A8")


def use_style() -> None:
    """Set the look of all figures, and SVG as the notebook's figure format. Call it once, after the imports."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.9),
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.family": "DejaVu Sans",  # ships with matplotlib: the same on every machine
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.labelsize": 11,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "text.color": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E6E6E6",
            "grid.linewidth": 0.7,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "svg.hashsalt": "folded space",  # the same picture gives the same bytes
            "svg.fonttype": "path",
        }
    )
    _set_notebook_format("svg")


def _set_notebook_format(name: str) -> None:
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # no notebook
        return
    if get_ipython() is not None:
        extra = {"metadata": {"Date": None}} if name == "svg" else {"dpi": 160}
        set_matplotlib_formats(name, **extra)


def method_style(name: str) -> dict:
    """Keywords for ``ax.plot``: label, colour, line style and marker of a method, the same everywhere.

    A start is looked up in ``METHODS``, a way to train in ``TRAINERS``. A name that ends in ``_residual`` is the same
    start in a type B layer: it looks like its type A twin.
    """
    known = METHODS | TRAINERS
    name = name if name in known else name.removesuffix("_residual")
    if name not in known:
        raise ValueError(f"method {name!r} has no style; known are {', '.join(known)}.{nearest(name, known)}")
    label, colour, line, marker = known[name]
    return {"label": label, "color": colour, "linestyle": line, "marker": marker}


def _array(values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def band(ax: plt.Axes, x: Sequence[float], values, method: str | None = None, *, middle=np.mean, **style) -> None:
    """The mean of the runs over a band from their minimum to their maximum; ``values`` is (runs, len(x))."""
    values = _array(values)
    if values.ndim != 2 or values.shape[1] != len(x):
        raise ValueError(f"values has shape {values.shape}; it must be (runs, {len(x)}), one row a run.")
    style = ({} if method is None else method_style(method)) | style
    (line,) = ax.plot(x, middle(values, axis=0), **style)
    ax.fill_between(x, values.min(0), values.max(0), color=line.get_color(), alpha=0.18, linewidth=0)


def runs_band(ax: plt.Axes, runs: Sequence[dict], method: str | None = None, *, x: str = "depth", **style) -> None:
    """``band`` of the test accuracies of recorded runs over one of their fields, a row a seed.

    Raises:
        ValueError: no runs, or a seed that lacks a value of ``x``.
    """
    places = sorted({run[x] for run in runs})
    seeds = sorted({run["seed"] for run in runs})
    found = {(run["seed"], run[x]): run["test_accuracy"] for run in runs}
    if not runs or len(found) != len(runs) or len(found) != len(seeds) * len(places):
        raise ValueError(f"the runs must be one for each seed {seeds} and each {x} {places}, got {len(runs)} of them.")
    band(ax, places, [[found[seed, place] for place in places] for seed in seeds], method, **style)


def label_ends(ax: plt.Axes, *, gap: float = 0.055, pad: float = 0.02) -> None:
    """Write each line's label at its right end, in its colour, moved apart to at least ``gap`` of the axis height."""
    ax.figure.canvas.draw()  # fixes the limits before positions are read
    points = {line: np.asarray(line.get_xydata()) for line in ax.get_lines()}
    lines = [line for line in points if not str(line.get_label()).startswith("_") and len(points[line])]
    to_axes = ax.transData + ax.transAxes.inverted()
    heights = [to_axes.transform(points[line][-1])[1] for line in lines]
    order, last = sorted(range(len(lines)), key=heights.__getitem__), -np.inf
    places = {}
    for i in order:
        places[i] = last = max(heights[i], last + gap)
    limit = 1.0
    for i in reversed(order):  # what would stand above the axes presses down only what is in its way
        places[i] = min(places[i], limit)
        limit = places[i] - gap
    for i, line in enumerate(lines):
        ax.annotate(
            str(line.get_label()),
            (1 + pad, places[i]),
            xycoords="axes fraction",
            color=line.get_color(),
            va="center",
            fontsize=10,
            annotation_clip=False,
        )


def depth_axis(ax: plt.Axes, depths: Sequence[int] = DEPTHS) -> None:
    """A logarithmic depth axis with the book's ticks."""
    ax.set_xscale("log")
    ax.set_xticks(depths, [str(d) for d in depths])
    ax.minorticks_off()
    ax.set_xlabel("depth $L$ (layers)")


def chance_line(ax: plt.Axes, classes: int, *, at: float = 0.01) -> None:
    """The accuracy of guessing, drawn, and named at the share ``at`` of the axis width; the axis starts at zero."""
    ax.axhline(1 / classes, color=_GREY, linewidth=1, linestyle=(0, (1, 2)))
    ax.annotate(
        "chance",
        (at, 1 / classes),
        xycoords=("axes fraction", "data"),
        va="bottom",
        fontsize=9,
        color=_GREY,
    )
    ax.set_ylim(0, 1)


def spectrum_fan(ax: plt.Axes, depths: Sequence[int], values, *, colour: str = _BLUE, floor: float = 1e-16) -> None:
    """All singular values over depth as a fan on a log axis, (len(depths), n), the largest drawn strongest.

    Values below ``floor`` times the largest are rounding; they are drawn at that floor, which is shaded.
    """
    values = _array(values)
    if values.ndim != 2 or len(values) != len(depths):
        raise ValueError(f"values has shape {values.shape}; it must be ({len(depths)}, n), one row a depth.")
    lowest = floor * values.max(1, keepdims=True)
    clipped = np.maximum(values, lowest)
    ax.plot(depths, clipped[:, 1:], color=colour, linewidth=0.6, alpha=0.45)
    ax.plot(depths, clipped[:, 0], color=INK, linewidth=2, label=r"largest, $\sigma_1$")
    if (values < lowest).any():
        ax.fill_between(depths, lowest[:, 0] * 0.3, lowest[:, 0], color="#EEEEEE", linewidth=0)
    ax.set_yscale("log")
    ax.set_xlabel(r"layer $\ell$")
    ax.set_ylabel("singular values")


def plane(ax: plt.Axes, radius: float | None = None) -> None:
    """A plane without axes: equal units, no ticks."""
    ax.set_aspect("equal")
    ax.set_axis_off()
    if radius is not None:
        ax.set_xlim(-radius, radius)
        ax.set_ylim(-radius, radius)


def polygons(ax: plt.Axes, shapes, colours=REGION_COLOURS, *, edge: str = "white", width: float = 0.8, alpha=1.0):
    """Fill polygons, each a (k, 2) list of corners, with the given colours in turn."""
    for i, corners in enumerate(shapes):
        patch = mpl.patches.Polygon(
            np.asarray([[float(c) for c in p] for p in corners]),
            closed=True,
            facecolor=colours[i % len(colours)],
            edgecolor=edge,
            linewidth=width,
            alpha=alpha,
        )
        ax.add_patch(patch)


def creases(ax: plt.Axes, normals, offsets, *, radius: float = 2.0, **style) -> None:
    """The lines a·x + b = 0 inside a disc, thin; ``normals`` (m, 2), ``offsets`` (m,)."""
    style.setdefault("color", INK)
    style.setdefault("linewidth", 1.0)
    for a, b in zip(_array(normals).astype(float), _array(offsets).astype(float), strict=True):
        foot, along = -b * a / (a @ a), np.array([-a[1], a[0]]) / np.linalg.norm(a)
        reach = radius**2 - foot @ foot
        if reach > 0:
            ends = np.stack([foot - reach**0.5 * along, foot + reach**0.5 * along])
            ax.plot(*ends.T, **style)
