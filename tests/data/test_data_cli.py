"""`megaprune data` as users call it: files that the readers take, reports, bad input."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megaprune.cli.main import main
from megaprune.data.parquet import read_parquet
from megaprune.data.templates import load_template

LONG = " ".join(f"{a}{b}" for a in "qwrtz" for b in "aeioux")
ROWS = [
    {"problem": "1+1?", "answer": "2", "id": "x-1", "level": 3},
    {"problem": "", "answer": "2"},
    {"problem": "1+1 ?", "answer": "2"},
    {"problem": f"{LONG}?", "answer": "5"},
    {"problem": "1+2?", "answer": "3"},
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def data(tmp_path, capsys, monkeypatch):
    """Run the command in tmp_path; its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main(["data", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def rows(path):
    return [row for _, row in read_parquet(path)]


def about(path):
    return json.loads(pq.read_schema(path).metadata[b"megaprune"])


def test_a_named_set(tmp_path, source, data):
    status, out, _ = data("math500", "--input", source, "--out", "o.parquet", "--family", "qwen")
    assert status == 0
    assert [line.split() for line in out.splitlines()[:5]] == [
        ["math500", "rows"], ["read", "5"], ["empty", "problem", "-1"], ["duplicate", "-1"],
        ["written", "3"],
    ]  # fmt: skip
    found = rows(tmp_path / "o.parquet")
    qwen = load_template("qwen")
    assert [row.messages for row in found] == [
        qwen.messages(ROWS[n]["problem"], None) for n in (0, 3, 4)
    ]
    assert [(row.data_source, row.gold, row.index, row.split) for row in found] == [
        ("math500", "2", "0", "test"), ("math500", "5", "3", "test"), ("math500", "3", "4", "test"),
    ]  # fmt: skip
    stored = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert stored[0]["reward_model"] == {"ground_truth": "2", "style": "rule"}
    assert stored[0]["ability"] == "math"
    assert stored[0]["extra_info"] == {
        "split": "test", "index": 0, "problem": "1+1?", "id": "x-1", "level": "3",
    }  # fmt: skip
    assert stored[2]["extra_info"]["level"] is None
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "o.parquet"}


def test_a_file_for_each_limit(tmp_path, source, data):
    """The limit is in the system text; nothing else differs."""
    arguments = ("--family", "deepseek", "--limit", "4000,2000", "--json")
    status, out, _ = data("math_train", "--input", source, "--out", "a/{limit}.parquet", *arguments)
    assert status == 0
    report = json.loads(out)
    assert report["files"] == [
        {"path": "a/4000.parquet", "limit": 4000}, {"path": "a/2000.parquet", "limit": 2000},
    ]  # fmt: skip
    assert (report["rows"], report["written"]) == (5, 3)
    assert report["dropped"] == {"empty problem": 1, "duplicate": 1}
    for limit in (4000, 2000):
        found = rows(tmp_path / f"a/{limit}.parquet")
        assert all(f"{limit} tokens" in row.messages[0]["content"] for row in found)
        assert [row.messages[1] for row in found] == [
            row.messages[1] for row in rows(tmp_path / "a/4000.parquet")
        ]
        said = about(tmp_path / f"a/{limit}.parquet")
        assert said["limit"] == limit
        assert said["template"]["problem"] == load_template("deepseek").problem
        assert (said["set"], said["input"], said["rows"]) == ("math_train", str(source), 5)


@pytest.mark.parametrize(
    ("kind", "words"), [("exact", "about {} tokens"), ("max", "than {} tokens")]
)
def test_a_budget_for_each_problem(tmp_path, source, data, kind, words):
    """It is drawn, said in the prompt, and kept for the reward; the seed makes it again."""
    arguments = ("math_train", "--input", source, "--family", "qwen", "--budget-as", kind)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        drawn = ("--budget", "100:4000", "--seed", seed, "--out", f"{name}.parquet")
        assert data(*arguments, *drawn)[0] == 0
    a, b, c = ([row.budget for row in rows(tmp_path / f"{name}.parquet")] for name in "abc")
    assert a == b
    assert a != c
    assert len(set(a)) == len(a) == 3
    assert all(100 <= budget <= 4000 for budget in a)
    for row in rows(tmp_path / "a.parquet"):
        assert words.format(row.budget) in row.messages[0]["content"]
    said = about(tmp_path / "a.parquet")
    assert (said["limit"], said["budgets"]["low"], said["budgets"]["kind"]) == (None, 100, kind)


def test_the_same_again_is_the_same_file(tmp_path, source, data):
    for name in ("a", "b"):
        data("math500", "--input", source, "--out", f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_source_of_ones_own(tmp_path, data):
    (tmp_path / "mine.jsonl").write_text('{"q": "1+1?", "info": {"truth": 2}}\n')
    (tmp_path / "mine.yaml").write_text(
        'system: null\nproblem: "Solve: {problem}"\nlimit: " ({limit})"\n'
        'thought: {open: "<t>", close: "</t>"}\nearly_exit: ""\n'
    )
    columns = ("--problem-column", "q", "--answer-column", "info.truth", "--split", "check")
    prompt = ("--template", "mine.yaml", "--limit", "50")
    status, *_ = data(
        "--input", "mine.jsonl", "--source", "mine", "--out", "o.parquet", *columns, *prompt
    )
    assert status == 0
    (row,) = rows(tmp_path / "o.parquet")
    assert row.messages == [{"role": "user", "content": "Solve: 1+1? (50)"}]
    assert (row.data_source, row.gold, row.split) == ("mine", "2", "check")


def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path, source, data):
    out = tmp_path / "o.parquet"
    assert data("math500", "--input", source, "--out", out)[0] == 0
    before, content = os.stat(out).st_ino, out.read_bytes()
    status, _, err = data("math500", "--input", source, "--out", out)
    assert (status, "exists; give --overwrite" in err) == (1, True)
    (tmp_path / "bad.jsonl").write_text("{")
    assert data("math500", "--input", "bad.jsonl", "--out", out, "--overwrite")[0] == 1
    assert out.read_bytes() == content
    assert data("math500", "--input", source, "--out", out, "--overwrite")[0] == 0
    assert len(rows(out)) == 3
    assert os.stat(out).st_ino != before


def test_a_file_of_anothers_is_not_replaced(tmp_path, source, data):
    """Not even one in the same columns; and no file is written if one of several is refused."""
    out, columns = tmp_path / "4000.parquet", tmp_path / "own.parquet"
    out.write_text("years of work")
    pq.write_table(pa.table({"prompt": ["mine"]}), columns)
    for path, name in ((out, "{limit}.parquet"), (columns, columns)):
        before, limits = path.read_bytes(), ["--limit", "2000,4000"] if "{" in str(name) else []
        arguments = ("math500", "--input", source, "--out", name, "--overwrite", *limits)
        status, _, err = data(*arguments)
        assert status == 1
        assert "is not what this command writes" in err
        assert path.read_bytes() == before
    assert not (tmp_path / "2000.parquet").exists()


def against(tmp_path):
    known = [f"{LONG}!", "1+5?", "something else"]
    path = tmp_path / "known.jsonl"
    path.write_text("".join(json.dumps({"problem": p, "answer": "1"}) + "\n" for p in known))
    return path


def test_overlap_is_told(tmp_path, source, data):
    against(tmp_path)
    report = ("--against", "aime25=known.jsonl", "rows.jsonl", "--json")
    status, out, _ = data("math_train", "--input", source, "--out", "o.parquet", *report)
    found = json.loads(out)
    assert status == 0
    assert found["written"] == 3
    assert found["overlap"]["pairs"] == {
        "aime25": {"exact": 0, "near": 1, "numbers": 2},
        "rows.jsonl": {"exact": 3, "near": 0, "numbers": 2},
    }
    assert found["pairs"][1] == {
        "set": "aime25",
        "kind": "near",
        "similarity": round(28 / 29, 4),
        "ours": {"index": 3, "problem": f"{LONG}?"},
        "theirs": {"index": 0, "problem": f"{LONG}!"},
    }
    assert "pairs" in about(tmp_path / "o.parquet")["overlap"]
    _, out, _ = data("math_train", "--input", source, "--out", "p.parquet", *report[:-2])
    words = [line.split() for line in out.splitlines()]
    assert ["aime25", "0", "1", "2"] in words
    assert ["near", "0.97", "3", "qa", "qe"] in [line[:5] for line in words]


def test_overlap_is_dropped(tmp_path, source, data):
    against(tmp_path)
    end = ("--against", "known.jsonl", "--drop-overlap", "--json")
    _, out, _ = data("math_train", "--input", source, "--out", "o.parquet", *end)
    found = json.loads(out)
    assert found["dropped"]["overlap with known.jsonl"] == 1
    assert found["rows"] == found["written"] + sum(found["dropped"].values())
    assert [row.gold for row in rows(tmp_path / "o.parquet")] == ["2", "3"]
    status, _, err = data(
        "math_train", "--input", source, "--out", "p.parquet", "--against", source, "--drop-overlap"
    )
    assert status == 1
    assert "all 3 problems are in the sets of --against too" in err


def test_overlap_is_refused(tmp_path, source, data):
    against(tmp_path)
    end = ("--against", "known.jsonl", "--refuse-overlap")
    status, _, err = data("math_train", "--input", source, "--out", "o.parquet", *end)
    assert status == 1
    assert "overlap with sets of --against: 1 with known.jsonl; nothing was written" in err
    assert not (tmp_path / "o.parquet").exists()
    end = (*end, "--near", "0.99")
    assert data("math_train", "--input", source, "--out", "o.parquet", *end)[0] == 0


def test_what_was_made_can_be_compared_with(tmp_path, source, data):
    """Prompts around problems do not hide them."""
    for name, family in (("a", "qwen"), ("b", "deepseek")):
        end = ("--family", family, "--limit", "9")
        data("math500", "--input", source, "--out", f"{name}.parquet", *end)
    end = ("--against", "math500=a.parquet", "--json")
    _, out, _ = data("--source", "s", "--input", "b.parquet", "--out", "c.parquet", *end)
    assert json.loads(out)["overlap"]["pairs"]["math500"]["exact"] == 3


def test_the_list(data):
    status, out, _ = data("--list")
    assert status == 0
    assert ["aime24", "evaluate", "64", "strict"] in [line.split()[:4] for line in out.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["math50", "--out", "o"], "no set 'math50'; did you mean math500?"),
        (["math50", "--out", "o"], "--source math50 --input SOURCE"),
        (["--out", "o"], "say which set"),
        (["--out", "o", "--source", "s"], "give --input SOURCE --source NAME"),
        (["aime24", "--source", "s", "--out", "o"], "a set, aime24, and --source s"),
        (["--input", "rows.jsonl", "--source", "aime24", "--out", "o"], "is a set's name"),
        (["math500", "--input", "rows.jsonl"], "--out FILE must be given"),
        (["math500", "--limit", "2,3", "--out", "o"], "put {limit} into the name"),
        (["math500", "--limit", "2", "--budget", "2:3", "--out", "o"], "give one of them"),
        (["math500", "--out", "{limit}"], "--out {limit} holds {limit}, and there is no --limit"),
        (["math500", "--input", "rows.jsonl", "--out", "rows.jsonl"], "rows.jsonl is the input rows.jsonl"),
        (["math500", "--input", "absent", "--out", "o"], "there is no absent"),
        (["math500", "--template", "x", "--out", "o"], "there is no template 'x'"),
        (["math500", "--input", "rows.jsonl", "--out", "rows.jsonl/o"], "cannot write"),
        (["math500", "--input", "rows.jsonl", "--out", "o", "--problem-column", "p"],
         "line 1: no column for the problem: expected p; there are problem, answer, id, level"),
        (["numina_amc_aime", "--input", "rows.jsonl", "--out", "o"],
         "line 1: it lacks the column data_source"),
        (["olympiadbench", "--input", "rows.jsonl", "--out", "o"],
         "line 1: it lacks the column is_multiple_answer"),
        (["aime22_23", "--input", "rows.jsonl", "--out", "o"], "line 1: it does not say its year"),
        (["math500", "--input", "rows.jsonl", "--out", "o", "--against", "aime2=rows.jsonl"],
         "no set 'aime2'; did you mean aime2"),
        (["math500", "--input", "rows.jsonl", "--out", "o", "--against", "rows.jsonl", "rows.jsonl"],
         "--against has rows.jsonl twice"),
        (["math500", "--input", "rows.jsonl", "--out", "o", "--against", "aime25=bad.jsonl"],
         "bad.jsonl, line 2: not JSON"),
    ],
)  # fmt: skip
def test_bad_input(source, data, tmp_path, arguments, words):
    (tmp_path / "bad.jsonl").write_text('{"problem": "a", "answer": "1"}\n{\n')
    before = {path.name for path in tmp_path.iterdir()}
    status, out, err = data(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith("megaprune: error: ")
    assert words in err
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "bad",
    ["--limit=0", "--limit=a", "--limit=5,5", "--near=0", "--near=2", "--budget=5", "--budget=5:4",
     "--budget=0:4", "--seed=-1"],
)  # fmt: skip
def test_bad_numbers(data, capsys, bad):
    with pytest.raises(SystemExit) as ended:
        data("math500", bad)
    assert ended.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_help_needs_nothing_heavy():
    check = (
        "import sys; from megaprune.cli.main import main\n"
        "try: main(['data', '--help'])\n"
        "finally: print(sorted({'pyarrow', 'numpy', 'yaml', 'httpx', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "early_exit:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_duplicates_stay_by_choice(tmp_path, source, data):
    arguments = ("math500", "--input", source, "--out", "o.parquet", "--duplicates", "keep")
    status, out, _ = data(*arguments)
    assert status == 0
    assert [line.split() for line in out.splitlines()[1:5]] == [
        ["read", "5"], ["empty", "problem", "-1"], ["written", "4"], ["duplicate,", "kept", "1"],
    ]  # fmt: skip
    assert [row.index for row in rows(tmp_path / "o.parquet")] == ["0", "2", "3", "4"]


def test_instructions_are_said_and_left_out_by_choice(tmp_path, data):
    around = 'The last line should be of the form Answer: X.\n\n{}\n\nPut it after "Answer:".'
    texts = [around.format(f"What is 1+{n}?") for n in range(3)] + ["What is 2+2?"]
    lines = (json.dumps({"problem": text, "answer": "1"}) for text in texts)
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    arguments = ("--input", "mine.jsonl", "--source", "mine", "--family", "qwen", "--overwrite")
    status, out, _ = data(*arguments, "--out", "o.parquet")
    assert status == 0
    assert "which ask 3 for Answer:: kept; --instructions drop" in " ".join(out.split())
    assert texts[0] in rows(tmp_path / "o.parquet")[0].messages[1]["content"]
    status, out, _ = data(*arguments, "--out", "o.parquet", "--instructions", "drop")
    assert "3 for Answer:: these words are left out" in " ".join(out.split())
    contents = [row.messages[1]["content"] for row in rows(tmp_path / "o.parquet")]
    assert not any("Answer:" in content for content in contents)
    assert [content.split("?")[0] for content in contents] == [
        "What is 1+0", "What is 1+1", "What is 1+2", "What is 2+2",
    ]  # fmt: skip
    assert about(tmp_path / "o.parquet")["instructions"] == {"kept": False, "rows": {"Answer:": 3}}


def test_sets_of_against_in_columns_of_their_own(tmp_path, source, data):
    """Their answers do not matter."""
    (tmp_path / "theirs.jsonl").write_text('{"text": "1 + 1?"}\n{"text": "7 + 9?"}\n')
    (tmp_path / "usual.jsonl").write_text('{"question": "1+2?"}\n')
    arguments = ("math500", "--input", source, "--out", "o.parquet", "--json", "--against")
    status, _, err = data(*arguments, "theirs.jsonl")
    assert status == 1
    assert "there are text: name it with" in err
    assert "--against-column" in err
    both = ("theirs.jsonl", "usual.jsonl", "--against-column", "text", "--drop-overlap")
    status, out, _ = data(*arguments, *both)
    assert status == 0
    assert [row.index for row in rows(tmp_path / "o.parquet")] == ["3"]
    assert {pair["set"] for pair in json.loads(out)["pairs"]} == {"theirs.jsonl", "usual.jsonl"}
