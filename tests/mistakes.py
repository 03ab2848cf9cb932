"""Natural mistakes, a thousand and more: each argument of each public function, once wrong in every likely way.

    python tests/mistakes.py            count them all, and try other people's training; status 1 if one went unnoticed
    python tests/mistakes.py jacobian   those of one function, with what each said

A call with one wrong argument may do one of three things. Refuse, with an error that names the argument and says what
to do. Give the right answer, where the mistake is only another form of the same value (a list for a tensor, numpy's
integer for Python's). Anything else is a silent wrong answer, or a hang; none is allowed.
"""

import copy
import math
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

SECONDS = 20  # longer counts as a hang
REMEDY = re.compile(
    r"\b(must|give|use|choose|one of|needs?|pass|move|build|make|expected|at least|at most|between|above|below|from|"
    r"leave|did you mean|allowed|takes?|try|should|instead|want\w*|cannot|has no|it has|is not|are not|not a)\b",
    re.I,
)


@dataclass
class Case:
    """A public function and arguments that are right.

    Attributes:
        call: the function, or anything that calls it with keyword arguments.
        make: a dictionary of right arguments, made afresh for each call.
        also: names an error may use for an argument, beside its own: {"x": ("points",)}.
        fine: mistakes that are none here: {"argument": {"name of the mistake", …}}; say why beside it.
        skip: arguments that are not tried.
        result: what of the returned value is compared with the right answer; None compares nothing.
    """

    name: str
    call: Callable
    make: Callable[[], dict]
    also: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fine: dict[str, set[str]] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    result: Callable | None = lambda value: value


class Same:
    """Another form of the right value: the right answer, or a refusal."""

    def __init__(self, value):
        self.value = value


def mistakes(value) -> dict[str, object]:
    """What a person might give in place of ``value``, by name."""
    if isinstance(value, Tensor):
        return of_tensor(value)
    if isinstance(value, bool):
        return {"text": "yes", "None": None}
    if isinstance(value, int):
        return {
            "negative": -abs(value) - 1,
            "half": value + 0.5,
            "float": Same(float(value)),
            "text": Same(str(value)),
            "None": None,
            "True": True,
            "numpy": Same(np.int64(value)),
            "nan": math.nan,
            "list": [value],
        }
    if isinstance(value, float):
        return {
            "negative": -abs(value) - 1,
            "nan": math.nan,
            "inf": math.inf,
            "text": Same(str(value)),
            "None": None,
            "numpy": Same(np.float64(value)),
            "complex": complex(value, 1),
            "list": [value],
        }
    if isinstance(value, str):
        return {
            "misspelt": value + "x",
            "upper": Same(value.upper() if value.upper() != value else value.lower()),
            "empty": "",
            "None": None,
            "number": 3,
            "list": [value],
        }
    if isinstance(value, torch.Generator):
        return {"seed": 0, "text": "0", "numpy": np.random.default_rng(0)}
    if isinstance(value, nn.Module):
        return {
            "None": None,
            "tensor": torch.ones(2, 2),
            "class": type(value),
            "state": value.state_dict(),
            "text": "net",
        }
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, (int, float)) for v in value):
        return {
            "empty": type(value)(),
            "number": value[0],
            "text": "12",
            "None": None,
            "nan": type(value)([math.nan, *value[1:]]),
            "longer": type(value)([*value, value[-1]]),
            "texts": Same(type(value)([str(v) for v in value])),
        }
    if callable(value):
        return {"None": None, "number": 3, "text": "f"}
    return {"None": None, "number": 3, "text": "x"}


