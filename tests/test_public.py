"""The face of the library: what its top names, what importing costs, where a stranger finds things."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import pso_lib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pso_lib"
HEAVY = ("torch", "sympy", "matplotlib", "torchvision", "sklearn", "pooch")


def loaded_by(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter holds after the code."""
    tell = f"import sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code, allowed",
    [
        ("import pso_lib; pso_lib.__version__; dir(pso_lib)", set()),
        ("from pso_lib.experiments import load, select; select(load('depth'), arm='he')", set()),
        ("from pso_lib import load; load('survival')", set()),
        ("from pso_lib import singular_values, stable_rank", {"torch"}),
    ],
)
def test_importing_loads_only_what_is_used(code, allowed):
    assert loaded_by(code) <= allowed


def test_the_names_at_the_top_are_those_of_their_homes():
    assert 30 <= len(pso_lib.__all__) <= 45 and sorted(pso_lib.__all__) == sorted(set(pso_lib.__all__))
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf8"))
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("pso_lib")
        for alias in node.names
    }
    assert set(typed) == set(pso_lib.__all__) - {"__version__"}
    for name, home in typed.items():
        assert getattr(pso_lib, name) is getattr(import_module(home), name)
    with pytest.raises(AttributeError, match="no 'kawasaki' at its top"):
        _ = pso_lib.kawasaki


def modules() -> list[str]:
    """Every public module, as pso_lib.group.name."""
    files = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("_")]
    return sorted(str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in files)


def test_few_files_lie_flat_at_the_top():
    assert len([name for name in modules() if name.count(".") == 1]) <= 6


def test_every_module_is_in_the_reference():
    pages = "".join(path.read_text(encoding="utf8") for path in (ROOT / "book" / "api").glob("*.md"))
    shown = set(re.findall(r"automodule:: ([\w.]+)", pages))
    assert {name for name in modules() if not name.startswith("pso_lib.checks.")} <= shown
    for name in shown:
        import_module(name)


@pytest.mark.parametrize(
    "idea, file",
    [
        ("Kawasaki", "exact/origami.py"),
        ("class ConvNet", "nn/convnet.py"),
        ("def stable_rank", "analysis/spectrum.py"),
        ("class Guard", "smoothing/guard.py"),
        ("def write", "experiments/record.py"),
    ],
)
def test_a_stranger_finds_an_idea_in_two_steps(idea, file):
    group, name = file.split("/")
    assert group in pso_lib.__doc__ and idea in (PACKAGE / file).read_text(encoding="utf8")


@pytest.mark.parametrize(
    "call, error, parts",
    [
        (lambda: pso_lib.gaurd, AttributeError, ["'gaurd'", "Did you mean 'Guard'"]),
        (lambda: pso_lib.ConvNet, AttributeError, ["from pso_lib.nn.convnet import ConvNet"]),
        (lambda: pso_lib.kawasaki, AttributeError, ["from pso_lib.exact.origami import kawasaki"]),
        (
            lambda: pso_lib.load("depht"),
            ValueError,
            ["does not exist", "no experiment 'depht'", "Did you mean 'depth'"],
        ),
        (lambda: pso_lib.load("depth", "quick"), ValueError, ["It is recorded at 'full'"]),
        (lambda: pso_lib.deep_network(2, 4, num_classes=3), TypeError, ["'num_classes'", "Did you mean 'classes'"]),
        (lambda: pso_lib.deep_network(2, 4, hiden=3), TypeError, ["'hiden'", "Did you mean 'hidden'"]),
        (lambda: pso_lib.Guard(net(), weights=list(net().parameters())), TypeError, ["weights", "Parameter", "names"]),
        (lambda: pso_lib.Recorder(net(), "gradient_norm").step(), RuntimeError, ["no parameter has a gradient"]),
        (lambda: pso_lib.persistent_dimension(net(), data()), ValueError, ["network.lift(x)"]),
        (lambda: pso_lib.separation(net(), data()), ValueError, ["x"]),
    ],
)
def test_a_slip_is_answered(call, error, parts):
    with pytest.raises(error) as caught:
        call()
    assert all(part in str(caught.value) for part in parts), caught.value


def net():
    return pso_lib.deep_network(2, 4, inputs=3, classes=2, generator=pso_lib.seeded())


def data():
    import torch

    return torch.ones(2, 3)


def test_tab_completion_shows_what_there_is():
    assert set(pso_lib.__all__) < set(dir(pso_lib)) and {"exact", "smoothing", "nn"} < set(dir(pso_lib))
    groups = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert groups | {name.split(".")[1] for name in modules() if name.count(".") == 1} == set(pso_lib._GROUPS)
    assert loaded_by("import pso_lib; pso_lib.exact.__doc__; pso_lib.nn") == set()
