"""What the command line says of words that are not quite right."""

import pytest

from megaprune.cli.main import main
from megaprune.errors import counted


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train", "--steps", "3"], "without dashes: steps=3 "),
        (["prune", "--steps=3"], "without dashes: steps=3 "),
        (["train", "recipe=tiny", "--max-mismatch", "2", "out=x"], "dashes: max_mismatch=2 "),
        (["evaluate", "--rollout.tp", "2", "--n"], "dashes: rollout.tp=2 n=... "),
        (["plan", "-steps", "out=x"], "without dashes: steps=... "),
    ],
)
def test_fields_with_dashes(capsys, command, said):
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_commands_without_fields(capsys):
    with pytest.raises(SystemExit):
        main(["grade", "--input", "x", "--steps", "3"])
    assert "fields" not in capsys.readouterr().err


def test_numbers_and_their_words():
    assert counted(1, "process", "processes") == "1 process"
    assert counted(2, "process", "processes") == "2 processes"
    assert [counted(n, "problem") for n in (0, 1, 2)] == ["0 problems", "1 problem", "2 problems"]
