"""Sources of every format, columns under every name, and why rows are dropped."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megaprune.data.collect import collect
from megaprune.data.parquet import ProblemRow, write_parquet
from megaprune.data.sets import SETS
from megaprune.data.sources import open_source
from megaprune.errors import InputError

ROWS = [{"problem": "1+1?", "answer": "2"}, {"problem": "Jürg hat 1+2 Äpfel?", "answer": "3"}]


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, *arguments):
    return collect(open_source(str(path)), *arguments)


def asked(path, *arguments):
    return [(q.index, q.problem, q.gold) for q in read(path, *arguments).questions]


def write_as(path):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n", encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text("\n" + json.dumps(ROWS, indent=1, ensure_ascii=False), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, ["Problem", "Answer"])
            writer.writeheader()
            writer.writerows({k.title(): v for k, v in row.items()} for row in ROWS)
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_formats(tmp_path, ending):
    path = write_as(tmp_path / f"a.{ending}")
    assert asked(path) == [(0, "1+1?", "2"), (1, "Jürg hat 1+2 Äpfel?", "3")]


def test_a_folder_of_parquet(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS[1:]), tmp_path / "b.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), tmp_path / "a.parquet")
    assert [question[0::2] for question in asked(tmp_path)] == [(0, "2"), (1, "3")]


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"question": "?", "answer": "Half of it.\n#### 1,234 "}, "1,234"),
        ({"Question": "?", "Answer": 70}, "70"),
        ({"problem": "?", "answer": 70.0}, "70"),
        ({"problem": "?", "answer": 0.5}, "0.5"),
        ({"problem": "?", "answer": " 033 "}, "033"),
        ({"problem": "?", "answer": "So $\\boxed{\\frac{1}{2}}$."}, "\\frac{1}{2}"),
        ({"problem": "?", "solution": "$\\boxed{1}$, no, $\\boxed{3}$."}, "3"),
        ({"problem": "?", "solution": "$\\boxed{1}$ and $\\boxed{3}$."}, "1, 3"),
        ({"problem": "?", "solution": "$x=\\boxed{1}$, $y=\\boxed{3}$"}, "1, 3"),
        ({"problem": "?", "solution": "$\\boxed{(1,2)}$ or $\\boxed{(3,4)}$"}, "(1,2), (3,4)"),
        ({"problem": "?", "answer": '["1", "3"]'}, "1, 3"),
        ({"problem": "?", "answer": '["1,234", "5"]'}, "1,234; 5"),
        ({"problem": "?", "reward_model": {"ground_truth": '["7"]'}}, "7"),
        ({"problem": "?", "answer": "[1, 3]"}, "[1, 3]"),
        ({"problem": "?", "final_answer": ["7"]}, "7"),
        ({"problem": "?", "final_answer": ["7", 8]}, "7, 8"),
        ({"problem": "?", "reward_model": {"ground_truth": "9", "style": "rule"}}, "9"),
        ({"problem": "?", "reward_model": '{"ground_truth": 9}'}, "9"),
        ({"problem": "?", "solution": "by thought", "answer": "1"}, "1"),
    ],
)
def test_answers(tmp_path, row, gold):
    assert asked(lines(tmp_path / "a.jsonl", row)) == [(0, "?", gold)]


def test_the_problem_in_messages(tmp_path):
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "1+1?"},
    ]
    path = lines(tmp_path / "a.jsonl", {"prompt": prompt, "answer": "2"})
    assert asked(path) == [(0, "1+1?", "2")]


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
IN_PARTS = [{"role": "user", "content": [{"type": "text", "text": "1+"}, {"text": "1?"}]}]


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("messages", MESSAGES, "1+1?"),
        ("prompt", json.dumps(MESSAGES), "1+1?"),
        ("prompt", json.dumps(IN_PARTS, indent=1), "1+1?"),
        ("prompt", IN_PARTS, "1+1?"),
        ("prompt", '[{"a": 1}, {"a": 2}]: sum of a?', '[{"a": 1}, {"a": 2}]: sum of a?'),
        ("question", '[{"a": 1}]', '[{"a": 1}]'),  # JSON, and no messages
    ],
)
def test_messages_as_others_store_them(tmp_path, column, value, problem):
    path = lines(tmp_path / "a.jsonl", {column: value, "answer": "2"})
    assert asked(path) == [(0, problem, "2")]


def test_messages_with_pictures_are_refused(tmp_path):
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    row = {"prompt": [{"role": "user", "content": content}], "answer": "2"}
    with pytest.raises(InputError, match="line 1: the problem is .* with more than text in it"):
        read(lines(tmp_path / "a.jsonl", row))


def test_columns_of_ones_own(tmp_path):
    path = lines(
        tmp_path / "a.jsonl", {"text": {"en": "1+1?", "de": "1+2?"}, "truth": "2", "answer": "5"}
    )
    assert asked(path, None, "text.en", "truth") == [(0, "1+1?", "2")]
    with pytest.raises(
        InputError, match=r"line 1: no column for the problem: expected tekst;.*text, truth"
    ):
        read(path, None, "tekst")
    with pytest.raises(
        InputError, match=r"for the problem: expected problem or question .*--problem-column"
    ):
        read(path)
    with pytest.raises(InputError, match=r"for the answer: expected text.fr; .*--answer-column"):
        read(path, None, "text.en", "text.fr")


def test_what_is_dropped(tmp_path):
    path = lines(
        tmp_path / "a.jsonl",
        {"problem": "  \n", "answer": "2"},
        {"problem": None, "answer": "2"},
        {"problem": "1+1?", "answer": " "},
        {"problem": "1+1?", "answer": None},
        {"problem": "1+1?", "answer": float("nan")},
        {"problem": "1+1?", "answer": []},
        {"problem": "1+1?", "answer": "\\boxed{}"},
        {"problem": "1+1?", "answer": "2"},
        {"problem": "$1+1$ ?", "answer": "2.0"},
        {"problem": "1 + 1 ?", "answer": "3"},
        {"problem": "1+2?", "solution": "Clearly 3."},
        {"problem": "1+3?", "answer": "4"},
    )
    found = read(path)
    assert [q.index for q in found.questions] == [7, 11]
    assert found.dropped == {
        "empty problem": 2, "no answer": 6, "duplicate": 1, "duplicate with another answer": 1,
    }  # fmt: skip
    assert found.rows == 12 == len(found.questions) + found.dropped.total()


def test_a_set_filters_and_keeps(tmp_path):
    rows = [
        {"problem": f"{year}?", "answer": "1", "Year": year, "x": 1} for year in (1983, 2021, 2024)
    ]
    found = read(lines(tmp_path / "a.jsonl", *rows), SETS["aime_1983_2021"])
    assert [q.problem for q in found.questions] == ["1983?", "2021?"]
    assert found.dropped == {"not of the set": 1}
    assert found.questions[0].kept == {"year": "1983"}


def test_eurus_rows(tmp_path):
    """The instruction behind each problem is not the problem's."""
    ending = "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"
    row = {
        "data_source": "numina_amc_aime",
        "prompt": [
            {"role": "system", "content": "x"},
            {"role": "user", "content": "1+1?" + ending},
        ],
        "reward_model": {"ground_truth": "2", "style": "rule"},
        "extra_info": {"index": 7, "split": "train"},
    }
    path = lines(tmp_path / "a.jsonl", row, row | {"data_source": "numina_olympiads"})
    assert asked(path, SETS["numina_amc_aime"]) == [(0, "1+1?", "2")]


