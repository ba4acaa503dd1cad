"""Problem sets of anyone's making: read, or refused by file and row; never a traceback."""

import datetime
import decimal
import json
import time
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mutations import damaged, deep, draws, mutated

from megaprune.analyze.thoughts import read_inputs
from megaprune.cli.main import main
from megaprune.data.collect import collect
from megaprune.data.parquet import ProblemRow, read_parquet, write_parquet
from megaprune.data.sets import SETS
from megaprune.data.sources import open_source
from megaprune.errors import InputError

ROW = {
    "data_source": "sums",
    "prompt": [{"role": "user", "content": "What is 1 + 1?"}],
    "ability": "math",
    "reward_model": {"ground_truth": "2", "style": "rule"},
    "extra_info": {"split": "test", "index": 7},
}
BARE = {"problem": "What is 1 + 1?", "answer": "2", "id": 3}
LONG = "x" * ((1 << 20) + 1)
NESTED = json.loads("[" * 400 + "]" * 400)
HALF = "\ud800"


def refused(read, path, *more):
    begin = time.process_time()
    with pytest.raises(InputError) as error:
        read(path, *more)
    assert time.process_time() - begin < 10
    assert len(str(error.value)) < 2000
    return str(error.value)


def rows_of(path):
    return list(read_parquet(path))


def collected(path, known=None):
    return collect(open_source(str(path)), known)


COLUMNS = {
    "text prompt": ("prompt", "What?"), "number prompt": ("prompt", 5), "no messages": ("prompt", []),
    "null message": ("prompt", [None]), "text messages": ("prompt", ["a"]),
    "no content": ("prompt", [{"role": "user"}]), "null content": ("prompt", [{"role": "u", "content": None}]),
    "number content": ("prompt", [{"role": "u", "content": 5}]),
    "list content": ("prompt", [{"role": "u", "content": ["a"]}]),
    "bytes content": ("prompt", [{"role": "u", "content": b"\xff"}]),
    "long content": ("prompt", [{"role": "u", "content": LONG}]), "bool prompt": ("prompt", True),
    "null source": ("data_source", None), "empty source": ("data_source", " "),
    "number source": ("data_source", 5), "list source": ("data_source", ["a"]),
    "bytes source": ("data_source", b"a"), "long source": ("data_source", LONG),
    "text gold": ("reward_model", "2"), "list gold": ("reward_model", "[1]"), "null gold": ("reward_model", None),
    "number gold": ("reward_model", 5), "JSON null": ("reward_model", "null"),
    "JSON deep": ("reward_model", "[" * 100_000), "JSON deep 2": ("reward_model", '{"a":' * 50_000),
    "JSON digits": ("reward_model", '{"ground_truth": ' + "9" * 5000 + "}"),
    "JSON nan": ("reward_model", '{"ground_truth": NaN}'),
    "JSON infinite": ("reward_model", '{"ground_truth": 1e999}'),
    "JSON half": ("reward_model", '{"ground_truth": "\\ud800"}'),
    "JSON list": ("reward_model", '{"ground_truth": [1]}'), "JSON true": ("reward_model", '{"ground_truth": true}'),
    "JSON cut": ("reward_model", '{"ground_truth": "2'), "JSON twice": ("reward_model", "{}{}"),
    "gold null": ("reward_model", {"ground_truth": None}), "gold nan": ("reward_model", {"ground_truth": float("nan")}),
    "gold list": ("reward_model", {"ground_truth": ["a"]}), "gold bytes": ("reward_model", {"ground_truth": b"\xff"}),
    "gold long": ("reward_model", {"ground_truth": LONG}), "gold empty": ("reward_model", {"ground_truth": ""}),
    "gold date": ("reward_model", {"ground_truth": datetime.date(2024, 1, 1)}),
    "gold decimal": ("reward_model", {"ground_truth": decimal.Decimal("1.5")}),
    "info text": ("extra_info", "a"), "info list": ("extra_info", [1]),
    "index list": ("extra_info", {"index": [1]}), "index nan": ("extra_info", {"index": float("nan")}),
    "index true": ("extra_info", {"index": True}), "split list": ("extra_info", {"split": ["a"]}),
    "split bytes": ("extra_info", {"split": b"\xff"}), "ability list": ("ability", ["a"]),
    "ability bytes": ("ability", b"\xff"), "ability long": ("ability", LONG),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_parquet(tmp_path, name):
    column, value = COLUMNS[name]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([ROW | {column: value}]), path)
    assert f"a.parquet, row 0, column {column}" in refused(rows_of, path)


def test_the_row_is_counted_over_parts(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [ROW] * 2500 + [ROW | {"data_source": ""}]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    assert "a.parquet, row 2500, column data_source: empty" in refused(rows_of, path)


def bad_text(content, other=b"good"):
    """A column of text whose second value is not UTF-8, as writers in other languages make it."""
    offsets = pa.py_buffer(
        b"".join(n.to_bytes(4, "little") for n in (0, len(other), len(other) + len(content)))
    )
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(other + content)])


