"""`megaprune analyze` without a judge."""

import json
import random
import re

import pytest
from answer_rows import answer

from megaprune.analyze.judge import BEHAVIOURS
from megaprune.analyze.summary import behaviour_figure
from megaprune.analyze.thoughts import NOT_CLOSED
from megaprune.cli.main import main
from megaprune.evaluation.summary import summarise
from megaprune.files import RECORD
from megaprune.schema import ANALYSIS_FILE

BEFORE = [
    answer("1", ["It is 4.", "Wait, let me check. Is that right?", "Hmm, another way: 4."]),
    answer("2", ["Sure.", "Let me verify."], match=False),
    answer("3", ["x"], closed=False),
]
AFTER = [answer("1", ["It is 4."]), answer("2", ["Sure. To be sure: yes."]), answer("4", ["x"])]


@pytest.fixture
def inputs(write):
    return [
        f"{name}={write(name + '.parquet', rows)}"
        for name, rows in (("before", BEFORE), ("after", AFTER))
    ]


def test_numbers_by_hand(inputs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["analyze", *inputs, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    found = json.loads((out / "analysis.json").read_text())
    assert found["mode"] == "lexical"
    assert found["cost"] is None
    assert found["settings"]["paired"] is True
    before, after = found["inputs"]
    assert before.pop("lexical_interval")["re-checks"] == [1, 2]
    assert after.pop("lexical_interval")["restarts"] == [0, 0]
    lengths = [[row["length"] for row in rows[:2]] for rows in (BEFORE, AFTER)]
    assert before.pop("sets")["sums"]["accuracy"] == 2 / 3
    assert before == {
        "name": "before", "path": inputs[0].split("=")[1], "problems": 3, "answers": 2, "open": 0,
        "left_out": {NOT_CLOSED: 1}, "tokens": sum(lengths[0]) / 2, "steps": 2.5,
        "tokens_per_step": sum(lengths[0]) / 5, "right": 0.5, "behaviours": {},
        "lexical": {"re-checks": 1.5, "hesitations": 1.0, "restarts": 0.5},
    }  # fmt: skip
    assert after["left_out"] == {"not in every input": 1}
    assert after["lexical"] == {"re-checks": 0.5, "hesitations": 0, "restarts": 0}
    assert (after["steps"], after["right"]) == (1, 1)
    for words in (
        "before",
        "after",
        "2 of 3 problems",
        "1.50 [1.00, 2.00]",
        "left out: not in every input",
    ):
        assert words in said
    assert (out / "behaviours.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in out.iterdir()} == {"analysis.json", "behaviours.png", RECORD}


def evaluation_rows(seed, sets):
    """Answers of several samples to each problem, some of which the limit cut off."""
    rng = random.Random(seed)
    return [
        answer(
            f"{source}-{problem}", ["Hmm."], number=number, closed=not cut, data_source=source,
            match=not cut and rng.random() < 0.9, finish="length" if cut else "stop", why="right",
            length=400 if cut else rng.randrange(20, 400), injected=0, extracted="1",
        )
        for source in sets
        for problem in range(40)
        for number in range(3)
        for cut in [rng.random() < 0.1]
    ]  # fmt: skip


@pytest.mark.parametrize("sets", [["sums"], ["sums", "aime24"]])
def test_all_answers_are_those_of_an_evaluation(write, tmp_path, capsys, sets):
    """The same folder cannot be 98.8 % right here and 94.4 % there."""
    rows = evaluation_rows(5, sets)
    for source in sets:
        some = [row for row in rows if row["data_source"] == source]
        write(f"base/samples/{source}/part_0_000001.parquet", some)
    assert main(["analyze", str(tmp_path / "base"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    (one,) = json.loads((tmp_path / "out" / ANALYSIS_FILE).read_text())["inputs"]
    for source in sets:
        evaluated = summarise([row for row in rows if row["data_source"] == source], [])
        assert one["sets"][source] == {name: evaluated[name] for name in one["sets"][source]}
        assert 0 < evaluated["truncated"] < evaluated["accuracy"] < 1
        low, high = (f"{100 * end:.1f}" for end in evaluated["accuracy_interval"])
        assert f"{evaluated['accuracy']:.1%} [{low}, {high}]" in said
    # Of each problem the first answer, also where the limit cut it off, and how many those are.
    first = [row for row in rows if row["number"] == 0]
    assert (one["answers"], one["left_out"]) == (len(first), {})
    assert one["open"] == sum(row["finish"] == "length" for row in first) > 0
    assert one["right"] == pytest.approx(sum(row["match"] for row in first) / len(first))
    assert re.search(rf"not closed, cut off +│ +{one['open']} ", said)


def test_a_wrong_tag_makes_no_thought_of_what_is_cut_off(write, tmp_path, capsys):
    path = write("a.parquet", [answer("1", ["x"], finish="length"), answer("2", ["x"])])
    arguments = [str(path), "--close", "</thought>", "--out", str(tmp_path / "out")]
    assert main(["analyze", *arguments]) == 1
    assert "none of 2 answers can be used" in capsys.readouterr().err


def test_the_same_again_is_the_same(inputs, tmp_path, capsys):
    files = []
    for _ in range(2):
        assert main(["analyze", *inputs, "--out", str(tmp_path / "out"), "--json"]) == 0
        files.append([path.read_bytes() for path in sorted((tmp_path / "out").iterdir())])
        printed = json.loads(capsys.readouterr().out)
        assert printed == json.loads((tmp_path / "out" / ANALYSIS_FILE).read_text())
    assert files[0] == files[1]


def test_lengths_that_are_not_known(write, tmp_path, capsys):
    rows = [{k: v for k, v in row.items() if k not in ("length", "match")} for row in BEFORE]
    path = write("a.parquet", rows)
    assert main(["analyze", str(path), "--out", str(tmp_path / "out"), "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["inputs"]
    assert (one["tokens"], one["tokens_per_step"], one["right"]) == (None, None, None)
    assert one["steps"] == 2.5


def test_figures():
    """Bars are as long as the numbers, each input's in a colour of its own."""
    shares = {name: {"share": (i + 1) / 55} for i, name in enumerate(BEHAVIOURS)}
    inputs = [
        {"name": "a $x$", "answers": 3, "behaviours": shares},
        {"name": "b", "answers": 2, "behaviours": {name: {"share": None} for name in BEHAVIOURS}},
    ]
    (axes,) = behaviour_figure({"mode": "judge", "inputs": inputs}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(BEHAVIOURS)
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [pytest.approx((i + 1) / 55) for i in range(10)] + [0] * 10
    assert len({bar.get_facecolor() for bar in axes.patches}) == 2
    one = {"lexical": {"re-checks": 2.0}, "lexical_interval": {"re-checks": [1.5, 3.0]}}
    lexical = {"mode": "lexical", "inputs": [{"name": "a", "answers": 3} | one]}
    (axes,) = behaviour_figure(lexical).axes
    assert [bar.get_width() for bar in axes.patches] == [2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mode", "judge"], "a judge needs --endpoint"),
        (["--endpoint", "http://127.0.0.1:1/v1"], "a judge needs --endpoint URL and --model NAME"),
        (["--mode", "lexical", "--endpoint", "x"], "--mode lexical asks no --endpoint"),
        (["--endpoint", "127.0.0.1:1", "--model", "m"], "expected an address as http://"),
        (["--endpoint", "http://h:port/v1", "--model", "m"], "expected an address as http://"),
        (["--endpoint", "http://h/v1?a=b", "--model", "m"], "expected an address as http://"),
        (
            ["--endpoint", "http://h/v1", "--model", "m", "--limit-cost", "1", "--price-in", "1"],
            "needs --price-in and --price-out",
        ),
        (
            ["--close", "</thought>"],
            "none of 3 answers can be used (no closed thought: 3)",
        ),
    ],
)
def test_refused(inputs, arguments, words, tmp_path, capsys):
    assert main(["analyze", *inputs[:1], "--out", str(tmp_path / "out"), *arguments]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out" / "analysis.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--answers", "0"], ["--timeout", "0"], ["--price-in", "nan"], ["--retries", "-1"]],
)
def test_numbers_that_cannot_be(inputs, arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["analyze", *inputs, "--out", str(tmp_path / "out"), *arguments])
    assert "expected a" in capsys.readouterr().err


def test_a_folder_of_something_else(inputs, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert main(["analyze", *inputs, "--out", str(tmp_path / "out")]) == 1
    assert "no analysis' folder, and has notes.txt in it" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]
