"""How families of models mark a thought, and where the answer is then."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias


@dataclass(frozen=True)
class ThoughtFormat:
    """The marks of a thought in a response.

    Args:
        opens, closes: around it. The beginning may be missing in a response: some chat templates
            put it into the prompt. Both are empty where there are no thoughts.
        required: whether a response without marks is a thought that has not ended; else it is an
            answer without a thought.
        answer_opens, answer_closes: around the answer behind it; empty if nothing is.
    """

    opens: str = ""
    closes: str = ""
    required: bool = True
    answer_opens: str = ""
    answer_closes: str = ""

    def answer(self, response: str) -> str | None:
        """Return the text behind the last thought of a response; None if the thought is open."""
        rest = self.rest(response)
        if rest is None or not self.answer_opens or len(rest) == len(response):
            return rest
        return rest.rpartition(self.answer_opens)[2].partition(self.answer_closes)[0]

    def rest(self, response: str) -> str | None:
        """Return what follows the mark that closes the last thought; None if the thought is open.

        The marks of the answer are part of it. A response without a thought is all rest.
        """
        if not self.closes:
            return response
        _, closed, rest = response.rpartition(self.closes)
        if self.opens in rest:
            return None
        return rest if closed or not self.required else None

    def count_tokens(
        self, tokens: Sequence[int], response: str, decode: Callable[[Sequence[int]], str]
    ) -> int | None:
        """Count the tokens of a response's thought, up to the one that completes its closing mark.

        Args:
            tokens: of the response, without the one that ended it.
            response: their text.
            decode: turns some of the tokens into text.

        Returns:
            The tokens; 0 for a response without a thought, None for a thought that is open.
        """
        rest = self.rest(response)
        if rest is None:
            return None
        if len(rest) == len(response):
            return 0
        # Answers are short beside thoughts: only a piece at the end is decoded.
        piece = 64
        while piece < len(tokens) and len(decode(tokens[-piece:])) <= len(rest):
            piece *= 2
        starts = range(max(len(tokens) - piece, 0), len(tokens))
        return starts.start + bisect_left(
            starts, True, key=lambda start: len(decode(tokens[start:])) <= len(rest)
        )


THOUGHTS: Mapping[str, ThoughtFormat] = {
    "think": ThoughtFormat("<think>", "</think>"),
    "qwen3": ThoughtFormat("<think>", "</think>", required=False),
    "marco": ThoughtFormat(
        "<Thought>", "</Thought>", answer_opens="<Output>", answer_closes="</Output>"
    ),
    "s1": ThoughtFormat("<|im_start|>think", "<|im_start|>answer"),
    "openthinker": ThoughtFormat(
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        answer_opens="<|begin_of_solution|>",
        answer_closes="<|end_of_solution|>",
    ),
    "none": ThoughtFormat(),
}
"""think: DeepSeek-R1 and its distillations, QwQ-32B. qwen3: Qwen3, whose thought a prompt may
switch off. marco: Marco-o1. s1: s1 and s1.1. openthinker: OpenThinker, Sky-T1. none: models that
answer without marks, as QwQ-32B-Preview and Qwen2.5-Math."""

THINK = THOUGHTS["think"]

if TYPE_CHECKING:
    ThoughtName: TypeAlias = str
else:
    ThoughtName = Literal[tuple(THOUGHTS)]
"""One of the names in `THOUGHTS`."""


def thought_at_end(prompt: str) -> tuple[str, bool] | None:
    """Return the mark of a thought that a prompt ends with, if any, and whether it closes one."""
    end = prompt.rstrip()
    for thought in THOUGHTS.values():
        for mark, closes in ((thought.opens, False), (thought.closes, True)):
            if mark and end.endswith(mark):
                return mark, closes
    return None
