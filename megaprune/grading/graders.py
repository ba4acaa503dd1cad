"""The graders by name, and users' own."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from megaprune import user_code
from megaprune.errors import InputError
from megaprune.grading import find
from megaprune.grading.equality import compare, compare_loosely
from megaprune.grading.olympiad import compare_all
from megaprune.grading.thought import THINK, THOUGHTS, ThoughtFormat
from megaprune.grading.verdict import Verdict

ALL, LAST = "all", "last"
BOXES = (ALL, LAST)
"""Boxes side by side at the end of an answer are one list, or the last of them is the answer. With
either, a response has one answer: none that gives two earns for each of them."""


class Grader(Protocol):
    """What judges a response: by its gold answer, its text, and whether it ended by itself."""

    def __call__(self, gold: str, response: str, finished: bool) -> Verdict:
        """Give the verdict."""


@dataclass(frozen=True)
class AnswerGrader:
    """A grader in two steps: find the answer, which is cheap; compare it, which may not be."""

    find: Callable[[str, bool, str, ThoughtFormat], str | Verdict]
    """(response, finished, boxes, thought) -> the answer, or the verdict that there is none."""

    compare: Callable[[str, str], str]
    """(gold, answer) -> the reason, one of WHY; InputError if the gold answer is at fault."""

    def __call__(
        self,
        gold: str,
        response: str,
        finished: bool,
        boxes: str = ALL,
        thought: ThoughtFormat = THINK,
    ) -> Verdict:
        """Find the answer and compare it; `boxes` is one of BOXES."""
        answer = self.find(response, finished, boxes, thought)
        return answer if isinstance(answer, Verdict) else self.judge(gold, answer)

    def judge(self, gold: str, answer: str) -> Verdict:
        """Compare an answer that `find` has returned."""
        try:
            why = self.compare(gold, answer)
        except InputError as error:
            return Verdict(False, answer, "gold unparsable", str(error))
        detail = f"the gold answer is {gold!r}" if why == "gold unparsable" else ""
        return Verdict(why == "right", answer, why, detail)


def _strict(response: str, finished: bool, boxes: str, thought: ThoughtFormat) -> str | Verdict:
    if not finished:
        return Verdict(False, None, "cut off")
    answer = thought.answer(response)
    if answer is None:
        return Verdict(False, None, "thought not closed")
    return _given(find.last_boxes(answer) if boxes == ALL else find.last_box(answer))


def _last_box(response: str, finished: bool, boxes: str, thought: ThoughtFormat) -> str | Verdict:
    return _strict(response, finished, boxes, THOUGHTS["none"])


def _all_boxes(response: str, finished: bool, boxes: str, thought: ThoughtFormat) -> str | Verdict:
    return _strict(response, finished, ALL, thought)


def _lenient(response: str, finished: bool, boxes: str, thought: ThoughtFormat) -> str | Verdict:
    return _given(find.anywhere(response))


def _answer(response: str, finished: bool, boxes: str, thought: ThoughtFormat) -> str | Verdict:
    return _given(response) if finished else Verdict(False, None, "cut off")


def _given(answer: str | None) -> str | Verdict:
    answer = (answer or "").strip()
    return answer or Verdict(False, None, "no answer")


GRADERS: dict[str, AnswerGrader] = {
    "strict": AnswerGrader(_strict, compare),
    "last_box": AnswerGrader(_last_box, compare),
    "lenient": AnswerGrader(_lenient, compare_loosely),
    "answer": AnswerGrader(_answer, compare),
    "olympiad": AnswerGrader(_all_boxes, compare_all),
}
r"""strict: the last complete `\boxed{}` after the thought of a response that ended by itself, with
those side by side with it (see BOXES).
last_box: the same of the whole response, whether or not a thought was closed in it.
lenient: the last box anywhere, also of a response that was cut; tolerances as ThinkPrune's.
answer: the response is the answer.
olympiad: as strict, always with all boxes side by side, and a gold answer as `grading.olympiad`
says."""


def resolve(name: str) -> Grader:
    """Return the grader of this name: one of GRADERS, `file.py:function` or `module:function`.

    A user's function is called as a Grader is and may also return a bool. Raises InputError if
    there is no such grader. Runs the user's module.
    """
    if name in GRADERS:
        return GRADERS[name]
    module_name, colon, function_name = name.rpartition(":")
    if not colon or not module_name:
        near = difflib.get_close_matches(name, GRADERS, n=1)
        raise InputError(
            f"there is no grader {name!r}{_mean(near)}; expected {', '.join(GRADERS)}, "
            "or your own as path/to/file.py:function or module:function"
        )
    function = user_code.load(name, "a grader")
    if not callable(function):
        raise InputError(f"{module_name} has no function {function_name!r}: it is {function!r}")
    try:
        inspect.signature(function).bind("gold", "response", True)
    except TypeError as error:
        raise InputError(
            f"{name} cannot be called with (gold, response, finished): {error}; expected a "
            f"function of these three that returns True, False or a Verdict"
        ) from error
    return _UserGrader(name, function)


@dataclass(frozen=True)
class _UserGrader:
    """A user's function as a Grader."""

    name: str
    function: Callable[[str, str, bool], object]

    def __call__(self, gold: str, response: str, finished: bool) -> Verdict:
        verdict = self.function(gold, response, finished)
        if isinstance(verdict, Verdict):
            return verdict
        if isinstance(verdict, bool):
            return Verdict(verdict, None, "right" if verdict else "wrong")
        raise TypeError(f"{self.name} returned {verdict!r}; expected True, False or a Verdict")


def _mean(near: list[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""
