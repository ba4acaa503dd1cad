"""Responses, graded while others are still being generated, and the same on all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.distributed as dist

from megaprune.algorithms.records import Matrix
from megaprune.config.run import GradingConfig
from megaprune.data import Problem
from megaprune.data.sets import graders
from megaprune.distributed.world import all_gather_object
from megaprune.generation.generator import Generator, Prompt, Response, SamplingOptions
from megaprune.grading import Pool, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Rollout:
    """A graded response.

    Args:
        response: to problem `response.prompt` of those asked for.
        text: of the response, without the token that ended it.
        verdict: of the grader.
    """

    response: Response
    text: str
    verdict: Verdict

    @property
    def length(self) -> int:
        """Tokens, the one that ended it included."""
        return len(self.response.tokens)

    @property
    def finished(self) -> bool:
        """Whether the model ended it, and not the limit."""
        return self.response.finish == "stop"


class RolloutWorker:
    """Asks the engines, and has their responses graded meanwhile. Collective.

    Args:
        rollout: this rank's engine.
        grading: how; the first rank of each engine grades what its engine says.
        tokenizer: of the model.
    """

    def __init__(
        self, rollout: Generator, grading: GradingConfig, tokenizer: PreTrainedTokenizerBase
    ):
        self._rollout, self._tokenizer = rollout, tokenizer
        self._pool: Pool | None = None
        if dist.get_rank() % rollout.config.tp == 0:
            self._pool = Pool(
                graders() | grading.graders,
                grading.default,
                workers=grading.workers,
                seconds=grading.seconds,
                memory_bytes=grading.memory_bytes,
            )
        self._texts: dict[tuple[int, int], tuple[Response, str]] = {}

    def generate(self, problems: Sequence[Problem], sampling: SamplingOptions) -> None:
        """Have this engine's share of the responses; they are being graded when this returns."""
        share = self._rollout.share(len(problems))
        # By place, too: where two epochs meet, a problem may come twice.
        prompts = [Prompt(problems[i].tokens, f"{i}/{problems[i].name}") for i in share]
        self._texts = {}
        for found in self._rollout.generate(prompts, sampling):
            if self._pool is None:
                continue
            number = share[found.prompt]
            response = Response(number, found.number, found.tokens, found.log_probs, found.finish)
            text = self._text(response)
            self._texts[number, response.number] = response, text
            problem = problems[number]
            self._pool.submit(
                (number, response.number),
                problem.data_source,
                problem.gold,
                text,
                response.finish == "stop",
            )

    def graded(self) -> list[Rollout]:
        """Wait for the grades; everybody's answers, by problem and number. Collective."""
        verdicts: dict[Any, Verdict] = {} if self._pool is None else self._pool.results()
        mine = [Rollout(*self._texts[key], verdicts[key]) for key in sorted(self._texts)]
        everyone = [answer for part in all_gather_object(mine) for answer in part]
        return sorted(everyone, key=lambda a: (a.response.prompt, a.response.number))

    def close(self) -> None:
        """End the graders."""
        if self._pool is not None:
            self._pool.close()

    def _text(self, response: Response) -> str:
        # Special tokens stay: with some models the end of the thought is one.
        ended = response.finish == "stop"
        tokens = response.tokens[:-1] if ended else response.tokens
        return str(self._tokenizer.decode(np.asarray(tokens), skip_special_tokens=False))


def rows(
    problems: Sequence[Problem],
    answers: Sequence[Rollout],
    rewards: Matrix | None = None,
    advantages: Matrix | None = None,
) -> list[dict[str, object]]:
    """Answers as rows of a run's tables.

    Args:
        rewards: [prompts, n]; 1 for a right answer and 0 for another, if None.
        advantages: the same; none if None.
    """
    table: list[dict[str, object]] = []
    for index, answer in enumerate(answers):
        problem, response, verdict = (
            problems[answer.response.prompt],
            answer.response,
            answer.verdict,
        )
        table.append(
            {
                "problem": problem.name,
                "data_source": problem.data_source,
                "prompt": problem.prompt,
                "number": response.number,
                "response": answer.text,
                "gold": problem.gold,
                "length": answer.length,
                "finish": response.finish,
                "match": verdict.match,
                "extracted": verdict.extracted,
                "why": verdict.why,
                "detail": verdict.detail,
                "reward": float(verdict.match) if rewards is None else rewards.flat[index],
                "advantage": None if advantages is None else advantages.flat[index],
                "prompt_tokens": problem.tokens,
                "tokens": response.tokens,
            }
        )
    return table
