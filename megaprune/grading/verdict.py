"""The verdict of a grader on a response."""

from __future__ import annotations

from dataclasses import dataclass

WHY = {
    "right": "the answer equals the gold answer",
    "wrong": "it does not",
    "cut off": "the response did not end by itself",
    "thought not closed": "no answer was begun: the end of the thought is missing",
    "no answer": "no complete box, or nothing in it",
    "unparsable": "the answer cannot be read as mathematics, and is another text than the gold",
    "gold unparsable": "the gold answer cannot be read: the data is at fault",
    "timeout": "the grader was stopped at its time limit",
    "memory": "the grader needed more memory than its limit",
    "crash": "the grader raised, or its process died",
}
"""Every reason there is; graders use no other words."""

FAILURES = frozenset({"gold unparsable", "timeout", "memory", "crash"})

WITHOUT_ANSWER = frozenset({"cut off", "thought not closed", "no answer", "unparsable"})
"""Reasons that say that a response has no answer which could be read."""

BOX_GRADERS = frozenset({"strict", "last_box", "olympiad"})
"""Names of the graders that find an answer in a box alone."""


@dataclass(frozen=True)
class Verdict:
    """Whether a response is right, and why."""

    match: bool
    """The response counts as right."""

    extracted: str | None
    """The answer found in the response; None where there is none, or the grader does not say."""

    why: str
    """One of WHY."""

    detail: str = ""
    """For people: the exception's text, how the process ended, or the gold answer at fault."""

    def __post_init__(self) -> None:
        if type(self.match) is not bool:
            raise ValueError(f"Verdict.match is {self.match!r}; expected True or False")
        if self.why not in WHY:
            raise ValueError(f"Verdict.why is {self.why!r}; expected one of {', '.join(WHY)}")

    @property
    def failed(self) -> bool:
        """No verdict could be had; the response may be right. To be counted apart from wrong."""
        return self.why in FAILURES
