"""What comes back from a sandbox, judged: by the oracle where there is an answer, in words where there is none."""

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pso_lib.checks import Unanswered, Wrong
from pso_lib.course.assignment import Case, Exercise, Judgement
from pso_lib.course.wire import decoded

__all__ = ["judged"]

JUDGING = 30.0  # seconds for one judge

SAID = {
    "time": "it runs longer than the {seconds:g} seconds that are allowed.",
    "memory": "it needs more memory than the {megabytes} MB that are allowed.",
    "none": "it returns None: end it with `return`.",
    "blank": "it returns `...`: no answer yet.",
    "missing": "its definition could not be run.",
    "unplain": "it returns {text}: return numbers, strings, or lists, dicts and tensors of these.",
    "raised": "it raises {text}.",
    "ended": "it {text}.",
}


def judged(case: Case, answer: Any, one: Exercise) -> tuple[Judgement, str]:
    """The judge's verdict on what came back, and the traceback if the judge itself failed."""
    error = answer.get("error") if isinstance(answer, dict) else "unplain"
    if error is not None:
        text = str(answer.get("text", ""))[:400] if isinstance(answer, dict) else "nothing"
        said = SAID.get(str(error), SAID["ended"])
        return Judgement(0.0, said.format(seconds=one.seconds, megabytes=one.megabytes, text=text)), ""
    try:
        raw = answer["value"]
        value = [decoded(part) for part in raw] if case.each else decoded(raw)
        if case.each and len(value) != len(case.arguments):
            raise ValueError("as many values as calls")
    except (ValueError, KeyError, TypeError):
        return Judgement(0.0, SAID["ended"].format(text="sends what no function returns")), ""
    try:
        with _limited(JUDGING):
            verdict = case.judge(value)
        if verdict is None:
            return Judgement(1.0), ""
        if not isinstance(verdict, Judgement):
            raise TypeError(f"a judge returns None or a Judgement, not {verdict!r:.80}")
        share = float(verdict.share)
        return Judgement(min(1.0, max(0.0, share)) if share == share else 0.0, verdict.message), ""
    except (Wrong, Unanswered) as error:
        return Judgement(0.0, str(error) or "no answer yet."), ""
    except Exception:
        message = "the answer could not be judged: is it of the kind and shape that the exercise asks for?"
        return Judgement(0.0, message), traceback.format_exc()


def shown(answer: Any) -> str:
    try:
        return repr(decoded(answer["value"]))
    except (ValueError, KeyError, TypeError):
        return repr(answer)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` in this thread when the time is over."""

    def over(*_: Any) -> None:
        raise TimeoutError(f"a judge took more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
