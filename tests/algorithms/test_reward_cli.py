"""`megaprune reward`."""

import json

import pytest

from megaprune.cli.main import main

LINES = [
    {
        "correct": [1, 1, 0, 1],
        "length": [1000, 3000, 2000, 5000],
        "finished": [True] * 4,
        "limit": 4000,
        "reference": {"length": 4000, "accuracy": 0.5},
        "name": "a",
    },
    {"correct": [True, False, False, False], "length": [500, 9000, 9000, 9000], "name": "a"},
]


@pytest.fixture
def reward(tmp_path, capsys):
    def run(*fields, lines=LINES):
        file = tmp_path / "groups.jsonl"
        file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
        status = main(["reward", "--input", str(file), *fields])
        out, err = capsys.readouterr()
        return [json.loads(line) for line in out.splitlines()] if not status else err

    return run


def test_rewards_and_advantages_of_each_group(reward):
    first, second = reward("algorithm.reward.name=minmax", "algorithm.advantage.name=group_mean")
    assert first == {"rewards": [1.5, 1.0, 0.0, 0.5], "advantages": [0.75, 0.25, -0.75, -0.25]}
    assert second["rewards"] == [1.5, -0.5, -0.5, -0.5]


def test_all_lines_are_one_batch(reward):
    lines = [
        {"correct": right, "length": [1] * 4} for right in ([1, 0, 0, 0], [1, 1, 1, 0])
    ]  # fmt: skip
    rows = reward("algorithm.advantage.name=batch_std", lines=lines)
    expected = [1.7321, -0.5774, -0.5774, -0.5774, 0.5774, 0.5774, 0.5774, -1.7321]
    assert [a for row in rows for a in row["advantages"]] == pytest.approx(expected, abs=5e-5)
    other = [*lines, {"correct": [1], "length": [1]}]
    message = reward("algorithm.advantage.name=batch_std", lines=other)
    assert "groups of 1, 4 responses; expected all of one size" in message
    assert len(reward(lines=other)) == 3


def test_a_line_is_a_step_for_what_remembers(reward):
    rows = reward("algorithm.reward.name=shortest_ever")
    assert rows[0]["rewards"] == [1, 1, 0, 1]
    assert rows[1]["rewards"] == pytest.approx([1 + 2**-0.5, -1, -1, -1])


def test_thoughts_alone_are_measured(reward):
    line = {"correct": [1, 1], "length": [90, 80], "thought_length": [30, 70], "limit": 85}
    minmax = ("algorithm.reward.name=minmax", "algorithm.advantage.name=group_mean")
    assert reward(*minmax, lines=[line])[0]["rewards"] == [0.5, 1.5]
    assert reward(*minmax, "algorithm.length=thought", lines=[line])[0]["rewards"] == [1.5, 0.5]
    # The limit is one of the whole response.
    assert reward("algorithm.length=thought", lines=[line])[0]["rewards"] == [0, 1]
    del line["thought_length"]
    error = reward("algorithm.length=thought", lines=[line])
    assert "line 1: key 'thought_length' is missing" in error


def test_several_criteria_are_told_apart_and_what_a_filter_leaves_out_is(reward):
    rewards = "algorithm.rewards=[{name: correct}, {name: solve_rate, weight: 0.5}]"
    lines = [LINES[0], {"correct": [1, 1], "length": [5, 5]}]
    first, second = reward(rewards, "algorithm.filter.name=no_signal", lines=lines)
    assert first["parts"]["correct"] == [1, 1, 0, 1]
    assert first["rewards"][0] == pytest.approx(1 + 0.5 * first["parts"]["solve_rate"][0])
    assert second["kept"] == [False, False]
    assert second["advantages"] == [0, 0]


OWN = """
from dataclasses import dataclass
@dataclass(frozen=True)
class Mine:
    def __call__(self, group):
        return {}
"""


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("group.correct[:1]", "shape (1,) for group a of 4; expected 4 finite numbers"),
        ("group.length * float('nan')", "nan for group a of 4; expected 4 finite numbers"),
        ("group.wrong", "AttributeError: 'Group' object has no attribute 'wrong'"),
        ("'text'", "returned 'text' for group a of 4"),
    ],
)
def test_a_reward_of_ones_own_that_fails(reward, tmp_path, returned, message):
    own = tmp_path / "own.py"
    own.write_text(OWN.format(returned))
    error = reward(f"algorithm.reward.name={own}:Mine")
    assert message in error
    assert f"{own}:Mine" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("fields", "lines", "message"),
    [
        (["algorithm.reward.name=minmix"], LINES, "did you mean minmax?"),
        (["algorithm.reward.name=minmax", "algorithm.reward.beta=1"], LINES, "has no such field"),
        (["algorithm.reward.name=gone.py:Mine"], LINES, "gone.py"),
        (["algorithm.reward.name=harmonize"], LINES, "line 2 carries no") ,
        (["steps=3"], LINES, "steps"),
        ([], ["{"], "line 1: not JSON"),
        ([], ["[1]"], "line 1: list; expected an object"),
        ([], [{"corect": [1], "length": [1]}], "key 'correct' is missing; there is 'corect'"),
        ([], [{"correct": [1, 2], "length": [1, 1]}], "expected a list of true and false"),
        ([], [{"correct": [1], "length": [1.5]}], "expected a list of whole numbers"),
        ([], [{"correct": [1], "length": [-1]}], "length is -1; expected 0 or more"),
        ([], [{"correct": [1], "length": [1, 2]}], "2 entries of length and 1 of correct"),
        ([], [{"correct": [1], "length": [1], "limit": 0}], "limit is 0"),
        ([], [{"correct": [1], "length": [1], "text": "a"}], "expected a list of texts"),
    ],
)  # fmt: skip
def test_wrong_input_is_told_in_a_line(reward, fields, lines, message):
    lines = [{k: v for k, v in x.items() if k != "name"} if x in LINES else x for x in lines]
    error = reward(*fields, lines=lines)
    assert message in error
    assert error.count("\n") == 1


def test_fields_and_configuration(reward, capsys):
    assert main(["reward", "--input", "-", "--help-fields", "algorithm.reward.lam"]) == 0
    assert "harmonize" in capsys.readouterr().out
    assert main(["reward", "--input", "-", "--print-config", "algorithm=dler"]) == 0
    assert "batch_std" in capsys.readouterr().out
