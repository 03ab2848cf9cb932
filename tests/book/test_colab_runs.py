"""Every chapter's plain edition runs from an empty folder against an installed package, as it does on Colab."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import colab
import pytest

import book

CHAPTERS = book.chapters()


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder with the package installed in it, as ``pip install`` would: not the checkout."""
    site, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source")
    for name in ("pso_lib", "results"):  # a copy: building leaves files beside the code
        shutil.copytree(book.ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(book.ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture(scope="session")
def edition(tmp_path_factory):
    return {path.stem: path for path in colab.write_edition(tmp_path_factory.mktemp("edition"))}


@pytest.mark.parametrize("name", [path.stem for path in CHAPTERS])
def test_chapter_runs_in_an_empty_folder(name, edition, installed, tmp_path):
    from nbclient import NotebookClient

    notebook = book.read(edition[name])
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(installed), "PSO_SCALE": "smoke", "TQDM_DISABLE": "1"})
    setup = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert setup.outputs[0].text.startswith("pso_lib ")
    assert list(tmp_path.iterdir()) == [], "a chapter leaves files where it runs"


def test_the_installed_package_is_the_one_that_runs(installed, tmp_path):
    code = "import pso_lib; print(pso_lib.__file__)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert Path(run.stdout.strip()).is_relative_to(installed), run.stderr
