"""What students hand in by mistake or on purpose, graded in every kind of sandbox that works here."""

import csv
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sample_course import BRIEF, NAIVE, REASONS, SECRET, WHOLE, brief, notebook, right, sample, with_answers

from pso_lib.course.gradebook import Late, feedback, write_grades
from pso_lib.course.grading import grade

pytestmark = pytest.mark.slow
MODES = [
    pytest.param(mode, marks=pytest.mark.skipif(bool(why), reason=f"{mode}: {why}")) for mode, why in REASONS.items()
]


def graded(folder: Path, mode: str | None, files: dict[str, str | bytes], assignment=None, **options) -> dict:
    """Write the files and grade them; the results by name of the file."""
    (folder / "in").mkdir(exist_ok=True)
    for name, text in files.items():
        path = folder / "in" / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    paths = sorted((folder / "in").iterdir())
    found = grade(assignment or brief(), paths, folder / "in", SECRET, folder / "out", mode=mode, jobs=2, **options)
    return {one.file: one for one in found}


def points(one) -> dict[str, float]:
    return {name: result["points"] for name, result in one.results.items()}


def said(one, name: str) -> str:
    result = one.results[name]
    return " | ".join([result["problem"], *(case["message"] for case in result["cases"])])


# One exercise each; whoever shares the file must keep all points.
CRASHES = {
    "exits": {
        "signed_distance": "import os; os._exit(0)",
        "fold": "raise SystemExit(0)",
        "activation": "import os; os.kill(os.getppid(), 9); return 1.0",
    },
    "loops and leaks": {
        "pieces": "while True: pass",
        "fold": "return bytearray(10**11)",
        "signed_distance": "import os, time\nos.closerange(0, 99)\ntime.sleep(600)",
    },
    "writes everywhere": {
        "fold": "import os\nfor n in range(3, 64):\n    try: os.write(n, b'\\xff')\n    except OSError: n\nreturn x",
        "pieces": "print('x' * 10**7)\nopen('big', 'wb').write(bytes(10**9))\nreturn 1",
    },
}
TOLD = {
    ("exits", "signed_distance"): "ended the process",
    ("exits", "fold"): "raises SystemExit",
    ("loops and leaks", "pieces"): "it runs longer than the 2 seconds",
    ("loops and leaks", "signed_distance"): "it runs longer than the 2 seconds",
    ("loops and leaks", "fold"): "more memory than the 2048 MB",
    ("exits", "activation"): "",
    ("writes everywhere", "fold"): "",
    ("writes everywhere", "pieces"): "File too large",
}


@pytest.mark.parametrize("mode", MODES)
def test_what_crashes_costs_its_own_exercise(tmp_path, mode):
    files = {f"{name}.py": with_answers(**bodies) for name, bodies in CRASHES.items()}
    found = graded(tmp_path, mode, files)
    for name, bodies in CRASHES.items():
        one = found[f"{name}.py"]
        kept = {exercise: value for exercise, value in BRIEF.items() if exercise not in bodies}
        assert {exercise: points(one)[exercise] for exercise in kept} == kept, name
        for exercise in bodies:
            assert points(one)[exercise] <= 1, (name, exercise)  # by chance: the value at zero, or one piece
            assert TOLD[name, exercise] in said(one, exercise), said(one, exercise)


FORKS = """
import os
made = []
try:
    for _ in range(300):
        child = os.fork()
        if child == 0:
            import time
            os.setsid()
            time.sleep(600)
            os._exit(0)
        made.append(child)
except OSError:
    pass
return 0.0
"""


@pytest.mark.parametrize("mode", MODES)
def test_children_of_children_end_with_their_exercise(tmp_path, mode):
    mark = f"sleeper-{os.getpid()}-{mode}"
    body = f"import ctypes\nctypes.CDLL(None).prctl(15, b'{mark[-15:]}', 0, 0, 0)\n{FORKS.replace('300', '20')}"
    one = graded(tmp_path, mode, {"a.py": with_answers(activation=body)})["a.py"]
    assert points(one) == BRIEF | {"activation": 1}
    left = [name for name in Path("/proc").glob("[0-9]*/comm") if _read(name) == mark[-15:]]
    assert not left


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


