"""The session on a GPU, rehearsed on the CPU: the same code, every stage."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import colab
import nbformat
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from pso_lib.experiments import names

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from ensemble import BATCH, networks  # noqa: E402
from stages import chapters, correctness, recorded, speed  # noqa: E402
from stages.report import Options, Report  # noqa: E402

pytestmark = pytest.mark.slow  # all stages of a session, rehearsed


@pytest.fixture
def options(tmp_path) -> Options:
    return Options(tmp_path, torch.device("cpu"), 1.0, None, None, None, True)


def test_every_stage_runs(tmp_path):
    """From another folder, with a Python that knows of no installed package's checkout."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--smoke", "--device", "cpu", "--out", "found"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("all stages done")
    found = {name: json.loads((tmp_path / "found" / f"{name}.json").read_text()) for name in STAGES}
    for record in found.values():
        assert record["environment"]["device"].startswith("cpu") and record["environment"]["torch"] == torch.__version__
    count = found["correctness"]["found"]["count"]
    assert count["right"] == count["total"] > 15
    assert found["speed"]["found"]["E = 3"]["ms engine"] > 0
    assert found["chapters"]["found"][chapters.SHORT]["ok"] is True
    assert found["recorded"]["found"]["learning_rate"]["state"] == "recorded"
    assert found["language"]["found"]["smoothing, ten times, bfloat16 autocast"]["triggers"]
    assert (tmp_path / "found" / "results" / "learning_rate.smoke.json").exists()


STAGES = ("correctness", "speed", "chapters", "recorded", "language")


def test_an_unknown_stage_is_refused(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--stages", "sped"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "unknown sped; known are correctness, speed" in done.stderr


def test_the_chapters_are_those_that_use_a_gpu():
    assert colab.TRAINS.pattern == chapters.TRAINS
    for path in (ROOT / "book").glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        assert chapters.cells(path) == [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert "live(" in "".join(chapters.cells(ROOT / "book" / f"{chapters.SHORT}.ipynb"))


def test_a_chapter_that_fails_is_named_and_the_others_run(options, monkeypatch, tmp_path, capsys):
    (tmp_path / "book").mkdir()
    for name, source in (("bad", "live = print\nlive()\nassert 1 == 2, 'no'"), ("good", "live = print\nlive()")):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        nbformat.write(notebook, tmp_path / "book" / f"{name}.ipynb")
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    report = Report("chapters", options)
    assert not chapters.run(replace(options, smoke=False), report)
    assert report.found["bad"]["ok"] is False and report.found["good"]["ok"] is True
    assert "AssertionError: no" in capsys.readouterr().out


def test_a_wrong_number_is_found_and_stops_nothing(options, monkeypatch, capsys):
    calls = iter(range(100))

    def differs(device, dtype):
        return torch.tensor([1.0, 2.0 + 1e-3 * next(calls)])

    def breaks(device, dtype):
        raise RuntimeError("no kernel\nand more")

    numbers = {"first": differs, "second": breaks, "third": lambda device, dtype: 3.0}
    monkeypatch.setattr(correctness, "checks", lambda: [correctness.Check(*one) for one in numbers.items()])
    report = Report("correctness", options)
    assert not correctness.run(options, report)
    said = capsys.readouterr().out
    assert "FAILED first, float64" in said and "off by 5.0e-04" in said
    assert "FAILED second, float64" in said and "RuntimeError: no kernel" in said
    assert "ok     third, float64" in said and "1 of 3 checks right" in said
    assert json.loads(report.path.read_text())["found"]["count"] == {"right": 1, "total": 3}


@pytest.mark.parametrize(
    ("found", "right", "gap"),
    [
        ([1.0, 2.0], torch.tensor([1.0, 2.0]), 0.0),
        (torch.tensor([1.0, 2.5]), [1.0, 2.0], 0.25),
        ((torch.tensor([1e-9]), 1.0), (torch.tensor([2e-9]), 1.0), 0.5),  # each part by its own size
        ([1.0, None], [1.0, None], 0.0),
        ([1.0, None], [1.0, 2.0], float("inf")),
        ([1.0], [1.0, 2.0], float("inf")),
        ({"a": [3.0]}, {"a": [4.0]}, 0.25),
    ],
)
def test_the_gap_of_two_findings(found, right, gap):
    assert correctness.gap(found, right) == pytest.approx(gap)


def test_operations_are_counted_as_torch_counts_them():
    depth, (network,) = 7, networks(1, 7, torch.device("cpu"))
    x, y = torch.randn(BATCH, speed.INPUTS), torch.zeros(BATCH, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        cross_entropy(network(x), y).backward()
    assert speed.flops(1, depth) == counter.get_total_flops()
    assert speed.flops(3, depth) == 3 * counter.get_total_flops()


def test_bytes_are_those_of_each_kernels_tensors():
    """By a plain walk over the kernels of one layer, type B: (what it reads, what it writes)."""
    state, matrix = speed.BATCH * speed.WIDTH * 4, speed.WIDTH**2 * 4
    forward = [((1, 1), (1, 0)), ((1, 0), (1, 0)), ((2, 1), (1, 0))]  # A x + b; relu; x + beta s B
    backward = [
        ((1, 1), (1, 0)),
        ((2, 0), (1, 0)),
        ((2, 0), (0, 1)),
        ((2, 0), (0, 1)),
        ((1, 0), (0, 0)),
        ((2, 1), (1, 0)),
    ]
    moved = speed.bytes_moved(2, 5)
    kernels = [part for kernel in forward + backward for part in kernel]
    assert moved["activations"] == 2 * 5 * state * sum(states for states, _ in kernels)
    assert moved["weights and gradients"] == 2 * 5 * matrix * sum(matrices for _, matrices in kernels)
    (network,) = networks(1, 5, torch.device("cpu"))
    assert moved["Adam"] == 2 * 28 * sum(p.numel() for p in network.parameters())


def test_recorded_experiments_come_by_value_and_once_each():
    order = recorded.order()
    assert order[:2] == ["depth_tuned", "fold_budget_wide"]
    assert sorted(order) == sorted(names())


def test_without_streams_the_experiments_are_recorded_all_the_same(options, monkeypatch, capsys):
    monkeypatch.setattr(recorded.passes, "STREAMS", 16)

    def broken(device, dtype):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(correctness, "side_by_side", broken)
    report = Report("recorded", options)
    assert not recorded.run(options, report)  # and it is said
    assert recorded.passes.STREAMS == 1 and "one after the other" in capsys.readouterr().out
    assert report.found["learning_rate"]["state"] == "recorded"


def test_the_minutes_of_an_experiment_are_kept(options, monkeypatch):
    monkeypatch.setattr(recorded, "streams_work", lambda options: True)
    tight = replace(options, minutes=0.005, experiments="depth")
    report = Report("recorded", tight)
    assert recorded.run(tight, report)
    assert "of 6 units are finished and kept" in report.found["depth"]["state"]
    assert not (options.out / "results" / "depth.smoke.json").exists()
    assert recorded.run(replace(options, experiments="depth"), report) and report.found["depth"]["state"] == "recorded"
