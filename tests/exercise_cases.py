"""What every exercise's tests have in common: right answers pass in each fair form, likely mistakes are named.

A test module brings two dictionaries, by the exercise's name:

    SOLUTIONS = {"mirrors/line": [answer, answer, …]}            a tuple is several arguments of ``check``
    MISTAKES = {"mirrors/line": [(answer, "part of the message"), …]}

and two tests: ``test_right = passes(SOLUTIONS)`` and ``test_wrong = named(MISTAKES)``.
"""

import pytest

from pso_lib.checks import check


def _arguments(answer) -> tuple:
    return answer if isinstance(answer, tuple) else (answer,)


def passes(solutions: dict):
    """A test that each of the answers passes."""
    cases = [(name, answer) for name, answers in solutions.items() for answer in answers]
    ids = [f"{name}-{number}" for name, answers in solutions.items() for number, _ in enumerate(answers)]

    @pytest.mark.parametrize("name, answer", cases, ids=ids)
    def test(name, answer):
        assert check(name, *_arguments(answer), strict=True).passed

    return test


def named(mistakes: dict):
    """A test that each of the mistakes is refused with a message that holds the words."""
    cases = [(name, *case) for name, several in mistakes.items() for case in several]
    ids = [f"{name}-{case[1][:30]}" for name, several in mistakes.items() for case in several]

    @pytest.mark.parametrize("name, answer, words", cases, ids=ids)
    def test(name, answer, words):
        found = check(name, *_arguments(answer), strict=False)
        assert found.passed is False
        assert words in found.message

    return test