def of_tensor(x: Tensor) -> dict[str, object]:
    found: dict[str, object] = {
        "None": None,
        "text": "x",
        "number": 1.0,
        "numpy": Same(x.detach().numpy()),
        "list": Same(x.tolist()),
        "0-d": x.flatten()[0].clone(),
        "empty": x[:0],
        "more axes": x[None],
        "on meta": x.to("meta"),
    }
    if x.is_floating_point():
        other = torch.float32 if x.dtype == torch.float64 else torch.float64
        spoilt = x.clone().flatten()
        spoilt[spoilt.numel() // 2] = math.nan
        infinite = x.clone().flatten()
        infinite[0] = math.inf
        found |= {
            "other precision": Same(x.to(other)),
            "bfloat16": Same(x.to(torch.bfloat16)),
            "integers": x.round().to(torch.int64),
            "complex": x.to(torch.complex128),
            "nan": spoilt.view_as(x),
            "inf": infinite.view_as(x),
        }
        if x.ndim >= 2:
            found |= {"fewer axes": x[0], "a column less": x[..., :-1], "flat": x.flatten()}
            if x.shape[-1] != x.shape[-2]:
                found["transposed"] = x.mT
        elif x.ndim == 1:
            found["one less"] = x[:-1]
    else:
        found |= {"floats": x.double() + 0.5, "negative": -x - 1, "far too large": x + 10**6, "one less": x[:-1]}
    return found


class Hang(BaseException):
    """The call took too long."""


def _ring(signum, frame):
    raise Hang


def outcome(case: Case, argument: str, mistake: str, wrong, right) -> tuple[str, str]:
    """("refused", …), ("unclear", …), ("right", …), ("silent", …) or ("hang", …), and what was said."""
    arguments = case.make()
    form = isinstance(wrong, Same)
    arguments[argument] = wrong.value if form else wrong
    before = {
        name: copy.deepcopy(value.state_dict()) for name, value in arguments.items() if isinstance(value, nn.Module)
    }
    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = case.call(**arguments)
            value = None if case.result is None else case.result(value)
    except Hang:
        return "hang", ""
    except Exception as error:  # whatever a user would see
        said = " ".join([str(error), *getattr(error, "__notes__", ())])
        text = f"{type(error).__name__}: {said}"
        for name, state in before.items():
            now = arguments[name].state_dict()
            if any(not torch.equal(state[key], now[key]) for key in state):
                return "silent", f"refused, but {name} had been changed: {text}"
        names = (argument, *case.also.get(argument, ()))
        named = any(re.search(rf"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])", said) for name in names)
        return ("refused" if named and REMEDY.search(said) else "unclear"), text
    finally:
        signal.alarm(0)
    if form and (case.result is None or close(value, right)):
        return "right", ""
    if mistake in case.fine.get(argument, ()) or "*" in case.fine.get(argument, ()):
        return "right", "said to be none"
    return "silent", f"returned {str(value)[:120]}"


def close(a, b) -> bool:
    """Whether two results are the same up to the coarser precision."""
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    if isinstance(a, (int, float, Tensor, np.ndarray, np.generic)) and isinstance(b, (int, float, Tensor, np.generic)):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        if a.shape != b.shape or a.is_complex():
            return False
        coarse = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float32: 1e-3}.get(a.dtype, 1e-6)
        return bool(((a.double() - b.double()).abs() <= coarse * (1 + b.double().abs())).all())
    try:
        return bool(a == b)
    except (RuntimeError, ValueError):
        return False


def trials(cases):
    """(case, argument, mistake, wrong value, right answer) for all of them."""
    for case in cases:
        torch.manual_seed(0)
        made = case.make()
        try:
            answer = case.call(**case.make())
        except Exception as error:
            raise AssertionError(f"the right call of {case.name} fails: {error}") from error
        right = None if case.result is None else case.result(answer)
        for argument, value in made.items():
            if argument in case.skip:
                continue
            for mistake, wrong in mistakes(value).items():
                yield case, argument, mistake, wrong, right


def main(wanted: list[str]) -> int:
    from mistake_cases import CASES

    counts: Counter = Counter()
    told = []
    for case, argument, mistake, wrong, right in trials(c for c in CASES if not wanted or c.name in wanted):
        kind, text = outcome(case, argument, mistake, wrong, right)
        counts[kind] += 1
        if kind in ("silent", "hang", "unclear") or wanted:
            told.append(f"{kind:8} {case.name}({argument}: {mistake}) {' '.join(text.split())[:200]}")
    print(*sorted(told), sep="\n")
    errors = counts["refused"] + counts["unclear"]
    right = f"{counts['right']} right answers, {errors} errors"
    told_what = f"{100 * counts['refused'] / max(1, errors):.1f} % of them name the argument and the remedy"
    bad = f"{counts['silent']} silent wrong answers, {counts['hang']} hangs"
    print(f"{sum(counts.values())} mistakes in {len(CASES)} cases: {bad}, {right}; {told_what}")
    failed = 0 if wanted else cells()
    return int(failed or counts["silent"] + counts["hang"] > 0 or counts["refused"] < 0.95 * errors)


def cells() -> int:
    """Try every way of training against every tool, and say how it went; the exit status of the tests."""
    import pytest
    import test_other_peoples_training as matrix

    said = [text for row in matrix.TABLE.values() for text in row]
    status = int(pytest.main(["-q", "--no-header", "-p", "no:nbval", "-o", "addopts=", matrix.__file__]))
    kinds = Counter(("answered" in text, "refused" in text) for text in said)
    print(
        f"{len(said)} cells, {len(matrix.TABLE)} ways of training by {len(matrix.TOOLS)} tools: "
        f"{kinds[True, False]} answered, "
        f"{kinds[True, True]} answered or, where it says so, refused, {kinds[False, True]} refused; "
        + ("all as said" if status == 0 else "NOT all as said")
    )
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
