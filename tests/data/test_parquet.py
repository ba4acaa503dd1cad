"""Parquet in verl's columns: what is read, and what is refused in which words."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megaprune.data.collect import EMPTY, NO_ANSWER, BareProblem, bare_problem
from megaprune.data.parquet import ProblemRow, read_parquet, write_parquet
from megaprune.data.sources import open_source
from megaprune.errors import InputError


def good(**changes):
    """One row as verl writes it, with columns that nobody needs."""
    return {
        "data_source": "amc",
        "prompt": [
            {"content": "Be brief.", "role": "system"},
            {"content": "1+1?", "role": "user"},
        ],
        "ability": "math",
        "reward_model": {"ground_truth": "2", "style": "rule"},
        "extra_info": {"index": 5, "split": "train"},
        "level": 6,
        **changes,
    }


def write(path, *rows):
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def read(path):
    return [row for _, row in read_parquet(path)]


def test_verls_columns(tmp_path):
    (row,) = read(write(tmp_path / "a.parquet", good()))
    assert row == ProblemRow(
        data_source="amc",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
        gold="2",
        index="5",
        split="train",
        ability="math",
    )


def test_what_may_be_absent(tmp_path):
    row = good()
    del row["extra_info"], row["ability"], row["level"]
    assert read(write(tmp_path / "a.parquet", row))[0].index is None
    bare = write(tmp_path / "b.parquet", good(extra_info=None), good(extra_info={"split": "test"}))
    assert [r.index for r in read(bare)] == [None, None]


@pytest.mark.parametrize(
    ("truth", "gold"),
    [
        ("033", "033"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        ('["a", "b"]', '["a", "b"]'),  # text is text, whatever is in it
        (116, "116"),
        (-3, "-3"),
        (116.0, "116"),
        (0.25, "0.25"),
        (2**53 + 1, "9007199254740993"),
    ],
)
def test_answers_as_text_or_numbers(tmp_path, truth, gold):
    model = {"ground_truth": truth, "style": "rule"}
    assert read(write(tmp_path / "a.parquet", good(reward_model=model)))[0].gold == gold
    assert read(write(tmp_path / "b.parquet", good(reward_model=json.dumps(model))))[0].gold == gold


def test_other_types_of_text_and_lists(tmp_path):
    """As other writers store them: dictionaries, 64-bit offsets."""
    schema = pa.schema(
        {
            "data_source": pa.dictionary(pa.int32(), pa.string()),
            "prompt": pa.large_list(pa.struct({"content": pa.large_string(), "role": pa.string()})),
            "reward_model": pa.struct({"ground_truth": pa.large_string()}),
        }
    )
    table = pa.Table.from_pylist([good()], schema=schema)
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    (row,) = read(tmp_path / "a.parquet")
    assert (row.data_source, row.gold, row.messages[1]["content"]) == ("amc", "2", "1+1?")


def test_a_folder_is_read_by_name(tmp_path):
    for name in ("b.parquet", "a.parquet", "c.parquet"):
        write(tmp_path / name, good(data_source=name), good(data_source=name))
    (tmp_path / "notes.txt").write_text("not one of them")
    (tmp_path / ".d.parquet.7.partial").write_text("nor this")
    places, rows = zip(*read_parquet(tmp_path), strict=True)
    assert [r.data_source[0] for r in rows] == list("aabbcc")
    assert places[3] == f"{tmp_path / 'b.parquet'}, row 1"


def test_more_rows_than_are_read_at_once(tmp_path):
    rows = [good(extra_info={"index": i}) for i in range(2500)]
    found = read(write(tmp_path / "a.parquet", *rows))
    assert [r.index for r in found] == [str(i) for i in range(2500)]


MESSAGE = {"role": "user", "content": "1+1?"}
GOOD_MODEL = {"ground_truth": "2"}

# column and value -> where and what is said
BAD = [
    ("data_source", None, "data_source: null or absent; expected text"),
    ("data_source", 3, "data_source: 3 .int.; expected text"),
    ("data_source", " ", "data_source: empty; expected text"),
    ("prompt", None, "prompt: null or absent; expected a list"),
    ("prompt", "1+1?", "prompt: '1.1.' .str.; expected a list"),
    ("prompt", [], "prompt: an empty list; expected one message or more"),
    ("prompt", ["1+1?"], r"prompt\[0\]: '1.1.' .str.; expected {role, content}"),
    ("prompt", [None], r"prompt\[0\]: null or absent; expected {role, content}"),
    ("prompt", [MESSAGE, {"role": "user"}], r"prompt\[1\].content: null or absent; expected text"),
    ("prompt", [{"content": "1+1?"}], r"prompt\[0\].role: null or absent; expected text"),
    ("prompt", [{**MESSAGE, "content": ""}], r"prompt\[0\].content: empty; expected text"),
    ("prompt", [{**MESSAGE, "role": ""}], r"prompt\[0\].role: empty; expected text"),
    ("prompt", [{**MESSAGE, "content": ["1"]}], r"prompt\[0\].content: \['1'\] .list.; expected"),
    ("reward_model", None, "reward_model: null or absent; expected {ground_truth"),
    ("reward_model", "2 apples", "reward_model: text that is not JSON .'2 apples'.; expected"),
    ("reward_model", "2", "reward_model: 2 .int.; expected {ground_truth"),
    ("reward_model", {"style": "rule"}, "reward_model.ground_truth: null or absent; expected text"),
    ("reward_model", {"ground_truth": ""}, "reward_model.ground_truth: empty; expected text or"),
    (
        "reward_model",
        {"ground_truth": True},
        "reward_model.ground_truth: True .bool.; expected text or a",
    ),
    (
        "reward_model",
        {"ground_truth": float("nan")},
        "reward_model.ground_truth: nan .float.; expected",
    ),
    (
        "reward_model",
        {"ground_truth": ["2"]},
        r"reward_model.ground_truth: \['2'\] .list.; expected text or",
    ),
    (
        "reward_model",
        {"ground_truth": {"x": 2}},
        "reward_model.ground_truth: {'x': 2} .dict.; expected text",
    ),
    ("extra_info", "train", "extra_info: 'train' .str.; expected {index"),
    ("extra_info", {"index": [5]}, r"extra_info.index: \[5\] .list.; expected text or"),
]


@pytest.mark.parametrize(("column", "value", "says"), BAD)
def test_bad_values_name_file_row_and_column(tmp_path, column, value, says):
    write(tmp_path / "bad.parquet", good(**{column: value}))
    place = r"bad\.parquet, row 0, column "
    with pytest.raises(InputError, match=f"{place}{says}") as caught:
        read(tmp_path / "bad.parquet")
    assert any(mend in str(caught.value) for mend in ("fill it", "store it so", "put the answer"))


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("data_source", None, "data_source: null"),
        ("prompt", [], "prompt: an empty list"),
        ("prompt", [{"role": "user", "content": None}], r"prompt\[0\].content: null"),
        ("reward_model", {"ground_truth": None, "style": "rule"}, "ground_truth: null"),
    ],
)
def test_the_row_is_the_one(tmp_path, column, value, says):
    rows = [good() for _ in range(1500)]
    rows[1234] = good(**{column: value})
    write(tmp_path / "bad.parquet", *rows)
    with pytest.raises(InputError, match=rf"bad\.parquet, row 1234, column .*{says}"):
        read(tmp_path / "bad.parquet")


@pytest.mark.parametrize("column", ["data_source", "prompt", "reward_model"])
def test_missing_columns(tmp_path, column):
    row = good()
    del row[column]
    write(tmp_path / "bad.parquet", row)
    with pytest.raises(InputError, match=rf"bad\.parquet lacks the column '{column}'.*level.*add"):
        read(tmp_path / "bad.parquet")


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*none\.parquet; expected a parquet file"):
        read(tmp_path / "none.parquet")


def test_a_folder_without_parquet(tmp_path):
    (tmp_path / "notes.txt").write_text("{}")
    with pytest.raises(InputError, match=r"has no \*\.parquet files; give"):
        read(tmp_path)
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"no \*\.parquet files; .*megaprune data --input .*jsonl"):
        read(tmp_path)


def test_no_rows(tmp_path):
    write_parquet(tmp_path / "a.parquet", [])
    with pytest.raises(InputError, match=r"a\.parquet has no rows; expected one problem or more"):
        read(tmp_path / "a.parquet")


def test_not_parquet(tmp_path):
    (tmp_path / "a.parquet").write_text("data_source,amc\n")
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as parquet .*convert it"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("part", [0, 3, 0.5, 0.99])
def test_a_file_that_was_cut_off(tmp_path, part):
    path = write(tmp_path / "a.parquet", *[good() for _ in range(100)])
    size = path.stat().st_size
    os.truncate(path, int(part * size) if isinstance(part, float) else part)
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as parquet .*copy it again"):
        read(path)


def test_pages_that_were_damaged(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [good(data_source=f"source {i}") for i in range(2000)]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    damaged = bytearray(path.read_bytes())
    middle = len(damaged) // 4
    damaged[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as parquet .*copy it again"):
        read(path)


def test_what_is_written_is_read(tmp_path):
    rows = [
        ProblemRow("amc", [{"role": "user", "content": "1+1?"}], "2", 0, "train", "math"),
        ProblemRow("aime", [{"role": "user", "content": "√4?"}], "002", None, "test", "math"),
    ]
    path = tmp_path / "new" / "train.parquet"
    write_parquet(path, rows)
    write_parquet(path, rows)  # over the first
    assert [p.name for p in path.parent.iterdir()] == ["train.parquet"]
    first, second = read(path)
    assert (first.index, second.index) == ("0", None)
    assert (first.gold, second.gold, second.split) == ("2", "002", "test")
    assert second.messages == rows[1].messages
    columns = ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    assert pq.read_schema(path).names == columns


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "train.parquet"
    write_parquet(path, [ProblemRow("amc", [{"role": "user", "content": "1+1?"}], "2")])
    before = path.read_bytes()
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*folder\.parquet.*choose another place"):
        write_parquet(tmp_path / "folder.parquet", [])
    with pytest.raises(InputError, match="cannot write .*choose another place"):
        write_parquet(path / "below.parquet", [])
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.parquet", "train.parquet"]


QUESTION = {"data_source": "mine", "question": "1+1?", "answer": "2"}

TAKEN = {
    "a prompt that is text": good(prompt="1+1?"),
    "an answer that is a list": good(reward_model={"ground_truth": ["2"]}),
    "an answer as a bare number": good(reward_model=2),
    "a row without an answer": good(reward_model={"ground_truth": ""}),
    "an empty prompt": good(prompt=[]),
    "other columns": QUESTION,
    "a worked solution": {"problem": "1+1?", "solution": r"So $\boxed{2}$."},
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_the_data_command_takes_is_said(tmp_path, name):
    """And it does take it: the row is written, or counted under a reason."""
    path = write(tmp_path / "a.parquet", TAKEN[name])
    with pytest.raises(InputError, match=r"megaprune data --input \S*a\.parquet --source NAME"):
        read(path)
    ((_, row),) = open_source(str(path)).rows()
    reason = {"a row without an answer": NO_ANSWER, "an empty prompt": EMPTY}.get(name)
    assert bare_problem(0, row) == (reason or BareProblem(0, "1+1?", "2"))


@pytest.mark.parametrize(
    "row",
    [good(reward_model="2 apples"), good(prompt=["1+1?"]), good(data_source=None, prompt=[7])],
)
def test_what_it_does_not_take_is_not_said(tmp_path, row):
    with pytest.raises(InputError) as error:
        read(write(tmp_path / "a.parquet", row))
    assert "megaprune data" not in str(error.value)


def test_columns_that_nobody_knows(tmp_path):
    write(tmp_path / "a.parquet", {"text": "1+1?", "truth": "2"})
    with pytest.raises(InputError, match=r"megaprune data --input .* --problem-column COLUMN"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"a": 1}', r"a\.jsonl is JSON lines, .*--input \S*a\.jsonl.*--out a\.parquet"),
        ("a.json", "[]", r"a\.json is JSON, and a run reads parquet; make it so: megaprune data"),
        ("a.CSV", "a,b", r"a\.CSV is CSV, "),
        ("a.parquet", '{"a": 1}\n{"a": 2}', r"is JSON lines \(by its content; call it \.jsonl"),
        ("a.parquet", "[1,\n2]", r"is JSON \(by its content"),
    ],
)
def test_other_formats_name_the_data_command(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=says):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["openai/gsm8k", "hub:openai/gsm8k", "https://huggingface.co/datasets/openai/gsm8k"]
)
def test_a_data_set_of_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"megaprune data --input hub:openai/gsm8k --source NAME"):
        read(Path(name))