@pytest.mark.parametrize(
    "content", [b"\xff", b"\xed\xa0\x80", b"\xc3", b"ok\xf5\x80", b"\x80" * 50]
)
def test_text_that_is_not_utf_8(tmp_path, content):
    table = pa.Table.from_pylist([ROW, ROW])
    at = table.schema.get_field_index("data_source")
    path = tmp_path / "a.parquet"
    pq.write_table(table.set_column(at, "data_source", bad_text(content)), path)
    said = refused(rows_of, path)
    assert "a.parquet, row 1, column data_source" in said
    table = pa.table({"problem": bad_text(content), "answer": ["1", "2"]})
    pq.write_table(table, path)
    assert "a.parquet, row 1, column problem" in refused(collected, path)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.timestamp("s"), 10**15), (pa.timestamp("ns"), 1), (pa.date64(), 10**16),
        (pa.duration("s"), 10**18), (pa.binary(), b"\xff"), (pa.decimal128(10, 2), decimal.Decimal(1)),
        (pa.bool_(), True), (pa.list_(pa.list_(pa.int8())), [[1]]), (pa.null(), None),
        (pa.map_(pa.string(), pa.int8()), [("a", 1)]), (pa.month_day_nano_interval(), (1, 2, 3)),
    ],
)  # fmt: skip
def test_values_of_other_types(tmp_path, kind, value):
    """Also those that Python has no object for."""
    if pa.types.is_temporal(kind) and isinstance(value, int):
        array = pa.array([value], pa.int64()).cast(kind)
    else:
        array = pa.array([value], kind)
    path = tmp_path / "a.parquet"
    try:
        pq.write_table(pa.table({"problem": array, "answer": ["1"]}), path)
    except (pa.ArrowException, NotImplementedError):
        pytest.skip("parquet has no such type")
    assert "a.parquet" in refused(collected, path)
    path = tmp_path / "b.parquet"
    table = pa.Table.from_pylist([ROW])
    pq.write_table(table.set_column(0, "data_source", array), path)
    assert "b.parquet, row 0, column data_source" in refused(rows_of, path)


def test_columns_with_the_same_name(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.Table.from_pylist([ROW])
    pq.write_table(table.append_column("prompt", table["prompt"]), path)
    assert "the column 'prompt' more than once" in refused(rows_of, path)
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["problem", "problem", "answer"]), path)
    assert "the column 'problem' more than once" in refused(collected, path)


LINES = {
    "not utf-8": b'{"problem": "\xff", "answer": "2"}', "half": b'{"problem": "\\ud800", "answer": "2"}',
    "half answer": b'{"problem": "a", "answer": "\\udfff"}', "half id": b'{"problem": "a", "answer": "2", "id": "\\ud800"}',
    "null": b"null", "number": b"5", "text": b'"a"', "list": b'{"problem": 5, "answer": "2"}', "nul": b"\x00",
    "deep": b"[" * 100_000, "deep problem": b'{"problem": ' + b"[" * 500 + b"]" * 500 + b', "answer": "1"}',
    "deep answer": b'{"problem": "a", "answer": ' + b"[" * 450 + b"]" * 450 + b"}",
    "deep object": b'{"problem": "a", "answer": ' + b'{"ground_truth":' * 450 + b"1" + b"}" * 450 + b"}",
    "digits": b'{"problem": "a", "answer": ' + b"9" * 5000 + b"}", "cut": b'{"problem": "a", "ans',
    "two": b'{"problem": "a", "answer": "2"} {}', "no problem": b'{"answer": "2"}', "no answer": b'{"problem": "a"}',
    "true": b'{"problem": "a", "answer": true}', "infinite": b'{"problem": "a", "answer": 1e999}',
    "object": b'{"problem": {"a": 1}, "answer": "2"}', "messages": b'{"problem": ["a"], "answer": "2"}',
    "long": b'{"problem": "' + LONG.encode() + b'", "answer": "2"}', "escape": b'{"problem": "\x1b[2J", "answer": "2"}',
    "long answer": b'{"problem": "a", "answer": "' + LONG.encode() + b'"}', "reward": b'{"problem": "a", "reward_model": "x"}',
    "reward deep": b'{"problem": "a", "reward_model": "' + b"[" * 50_000 + b'"}', "key": b'{1: 2}',
    "user list": b'{"problem": [{"role": "user", "content": [1]}], "answer": "2"}',
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_json(tmp_path, name):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(BARE).encode() + b"\n\n" + LINES[name] + b"\n")
    assert "a.jsonl, line 3" in refused(collected, path)


@pytest.mark.parametrize("name", sorted(set(LINES) - {"not utf-8"}))
def test_a_list_of_json(tmp_path, name):
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + json.dumps(BARE).encode() + b",\n" + LINES[name] + b"]")
    assert "a.json" in refused(collected, path)


