"""Draw the picture of the front page and the README: ``python tools/cover.py`` writes book/_static/cover.svg.

Two networks of 200 layers and width 64 at their start; all singular values of the Jacobian of their first
l layers, in float64. Left He's start, right independent folds. One input each, seed 0.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from pso_lib import plots
from pso_lib.analysis.jacobian import jacobian, spectrum_by_depth
from pso_lib.analysis.spectrum import isometry_error, stable_rank
from pso_lib.nn.networks import deep_network, plain_network

DEPTH = 200
TARGET = Path(__file__).resolve().parent.parent / "book" / "_static" / "cover.svg"


def spectra(depth: int = DEPTH, dim: int = 64) -> dict[str, torch.Tensor]:
    """Singular values by depth, (depth, dim), of a He network and of a network of folds."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    networks = {"he": plain_network(depth, dim, **options), "folds": deep_network(depth, dim, layer="fold", **options)}
    x = torch.randn(1, dim, generator=generator, dtype=torch.float64)
    # What the picture says, asserted before it is drawn.
    assert stable_rank(jacobian(networks["he"], x)).item() < 1.1
    assert isometry_error(jacobian(networks["folds"], x)).item() < 1e-12
    return {name: spectrum_by_depth(network, x)[:, 0] for name, network in networks.items()}


def draw(values: dict[str, torch.Tensor]) -> plt.Figure:
    """The two fans side by side, on one scale."""
    plots.use_style()
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.6), sharex=True, sharey=True)
    depths = range(1, len(values["he"]) + 1)
    for ax, name, title in zip(
        axes, ("he", "folds"), ("He: one direction survives", "Folds: nothing is lost"), strict=True
    ):
        plots.spectrum_fan(ax, depths, values[name], colour="#0072B2" if name == "he" else "#D55E00")
        ax.set_title(title)
        ax.set_ylim(1e-19, 1e2)
    axes[0].annotate(
        "largest", (depths[-1], float(values["he"][-1, 0])), xytext=(-4, 7), textcoords="offset points", ha="right"
    )
    axes[0].annotate("below the rounding of float64", (100, 2e-19), ha="center", fontsize=9, color="#666666")
    axes[1].annotate("all 64 of them", (depths[-1], 1), xytext=(-4, 7), textcoords="offset points", ha="right")
    axes[1].set_ylabel("")
    return fig


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET, help="the SVG file to write (default: %(default)s)")
    target = parser.parse_args(argv).out
    draw(spectra()).savefig(target, metadata={"Date": None})
    print(target)


if __name__ == "__main__":
    main()
