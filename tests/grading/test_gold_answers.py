"""The gold answers of real problem sets, as answers: to themselves, and to the next problem.

MEGAPRUNE_DATA names a folder of JSON lines files with `problem` and `answer`; OlympiadBench's rows
also have `is_multiple_answer`, `unit` and `error`.
"""

import json
import os
import re
from pathlib import Path

import pytest

from megaprune.grading import Pool
from megaprune.grading.forms import normal_form
from megaprune.grading.normal import tidy
from megaprune.grading.shapes import COMMA, split

FOLDER = os.environ.get("MEGAPRUNE_DATA")
FILES = sorted(Path(FOLDER).glob("*.jsonl")) if FOLDER else []
SHARE = 0.995
OTHERS = 150  # rows of a file, whose answers are compared with the next row's

pytestmark = pytest.mark.skipif(
    not FILES, reason="MEGAPRUNE_DATA names no folder with problem sets (*.jsonl)"
)


def read(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def parts(row):
    several = split(tidy(row["answer"]), COMMA) if row.get("is_multiple_answer") else []
    return several if len(several) > 1 else [row["answer"]]


def gold(row):
    """The gold answer for the grader that `grader` names."""
    if "is_multiple_answer" not in row:
        return row["answer"]
    rest = {"error": row["error"], "unit": row["unit"], "ordered": False}
    return json.dumps({"answers": parts(row), **rest})


def grader(row):
    return "olympiad" if "is_multiple_answer" in row else "strict"


def respelled(answer):
    """The same answer in LaTeX that is written another way."""
    answer = re.sub(r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])", "", answer.strip().strip("$"))
    for old, new in ((r"\frac{", r"\dfrac{ "), ("(", r"\left( "), (")", r" \right)"), ("+", " + ")):
        answer = answer.replace(old, new)
    return rf"\displaystyle {answer}"


def graded(jobs):
    """Verdicts of (row, boxes) by number."""
    with Pool({name: name for name in ("strict", "olympiad")}, workers=2) as pool:
        for number, (row, boxes) in enumerate(jobs):
            pool.submit(number, grader(row), gold(row), f"hm</think> So {boxes}.", True)
        verdicts = pool.results()
    return [verdicts[number] for number in range(len(jobs))]


def boxed(answer):
    return rf"$\boxed{{{answer}}}$"


WAYS = {
    "as it is": lambda row: boxed(row["answer"]),
    "respelled": lambda row: boxed(respelled(row["answer"])),
    "backwards": lambda row: " and ".join(boxed(part) for part in reversed(parts(row))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_gold_answers_are_right(file, way, capsys):
    every = read(file)
    rows = [row for row in every if way != "backwards" or len(set(parts(row))) > 1]
    verdicts = graded([(row, WAYS[way](row)) for row in rows])
    bad = [
        (row["id"], WAYS[way](row), verdict.why, verdict.detail)
        for row, verdict in zip(rows, verdicts, strict=True)
        if not verdict.match
    ]
    with capsys.disabled():
        for each in bad:
            print(f"\n{file.stem}, {way}:", *each)
    assert len(bad) <= (1 - SHARE) * len(every), bad


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_next_problems_answer_is_wrong(file):
    rows = read(file)
    jobs = [
        (row, boxed(other["answer"]))
        for row, other in zip(rows[:OTHERS], rows[1:], strict=False)
        # The last side of an equation counts, which may be another problem's answer.
        if "=" not in other["answer"] and normal_form(row["answer"]) != normal_form(other["answer"])
    ]
    verdicts = graded(jobs)
    right = [(*job, v) for job, v in zip(jobs, verdicts, strict=True) if v.match]
    failed = [(*job, v) for job, v in zip(jobs, verdicts, strict=True) if v.failed]
    assert right == []
    assert len(failed) <= 0.01 * len(jobs) + 1, failed
