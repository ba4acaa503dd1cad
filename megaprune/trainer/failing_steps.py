"""Steps whose responses all fail for one reason: a wrong format, a limit that is too low."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megaprune import schema
from megaprune.errors import counted
from megaprune.generation.worker import Rollout
from megaprune.grading.verdict import WHY

REMEDIES = {
    "wrong": "look at what was extracted, and at the gold answers: are they of these problems, and "
    "does grading.default take them?",
    "cut off": "raise rollout.max_response_length",
    "thought not closed": "choose grading.thought for the model's family, or "
    "grading.default=last_box, which takes a box anywhere in a response",
    "no answer": r"do the prompts ask for \boxed{}, which is what the grader reads? "
    "`megaprune data --family` makes such prompts; or choose another grading.default",
    "unparsable": "look at what was extracted, or choose another grading.default",
    "gold unparsable": "the answers in data.train cannot be read: make it with `megaprune data`, "
    "or choose another grading.default",
    "timeout": "raise grading.seconds",
    "memory": "raise grading.memory_bytes",
    "crash": "mend the grader: `megaprune grade` tries it",
}
"""What may be done about each reason, but for "right"."""


class FailingSteps:
    """Counts the steps in a row whose responses all have one verdict that is not "right".

    Args:
        most: of such steps in a row, with which a run stops; None for any number.
        history: lines of metrics.jsonl, of the steps that were done before.
    """

    def __init__(self, most: int | None, history: Sequence[Mapping[str, Any]] = ()):
        self._most = most
        self._why: str | None = None
        self._count = 0
        for line in history:
            if schema.REWARD in line:
                self._add(next((w for w in REMEDIES if line.get(schema.verdict_of(w)) == 1), None))

    def see(self, rollouts: Sequence[Rollout]) -> str | None:
        """Take a step's responses; returns what is wrong if they all fail for one reason."""
        reasons = {rollout.verdict.why for rollout in rollouts}
        only = reasons.pop() if len(reasons) == 1 else None
        self._add(only if only in REMEDIES else None)
        if self._why is None:
            return None
        return (
            f"all {counted(len(rollouts), 'response')} of the step have the verdict {self._why!r} "
            f"({WHY[self._why]}), so that nothing can be learned from them: {REMEDIES[self._why]}"
        )

    @property
    def is_new(self) -> bool:
        """Whether the step before did not fail for that reason."""
        return self._count == 1

    @property
    def too_many(self) -> str | None:
        """Why the run should stop; None if it need not.

        Wrong answers alone are no reason: the problems may be hard, and the step small.
        """
        if self._most is None or self._count < self._most or self._why == "wrong":
            return None
        return (
            f"{counted(self._count, 'step')} in a row had no response with another verdict than "
            f"{self._why!r}: {REMEDIES[self._why or '']}. With max_failed_steps=null the run goes "
            f"on all the same"
        )

    def _add(self, why: str | None) -> None:
        self._count = self._count + 1 if why is not None and why == self._why else int(bool(why))
        self._why = why
