"""The page of a harmonizing: what its rounds learned from, and the test before and after."""

import json
import re

import pytest
from evaluation_folders import samples_of, write_evaluation
from run_folders import AFTER, BEFORE, text_of

from megaprune import schema
from megaprune.errors import InputError
from megaprune.report import write_report

STATISTICS = {
    "problems": 64, "responses": 512, "accuracy": 0.75, "length": 120.4, "chosen": 480,
    "chosen_problems": 60, "right_unlikelier": 0.4, "wrong_likelier": None,
}  # fmt: skip


def write_harmonizing(folder, rounds=1, tested=True):
    """As `megaprune harmonize` leaves one."""
    folder.mkdir(parents=True)
    record = {
        "method": "o1_pruner",
        "rounds": [
            {
                "round": number, "model": f"round_{number}/train/model", "step": 7, "steps": 8,
                "validation": None, "statistics": STATISTICS,
            }
            for number in range(1, rounds + 1)
        ],
        "test": {} if tested else None,
    }  # fmt: skip
    (folder / schema.HARMONIZE_FILE).write_text(json.dumps(record))
    (folder / schema.CONFIG_FILE).write_text("model: models/qwq\nmethod: o1_pruner\n")
    page = folder / "round_1" / schema.TRAIN_FOLDER / schema.REPORT_FOLDER / schema.PAGE_FILE
    page.parent.mkdir(parents=True)
    page.write_text("the run's page")
    if tested:
        before = write_evaluation(folder / schema.BEFORE_FOLDER, samples_of("sums", BEFORE))
        write_evaluation(folder / schema.AFTER_FOLDER, samples_of("sums", AFTER), baseline=before)
    return folder


def rows(page, caption):
    table = re.search(rf"<caption>{caption}</caption>.*?</table>", page.read_text(), re.DOTALL)[0]
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", table)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]


def test_the_rounds_and_the_test(tmp_path):
    page = write_report(write_harmonizing(tmp_path / "own", rounds=2))
    _, first, second = rows(page, "What every round learned from")
    assert first[0] == '<a href="../round_1/train/report/index.html">round 1</a>'
    assert second[0] == "round 2"
    assert first[1:4] == ["512", "75.0\u00a0%", "120"]
    assert first[4] == "480<small>of 60 problems</small>"
    assert first[5:8] == ["40.0\u00a0%", "–", "7<small>of 8</small>"]
    length = [sum(length for length, _ in answers.values()) for answers in (BEFORE, AFTER)]
    right = [sum(right for _, right in answers.values()) for answers in (BEFORE, AFTER)]
    saved = 1 - length[1] / length[0]
    change = (right[1] - right[0]) / right[0]
    text = text_of(page)
    assert f"{saved + (3 if change > 0 else -5) * abs(change):.2f}" in text
    assert "own · o1_pruner" in text
    assert "method: o1_pruner" in text
    assert sorted(path.suffix for path in page.parent.iterdir()) != [".html"]  # figures, too
    assert write_report(tmp_path / "own").read_bytes() == page.read_bytes()


def test_without_a_test(tmp_path):
    text = text_of(write_report(write_harmonizing(tmp_path / "own", tested=False)))
    assert "1 round of o1_pruner." in text
    assert "not tested (test.data)" in text


@pytest.mark.parametrize("content", ["{", "[]", '{"rounds": []}', '{"rounds": [{"round": 1}]}'])
def test_a_record_that_cannot_be_read(tmp_path, content):
    folder = write_harmonizing(tmp_path / "own")
    (folder / schema.HARMONIZE_FILE).write_text(content)
    with pytest.raises(InputError, match="cannot be read as what came of a harmonizing"):
        write_report(folder)


def test_a_harmonizing_that_has_only_begun(tmp_path):
    (tmp_path / "own" / "round_1" / schema.PRESAMPLE_FOLDER).mkdir(parents=True)
    with pytest.raises(InputError, match="`megaprune harmonize` writes it when its first round"):
        write_report(tmp_path / "own")


def test_an_evaluation_that_was_made_before(tmp_path, monkeypatch):
    """It lies elsewhere, and the page is made from anywhere."""
    own = write_harmonizing(tmp_path / "study" / "runs" / "own", rounds=1)
    expected = text_of(write_report(own))
    (own / schema.BEFORE_FOLDER).rename(tmp_path / "study" / "before")
    file = own / schema.HARMONIZE_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"before": "../../before"}))
    monkeypatch.chdir(tmp_path)
    moved = expected.replace(f"{own}/before", f"{tmp_path}/study/before")
    assert text_of(write_report(own)) == moved
