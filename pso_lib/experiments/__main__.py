"""python -m pso_lib.experiments list | run NAME [--scale …] [--workers …] [--again] … | show NAME [--scale …]"""

import argparse
import os
import signal
import sys
from pathlib import Path

from pso_lib.data import DataError
from pso_lib.experiments import ClusterError, ResultError, experiment, load, names, run
from pso_lib.experiments.record import RESULTS, command, recorded_path, units_done
from pso_lib.experiments.registry import suite_named, suite_of
from pso_lib.scale import SCALES


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pso_lib.experiments", description="Named experiments.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the experiments, and which results are recorded")
    for name, text in (("run", "run one, or what is left of it"), ("show", "print a recorded result as a table")):
        adds = commands.add_parser(name, help=text)
        adds.add_argument("name", help="see list")
        usual = "quick" if name == "run" else "full"
        adds.add_argument("--scale", choices=SCALES, default=usual, help=f"default: {usual}")
        adds.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
        if name == "run":
            adds.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
            adds.add_argument(
                "--epochs", type=float, help="of those on depth: fewer, or more, than planned; the result says so"
            )
            adds.add_argument("--evaluations", type=int, help="of those on depth: points of each accuracy curve")
            adds.add_argument(
                "--seeds", type=int, help="of those on unstable training, and of survival: fewer, or more"
            )
            adds.add_argument("--again", action="store_true", help="though it is recorded; replaces the result")
            adds.add_argument("--minutes", type=float, help="begin no unit that would not be done by then")
            places = adds.add_mutually_exclusive_group()
            places.add_argument("--workers", type=int, help="processes of this machine that run units, by Dask")
            places.add_argument("--scheduler", help="Dask's: tcp://host:8786, or its file; its workers run units")
            adds.add_argument("--data", type=Path, default=None, help="root of the data sets (default: PSO_DATA)")
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
                seeds=options.seeds,
                again=options.again,
                minutes=options.minutes,
                workers=options.workers,
                scheduler=options.scheduler,
                progress=_say,
            )
        else:
            _show(load(options.name, options.scale, options.out))
    except (ResultError, DataError, ClusterError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{error.strerror or error}. What is finished is kept, and the same command goes on there. "
            "Free space, or choose with --out a folder that can be written.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _list() -> None:
    for name in names():
        recorded = [scale for scale in SCALES if recorded_path(name, scale).exists()]
        states = [f"recorded: {', '.join(recorded)}"] if recorded else []
        for scale in SCALES:
            if done := units_done(name, scale):
                plan = experiment(name, scale)
                states.append(f"{scale} unfinished, {done} of {len(suite_of(plan).units(plan))} units")
        print(f"{name:20} {experiment(name).question}" + (f"  [{'; '.join(states)}]" if states else ""))


def _show(result: dict) -> None:
    source = result["provenance"]
    print(f"{result['experiment']} at {result['scale']}: {', '.join(source['data'])}")
    print(f"{source['device']}, torch {source['torch']}, {source['date']}, {source['seconds']} s")
    for line in suite_named(result).table(result):
        print(line)
    print(f"\nmade again, in place of this record, by: {command(result)} --again")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to be told to end is Ctrl-C: what is finished is kept
    sys.exit(main())
