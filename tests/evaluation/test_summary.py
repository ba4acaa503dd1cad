"""Summaries of rows that are written by hand."""

import json
import math
import time

import pytest
from rich.console import Console
from wandb_files import segments

from megaprune.evaluation import summary


def row(problem, number, match, length, *, exit_at=None, why=None, finish="stop", **more):
    why = why or ("right" if match else "wrong")
    extracted = "7" if match else {"wrong": "8", "unparsable": "?!"}.get(why)
    own = {"problem": problem, "number": number, "match": match, "length": length}
    rest = {"exit_at": exit_at, "why": why, "finish": finish, "injected": 0, "extracted": extracted}
    return own | rest | more


ROWS = [
    row("b", 1, False, 400, why="cut off", finish="length"),
    row("a", 0, True, 100),
    row("a", 1, True, 200),
    row("a", 2, False, 300),
    row("a", 3, False, 400, why="thought not closed"),
    row("b", 0, False, 300, why="timeout"),
    row("b", 2, False, 500, why="no answer"),
    row("b", 3, True, 600),
    row("a", 0, True, 60, exit_at=50, injected=8),
    row("a", 1, False, 70, exit_at=50, injected=10),
    row("b", 0, False, 80, exit_at=50, injected=12),
    row("b", 1, False, 90, exit_at=50, injected=10),
]


def test_trackers_are_told_each_set(tmp_path):
    """The numbers of each set and of their average, once."""
    from megaprune.evaluation import run
    from megaprune.evaluation.config import read_evaluate_config

    fields = ["model=m", "data=[d]", f"out={tmp_path}", "wandb.mode=offline"]
    found = {"first": summary.summarise(iter(ROWS), [200, 1000])}
    run._track(read_evaluate_config(fields), found)
    end = time.monotonic() + 60
    while not (found_there := segments(tmp_path)) or not found_there[0].whole:
        assert time.monotonic() < end  # W&B writes in a process of its own
        time.sleep(0.2)
    (segment,) = found_there
    assert segment.run.job_type == "evaluate"
    assert segment.config["max_response_length"] == 32000
    (row_of_it,) = segment.steps.values()
    assert row_of_it["first/accuracy"] == row_of_it["average/accuracy"]
    assert row_of_it["first/accuracy"] == found["first"]["accuracy"]
    assert row_of_it["first/at_budget/200/accuracy"] == 0.25


def test_summary():
    found = summary.summarise(iter(ROWS), [200, 1000])
    assert found == json.loads(json.dumps(found))
    low, high = found.pop("accuracy_interval")
    assert (low, high) == (0.25, 0.5)  # of two problems: those draws that took one of them twice
    assert found.pop("length_interval") == [250, 450]
    lengths = found.pop("lengths")
    assert [lengths[key]["count"] for key in ("all", "right", "wrong")] == [8, 3, 5]
    assert lengths["right"]["mean"] == 300
    early = found.pop("exit_at")["50"]
    assert early.pop("accuracy_interval") == [0, 0.5]
    assert early.pop("length_interval") == [65, 85]
    assert early == {"accuracy": 0.25, "length": 75, "injected": 10, "samples": 4}
    majority = found.pop("majority_at")
    assert found == {
        "problems": 2,
        "samples": 8,
        "accuracy": 3 / 8,
        "length": (250 + 450) / 2,
        "ock_score": pytest.approx(37.5 - 10 * math.log(1.035)),
        "budget_area": pytest.approx((2 / 8 + 3 / 8) / 2),
        "accuracy_by_length": {
            kind: {"1": 0.5, "2": 0.5, "3": 0, "4": 0.5} for kind in ("rank", "width")
        },
        "right_length": {
            "medium": {"problems": 1, "length": 150},
            "hard": {"problems": 1, "length": 600},
        },
        "pass_at": {"1": 3 / 8, "2": pytest.approx((5 / 6 + 1 / 2) / 2), "4": 1.0},
        "truncated": 1 / 8,
        "unparsable": 2 / 8,
        "grading_failed": 1 / 8,
        "at_budget": {
            "200": {"accuracy": 2 / 8, "length": (175 + 200) / 2},
            "1000": {"accuracy": 3 / 8, "length": 350},
        },
    }
    # a: votes 7, 7, 8. Of pairs, {0,1} and {0,3}, {1,3} are right, two tie, {2,3} is wrong.
    # b: one vote, for 7: right in each pair that it is in, three of six.
    assert majority == {"1": 3 / 8, "2": pytest.approx(((3 + 2 / 2) / 6 + 3 / 6) / 2), "4": 1.0}


def test_the_gap_is_there_with_a_frontier():
    # Right: 100, 200 (a), 600 (b) tokens, of four each. Of 1..1000: 901, 801 and 401 of them.
    found = summary.summarise(ROWS, [], {1000: 0.5}, 1000)
    frontier = sum(0.5 * at / 1000 for at in range(1, 1001))
    assert found["efficiency_gap"] == pytest.approx(frontier - (901 + 801 + 401) / 8)
    assert "efficiency_gap" not in summary.summarise(ROWS, [])


