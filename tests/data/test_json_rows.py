"""JSON in the forms that it is published in."""

import json

import pytest

from megaprune.data.collect import collect
from megaprune.data.json_rows import read_json_rows
from megaprune.data.sources import open_source
from megaprune.errors import InputError

OBJECTS = [{"problem": "1+1?", "answer": "2"}, {"problem": "1+2?", "answer": "3"}]
LISTS = [["1+1?", "2"], ["1+2?", "3"]]
COLUMNS = {"problem": ["1+1?", "1+2?"], "answer": ["2", "3"]}
BY_ROW = {name: dict(zip("01", values, strict=True)) for name, values in COLUMNS.items()}

DOCUMENTS = {
    "a list": OBJECTS,
    "under a name": {"data": OBJECTS},
    "under another name": {"version": 3, "examples": OBJECTS},
    "lists with names first": [["problem", "answer"], *LISTS],
    "such lists under a name": {"data": [["problem", "answer"], *LISTS]},
    "as pandas splits": {"columns": ["problem", "answer"], "index": [0, 1], "data": LISTS},
    "a table of pandas": {"schema": {"fields": []}, "data": OBJECTS},
    "columns": COLUMNS,
    "columns by row": BY_ROW,
    "columns under a name": {"data": COLUMNS},
    "of the hub's viewer": {"rows": [{"row_idx": n, "row": row} for n, row in enumerate(OBJECTS)]},
}


def rows(path):
    return [row for _, row in read_json_rows(path)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(tmp_path, name, indent):
    path = tmp_path / "a.json"
    path.write_text("\n" + json.dumps(DOCUMENTS[name], indent=indent))
    assert rows(path) == OBJECTS


@pytest.mark.parametrize("count", [1, 2])
def test_lines(tmp_path, count):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, OBJECTS[:count])) + "\n\n")
    assert rows(path) == OBJECTS[:count]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in [["problem", "answer"], *LISTS]))
    assert rows(path) == OBJECTS


def test_a_row_whose_values_are_lists_is_one_row(tmp_path):
    row = {"prompt": [{"role": "user", "content": "1+1?"}], "answer": ["2"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert rows(tmp_path / "a.jsonl") == [row]


def test_lists_without_names_have_numbers(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(LISTS))
    assert rows(tmp_path / "a.json") == [{"0": "1+1?", "1": "2"}, {"0": "1+2?", "1": "3"}]
    found = collect(open_source(str(tmp_path / "a.json")), None, "0", "1")
    assert [(q.problem, q.gold) for q in found.questions] == [("1+1?", "2"), ("1+2?", "3")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1}\n{"b": \n', "a.json, line 2: not JSON"),
        ('{"a": [1]\n}{', "a.json: not JSON"),
        ('{"data": 3,\n"b": 4}', "a.json: one object of data, b; expected a list of problems"),
        ('[["problem", "answer"], ["1+1?"]]', "row 1: 1 values for the columns problem, answer"),
        ("[[1, 2], [3]]", "a.json, row 1: 1 values for the columns|one for each|2 values"),
        ('{"data": [[1]], "columns": ["a", "b"]}', "row 0: 1 values for the columns a, b"),
        ('[{"problem": "a"}, 7]', "a.json, row 1: int; expected an object"),
    ],
)
def test_what_is_none_of_these(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    if "|" in said:  # lists without names may differ in length: each has its own columns
        assert rows(tmp_path / "a.json") == [{"0": 1, "1": 2}, {"0": 3}]
        return
    with pytest.raises(InputError) as error:
        rows(tmp_path / "a.json")
    assert said in str(error.value)
