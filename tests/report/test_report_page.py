"""What a report's folder holds, and what its page says."""

import io
import re
import shutil
import time

import matplotlib as mpl
import pytest
from PIL import Image
from run_folders import AFTER, rows_of, text_of, write_long_run, write_rows

from megaprune.cli import main as cli
from megaprune.files import RECORD
from megaprune.report import write_report
from megaprune.report.markup import escape, plain, shorten
from megaprune.report.run_page import choose
from megaprune.report.run_records import read_run


def test_the_command_writes_it(run, capsys):
    assert cli.main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report/index.html")
    names = {path.name for path in (run / "report").iterdir()}
    pictures = {"length", "accuracy", "histogram", "trade_off", "cut_off", "no_signal", "entropy"}
    pictures |= {"kl", "grad_norm", "mismatch", "speed", "seconds", "verdicts"}
    assert names == {RECORD, "index.html", *(f"{name}.png" for name in pictures)}
    for name in pictures:
        content = (run / f"report/{name}.png").read_bytes()
        assert Image.open(io.BytesIO(content)).size > (600, 400)


def test_the_headline(run):
    text = text_of(write_report(run))
    assert "Answers are 40.0 % shorter: 500 → 300 tokens." in text
    assert "Accuracy: 62.5 % → 75.0 %, +12.5 points." in text
    assert "Answers cut off at 1,000 tokens 25.0 % → 0.0 %" in text
    assert "Problems 4 8 answers each time" in text
    assert "On held-out validation problems, steps 0 and 4." in text
    assert (
        "4 of 4 steps · model org/a-model · training limit 1000 · answers per problem 2 · seed 7"
        in text
    )


def test_longer_answers_are_called_longer(run):
    a, b = (run / f"validation/step_00000{step}.parquet" for step in (0, 4))
    aside = a.with_name("aside")
    a.rename(aside), b.rename(a), aside.rename(b)
    text = text_of(write_report(run))
    assert "Answers are 66.7 % longer: 300 → 500 tokens." in text
    assert "−12.5 points" in text


def test_figures_say_what_they_show(run):
    page = write_report(run).read_text()
    alts = dict(re.findall(r'<figure id="(\w+)"><img src="[^"]+" alt="([^"]+)"', page))
    assert len(alts) == page.count("<img") == 13
    assert "from 450 at step 1 to 300 tokens at step 4" in alts["length"]
    assert "it went from 500 at step 0 to 300 tokens at step 4" in alts["length"]
    assert "generate 67" in alts["seconds"]
    assert "right 90.0\xa0%, wrong 0.0\xa0%, cut off 10.0\xa0%." in alts["verdicts"]


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    ones, others = (write_report(run, out=tmp_path / name).parent for name in ("one", "other"))
    for path in ones.iterdir():
        assert path.read_bytes() == (others / path.name).read_bytes()


def test_drawing_leaves_the_program_s_figures_alone(run):
    before = dict(mpl.rcParams)
    write_report(run)
    assert dict(mpl.rcParams) == before


def test_a_page_of_anothers_is_not_replaced(run, tmp_path, capsys):
    page = tmp_path / "index.html"
    page.write_text("years of work")
    assert cli.main(["report", str(run), "--out", str(tmp_path)]) == 1
    assert "would be lost: index.html" in capsys.readouterr().err
    assert page.read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".png"] == []


def test_it_is_written_anew_and_leaves_other_files_alone(run, tmp_path):
    out = tmp_path / "a" / "b"
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("mine")
    first = write_report(run, out=out).read_text()
    write_rows(
        run / "validation/step_000004.parquet", rows_of(4, {key: (100, True) for key in AFTER})
    )
    second = write_report(run, out=out).read_text()
    assert "→ 300 tokens" in first
    assert "→ 100 tokens" in second
    assert (out / "mine.txt").read_text() == "mine"
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == [RECORD]
    assert not (run / "report").exists()


def test_answers_are_chosen_by_their_rule(run):
    # Number 0 shortened by a: 600, b: 50, c: 850, d: -100; d became wrong, c became right.
    examples = choose(read_run(run))
    chosen = [(example.why, example.sides[0][1]["problem"]) for example in examples]
    assert chosen == [
        ("median shortening", "b"),
        ("largest shortening", "c"),
        ("right before, wrong after", "d"),
    ]
    (before, after) = examples[0].sides
    assert before[1]["response"] == "Let me think about b at step 0. It is 4."
    assert after[1]["response"] == "Let me think about b at step 4. It is 4."


def test_one_validation(run):
    (run / "validation/step_000004.parquet").unlink()
    text = text_of(write_report(run))
    assert "At step 0 answers have 500 tokens and 62.5 % of them are right." in text
    assert "there is a before, but no after" in text
    assert "Median length: b" in text
    assert "Longest: c" in text


def test_without_validation(run):
    shutil.rmtree(run / "validation")
    text = text_of(write_report(run))
    assert "This run has no validation: the numbers are of training answers" in text
    assert "On training problems, steps 1 and 4." in text
    assert "have no problem in common to show" in text
    shutil.rmtree(run / "samples")
    text = text_of(write_report(run))
    assert "has kept no answers" in text
    assert not re.search(r"\bnan\b", text)


def test_a_run_of_one_step_and_few_metrics(run):
    shutil.rmtree(run / "validation")
    shutil.rmtree(run / "samples")
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "accuracy": NaN, "$x$/<i>": 3, "kl": Infinity, "seconds/$a$": 2}\n'
    )
    page = write_report(run).read_text()
    assert "<b>Accuracy and reward.</b> In training accuracy was never a number." in page
    assert "$x$/&lt;i&gt;" in page
    assert '<figure id="kl">' not in page
    assert '<figure id="seconds">' in page


def test_torn_files_are_told_on_the_page(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step"')
    assert "the last line is torn" in text_of(write_report(run))


def test_configuration_and_metrics(run):
    page = write_report(run).read_text()
    assert "<details><summary>config.yaml</summary>" in page
    assert "model: org/a-model\nseed: 7" in page
    assert '<th scope="row">lr</th><td>1e−06<small>step 1</small></td>' in page


def test_text_as_html():
    assert escape("<b>&\"'") == "&lt;b&gt;&amp;&quot;&#x27;"
    assert escape("a\n\tb é 漢 عربي") == "a\n\tb é 漢 عربي"
    for character in "\u202e\u200b\u2066\ufeff\x00\x1b\u2028\r\ud800":
        assert escape(character) == f'<span class="mark">U+{ord(character):04X}</span>'
    assert shorten("abc", 2, 1) == "abc"
    assert (
        shorten("a<bcdef", 2, 1)
        == 'a&lt;\n\n<span class="cut">… 4 characters left out …</span>\n\nf'
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"),
        (-1234.0, "−1,234"),
        (1e-6, "1e−06"),
        (0.12345, "0.1235"),
        (float("nan"), "–"),
        (-0.0, "0"),
    ],
)
def test_numbers(value, text):
    assert plain(value) == text


def test_a_long_run_is_quick(tmp_path):
    run = write_long_run(tmp_path / "long", steps=40)
    begin = time.process_time()
    text = text_of(write_report(run))
    assert time.process_time() - begin < 10
    assert "By data source" in text
    assert "aime24" in text
