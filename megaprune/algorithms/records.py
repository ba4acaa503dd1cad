"""What rewards, filters and losses are given, and what a loss gives back. No torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from megaprune.algorithms.loss_metrics import Metric

Vector: TypeAlias = NDArray[np.float64]
"""[responses] of one prompt."""

Matrix: TypeAlias = NDArray[np.float64]
"""[groups, responses]."""


@dataclass(frozen=True, eq=False)
class Group:
    """The K graded responses to one prompt.

    Args:
        correct: [K] bool, the answer is right.
        length: [K] int, tokens of the response, its end token included; or those of its thought
            alone, if the algorithm measures thoughts.
        finished: [K] bool, the model ended the response itself.
        limit: tokens that a response of this round may have.
        answered: [K] bool, the response has an answer that can be read; None where nobody looked.
        text: the K responses; empty where only the numbers are known.
        extra: what the problem carries beside its text and its answer, by name.
        name: of the problem.
        memory: what the reward that is called remembers of earlier steps (see `rewards.history`).
        response_length: [K] int, tokens of the whole response, whatever `length` measures; `length`
            if it is not given.

    Raises:
        ValueError: the vectors are not of one length, or the limit is not positive.
    """

    correct: NDArray[np.bool_]
    length: NDArray[np.int64]
    finished: NDArray[np.bool_]
    limit: int
    text: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    answered: NDArray[np.bool_] | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)
    response_length: NDArray[np.int64] = None

    def __post_init__(self) -> None:
        if self.response_length is None:
            object.__setattr__(self, "response_length", self.length)
        vectors = (self.correct, self.length, self.finished, self.response_length)
        shapes = [np.shape(vector) for vector in vectors]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            raise ValueError(
                f"correct, length, finished, response_length of shapes {shapes}; expected [K] each"
            )
        if self.limit < 1:
            raise ValueError(f"a limit of {self.limit} tokens; expected 1 or more")
        if self.answered is not None and np.shape(self.answered) != shapes[0]:
            raise ValueError(f"answered of shape {np.shape(self.answered)}; expected {shapes[0]}")
        if self.text and len(self.text) != len(self.correct):
            raise ValueError(f"{len(self.text)} texts of {len(self.correct)} responses")


@dataclass(frozen=True)
class BatchInfo:
    """What holds for a whole batch, that is, for all that one optimizer step learns from.

    Args:
        total_tokens: scored tokens, those of samples that are left out included.
        total_sequences: the same, in sequences.
        limit: tokens that a response may have; None where there is no such limit.
        policy_moved: whether optimizer steps may have been made since the responses were drawn.

    Raises:
        ValueError: there is no token or no sequence.
    """

    total_tokens: int
    total_sequences: int
    limit: int | None = None
    policy_moved: bool = False

    def __post_init__(self) -> None:
        if self.total_tokens < 1:
            raise ValueError(f"a batch of {self.total_tokens} scored tokens; expected 1 or more")
        if self.total_sequences < 1:
            raise ValueError(f"a batch of {self.total_sequences} sequences; expected 1 or more")


@dataclass(frozen=True, eq=False)
class LossBatch:
    """The scored tokens of one micro-batch: N tokens of S sequences, one sequence after another.

    A micro-batch may be empty: then N and S are 0.

    Args:
        log_probs: [N], of the policy in training, with a gradient.
        entropy: [N], of the policy's distribution of each token, in nats, with a gradient.
        values: [N] each, constants, by name. `advantage`: of the token's response. `old`: log-probs
            of the policy before the step's first update. `reference`: of the reference model.
            `rollout`: of the distribution that drew the token.
        borders: [S + 1], where sequences begin and end among the tokens: 0, ..., N.
        info: of the whole batch.
    """

    log_probs: torch.Tensor
    entropy: torch.Tensor
    values: Mapping[str, torch.Tensor]
    borders: tuple[int, ...]
    info: BatchInfo

    @property
    def total_tokens(self) -> int:
        """Scored tokens of the whole batch, over all micro-batches and replicas."""
        return self.info.total_tokens

    @property
    def total_sequences(self) -> int:
        """Sequences of the whole batch, over all micro-batches and replicas."""
        return self.info.total_sequences

    @property
    def lengths(self) -> list[int]:
        """[S] scored tokens of each sequence."""
        return [end - start for start, end in pairwise(self.borders)]

    @property
    def advantage(self) -> torch.Tensor:
        """[N] the advantage of each token's response."""
        return self.value("advantage")

    @property
    def old(self) -> torch.Tensor:
        """[N] log-probs of the policy before the step's first update.

        Where no update has been made they are the policy's own, without a gradient: a ratio to them
        is 1, with the gradient of a ratio.
        """
        if self.info.policy_moved:
            return self.value("old")
        return self.values.get("old", self.log_probs.detach())

    def value(self, name: str) -> torch.Tensor:
        """[N] one of the values.

        Raises:
            ValueError: there is none of this name: a loss has to list it in its `needs`.
        """
        if name not in self.values:
            raise ValueError(
                f"the loss needs {name!r} of each token; list it in the loss's `needs`"
            )
        return self.values[name]

    def sum_by_sequence(self, values: torch.Tensor) -> torch.Tensor:
        """[N] -> [S]: the sum over each sequence's tokens."""
        import torch

        if len(self.borders) == 1:
            return values[:0]  # with its gradient's graph, though there is nothing in it
        return torch.stack([part.sum() for part in values.split(self.lengths)])

    def mean_by_sequence(self, values: torch.Tensor) -> torch.Tensor:
        """[N] -> [S]: the mean over each sequence's tokens; 0 for a sequence without any."""
        counts = values.new_tensor([max(1, n) for n in self.lengths])
        return self.sum_by_sequence(values) / counts

    def to_tokens(self, values: torch.Tensor) -> torch.Tensor:
        """[S] -> [N]: each sequence's value at each of its tokens."""
        import torch

        counts = torch.tensor(self.lengths, dtype=torch.int64, device=values.device)
        return values.repeat_interleave(counts)


@dataclass(frozen=True, eq=False)
class LossOutput:
    """What a loss makes of one micro-batch.

    Args:
        loss: a scalar, this micro-batch's share of the batch's loss. Shares are summed over
            micro-batches and replicas: divide by totals of the whole batch, never by this one's.
        metrics: what is told of the micro-batch, by name; see `loss_metrics`.
    """

    loss: torch.Tensor
    metrics: Mapping[str, Metric] = field(default_factory=dict)
