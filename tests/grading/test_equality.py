"""The tables of pairs, graded as in a run: in workers, within their limits."""

import os
import time

import pytest
from notation_pairs import KINDS
from pairs import DEVIATIONS, HOSTILE, PAIRS

from megaprune.grading import Pool
from megaprune.grading.equality import compare
from megaprune.grading.forms import normal_form, normal_forms

SECONDS = 5.0  # for the slowest of the pairs, on a busy machine
HOSTILE_SECONDS = 1.5


def graded(pairs, seconds):
    with Pool({}, "answer", workers=2, seconds=seconds) as pool:
        for number, (gold, answer, _) in enumerate(pairs):
            pool.submit(number, "", gold, answer, True)
        verdicts = pool.results()
        return [verdicts[number] for number in range(len(pairs))], pool.stats


def test_the_table_is_large_and_tries_both():
    assert len(PAIRS) == len(set(PAIRS)) >= 300
    assert sum(not equal for *_, equal in PAIRS) > len(PAIRS) / 3


def test_pairs():
    verdicts, stats = graded(PAIRS, SECONDS)
    bad = [
        (*pair, verdict)
        for pair, verdict in zip(PAIRS, verdicts, strict=True)
        if verdict.match != pair[2] or verdict.failed
    ]
    assert bad == []
    assert stats.graded == len(PAIRS)


@pytest.mark.parametrize("kind", KINDS)
def test_notations(kind):
    """Each as a mathematician says, and no gold answer taken for one that cannot be read."""
    bad = [
        (gold, answer, why)
        for gold, answer, equal in KINDS[kind]
        if ((why := compare(gold, answer)) == "right") != equal or why == "gold unparsable"
    ]
    assert bad == []


def test_notations_try_both():
    for kind, pairs in KINDS.items():
        assert len(pairs) == len(set(pairs)) >= 10, kind
        assert sum(not equal for *_, equal in pairs) >= 3, kind


def test_known_deviations_are_as_they_are_known():
    verdicts, _ = graded(DEVIATIONS, SECONDS)
    assert [v.match for v in verdicts] == [not equal for *_, equal in DEVIATIONS]


def test_hostile_answers_end_in_time_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verdicts, stats = graded(HOSTILE, HOSTILE_SECONDS)
    assert [pair for pair, verdict in zip(HOSTILE, verdicts, strict=True) if verdict.match] == []
    assert stats.seconds < len(HOSTILE) * (HOSTILE_SECONDS + 1)
    assert os.listdir(tmp_path) == []


def test_hostile_answers_as_gold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    swapped = [(answer, gold, False) for gold, answer, _ in HOSTILE if "CANARY" in answer]
    verdicts, _ = graded(swapped, HOSTILE_SECONDS)
    assert not any(verdict.match for verdict in verdicts)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("gold", "answer", "why"),
    [
        ("5", "5", "right"),
        ("5", "6", "wrong"),
        ("5", r"\frac{", "unparsable"),
        (r"\frac{", "x+5", "gold unparsable"),
        (r"\frac{", r"\frac{", "right"),
        ("5", "", "no answer"),
    ],
)
def test_why(gold, answer, why):
    [verdict], _ = graded([(gold, answer, None)], SECONDS)
    assert (verdict.why, verdict.match) == (why, why == "right")


@pytest.mark.parametrize(
    "answers",
    [
        (r"\frac{1}{2}", "0.5", r"$\dfrac12$", ".50", "1/2", "x = 1/2", r"\frac12 \text{ cm}"),
        ("1,234", "1234", r"1{,}234", "1234.0"),
        ("1, 2", "2,1", r"\{2, 1\}", r"1 \text{ and } 2"),
        ("(1, 2)", "(1,2)", r"\left(1, 2\right)"),
        ("x^{2}+1", "x^{2} + 1"),
        (r"\text{Friday}", "friday", "Friday."),
        ("50%", r"50\%"),
    ],
)
def test_answers_of_one_normal_form(answers):
    assert len(set(map(normal_form, answers))) == 1


def test_answers_of_different_normal_forms():
    answers = ["1", "2", "50%", "50", "(1,2)", "(2,1)", "1,2", "x", "X+1", "1, 2, 2", r"\frac{", ""]
    assert len(set(map(normal_form, answers))) == len(answers)


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a ",
        "1 ",
        "1,",
        "(",
        "{",
        "x=",
        r"\text{",
        r"\text{a} ",
        r"\frac",
        r"\pm ",
        "a-",
        "5 a ",
    ]
    + [r"\begin{aligned}", r"\left", "1:", "9^", " ", "''", "and ", ". "],
)
def test_the_time_of_a_normal_form_is_linear(piece):
    def seconds(length):
        text = (piece * length)[:length]
        spent = []
        for number in range(3):
            begin = time.process_time()
            normal_form(text + str(number))
            spent.append(time.process_time() - begin)
        return min(spent)

    assert seconds(1990) < 8 * seconds(490) + 0.02


def test_normal_forms_of_many_are_computed_in_a_worker():
    answers = [r"\frac12", "0.50", "007", "x" * 3000, *(answer for _, answer, _ in HOSTILE)]
    forms = normal_forms(answers)
    assert forms.keys() == set(answers)
    assert (forms[r"\frac12"], forms["0.50"], forms["007"]) == ("1/2", "1/2", "7")


def test_normal_forms_of_hostile_answers_are_there_at_once():
    begin = time.process_time()
    forms = [normal_form(answer) for _, answer, _ in HOSTILE]
    assert time.process_time() - begin < 1
    assert all(isinstance(form, str) for form in forms)
