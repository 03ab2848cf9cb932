"""python -m pso_lib.experiments list | run NAME [--scale …] [--device …] | show NAME [--scale …]"""

import argparse
import sys
from pathlib import Path

from pso_lib.data import DataError
from pso_lib.experiments import ResultError, experiment, load, names, run
from pso_lib.experiments.record import RESULTS, path_of

SCALES = ("smoke", "quick", "full")


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pso_lib.experiments", description="Named experiments.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the experiments, and which results are recorded")
    for name, text in (("run", "run one, or what is left of it"), ("show", "print a recorded result as a table")):
        command = commands.add_parser(name, help=text)
        command.add_argument("name", help="see list")
        command.add_argument("--scale", choices=SCALES, default="quick")
        command.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
        if name == "run":
            command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
            command.add_argument("--epochs", type=float, help="fewer, or more, than the protocol; the result says so")
            command.add_argument("--evaluations", type=int, help="points of each accuracy curve")
            command.add_argument("--data", type=Path, default=None, help="root of the data sets (default: PSO_DATA)")
    options = parser.parse_args(argv)
    try:
        if options.command == "list":
            _list()
        elif options.command == "run":
            run(
                options.name,
                options.scale,
                device=options.device,
                folder=options.out,
                root=options.data,
                epochs=options.epochs,
                evaluations=options.evaluations,
                progress=_say,
            )
        else:
            _show(load(options.name, options.scale, options.out))
    except (ResultError, DataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _list() -> None:
    for name in names():
        recorded = [scale for scale in SCALES if path_of(name, scale).exists()]
        print(f"{name:20} {experiment(name).question}" + (f"  [recorded: {', '.join(recorded)}]" if recorded else ""))


def _show(result: dict) -> None:
    """Mean, minimum and maximum of the test accuracy over seeds: arms down, depths across."""
    source = result["provenance"]
    print(f"{result['experiment']} at {result['scale']}: {', '.join(source['data'])}")
    print(f"{source['device']}, torch {source['torch']}, {source['date']}, {source['seconds']} s")
    epochs, protocol = result["configuration"]["epochs"], source["protocol_epochs"]
    print(f"{epochs:g} epochs" + ("" if epochs == protocol else f" (the protocol has {protocol:g})"))
    runs = result["runs"]
    depths = sorted({r["depth"] for r in runs})
    # one line per arm, and per rate where the rates are what is compared
    several = not result["configuration"]["choose_rate"] and len(result["configuration"]["rates"]) > 1
    for dataset in dict.fromkeys(r["dataset"] for r in runs):
        print(f"\n{dataset:28}" + "".join(f"{f'L = {d}':>20}" for d in depths))
        for label in dict.fromkeys((r["arm"], r["lr"] if several else None) for r in runs if r["dataset"] == dataset):
            row = f"{label[0]}" + (f" {label[1]:g}" if several else "")
            cells = []
            for depth in depths:
                found = [
                    r["test_accuracy"]
                    for r in runs
                    if (r["dataset"], r["arm"], r["depth"]) == (dataset, label[0], depth)
                    and (not several or r["lr"] == label[1])
                ]
                cells.append(f"{sum(found) / len(found):.3f} [{min(found):.3f}, {max(found):.3f}]" if found else "–")
            print(f"{row:28}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