def test_what_was_made_before_can_be_read(tmp_path):
    """The bare problem is there, whatever prompt was put around it."""
    rows = [
        ProblemRow("s", [{"role": "user", "content": f"Say: {n}+1?"}], str(n), index=n)
        for n in range(3)
    ]
    extra = [{"problem": f"{n}+1?", "id": f"i{n}"} for n in range(3)]
    write_parquet(tmp_path / "a.parquet", rows, extra)
    assert asked(tmp_path / "a.parquet") == [(n, f"{n}+1?", str(n)) for n in range(3)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.jsonl",
            b'{"problem": "a", "answer": "1"}\n\n{"problem": ',
            "a.jsonl, line 3: not JSON",
        ),
        ("a.jsonl", b'"text"\n', "a.jsonl, line 1: str; expected an object"),
        ("a.jsonl", b'{"problem": "\xff"}\n', "a.jsonl, line 1: not UTF-8 text"),
        ("a.json", b'[{"problem": "a"', "a.json: not JSON"),
        ("a.json", b"[1]", "a.json, row 0: int; expected an object"),
        ("a.jsonl", b"", "none of 0 rows can be used (it is empty)"),
        (
            "a.jsonl",
            b'{"problem": "", "answer": "1"}',
            "none of 1 rows can be used (1 empty problem)",
        ),
        (
            "a.jsonl",
            b'{"problem": 5, "answer": "1"}',
            "line 1: the problem is 5 (int); expected text",
        ),
        ("a.jsonl", b'{"problem": "a", "answer": true}', "line 1: the answer is True (bool)"),
        ("a.jsonl", b'{"problem": "a", "reward_model": "x"}', "line 1: reward_model is text that"),
        ("a.csv", b"problem,answer\na,1,2\n", "a.csv, row 1: more values than the first line"),
        ("a.csv", b'problem,answer\n"a"b,1\n', "a.csv, row 1: cannot be read as CSV"),
        ("a.parquet", b"PAR1 no", "a.parquet cannot be read as parquet"),
        ("a.txt", b"x", "expected a file ending in .parquet, .jsonl, .json, .csv"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        read(tmp_path / name)
    assert said in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="there is no .*absent.jsonl; expected a file"):
        open_source(str(tmp_path / "absent.jsonl"))
    with pytest.raises(InputError, match=r"has no \*.parquet files"):
        open_source(str(tmp_path))
    with pytest.raises(InputError, match="--revision main: .* is here"):
        open_source(str(lines(tmp_path / "a.jsonl", *ROWS)), "main")
    with pytest.raises(InputError, match="hub:gsm8k; expected hub:OWNER/NAME"):
        open_source("hub:gsm8k")
