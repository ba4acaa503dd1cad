"""Several runs on one page; and the page of a run underway."""

import json
import shutil

import pytest
from run_folders import CONFIG, text_of, training_line, write_lines

from megaprune.cli import main as cli
from megaprune.report import progress, steps_on_page, write_report
from megaprune.report.progress import ProgressPage

PICTURES = {
    "trade_off", "validation_length", "validation_accuracy", "response_length_mean", "accuracy",
    "reward", "truncated", "no_signal", "entropy", "kl", "grad_norm",
}  # fmt: skip


@pytest.fixture
def other(run, tmp_path):
    """A run with another learning rate that has done 2 of its 4 steps."""
    folder = tmp_path / "deeper" / "my-run"
    shutil.copytree(run, folder)
    (folder / "config.yaml").write_text(CONFIG + "optimizer:\n  lr: 0.00001\nout: elsewhere\n")
    lines = [{"step": 0, "validation/accuracy": 0.625, "validation/response_length/mean": 500.0}]
    write_lines(folder / "metrics.jsonl", [*lines, training_line(1), training_line(2)])
    return folder


def test_runs_are_compared(run, other, tmp_path, capsys):
    out = tmp_path / "both"
    assert cli.main(["report", str(run), str(other), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n"
    assert {path.stem for path in out.glob("*.png")} == PICTURES
    text = text_of(out / "index.html")
    ours = f"{tmp_path.name}/my-run"
    assert f"{ours}: 300 tokens, 75.0 % right at step 4." in text
    assert "deeper/my-run: 500 tokens, 62.5 % right at step 0." in text
    assert "deeper/my-run has done 2 of 4 steps." in text
    table = text.split("Fields that differ")[1].split("config.yaml")[0]
    assert "optimizer.lr – 1e-05" in table
    assert "elsewhere" not in table
    assert "cannot be compared" not in text


def test_runs_that_were_measured_otherwise_are_told(run, other, tmp_path):
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text + "validation:\n  max_response_length: 9\n")
    page = text_of(write_report(run, other, out=tmp_path / "both"))
    assert "they differ in validation.max_response_length" in page


def test_runs_without_answers_or_with_nothing_in_common_make_a_page(run, other, tmp_path):
    for folder in ("validation", "samples"):
        shutil.rmtree(other / folder)
    (other / "metrics.jsonl").write_text('{"step": 3, "my/own": 1}\n')
    (other / "config.yaml").unlink()
    page = text_of(write_report(run, other, out=tmp_path / "both"))
    assert "2 runs side by side." in page
    assert "has no config.yaml" in page


def test_the_same_run_twice_is_one_run(run):
    write_report(run, run / ".." / run.name)
    assert "Before and after" in text_of(run / "report" / "index.html")


def test_one_page_is_of_runs_or_of_a_run_and_evaluations_of_none(run, other, tmp_path, capsys):
    (other / "summary.json").write_text("{}")
    (other / "metrics.jsonl").unlink()
    assert cli.main(["report", str(run), str(other)]) == 1
    assert "expected any number of runs, one pruning" in capsys.readouterr().err


def test_the_page_of_a_run_underway_takes_a_small_share_of_its_time(run, monkeypatch):
    now = [1000.0]
    written = []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def write(folder):
        written.append(now[0])
        now[0] += 2.0

    monkeypatch.setattr(progress, "write_report", write)
    page = ProgressPage(run)
    for _ in range(200):
        now[0] += 1.0
        page.update()
    assert written == [1020.0, 1062.0, 1104.0, 1146.0, 1188.0]
    assert page.update(always=True)
    assert len(written) == 6


def test_a_page_that_cannot_be_written_is_warned_of_once(run, capsys):
    page = ProgressPage(run)
    (run / "report").write_text("a file")
    assert not page.update(always=True)
    assert not page.update(always=True)
    error = capsys.readouterr().err
    assert error.count("megaprune: warning: the report of the run underway cannot be written") == 1
    (run / "report").unlink()
    assert page.update(always=True)
    assert json.dumps("Over the steps")[1:-1] in text_of(run / "report" / "index.html")


def test_a_page_says_how_many_steps_it_is_of(run):
    page = run / "report" / "index.html"
    assert steps_on_page(page) is None
    write_report(run)
    assert steps_on_page(page) == 4
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps(training_line(5)) + "\n")
    write_report(run)
    assert steps_on_page(page) == 5
    page.write_text("<html></html>")
    assert steps_on_page(page) is None
