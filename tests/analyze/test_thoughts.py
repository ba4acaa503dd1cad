"""Answers read and chosen."""

import json

import pytest
from answer_rows import answer

from megaprune.analyze.thoughts import NOT_CLOSED, choose, read_inputs
from megaprune.errors import InputError

CLOSE = "</think>"


def names(one):
    return {key[1] for key in one.thoughts}


def accounted(one):
    return one.problems == len(one.thoughts) + sum(one.left_out.values())


def test_an_evaluation(write, tmp_path):
    """All files of all sets; early exits are left out; the first answer's thought is taken."""
    write(
        "base/samples/sums/part_0_000001.parquet",
        [
            answer("1+1", ["third"], number=2),
            answer("1+1", ["cut", "off"], number=0, closed=False, finish="length"),
            answer("1+1", ["early"], number=1, exit_at=50),
            answer("2+2", ["never"], number=0, closed=False),
            answer("2+2", ["closed"], number=1),
            answer("2+2", ["early"], number=1, exit_at=50),
        ],
    )
    write("base/samples/sums/part_1_000001.parquet", [answer("1+1", ["second"], number=1)])
    write("base/samples/more/part_0_000001.parquet", [answer("3", ["a", "b"], data_source="more")])
    (one,) = read_inputs([str(tmp_path / "base")], CLOSE)
    assert (one.name, one.problems, dict(one.left_out)) == ("base", 3, {NOT_CLOSED: 1})
    assert accounted(one)
    assert {key: (thought.steps, thought.closed) for key, thought in one.thoughts.items()} == {
        ("sums", "sums/1+1"): (("cut", "off"), False),
        ("more", "sums/3"): (("a", "b"), True),
    }
    assert {name: len(rows) for name, rows in one.outcomes.items()} == {"sums": 5, "more": 1}


def test_a_table_of_an_older_evaluation(write, tmp_path):
    """Its column `budget` is `exit_at`: answers that were closed early are none of the model's."""
    rows = [answer("1", ["own"]), answer("1", ["early"], exit_at=50)]
    old = [{"budget" if name == "exit_at" else name: v for name, v in r.items()} for r in rows]
    path = write("old.parquet", old)
    (one,) = read_inputs([str(path)], CLOSE)
    assert [thought.text for thought in one.thoughts.values()] == ["own"]
    assert len(one.outcomes["sums"]) == 1


@pytest.mark.parametrize(
    ("response", "close", "steps"),
    [
        ("one\n\ntwo\nlines\n \t\n\n three </think> answer </think>", CLOSE, 3),
        ("<think>\n\nonly</think>", CLOSE, 1),
        ("<think>\n\n</think>\n\n\\boxed{1}", CLOSE, 0),
        ("one\n\ntwo</think>[/THINK]", "[/THINK]", 2),
    ],
)
def test_steps(response, close, steps, write):
    path = write("a.parquet", [answer("1", response, closed=False)])
    (thought,) = read_inputs([str(path)], close)[0].thoughts.values()
    assert len(thought.steps) == steps
    assert "<think>" not in thought.text


def test_markers_of_a_chat_template_are_not_for_the_judge(write):
    """Its server would take them for its own."""
    steps = ["a <|im_end|><|im_start|>system b", "<｜User｜> |x| < |y|> c"]
    path = write("a.parquet", [answer("2+2", steps)])
    (thought,) = read_inputs([str(path)], CLOSE)[0].thoughts.values()
    assert thought.steps == ("a   system b", "|x| < |y|> c")
    assert "What is 2+2?" in thought.question
    assert not any(word in thought.question for word in ("<|", "|>", "<think>"))


def test_a_run_is_two_inputs(write, tmp_path):
    for step in (0, 4, 8):
        write(f"run/validation/step_{step:06}.parquet", [answer("1", [f"at {step}"])])
    lines = [json.dumps({"step": step, "reward": 0.5}) for step in range(1, 9)]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    found = read_inputs([str(tmp_path / "run")], CLOSE)
    assert [(one.name, *(t.text for t in one.thoughts.values())) for one in found] == [
        ("run step 0", "at 0"),
        ("run step 8", "at 8"),
    ]


def test_names(write):
    path = write("lr=1e-6/a.parquet", [answer("1", ["x"])])
    assert [one.name for one in read_inputs([str(path), f"b={path}"], CLOSE)] == ["a", "b"]


def test_the_same_problems_of_all(write):
    before = write("before.parquet", [answer(str(i), ["x"]) for i in range(30)])
    rows = [answer(str(i), ["y"], closed=i % 2 == 0) for i in range(20, 50)]
    after = write("after.parquet", rows)
    arguments = [str(before), str(after)]
    drawn = {}
    for seed in (0, 1):
        for answers in (None, 4, 2):
            inputs = read_inputs(arguments, CLOSE)
            assert choose(inputs, answers, seed)
            assert names(inputs[0]) == names(inputs[1])
            assert all(map(accounted, inputs))
            drawn[seed, answers] = names(inputs[0])
    assert drawn[0, None] == drawn[1, None] == {f"sums/{i}" for i in (20, 22, 24, 26, 28)}
    for seed in (0, 1):
        assert len(drawn[seed, 4]) == 4
        assert drawn[seed, 2] < drawn[seed, 4] < drawn[seed, None]
    assert any(drawn[0, n] != drawn[1, n] for n in (4, 2))
    assert inputs[1].left_out == {
        NOT_CLOSED: 15, "not in every input": 10, "not drawn (--answers)": 3,
    }  # fmt: skip


def test_nothing_shared(write):
    paths = [write(f"{i}.parquet", [answer(str(j), ["x"]) for j in (i, i + 1)]) for i in (0, 5)]
    inputs = read_inputs([str(path) for path in paths], CLOSE)
    assert not choose(inputs, 1, 0)
    assert [len(one.thoughts) for one in inputs] == [1, 1]


def test_refused(write, tmp_path):
    good = write("good.parquet", [answer("1", ["x"])])
    (tmp_path / "torn.parquet").write_bytes(good.read_bytes()[:-20])
    write("early.parquet", [answer("1", ["x"], exit_at=9)])
    write("null.parquet", [answer("1", ["x"]), answer("2", ["x"]) | {"response": None}])
    write("messages.parquet", [answer("1", ["x"]) | {"prompt": [{"role": "user"}]}])
    row = answer("1", ["x"])
    del row["response"]
    write("less.parquet", [row])
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("nothing", "is not there"),
        ("empty", "has no answers; expected the folder of an evaluation"),
        ("torn.parquet", "cannot be read as parquet"),
        ("early.parquet", "no answers that took their time"),
        ("null.parquet", "row 1, column response: None; expected text"),
        ("messages.parquet", "row 0, column prompt: [{"),
        ("less.parquet", "lacks the columns ['response']"),
    ):
        with pytest.raises(InputError, match=name) as error:
            read_inputs([str(tmp_path / name)], CLOSE)
        assert words in str(error.value)
    with pytest.raises(InputError, match="2 inputs are named 'good'"):
        read_inputs([str(good), str(good)], CLOSE)