@pytest.mark.parametrize(
    "content",
    [
        b"problem,answer\na,1,2\n", b"problem,answer\n\xff,1\n", b'problem,answer\n"a,1\n', b"\x00",
        b"problem,answer\n" + b"x" * 200_000 + b",1\n", b"a,b\n1,2\n",
        b'problem,answer\n"a"b,1\n', b"", b"\xff\xfe", b"problem\na\n", b"problem,answer\r\n\ra,1\r\r",
    ],
)  # fmt: skip
def test_csv(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert "a.csv" in refused(collected, path)


def test_numbers_that_are_large(tmp_path):
    """Are answers, whatever a float can hold."""
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"problem": "a", "answer": {10**400}}}')
    assert collected(path).questions[0].gold == str(10**400)
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.Table.from_pylist([ROW | {"reward_model": f'{{"ground_truth": {10**400}}}'}]), path
    )
    assert rows_of(path)[0][1].gold == str(10**400)


def test_the_command_says_it_in_a_line(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    out = tmp_path / "out"
    for name in ("not utf-8", "half", "deep answer", "long", "user list"):
        path.write_bytes(LINES[name])
        assert main(["data", "--source", "mine", "--input", str(path), "--out", str(out)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"megaprune: error: {path}, line 1")
        assert not list(tmp_path.rglob("*.parquet"))


def written(path, row, rng):
    """Write a mutated row with types of its own; None if there is no parquet for it."""
    try:
        pq.write_table(pa.Table.from_pylist([ROW, row] if rng.random() < 0.5 else [row]), path)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, ValueError, TypeError):
        return False
    return True


def test_any_row_of_parquet_is_read_or_refused(tmp_path):
    outcomes, path = Counter(), tmp_path / "a.parquet"
    for rng in draws(300):
        row = mutated(rng, ROW, rng.choice([0.05, 0.2]))
        if not isinstance(row, dict) or not written(path, row, rng):
            continue
        try:
            rows = rows_of(path)
        except InputError as error:
            outcomes["refused" if "a.parquet" in str(error) else "no place"] += 1
        else:
            outcomes["read"] += 1
            # What is read can be written and read again.
            numbered = [row for _, row in rows]
            for each in numbered:
                each.gold.encode()
                assert isinstance(each, ProblemRow)
    assert outcomes.keys() == {"read", "refused"}


def test_any_file_of_parquet_is_read_or_refused(tmp_path):
    outcomes, path = Counter(), tmp_path / "a.parquet"
    write_parquet(
        path,
        [ProblemRow("s", [{"role": "user", "content": f"{n}?"}], str(n), n) for n in range(20)],
    )
    good = path.read_bytes()
    for rng in draws(300):
        path.write_bytes(damaged(rng, good))
        begin = time.process_time()
        for read in (rows_of, collected):
            try:
                read(path)
            except InputError as error:
                outcomes["refused" if "a.parquet" in str(error) else "no place"] += 1
            else:
                outcomes["read"] += 1
        assert time.process_time() - begin < 10
    assert outcomes.keys() == {"read", "refused"}


@pytest.mark.parametrize("name", [None, *SETS])
def test_any_line_of_json_is_read_or_refused(tmp_path, name):
    """Also by the readers of sets that have names."""
    outcomes, path = Counter(), tmp_path / "a.jsonl"
    row = BARE | {
        "year": 2024, "url": "https://x/2024", "data_source": "numina_amc_aime", "solution": "\\boxed{2}",
        "is_multiple_answer": False, "unit": None, "error": None, "final_answer": ["2"],
        "reward_model": {"ground_truth": "2"}, "prompt": [{"role": "user", "content": "What?"}],
    }  # fmt: skip
    for rng in draws(60):
        content = json.dumps(mutated(rng, row)).encode()
        if rng.random() < 0.2:
            content = damaged(rng, content)
        path.write_bytes(content)
        begin = time.process_time()
        try:
            found = collected(path, SETS.get(name))
        except InputError as error:
            outcomes["refused" if "a.jsonl" in str(error) else "no place"] += 1
        else:
            outcomes["read"] += 1
            for question in found.questions:
                question.problem.encode()
                question.gold.encode()
        assert time.process_time() - begin < 10
    assert "no place" not in outcomes


ANSWER = {
    "data_source": "sums", "problem": "sums/1", "prompt": "What?", "response": "a</think>b",
    "number": 0, "exit_at": None, "length": 5, "match": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("data_source", 5), ("data_source", None), ("problem", [1]), ("problem", None),
        ("prompt", [{"role": "user"}]), ("prompt", None), ("response", b"\xff"), ("response", None),
        ("number", "1"), ("number", None), ("number", 1.5), ("number", True), ("exit_at", "1"),
        ("length", "5"), ("length", [5]), ("length", 5.5), ("match", "true"), ("match", 1),
    ],
)  # fmt: skip
def test_a_column_of_answers(tmp_path, column, value):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([ANSWER | {column: value}]), path)
    assert f"a.parquet, row 0, column {column}" in refused(read_inputs, [str(path)], "</think>")


def test_deep_values_are_shown_short(tmp_path):
    rng = draws(1)[0]
    path = tmp_path / "a.jsonl"
    for levels in (10, 100, 400):
        path.write_text(json.dumps({"problem": [deep(rng, levels)], "answer": "1"}))
        assert len(refused(collected, path)) < 500
