"""pso-lib COMMAND …, or python -m pso_lib COMMAND …: what the library does from the command line."""

import sys
from importlib import import_module

COMMANDS = {
    "experiments": "named experiments: list them, run one or what is left of it, show a recorded one",
    "course": "assignments: make notebooks, grade what comes back, compare, export",
}


def main(argv: list[str] | None = None) -> int:
    """Hand the rest of the line to the command's own module; returns the exit status."""
    command, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in COMMANDS:
        return import_module(f"pso_lib.{command}.__main__").main(rest)
    lines = "\n".join(f"  {name:14}{text}" for name, text in COMMANDS.items())
    said = f"usage: pso-lib COMMAND …\n\n{lines}\n\npso-lib COMMAND --help says more."
    if command in ("-h", "--help"):
        print(said)
        return 0
    print(f"pso-lib: there is no command {command!r}\n{said}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
