"""All that a GPU can be asked in one session: is it right and fast, do the chapters run, what is found at full scale.

    python benchmarks/gpu.py --stages correctness,speed --data DIR --out DIR

Stages, in the order in which they are run:

    correctness   every path on the device against the CPU in float64
    speed         milliseconds a step of the ensemble engine, its rivals, and what the device allows
    chapters      the code of the chapters that use a GPU, with their assertions, and the time of each
    recorded      experiments at full scale, resumed where they were, within --minutes
    language      a Transformer of 25 M parameters: plain, clipped, guarded; float32 and bfloat16; what the guard costs

What is found is printed at once and kept in --out, so that a session that is cut off has lost only what it was at.
``--smoke`` runs the same code in seconds, on the CPU too: it shows that all stages run, its numbers mean nothing.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "benchmarks")) if path not in sys.path]

import torch  # noqa: E402
from stages import chapters, correctness, language, recorded, speed  # noqa: E402
from stages.report import Options, Report, say  # noqa: E402

STAGES = {stage.__name__.rpartition(".")[2]: stage for stage in (correctness, speed, chapters, recorded, language)}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 1 if a check failed or a stage broke down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", default=",".join(STAGES), help="names, separated by commas (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="folder of the data sets; else the environment variable PSO_DATA")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "gpu-results"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=10.0, help="of recorded and chapters each (default: 10)")
    parser.add_argument("--experiments", help="of recorded: names, separated by commas, instead of all by value")
    parser.add_argument("--at-once", type=int, help="of recorded: units side by side; the next stop is after so many")
    parser.add_argument("--only", help="of correctness and chapters: those whose name holds this")
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run?")
    given = parser.parse_args(arguments)
    names = [name for name in given.stages.split(",") if name]
    if unknown := [name for name in names if name not in STAGES]:
        parser.error(f"--stages: unknown {', '.join(unknown)}; known are {', '.join(STAGES)}")
    if given.data is not None:
        os.environ["PSO_DATA"] = str(given.data.resolve())
    os.environ.setdefault("TQDM_DISABLE", "1")
    options = Options(**{key: value for key, value in vars(given).items() if key not in ("stages", "data")})
    options = options.on(torch.device(given.device))
    failed = []
    for name in [name for name in STAGES if name in names]:
        report = Report(name, options)
        say(f"\n=== {name}: {', '.join(f'{key} {value}' for key, value in report.environment.items())}")
        try:
            good = STAGES[name].run(options, report)
        except Exception:  # the next stage may work
            traceback.print_exc()
            report.add("broke down", traceback.format_exc())
            good = False
        failed += [] if good else [name]
        say(f"=== {name}: {'done' if good else 'FAILED'}; {report.path}")
    say("\n" + (f"failed: {', '.join(failed)}" if failed else "all stages done"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