@pytest.mark.parametrize("mode", MODES)
def test_a_bomb_of_forks_is_over_with_its_time(tmp_path, mode):
    if mode == "plain":
        pytest.skip("plain: it has no name space of processes, and a bomb is no test to run beside others")
    body = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    begin = time.monotonic()
    short = brief()
    short.exercises["activation"] = replace(short.exercises["activation"], seconds=1)
    one = graded(tmp_path, mode, {"a.py": with_answers(activation=body)}, short)["a.py"]
    assert points(one) == BRIEF | {"activation": 0}
    assert time.monotonic() - begin < 200


LOOKING = """
import glob, os, socket, urllib.request
seen = []
for path in ("{secret}", "{oracle}", "/etc/passwd"):
    try: seen.append(open(path).read())
    except OSError: pass
for path in ("{outside}", "/usr/mark-{pid}", "{package}/mark"):
    try: open(path, "w").write("was here"); seen.append(path)
    except OSError: pass
for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern"):
    try: os.close(os.open(path, os.O_WRONLY)); seen.append(path)
    except OSError: pass
try: socket.create_connection(("127.0.0.1", {port}), timeout=2); seen.append("network")
except OSError: pass
return str(seen)
"""


@pytest.mark.parametrize("mode", MODES)
def test_nothing_outside_can_be_read_written_or_reached(tmp_path, mode):
    import socket

    import pso_lib

    (tmp_path / "secret").write_text("the secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        body = LOOKING.format(
            secret=tmp_path / "secret",
            oracle=sample().folder / "oracle.py",
            outside=tmp_path / "outside",
            package=Path(pso_lib.__file__).parent,
            pid=os.getpid(),
            port=server.getsockname()[1],
        )
        if mode == "plain":
            body = body.replace('"/usr/mark', '"/nowhere/mark').replace("/mark", "/no/mark")
        one = graded(tmp_path, mode, {"a.py": with_answers(activation=body)})["a.py"]
    assert points(one) == BRIEF | {"activation": 0}
    log = (tmp_path / "out" / "logs" / "a.py" / "activation.log").read_text()
    if mode == "plain":
        assert "the secret" in log  # what its warning says
    else:
        assert "answer '[]'" in log and not (tmp_path / "outside").exists()


FRAMES = """
import gc, sys
frame, truths = sys._getframe(), []
while frame:
    truths += [v for v in list(frame.f_locals.values()) + list(frame.f_globals.values()) if isinstance(v, float)]
    frame = frame.f_back
truths += [v for v in gc.get_objects() if isinstance(v, float)]
return truths[0] if truths else 12345.0
"""
PATCHES = """
import pso_lib.checks as checks, pso_lib.course.assignment as course, pso_lib.course.wire as wire
import pso_lib.checks._compare, pso_lib.checks._core
for module in (checks, checks._compare, checks._core):
    for name in ("require_close", "require_function", "wrong", "_same", "check"):
        setattr(module, name, lambda *a, **k: True)
checks._core._registry.clear()
course.Judgement.share = 1.0
class Yes(float):
    __eq__ = __le__ = __ge__ = __gt__ = lambda *a: True
    __sub__ = __rsub__ = __abs__ = lambda self, *a: self
return Yes(3.0)
"""
FORGES = """
import os, json
body = json.dumps({"case": 0, "share": 1.0, "points": 4, "value": "right"}).encode()
for n in range(3, 64):
    for number in range(3):
        try: os.write(n, len(body).to_bytes(4, "big") + body.replace(b"0,", b"%d," % number, 1))
        except OSError: pass
return 0
"""


@pytest.mark.parametrize("mode", MODES)
def test_looking_round_and_patching_earns_nothing(tmp_path, mode):
    bodies = {"signed_distance": FRAMES, "pieces": FORGES, "fold": PATCHES}
    one = graded(tmp_path, mode, {"a.py": with_answers(**bodies, head="import pso_lib.checks\n")})["a.py"]
    assert points(one) == BRIEF | dict.fromkeys(bodies, 0)


