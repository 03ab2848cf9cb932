"""The command line: from the name of a command to its module."""

import pytest

from pso_lib.__main__ import COMMANDS, main


def test_a_command_gets_the_rest_of_the_line(capsys):
    assert main(["experiments", "show", "depth", "--scale", "full"]) == 0
    assert "mnist" in capsys.readouterr().out


@pytest.mark.parametrize("argv, status", [([], 0), (["--help"], 0), (["experimnets"], 2)])
def test_what_there_is(argv, status, capsys):
    assert main(argv) == status
    said = "".join(capsys.readouterr())
    assert all(name in said for name in COMMANDS)
    assert ("no command 'experimnets'" in said) == (status == 2)
