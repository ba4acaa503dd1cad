"""`megaprune grade`."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from megaprune.cli.main import main

LINES = [
    {"gold": "33", "response": r"hm</think>\boxed{033}"},
    {"gold": "33", "response": r"hm</think>\boxed{33}", "finished": False},
    {"gold": "33", "response": r"hm</think>\boxed{34}", "other": 1},
    {"gold": "33", "response": r"\boxed{33}"},
]


@pytest.fixture
def lines(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)) + "\n\n")
    return file


def test_a_verdict_a_line_and_a_summary(lines, capsys):
    assert main(["grade", "--input", str(lines)]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"match": True, "extracted": "033", "why": "right"},
        {"match": False, "extracted": None, "why": "cut off"},
        {"match": False, "extracted": "34", "why": "wrong"},
        {"match": False, "extracted": None, "why": "thought not closed"},
    ]
    assert err.startswith("1 of 4 right; 1 cut off, 1 wrong, 1 thought not closed; ")


def test_modes_and_output(lines, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    arguments = ["--mode", "lenient", "--output", str(output), "--workers", "2"]
    assert main(["grade", "--input", str(lines), *arguments]) == 0
    assert capsys.readouterr().out == ""
    matches = [json.loads(line)["match"] for line in output.read_text().splitlines()]
    assert matches == [True, True, False, True]


def test_own_grader(lines, tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text("def own(gold, response, finished): return 1 / finished > 0\n")
    assert main(["grade", "--input", str(lines), "--mode", f"{own}:own"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[1])["detail"] == "ZeroDivisionError: division by zero"
    assert err.startswith("3 of 4 right; 1 crash")


def test_more_lines_than_are_read_at_a_time_come_in_order(tmp_path, capsys):
    file = tmp_path / "many.jsonl"
    rows = [{"gold": "7", "response": str(number)} for number in range(2500)]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert main(["grade", "--input", str(file), "--mode", "answer", "--workers", "2"]) == 0
    verdicts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [verdict["extracted"] for verdict in verdicts] == [str(n) for n in range(2500)]
    assert [n for n, verdict in enumerate(verdicts) if verdict["match"]] == [7]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2: not JSON"),
        ("[1]", "line 2: list; expected an object"),
        ('{"gold": "5"}', "line 2: key 'response' is missing"),
        ('{"gold": "5", "responce": "5"}', "'response' is missing; there is 'responce'"),
        ('{"gold": 5, "response": "5"}', "line 2: gold is 5; expected a string"),
        ('{"gold": "5", "response": "5", "finished": 1}', "finished is 1; expected true or false"),
    ],
)
def test_bad_lines(tmp_path, capsys, line, message):
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps(LINES[0]) + "\n" + line + "\n")
    assert main(["grade", "--input", str(file)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "stricd"], "did you mean strict?"),
        (["--workers", "0"], "workers=0"),
        (["--input", "nowhere.jsonl"], "nowhere.jsonl: No such file"),
    ],
)
def test_bad_arguments(lines, capsys, arguments, message):
    assert main(["grade", "--input", str(lines), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_standard_input(lines):
    done = subprocess.run(
        [sys.executable, "-m", "megaprune.cli", "grade", "--input", "-"],
        stdin=lines.open(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == len(LINES)
    assert done.stderr.count("\n") == 1


def test_ctrl_c(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "import os, time\n"
        "def own(gold, response, finished):\n"
        "    open(gold, 'w').write(str(os.getpid()))\n"
        "    time.sleep(1000)\n"
    )
    pid_file = tmp_path / "pid"
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps({"gold": str(pid_file), "response": ""}))
    arguments = ["--input", str(file), "--mode", f"{own}:own", "--seconds", "100"]
    child = subprocess.Popen(
        [sys.executable, "-m", "megaprune.cli", "grade", *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (pid_file.exists() and pid_file.read_text()):
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (130, "megaprune: interrupted\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_an_output_that_is_there(lines, tmp_path, capsys):
    """Neither the input nor anybody's file is replaced; verdicts are, if that is wanted."""
    before = lines.read_bytes()
    output, other = tmp_path / "out.jsonl", tmp_path / "thesis.txt"
    other.write_text("years of work\n")
    for path, words in ((lines, "is the input"), (other, "is not what this command writes")):
        content = path.read_bytes()
        arguments = ["grade", "--input", str(lines), "--output", str(path), "--overwrite"]
        assert main(arguments) == 1
        assert words in capsys.readouterr().err
        assert path.read_bytes() == content
    arguments = ["grade", "--input", str(lines), "--output", str(output)]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "exists; give --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert len(output.read_text().splitlines()) == 4
    assert lines.read_bytes() == before
