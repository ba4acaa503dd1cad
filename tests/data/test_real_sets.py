"""Real problem sets: no row is lost, and no evaluation problem is trained on.

MEGAPRUNE_DATA names a folder of JSON lines files with `problem` and `answer`.
"""

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from megaprune.cli.main import main
from megaprune.data.parquet import read_parquet
from megaprune.data.sets import SETS
from megaprune.grading.olympiad import compare_all

FOLDER = os.environ.get("MEGAPRUNE_DATA")
FILES = sorted(Path(FOLDER).glob("*.jsonl")) if FOLDER else []
NAMES = {
    "aime24": "aime24", "aime25": "aime25", "aime_1983_2021_train": "aime_1983_2021",
    "aime_2022_2024_90": "aime22_23", "amc23_40": "amc23", "amc_2022_2023_83": "amc23",
    "gaokao2023en_383": "gaokao2023", "gsm8k_test": "gsm8k", "math500": "math500",
    "math_train_7.5k": "math_train", "o1pruner_math_test": "math_o1_pruner",
    "olympiadbench_675": "olympiadbench",
}  # fmt: skip
"""Files that are a set with a name, or hold one."""

SIZES = {
    "aime22_23": 60, "aime24": 30, "aime25": 30, "amc23": 40, "math500": 500, "olympiadbench": 675,
    "math_o1_pruner": 458, "gsm8k": 1319, "gaokao2023": 383,
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    not FILES, reason="MEGAPRUNE_DATA names no folder with problem sets (*.jsonl)"
)


def make(capsys, *arguments):
    assert main(["data", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def rest(tmp_path, against):
    return "--out", tmp_path / "again.parquet", "--against", *against.values()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_row_is_written_or_counted(tmp_path, capsys, file):
    out = tmp_path / "o.parquet"
    name = NAMES.get(file.stem)
    which = [name] if name else ["--source", "mine"]
    report = make(capsys, *which, "--input", file, "--out", out, "--family", "qwen")
    written = [row for _, row in read_parquet(out)]
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert report["rows"] == len(lines) == len(written) + sum(report["dropped"].values())
    assert len(written) == SIZES.get(name, len(written))
    for row in written:
        line = lines[int(row.index)]
        assert row.messages[1]["content"].startswith(line["problem"].strip() + "\n\n")
        assert (row.gold == line["answer"].strip()) == (name != "olympiadbench")
    known = SETS.get(name)
    assert {row.split for row in written} == {known.split if known else "train"}


def test_olympiads_golds_are_their_graders(tmp_path, capsys):
    file = next(file for file in FILES if file.stem == "olympiadbench_675")
    make(capsys, "olympiadbench", "--input", file, "--out", tmp_path / "o.parquet")
    golds = [row.gold for _, row in read_parquet(tmp_path / "o.parquet")]
    verdicts = Counter(compare_all(gold, ", ".join(json.loads(gold)["answers"])) for gold in golds)
    assert verdicts["right"] >= 0.995 * len(golds), verdicts


def test_training_sets_without_what_is_measured_on(tmp_path, capsys):
    """It is little that they share, and none of it is left. Half a minute on a core at most."""
    by_name = {file.stem: file for file in FILES}
    measured = [stem for stem in by_name if stem in NAMES and not SETS[NAMES[stem]].training]
    against = {NAMES[stem]: f"{NAMES[stem]}={by_name[stem]}" for stem in measured}
    for stem in ("math_train_7.5k", "aime_1983_2021_train"):
        begin = time.process_time()
        out = tmp_path / f"{stem}.parquet"
        end = ("--against", *against.values(), "--drop-overlap")
        report = make(capsys, NAMES[stem], "--input", by_name[stem], "--out", out, *end)
        assert time.process_time() - begin < 30
        pairs = report["overlap"]["pairs"]
        assert pairs.keys() == against.keys()
        assert 0.99 * report["rows"] < report["written"] < report["rows"]
        with capsys.disabled():
            print(f"\n{stem}: {report['written']} of {report['rows']}; {report['dropped']}")
        again = make(capsys, *("--source", "again", "--input", out), *rest(tmp_path, against))
        assert again["written"] == again["rows"] == report["written"]
        for kinds in again["overlap"]["pairs"].values():
            assert (kinds["exact"], kinds["near"]) == (0, 0)
