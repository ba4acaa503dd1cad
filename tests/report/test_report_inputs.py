"""What a path is, and what goes together on a page."""

import html
import json

import pytest
from evaluation_folders import samples_of, write_evaluation, write_pruning
from run_folders import AFTER, BEFORE, text_of

from megaprune.cli import main as cli
from megaprune.errors import InputError
from megaprune.report import write_report
from megaprune.report.write import kind_of


@pytest.fixture
def evaluations(tmp_path):
    return [
        write_evaluation(tmp_path / name, samples_of("sums", answers))
        for name, answers in (("base", BEFORE), ("short", AFTER))
    ]


@pytest.fixture
def analysis(tmp_path):
    """As the lexical mode of `megaprune analyze` writes it."""
    folder = tmp_path / "analysis"
    folder.mkdir()
    inputs = [
        {
            "name": name,
            "path": name,
            "problems": 4,
            "answers": 3,
            "open": still_open,
            "left_out": {"no closed thought": 1},
            "tokens": 500.0,
            "steps": 9.0,
            "tokens_per_step": 55.0,
            "right": 0.5,
            "lexical": {"re-checks": value, "hesitations": 1.0, "restarts": 0.25},
            "lexical_interval": {
                "re-checks": [value - 1, value + 1],
                "hesitations": [0.5, 1.5],
                "restarts": [0.0, 0.5],
            },
            "behaviours": {},
        }
        for name, value, still_open in (("before", 7.5, 2), ("after", 2.0, 0))
    ]
    said = {"mode": "lexical", "settings": {}, "inputs": inputs}
    (folder / "analysis.json").write_text(json.dumps(said))
    return folder


def test_kinds_are_seen_from_files(run, evaluations, analysis, tmp_path):
    pruning = write_pruning(tmp_path / "p", BEFORE, [AFTER])
    kinds = [kind_of(path) for path in (run, pruning, evaluations[0], analysis)]
    assert kinds == ["run", "pruning", "evaluation", "analysis"]


def test_what_is_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"has none of the files.*rounds\.json .`megaprune prune`"):
        write_report(tmp_path)


def test_what_does_not_go_together_is_refused(run, evaluations, analysis, tmp_path):
    with pytest.raises(
        InputError, match=r"evaluations on a page; found run .*my-run, evaluation .*base$"
    ):
        write_report(run, evaluations[0])
    other = write_pruning(tmp_path / "p", BEFORE, [AFTER])
    with pytest.raises(
        InputError, match="any number of runs, one pruning, one harmonizing, one study, or any"
    ):
        write_report(run, other)
    with pytest.raises(InputError, match="give that folder too"):
        write_report(analysis)
    with pytest.raises(InputError, match="--baseline compares evaluations; .* found run"):
        write_report(run, baseline=evaluations[0])
    with pytest.raises(InputError, match="--baseline compares evaluations; .* found run"):
        write_report(evaluations[0], baseline=run)


def test_a_path_given_twice_counts_once(run, evaluations, tmp_path):
    assert write_report(run, run / ".") == run / "report/index.html"
    write_report(evaluations[0], evaluations[0], evaluations[1], out=tmp_path / "out")
    assert "2 models on 1 set of problems." in text_of(tmp_path / "out/index.html")


def test_where_the_page_of_several_evaluations_goes(evaluations, tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    arguments = ["report", *map(str, evaluations), "--baseline", str(evaluations[0])]
    for _ in range(2):  # the second is in the place of the first
        assert cli.main(arguments) == 0
        assert capsys.readouterr().out.strip() == "report/index.html"
    (here / "report").rename(here / "other")
    (here / "report").mkdir()
    (here / "report/mine.txt").write_text("mine")
    assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert "report has mine.txt in it and is no report; say with --out where" in said
    assert cli.main([*arguments, "--out", str(here / "report")]) == 0
    assert (here / "report/mine.txt").is_file()


def test_an_analysis_beside_each_kind(run, evaluations, analysis, tmp_path):
    pruning = write_pruning(tmp_path / "p", BEFORE, [AFTER])
    for paths in ([run], [pruning], evaluations):
        page = write_report(*paths, analysis, out=tmp_path / "out")
        text = text_of(page)
        assert "Words of doubt in thoughts." in text
        assert (
            "Sentences per answer: before re-checks 7.50, hesitations 1.00, restarts 0.25; after"
            in text
        )
        assert (
            "Of each problem's first answer: before 3 of 4 thoughts, 2 of them cut off before they "
            "were closed; after 3 of 4 thoughts." in html.unescape(text)
        )
        assert (tmp_path / "out/behaviours_1.png").stat().st_size > 10_000
        (tmp_path / "out/behaviours_1.png").unlink()


@pytest.mark.parametrize("text", ["{", "[]", '{"mode": "judge", "inputs": [{"name": "x"}]}', "{}"])
def test_a_broken_analysis_is_refused_by_name(run, analysis, text):
    (analysis / "analysis.json").write_text(text)
    with pytest.raises(InputError, match=r"analysis\.json: cannot be read .* `megaprune analyze`"):
        write_report(run, analysis)


def test_an_analysis_that_has_only_begun(run, analysis):
    (analysis / "analysis.json").rename(analysis / "replies.jsonl")
    with pytest.raises(InputError, match=r"analysis\.json: no such file; `megaprune analyze`"):
        write_report(run, analysis)