def test_right_answers_are_one_vote_however_they_are_written():
    texts = ["1+1", "2", r"\frac{4}{2}", "7", "7.0"]
    rows = [row("a", n, n < 3, 1, extracted=text) for n, text in enumerate(texts)]
    # Of four, three right ones win in two of five subsets, and two tie with two in the others.
    assert summary.summarise(rows, [])["majority_at"]["4"] == pytest.approx((2 + 3 / 2) / 5)
    # Two of each tie.
    rows = [row("a", n, n < 2, 1, extracted=text) for n, text in enumerate(texts[1:4] + ["7.0"])]
    assert summary.summarise(rows, [])["majority_at"]["4"] == pytest.approx(0.5)


def test_a_summary_of_hostile_answers_is_there_in_time():
    texts = ["a " * 990, "(" * 1990, r"\text{" * 330, "1," * 990, "9^" * 990, "x" * 100_000]
    rows = [
        row(f"p{n % 4}", n, False, 1, extracted=f"{text}{n}") for n, text in enumerate(texts * 20)
    ]
    begin = time.process_time()
    summary.summarise(rows, [])
    assert time.process_time() - begin < 5


def test_a_grader_that_does_not_say_what_it_found_has_no_majority():
    found = summary.summarise([row("a", 0, True, 1, extracted=None)], [])
    assert found["majority_at"] == {"1": None}
    assert found["lengths"]["wrong"] is None
    assert (found["exit_at"], found["at_budget"]) == ({}, {})


def test_without_rows():
    with pytest.raises(ValueError, match="no problem"):
        summary.summarise([], [])


def test_against_a_baseline():
    base = [
        row("a", 0, True, 1000),
        row("b", 0, True, 600),
        row("b", 0, False, 10, exit_at=50),
        row("c", 0, False, 1),
    ]
    found = summary.against(ROWS, base)
    # a: .5 against 1, b: .25 against 1; 350 against 800 tokens. c is not in both.
    assert found == {
        "problems": 2,
        "accuracy_difference": 0.375 - 1,
        "interval": [-0.75, -0.5],
        "length_ratio": 350 / 800,
        "aes": {
            "signed": pytest.approx(450 / 800 - 5 * 0.625),
            "absolute": pytest.approx(450 / 800 + 3 * 0.625),
        },
    }
    assert found == json.loads(json.dumps(found))
    assert summary.against(ROWS, [row("c", 0, True, 1)]) is None
    assert summary.against(ROWS, [row("a", 0, False, 1)])["aes"] is None


@pytest.fixture
def sets():
    one = summary.summarise(ROWS, [200])
    other = summary.summarise([row("z", n, True, 100) for n in (0, 1)], [200])
    one["against"] = summary.against(ROWS, [row("a", 0, True, 500), row("b", 0, False, 300)])
    other["against"] = summary.against([row("z", 0, True, 100)], [row("z", 0, True, 100)])
    return {"aime24": one, "math500": other}


def test_averages(sets):
    found = summary.averages(sets)
    assert (found["problems"], found["samples"]) == (3, 10)
    assert found["accuracy"] == (3 / 8 + 1) / 2
    assert found["length"] == (350 + 100) / 2
    assert set(found["pass_at"]) == {"1", "2"}  # which both sets have
    assert found["at_budget"]["200"] == {
        "accuracy": (0.25 + 1) / 2,
        "length": (187.5 + 100) / 2,
    }
    scores = [sets[name]["against"]["aes"]["signed"] for name in sets]
    assert found["against"]["aes"]["signed"] == sum(scores) / 2
    assert not {"lengths", "accuracy_interval"} & set(found)
    del sets["math500"]["against"]
    assert "against" not in summary.averages(sets)


def shown(sets):
    console = Console(width=90)
    with console.capture() as capture:
        console.print(summary.table(sets))
    return capture.get()


def test_table(sets):
    text = shown(sets)
    [average] = [line.split() for line in text.splitlines() if "average" in line]
    # Of aime24: 37.5% and 350 tokens against 50% and 400; of math500: 100% and 100 against the same.
    assert average == ["average", "10", "68.8%", "225", "6.2%", "12.5%", "6.2%"] + [
        "-6.2", "-6.2%", "-0.56",
    ]  # fmt: skip
    [aime] = [line.split() for line in text.splitlines() if "aime24" in line]
    assert aime == ["aime24", "8", "37.5%", "350", "12.5%", "25.0%", "12.5%"] + [
        "-12.5", "-12.5%", "-1.12",
    ]  # fmt: skip
    assert "25.0..50.0" in text
    assert "-50.0..+25.0" in text
    assert "…" not in text


def test_table_of_one_set_without_a_baseline(sets):
    one = sets["aime24"] | {"grading_failed": 0.0}
    del one["against"]
    text = shown({"aime24": one})
    assert "37.5%" in text
    assert not any(word in text for word in ("average", "AES", "points", "failed"))
