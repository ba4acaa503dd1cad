"""The graders by name, and users' own."""

import subprocess
import sys

import pytest

from megaprune.errors import InputError
from megaprune.grading import GRADERS, Verdict
from megaprune.grading.graders import resolve


@pytest.mark.parametrize(
    ("response", "finished", "why", "extracted"),
    [
        (r"<think>hm</think> \boxed{33}", True, "right", "33"),
        (r"hm</think> \boxed{33}", True, "right", "33"),
        (r"hm</think> \boxed{033}", True, "right", "033"),
        (r"<think></think>\boxed{33}", True, "right", "33"),
        (r"\boxed{34}</think>\boxed{33}", True, "right", "33"),
        (r"hm</think> \boxed{1} no, \boxed{33}", True, "right", "33"),
        (r"hm</think> \boxed{33} \boxed{34}", True, "wrong", "33, 34"),
        (r"hm</think> $\boxed{33}$ and $\boxed{33}$", True, "right", "33"),
        (r"hm</think> \boxed{33}", False, "cut off", None),
        (r"hm \boxed{33}", True, "thought not closed", None),
        (r"<think> \boxed{33}", True, "thought not closed", None),
        (r"\boxed{33}</think> so 33", True, "no answer", None),
        (r"hm</think> The answer is 33", True, "no answer", None),
        (r"hm</think> <answer>33</answer>", True, "no answer", None),
        (r"hm</think> \boxed{33", True, "no answer", None),
        (r"hm</think> \boxed{}", True, "no answer", None),
        ("", True, "thought not closed", None),
    ],
)
def test_strict(response, finished, why, extracted):
    verdict = GRADERS["strict"]("33", response, finished)
    assert verdict == Verdict(why == "right", extracted, why)


@pytest.mark.parametrize(
    ("gold", "response", "match"),
    [
        ("42", r"thinking \boxed{42} but cut", True),
        ("42", r"cut in \boxed{42", True),
        ("42", "So the answer is 42", True),
        ("42", r"\boxed{42}</think> \boxed{41}", False),
        ("42", "<answer>42</answer>", False),
        ("42", r"no tags \boxed{42}", True),
        ("5", r"\boxed{500}", True),
        ("5", r"\boxed{0.05}", True),
        ("204", r"\boxed{20400}", True),
        ("10000", r"\boxed{10001}", True),
        ("10000", r"\boxed{10002}", False),
        ("033", r"\boxed{33}", True),
        ("(1,2)", r"\boxed{[1,2]}", True),
        ("42", "", False),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_lenient_does_as_the_released_code_of_thinkprune(gold, response, match, finished):
    assert GRADERS["lenient"](gold, response, finished).match is match


TWO = r"hm</think> $x = \boxed{3}$ or $x = \boxed{5}$"


@pytest.mark.parametrize(
    ("boxes", "gold", "match"),
    [
        ("all", "3, 5", True),
        ("all", r"\{5, 3\}", True),
        ("all", "5", False),
        ("all", "3", False),
        ("last", "3, 5", False),
        ("last", "5", True),
        ("last", "3", False),
    ],
)
def test_boxes_side_by_side_are_one_list_or_the_last_is_the_answer(boxes, gold, match):
    """With either, two boxes earn for one gold answer: giving several is no way to be right."""
    assert GRADERS["strict"](gold, TWO, True, boxes).match is match


def test_boxes_side_by_side_that_say_the_same_are_one_answer():
    assert GRADERS["strict"](r"\frac12", r"</think> \boxed{\frac12}, \boxed{0.5}", True).match
    assert GRADERS["strict"]("5", r"</think> \boxed{5}, \boxed{6}", True).why == "wrong"


def test_answer_is_the_response():
    assert GRADERS["answer"](r"\frac12", " 0.5 ", True) == Verdict(True, "0.5", "right")
    assert GRADERS["answer"]("5", " ", True).why == "no answer"
    assert GRADERS["answer"]("5", "5", False).why == "cut off"


def test_a_verdict_is_one_of_the_known():
    with pytest.raises(ValueError, match="expected one of right, wrong"):
        Verdict(False, None, "meh")
    with pytest.raises(ValueError, match="expected True or False"):
        Verdict(1, None, "right")
    failed = [
        why
        for why in ("gold unparsable", "timeout", "memory", "crash", "wrong", "unparsable")
        if Verdict(False, None, why).failed
    ]
    assert failed == ["gold unparsable", "timeout", "memory", "crash"]


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from megaprune.grading import Verdict\n"
        "LIMIT = 3\n"
        "def contains(gold, response, finished): return gold in response\n"
        "def says(gold, response, finished): return Verdict(True, 'x', 'right', 'said')\n"
        "def number(gold, response, finished): return 1\n"
    )
    return file


def test_own_grader_in_a_file(own):
    assert resolve(f"{own}:contains")("5", "a 5", True) == Verdict(True, None, "right")
    assert resolve(f"{own}:contains")("5", "a 6", True) == Verdict(False, None, "wrong")
    assert resolve(f"{own}:says")("5", "", True) == Verdict(True, "x", "right", "said")
    with pytest.raises(TypeError, match="returned 1; expected True, False or a Verdict"):
        resolve(f"{own}:number")("5", "", True)


def test_own_grader_in_a_module(own, monkeypatch):
    monkeypatch.syspath_prepend(own.parent)
    assert resolve("own:contains")("5", "5", True).match


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "strickt",
            r"did you mean strict\?; expected strict, last_box, lenient, answer, olympiad, or",
        ),
        ("", "there is no grader ''"),
        (":f", "there is no grader ':f'"),
        ("{own}:contain", "has no 'contain', which is to be a grader; did you mean contains"),
        ("{own}:LIMIT", "has no function 'LIMIT'"),
        ("nowhere/own.py:contains", "nowhere/own.py: there is no such file"),
        ("no_such_module_at_all:f", "cannot import no_such_module_at_all.*ModuleNotFoundError"),
    ],
)
def test_names_that_lead_nowhere(own, name, message):
    with pytest.raises(InputError, match=message):
        resolve(name.format(own=own))


def test_a_broken_file(tmp_path):
    (tmp_path / "broken.py").write_text("1/0\n")
    with pytest.raises(InputError, match="broken.py.*ZeroDivisionError: division by zero"):
        resolve(f"{tmp_path / 'broken.py'}:f")


def test_importing_brings_no_algebra_and_no_engine():
    code = (
        "import sys, megaprune.cli.main, megaprune.grading, megaprune.grading.worker\n"
        "heavy = {'torch', 'sympy', 'numpy', 'math_verify', 'vllm', 'megatron'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
