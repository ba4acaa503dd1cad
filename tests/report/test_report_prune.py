"""The page of a pruning: its rounds by hand, and folders that are not whole."""

import json
import re
from urllib.parse import unquote

import pytest
from evaluation_folders import write_pruning, write_round, write_rounds
from run_folders import AFTER, BEFORE, rows_of, text_of
from test_report_evaluations import rows_of_table

from megaprune.errors import InputError
from megaprune.report import write_report
from megaprune.report.pruning_records import read_pruning

SHORT = {key: (length // 2, right) for key, (length, right) in AFTER.items()}
WRONG = {key: (10, False) for key in AFTER}


@pytest.fixture
def pruning(tmp_path):
    """Two rounds: 500, then 300, then 150 tokens; 62.5, then 75 % right."""
    return write_pruning(tmp_path / "pruned", BEFORE, [AFTER, SHORT])


def test_the_rounds_by_hand(pruning):
    page = write_report(pruning)
    assert page == pruning / "report/index.html"
    text = text_of(page)
    assert "Answers are 70.0 % shorter: 500 → 150 tokens." in text
    assert "Accuracy: 62.5 % → 75.0 %, +12.5 points." in text
    assert "2 of 2 rounds · limits 800, 400 · model org/a-model" in text
    start, first, second = rows_of_table(page)
    assert start[:3] == ["start", "", ""]
    assert start[-1] == "org/a-model"
    assert first[:3] == ["round 1", "800", "4"]
    assert first[3].startswith("75.0 % ")
    assert first[4].startswith("300 ")
    assert first[5:] == ["+12.5 points −40.0 % tokens", "round_1_limit_800/chosen"]
    assert second[:3] == ["round 2 taken", "400", "4"]
    assert second[4].startswith("150 ")
    assert second[5:] == ["+12.5 points −70.0 % tokens", "round_2_limit_400/chosen"]


def links(page):
    return re.findall(r'<a href="([^"]+)">([^<]+)</a>', page.read_text())


def test_rounds_lead_to_their_own_pages(pruning, tmp_path):
    """Where those are there; from wherever this page is."""
    assert links(write_report(pruning)) == []
    assert "lead to their own pages" not in text_of(pruning / "report/index.html")
    for name in ("round_1_limit_800", "round_2_limit_400"):
        write_report(pruning / name)
    for out in (None, tmp_path / "else where" / "page"):
        page = write_report(pruning, out=out)
        found = links(page)
        assert [text for _, text in found] == ["round 1", "round 2"]
        for (target, _), name in zip(
            found, ("round_1_limit_800", "round_2_limit_400"), strict=True
        ):
            assert (page.parent / unquote(target)).resolve() == pruning / name / "report/index.html"
        assert "lead to their own pages" in text_of(page)


def test_a_round_s_folder_cannot_make_a_link_run_something(pruning):
    name = 'javascript:alert(1)"><b>'
    (pruning / "round_1_limit_800").rename(pruning / name)
    said = json.loads((pruning / "rounds.json").read_text())
    said["rounds"][0]["folder"] = name
    (pruning / "rounds.json").write_text(json.dumps(said))
    write_report(pruning / name)
    ((target, _),) = links(write_report(pruning))
    assert target.startswith("../javascript%3Aalert%281%29%22%3E")


def test_figures_are_over_all_rounds(pruning):
    page = write_report(pruning).read_text()
    alts = dict(re.findall(r'<figure id="(\w+)"><img src="[^"]+" alt="([^"]+)"', page))
    assert alts.keys() == {"trade_off", "histogram", "length", "accuracy"}
    assert {path.stem for path in (pruning / "report").glob("*.png")} == alts.keys()
    assert "start: 500 tokens" in alts["trade_off"].lower()
    assert "round 2: 150 tokens" in alts["trade_off"]
    assert "start: 500 and 1,000; round 1: 300 and 500; round 2: 150 and 250" in alts["histogram"]
    # Each round has four steps: its second begins at step 4.
    assert "from 450 at step 1 to 300 tokens at step 8" in alts["length"]
    assert "from 500 at step 0 to 150 tokens at step 8" in alts["length"]


def test_answers_are_of_the_start_and_the_end(pruning):
    page = write_report(pruning).read_text()
    assert "start:" in text_of(pruning / "report/index.html")
    shown = re.findall(r"Let me think about (\w) at step (\d)", page)
    # Number 0 shortened by a: 750, b: 175, c: 925, d: 0 (and became wrong).
    assert shown == [(name, step) for name in "bcd" for step in "04"]


def test_a_round_that_lost_too_much_is_not_the_outcome(tmp_path):
    words = "round 2 lost 62.5 points of accuracy, more than max_drop=3"
    folder = write_pruning(tmp_path / "p", BEFORE, [AFTER, WRONG], stopped=words, final=1)
    page = write_report(folder)
    text = text_of(page)
    assert f"Stopped: {words}." in text
    assert "Answers are 40.0 % shorter: 500 → 300 tokens." in text
    assert [row[0] for row in rows_of_table(page)] == [
        "start",
        "round 1 taken",
        "round 2 not taken",
    ]
    assert "after round 1" in text


def test_no_round_was_taken(tmp_path):
    folder = write_pruning(tmp_path / "p", BEFORE, [WRONG], stopped="round 1 lost all")
    text = text_of(write_report(folder))
    assert "No round was taken: the model is as it was." in text
    assert "Stopped: round 1 lost all." in text
    assert "The numbers are those of round 1, not taken." in text


def test_rounds_to_come_are_told(pruning):
    said = json.loads((pruning / "rounds.json").read_text())
    (pruning / "rounds.json").write_text(json.dumps(said | {"limits": [800, 400, 200]}))
    assert "2 of 3 rounds have ended so far." in text_of(write_report(pruning))


def test_without_a_start_there_is_no_change(tmp_path):
    folder = tmp_path / "p"
    one = write_round(folder, 1, 800, {4: rows_of(4, AFTER)}, chosen=4)
    write_rounds(folder, [800], None, [one], final=1)
    page = write_report(folder)
    text = text_of(page)
    assert "At the end of round 1 answers have 300 tokens and 75.0 % of them are right." in text
    assert "there is no before" in text
    assert "Median length" in text
    assert rows_of_table(page)[0][5] == ""


def test_the_chosen_step_need_not_be_the_last(tmp_path):
    folder = tmp_path / "p"
    validations = {0: rows_of(0, BEFORE), 2: rows_of(2, AFTER), 4: rows_of(4, WRONG)}
    one = write_round(folder, 1, 800, validations, chosen=2)
    write_rounds(folder, [800], {"accuracy": 0.625, "length": 500.0}, [one], final=1)
    assert "Answers are 40.0 % shorter: 500 → 300 tokens." in text_of(write_report(folder))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("rounds.json", None, r"rounds\.json: no such file; `megaprune prune` writes it when its"),
        ("rounds.json", "{", r"rounds\.json: cannot be read as what became of a pruning's rounds"),
        ("rounds.json", "[]", r"rounds\.json: cannot be read"),
        ("rounds.json", '{"limits": [1], "rounds": [{"round": 1}]}', "KeyError.'limit'"),
        (
            "rounds.json",
            '{"limits": [1], "base": null, "rounds": [], "stopped": null, "final": null}',
            "no round has ended yet",
        ),
        (
            "rounds.json",
            '{"limits": [1], "base": null, "rounds": [], "stopped": null, "final": 1}',
            "no round 1",
        ),
        ("round_1_limit_800/metrics.jsonl", None, r"round_1_limit_800/metrics\.jsonl: no such file"),
        (
            "round_2_limit_400/validation/step_000004.parquet",
            None,
            r"round_2_limit_400/validation/step_000004\.parquet: is not there, or torn",
        ),
        ("round_1_limit_800/validation/step_000000.parquet", "torn", r"step_000000\.parquet: is not"),
    ],
)  # fmt: skip
def test_half_written_folders_are_refused_by_name(pruning, name, text, says):
    if text is None:
        (pruning / name).unlink()
    else:
        (pruning / name).write_text(text)
    with pytest.raises(InputError, match=says):
        write_report(pruning)
    assert not (pruning / "report").exists()


def test_notes_of_a_round_s_run_are_told(pruning):
    (pruning / "round_1_limit_800/config.yaml").unlink()
    assert read_pruning(pruning).notes == ("Round 1: The folder has no config.yaml.",)
