"""Rollouts: responses that this job's engines draw, graded while others are still being drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.distributed as dist

from megaprune.config.run import GradingConfig
from megaprune.data import Problem
from megaprune.data.sets import graders
from megaprune.distributed.objects import all_gather_object
from megaprune.generation.generator import (
    Generator,
    Progress,
    Prompt,
    Response,
    SamplingOptions,
)
from megaprune.grading import Pool, Verdict
from megaprune.grading.thought import THOUGHTS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class RolloutRequest:
    """A problem that is to be answered.

    Args:
        problem: with its prompt's tokens.
        key: fixes the random numbers of its responses, together with the sampling's seed and the
            number of a response. Two requests of one call have different keys.
        numbers: which responses are wanted; None for 0 to n - 1.
        prefix: tokens that every response begins with; the engine goes on from there.
        max_tokens: that the engine may add to the prefix; None for the sampling's own limit.
    """

    problem: Problem
    key: str
    numbers: Sequence[int] | None = None
    prefix: tuple[int, ...] = ()
    max_tokens: int | None = None


@dataclass(frozen=True, eq=False)
class Rollout:
    """One graded response.

    Args:
        request: index of its request in the call that drew it.
        number: of the request's responses.
        tokens: [L] int64, the request's prefix and the end token (if there is one) included.
        log_probs: [L - prefix] float32, of the drawn tokens under the distribution that they were
            drawn from.
        finish_reason: "stop" if the model ended the response, "length" if the limit did.
        text: of the response, without the token that ended it.
        verdict: of the grader.
        policy_version: optimizer steps that the weights had seen which drew the response.
        thought_length: tokens of the thought, the mark that closes it included; those of the
            response if it is not closed. None where nobody counted them.
        reference_log_probs: [L] float32, of the tokens by the reference model; None where they were
            not computed before.
    """

    request: int
    number: int
    tokens: np.ndarray
    log_probs: np.ndarray
    finish_reason: str
    text: str
    verdict: Verdict
    policy_version: int = 0
    thought_length: int | None = None
    reference_log_probs: np.ndarray | None = None

    @property
    def length(self) -> int:
        """Tokens, the one that ended the response included."""
        return len(self.tokens)

    @property
    def finished(self) -> bool:
        """Whether the model ended the response, and not the limit."""
        return self.finish_reason == "stop"


class RolloutWorker:
    """Draws responses with this rank's engine and grades them meanwhile.

    The first rank of each engine grades what its engine draws; the engine's other ranks get no
    rollouts from `generate`.

    Args:
        generator: this rank's engine.
        grading: graders and their limits.
        tokenizer: of the model.
    """

    def __init__(
        self, generator: Generator, grading: GradingConfig, tokenizer: PreTrainedTokenizerBase
    ):
        self.generator, self._tokenizer = generator, tokenizer
        self._pool: Pool | None = None
        if dist.get_rank() % generator.config.tp == 0:
            self._pool = Pool(
                graders() | grading.graders,
                grading.default,
                workers=grading.workers,
                seconds=grading.seconds,
                memory_bytes=grading.memory_bytes,
                variables=grading.environment,
                boxes=grading.boxes,
                thought=grading.thought,
            )
        self._thought = THOUGHTS[grading.thought]
        self._pending: dict[tuple[int, int], tuple[Response, np.ndarray, str]] = {}
        self._version = 0

    @property
    def grades(self) -> bool:
        """Whether this rank is the one that gets its engine's rollouts."""
        return self._pool is not None

    def generate(
        self,
        requests: Mapping[int, RolloutRequest],
        sampling: SamplingOptions,
        *,
        policy_version: int = 0,
        on_graded: Callable[[list[Rollout]], None] | None = None,
        progress: Callable[[Progress], Any] = lambda _: None,
    ) -> None:
        """Draw this engine's responses. They are graded, or being graded, when this returns.

        Args:
            requests: of this engine, by the index that their rollouts get.
            sampling: for all of them.
            policy_version: of the weights that the engine has.
            on_graded: is given rollouts as their grades come; `collect` gives those that are left.
            progress: is told how far it is, after each response.

        Raises:
            InputError: a prompt is empty or leaves no room for a response.
        """
        self._version = policy_version
        indices = list(requests)
        prompts = [
            Prompt((*r.problem.tokens, *r.prefix), r.key, r.numbers, r.max_tokens)
            for r in requests.values()
        ]
        for response in self.generator.generate(prompts, sampling, progress):
            if self._pool is None:
                continue
            index = indices[response.prompt]
            self._submit(index, requests[index], response)
            if on_graded is not None and (graded := self._graded(self._pool.ready())):
                on_graded(graded)

    def collect(self) -> list[Rollout]:
        """Wait for the grades; rollouts that `on_graded` has not seen, by request and number."""
        verdicts: dict[Any, Verdict] = {} if self._pool is None else self._pool.results()
        return sorted(self._graded(verdicts), key=lambda r: (r.request, r.number))

    def gather(self) -> list[Rollout]:
        """Wait for the grades of all engines; every rollout, on every rank. Collective."""
        rollouts = [rollout for part in all_gather_object(self.collect()) for rollout in part]
        return sorted(rollouts, key=lambda r: (r.request, r.number))

    def close(self) -> None:
        """End the graders."""
        if self._pool is not None:
            self._pool.close()

    def _submit(self, index: int, request: RolloutRequest, response: Response) -> None:
        assert self._pool is not None
        tokens = np.concatenate([np.asarray(request.prefix, np.int64), response.tokens])
        finished = response.finish_reason == "stop"
        text = self._decode(tokens[:-1] if finished else tokens)
        key = (index, response.number)
        self._pending[key] = response, tokens, text
        problem = request.problem
        self._pool.submit(key, problem.data_source, problem.gold, text, finished)

    def _graded(self, verdicts: Mapping[Any, Verdict]) -> list[Rollout]:
        rollouts = []
        for key, verdict in verdicts.items():
            response, tokens, text = self._pending.pop(key)
            rollouts.append(
                Rollout(
                    key[0],
                    key[1],
                    tokens,
                    response.log_probs,
                    response.finish_reason,
                    text,
                    verdict,
                    self._version,
                    self._thought_length(tokens, text, response.finish_reason == "stop"),
                )
            )
        return rollouts

    def _thought_length(self, tokens: np.ndarray, text: str, finished: bool) -> int:
        of_text = tokens[:-1] if finished else tokens
        length = self._thought.count_tokens(of_text.tolist(), text, self._decode)
        return len(tokens) if length is None else length

    def _decode(self, tokens: Sequence[int]) -> str:
        # Special tokens stay: with some models the end of the thought is one.
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False))