@pytest.mark.parametrize("mode", MODES[:1])
def test_right_blank_and_wrong_answers_get_their_points_and_the_mistake_its_name(tmp_path, mode):
    wrong = with_answers(**{name: body for name, (body, _, _) in NAIVE.items()})
    others = with_answers(
        signed_distance="return -_right_signed_distance(x, normal, offset)",
        fold="return _right_fold(x, normal).T",
        pieces="return 5  # as in the book",
        activation="return -_right_activation(z)",
        train="return {'accuracy': 1.0, 'W': torch.zeros(64, 10), 'b': torch.zeros(10)}",
    )
    from pso_lib.course.notebook import student_source

    files = {
        "right.py": right(),
        "blank.py": student_source(sample(), SECRET, "ada"),
        "naive.py": wrong,
        "others.py": others,
        "harmless.ipynb": notebook("%matplotlib inline\n!pip install x\nundefined_name.train()", right(), "1 / 0"),
    }
    found = graded(tmp_path, mode, files, sample())
    assert points(found["right.py"]) == points(found["harmless.ipynb"]) == WHOLE
    assert points(found["blank.py"]) == dict.fromkeys(WHOLE, 0)
    assert "no answer yet" in said(found["blank.py"], "fold")
    for name, (_, share, message) in NAIVE.items():
        assert message in said(found["naive.py"], name)
        assert points(found["naive.py"])[name] == pytest.approx(share, abs=1e-9) or name == "fold"
    assert points(found["naive.py"])["fold"] < 2
    assert "the sign is turned" in said(found["others.py"], "signed_distance")
    assert "It is the transpose" in said(found["others.py"], "fold")
    assert "turned upside down" in said(found["others.py"], "activation")
    assert "not that of W and b" in said(found["others.py"], "train")
    assert points(found["others.py"]) == {"signed_distance": 0, "fold": 0, "activation": 1, "pieces": 1, "train": 0}

    one = found["naive.py"]
    rows = write_grades(tmp_path / "g.csv", sample(), [one], Late(), {})
    page = feedback(sample(), one, rows[0], sample().variants(SECRET, one.variant))
    assert "without the division" in page and "def judge" not in page and "require_close" not in page
    assert "{{" not in page


def test_what_cannot_be_graded_says_so_and_the_rest_is_graded(tmp_path):
    twice = right() + "\n\ndef pieces(creases):\n    return 1\n"
    cut = notebook(right())[:-40]
    files = {
        "empty.ipynb": "",
        "cut.ipynb": cut,
        "large.ipynb": notebook("x = 1  # " + "x" * (30 * 2**20)),
        "image.ipynb": b"\x89PNG\r\n\x1a\n\xff\xfe",
        "list.ipynb": "[1, 2]",
        "deep.ipynb": "[" * 100000,
        "deep.py": "x = " + "(" * 100000,
        "twice.py": twice,
        "syntax.ipynb": notebook(right(), student="ada").replace("return len(set(creases)) + 1", "return len(set("),
    }
    found = graded(tmp_path, None, files)
    assert "is empty" in found["empty.ipynb"].problem
    assert "no whole notebook" in found["cut.ipynb"].problem
    assert "has 30 MB" in found["large.ipynb"].problem and "clear its outputs" in found["large.ipynb"].problem
    assert "UTF-8" in found["image.ipynb"].problem and "no cells" in found["list.ipynb"].problem
    assert found["deep.ipynb"].problem and found["deep.py"].points == 0
    assert points(found["twice.py"]) == BRIEF | {"pieces": 0}
    assert "two answers" in said(found["twice.py"], "pieces") and "line" in said(found["twice.py"], "pieces")
    assert points(found["syntax.ipynb"]) == BRIEF | {"pieces": 0}
    assert "is not Python" in said(found["syntax.ipynb"], "pieces")
    rows = write_grades(tmp_path / "g.csv", sample(), found.values(), Late(), {})
    with open(tmp_path / "g.csv", newline="") as file:
        table = {row["file"]: row for row in csv.DictReader(file)}
    assert len(rows) == len(files) and "is empty" in table["empty.ipynb"]["remarks"]
    assert "two answers" in table["twice.py"]["remarks"]
