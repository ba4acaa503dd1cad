"""Early exits: a thought that is not closed after so many tokens is closed for the model.

This is the budget forcing of ThinkPrune's evaluation (arXiv 2504.01296), and of s1 (arXiv
2501.19393) without its "Wait". Differences: the thought is the beginning of a response that took
its time, so that all exits share their samples with the long run; what is put in counts as tokens;
and a thought that the model closed in time is left alone, where the original replaced its end by
one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megaprune.data.templates import load_template
from megaprune.errors import InputError
from megaprune.evaluation.config import EvaluateConfig


class EarlyExit:
    """Closes thoughts.

    Args:
        config: `template` says how a thought ends, and what is put behind it.
        tokenizer: of the model.

    Raises:
        InputError: an exit leaves no room for an answer within the limit.
    """

    def __init__(self, config: EvaluateConfig, tokenizer: Any):
        if not config.exit_at:
            return
        template = load_template(config.template)
        self._tokenizer, self._close = tokenizer, template.end_of_thought
        self._end = template.end_of_thought + template.early_exit
        longest = len(self._encoded("\n" + self._end))
        if max(config.exit_at) + longest >= config.max_response_length:
            raise InputError(
                f"exit_at={config.exit_at} and the {longest} tokens that close a thought leave no "
                f"room for an answer within max_response_length={config.max_response_length}; "
                f"raise max_response_length"
            )

    def of(
        self, tokens: Sequence[int], finished: bool, exit_at: int
    ) -> tuple[tuple[int, ...], int] | None:
        """Where a response goes on from: its thought, closed; None if it closed that in time.

        Args:
            tokens: of a response, as the model wrote it.
            finished: its last token is the one that ended it.
            exit_at: tokens of the thought, at most.

        Returns:
            Tokens, and how many of them were put in.
        """
        thought = tokens[: min(exit_at, len(tokens) - finished)]
        text = self._tokenizer.decode(thought, skip_special_tokens=False)
        if self._close and self._close in text:
            return None
        end = self._encoded(self._end if text.endswith("\n") else "\n" + self._end)
        return (*thought, *end), len(end)

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
