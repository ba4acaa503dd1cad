"""The tiny reasoner's problems and texts, read with a parser of their own."""

import random
import re
from collections import Counter
from itertools import islice, pairwise

import pyarrow.parquet as pq
import pytest

from megaprune.grading.markers import count_markers
from megaprune.recipes.reasoner.problems import (
    CATCH,
    DIGITS,
    MOST_CHECKS,
    SLIP,
    drawn,
    lessons,
    response,
    sets,
)
from megaprune.recipes.tiny import REASONER

QUESTION = re.compile(r"What is (\d+) \+ (\d+)\?")
COLUMN = re.compile(r"(\d)\+(\d)(\+1)?=(\d+)")


def solve(question: str) -> int:
    """The right answer to a question."""
    return sum(map(int, QUESTION.fullmatch(question).groups()))


def passes_of(text: str) -> tuple[list[list[tuple[int, int]]], list[int]]:
    """What each pass says: (right value of each column as it is written, value), and results."""
    thought, answer = text.split("\n</think>\n\n")
    passes, results = [], []
    for stated in re.findall(r"[^.:]*=.*? (?:So|still) \d+\.", thought):
        columns = COLUMN.findall(stated)
        written = [
            (int(top) + int(low) + bool(one), int(value)) for top, low, one, value in columns
        ]
        result = sum(value % 10 * 10**place for place, (_, value) in enumerate(written))
        result += written[-1][1] // 10 * 10 ** len(written)
        for (_, value), column in zip(written, columns[1:], strict=False):
            assert bool(column[2]) == (value >= 10)
        results.append(int(re.search(r"(\d+)\.$", stated)[1]))
        assert results[-1] == result
        passes.append(written)
    assert answer == f"\\boxed{{{results[-1]}}}"
    return passes, results


@pytest.fixture(scope="module")
def written():
    """[(difficulty, answer, passes, results)] of many responses."""
    rng = random.Random(0)
    items = []
    for problem in islice(drawn(7), 3000):
        assert problem.result == solve(problem.question)
        texts = passes_of(response(problem, rng))
        items.append((problem.difficulty, problem.result, *texts))
    return items


def test_first_values_slip_by_one(written):
    slips = Counter(value - right for *_, passes, _ in written for right, value in passes[0])
    assert set(slips) == {-1, 0, 1}
    # 7,000 columns: the deviation of a share is 0.0043 at most.
    assert (slips[1] + slips[-1]) / slips.total() == pytest.approx(SLIP, abs=0.015)
    assert slips[1] / slips.total() == pytest.approx(slips[-1] / slips.total(), abs=0.015)


def test_checks_see_differences_and_make_none(written):
    seen = Counter()
    for *_, passes, _ in written:
        for last, checked in pairwise(passes):
            for (_, before), (right, value) in zip(last, checked, strict=True):
                if before == right:
                    assert value == right
                else:
                    assert value in (right, before)
                    seen[value == right] += 1
    assert seen.total() > 800
    assert seen[True] / seen.total() == pytest.approx(CATCH, abs=0.05)


def test_thoughts_end_after_a_check_without_a_finding(written):
    checks = Counter()
    for *_, passes, _ in written:
        assert len(passes) == 1 or passes[-1] == passes[-2]
        checks[len(passes) - 1] += 1
    assert set(checks) >= set(range(MOST_CHECKS + 1))
    assert checks[0] / checks.total() == pytest.approx(1 / (MOST_CHECKS + 1), abs=0.03)


def test_checks_buy_accuracy_and_more_of_it_for_hard_problems(written):
    """The share of right results after a number of checks; a thought that has ended stays."""

    def accuracy(difficulty, checks):
        own = [(right, results) for kind, right, _, results in written if kind == difficulty]
        hits = [results[min(checks, len(results) - 1)] == right for right, results in own]
        return sum(hits) / len(hits)

    for difficulty, digits in DIGITS.items():
        # Two slips may cancel out, if the first changes what is carried.
        assert accuracy(difficulty, 0) == pytest.approx((1 - SLIP) ** digits, abs=0.05)
    gains = {name: accuracy(name, 99) - accuracy(name, 0) for name in DIGITS}
    assert gains["easy"] < gains["medium"] < gains["hard"]
    late = {name: accuracy(name, 99) - accuracy(name, 4) for name in DIGITS}
    assert max(late.values()) < 0.03


def test_sets_share_no_problem_with_each_other_or_with_the_lessons():
    problems = [problem for set_ in sets().values() for problem in set_]
    assert len(set(problems)) == len(problems)
    questions = {problem.question for problem in problems}
    assert not questions & {question for question, _ in islice(lessons(), 3000)}


def test_each_check_is_one_marker():
    rng = random.Random(1)
    for problem in islice(drawn(5), 300):
        text = response(problem, rng)
        assert count_markers(text)["re-checks"] == len(passes_of(text)[0]) - 1


def test_the_written_sets_are_those_of_the_generator():
    for name, problems in sets().items():
        rows = pq.read_table(REASONER / "data" / f"{name}.parquet").to_pylist()
        assert [row["prompt"][0]["content"] for row in rows] == [p.question for p in problems]
        for row, problem in zip(rows, problems, strict=True):
            assert row["reward_model"]["ground_truth"] == str(solve(problem.question))
            assert row["extra_info"]["difficulty"] == problem.difficulty
            assert row["data_source"] == f"sums_of_{DIGITS[problem.difficulty]}_digits"
