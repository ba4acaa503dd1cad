"""How families of models mark a thought, and where the answer is then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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
        if not self.closes:
            return response
        _, closed, answer = response.rpartition(self.closes)
        if self.opens in answer:
            return None
        if not closed:
            return None if self.required else response
        if self.answer_opens:
            answer = answer.rpartition(self.answer_opens)[2].partition(self.answer_closes)[0]
        return answer


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


def thought_at_end(prompt: str) -> tuple[str, bool] | None:
    """Return the mark of a thought that a prompt ends with, if any, and whether it closes one."""
    end = prompt.rstrip()
    for thought in THOUGHTS.values():
        for mark, closes in ((thought.opens, False), (thought.closes, True)):
            if mark and end.endswith(mark):
                return mark, closes
    return None
