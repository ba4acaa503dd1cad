"""What is told of a step: numbers of its answers, a line on the console, lines to trackers."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from rich.text import Text

from megaprune import schema
from megaprune.algorithms.advantages import GroupMean, without_signal
from megaprune.algorithms.algorithm import Algorithm, reward_metrics
from megaprune.config.given import hidden
from megaprune.config.read import as_written
from megaprune.config.run import Config
from megaprune.data import Problems
from megaprune.distributed import world
from megaprune.errors import counted
from megaprune.foreign_text import terminal
from megaprune.generation.worker import Rollout
from megaprune.grading.verdict import WHY
from megaprune.trainer.batch import RolloutBatch, RolloutGroup
from megaprune.trainer.trackers import Line, Tracked, Trackers


class Clock:
    """Seconds of each phase since the last `read`; the phase is what errors and signals name."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count what is done within as of this phase."""
        start = time.perf_counter()
        with world.phase(phase):
            yield
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - start

    @contextmanager
    def beside(self, phase: str) -> Iterator[Callable[[], float]]:
        """Do within what is of no step: a phase whose time `read` does not count.

        Yields what tells how many seconds it has taken so far.
        """
        start = time.perf_counter()
        with world.phase(phase):
            yield lambda: time.perf_counter() - start
        self._start += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """Seconds and share of each phase, and of all; then everything is 0 again."""
        now = time.perf_counter()
        total, self._start = now - self._start, now
        spent, self._seconds = self._seconds, {}
        line = {schema.seconds_of(phase): seconds for phase, seconds in spent.items()}
        line |= {schema.share_of(phase): seconds / total for phase, seconds in spent.items()}
        return {**line, schema.SECONDS_STEP: total}


def response_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """How right and how long responses are; lengths in tokens, the rest as shares of them."""
    lengths = np.array([rollout.length for rollout in rollouts])
    verdicts = Counter(rollout.verdict.why for rollout in rollouts)
    return {
        schema.ACCURACY: float(np.mean([rollout.verdict.match for rollout in rollouts])),
        schema.LENGTH_MEAN: float(lengths.mean()),
        schema.LENGTH_P50: float(np.percentile(lengths, 50)),
        schema.LENGTH_P95: float(np.percentile(lengths, 95)),
        schema.TRUNCATED: float(np.mean([not rollout.finished for rollout in rollouts])),
        schema.GRADING_FAILED: float(np.mean([rollout.verdict.failed for rollout in rollouts])),
        **{schema.verdict_of(why): verdicts[why] / len(rollouts) for why in WHY},
    }


def shaping_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """What rewards make of right answers; nothing where there are none."""
    worths = [
        [
            reward
            for reward, rollout in zip(group.score.rewards, group.rollouts, strict=True)
            if rollout.verdict.match
        ]
        for group in groups
    ]
    worths = [worth for worth in worths if worth]
    if not worths:
        return {}
    right = np.concatenate(worths)
    return {
        schema.REWARD_WIPED: float(np.mean(right <= 0)),
        schema.REWARD_ADJUSTED: float(np.mean(~np.isclose(right, 1))),
        schema.REWARD_UNSHAPED: float(np.mean([np.ptp(worth) < 1e-9 for worth in worths])),
    }


def batch_metrics(batch: RolloutBatch, algorithm: Algorithm) -> dict[str, float]:
    """What a batch's rollouts came to: all that were drawn for it, and by themselves (`learned/`)
    those that are learned from, without what a filter leaves out."""
    scores = [group.score for group in batch.drawn]
    rewards = np.stack([score.rewards for score in scores])
    metrics = {
        schema.REWARD: float(rewards.mean()),
        **shaping_metrics(batch.drawn),
        **response_metrics(batch.drawn_rollouts),
        schema.NO_SIGNAL: float(without_signal(GroupMean()(rewards)).mean()),
    }
    if len(algorithm.rewards) > 1:
        metrics |= reward_metrics(algorithm, scores)
    learned = [group.score.rewards[n] for group in batch.groups for n in group.learned]
    of_learned = {schema.REWARD: float(np.mean(learned))}
    of_learned |= response_metrics(batch.learned_rollouts)
    metrics |= {f"{schema.LEARNED}{name}": value for name, value in of_learned.items()}
    if algorithm.max_resample_rounds:
        metrics[schema.SURPLUS] = len(batch.surplus)
    return metrics


_SHOWN = (
    (schema.REWARD, "reward", "{:.3f}"),
    (schema.ACCURACY, "right", "{:.1%}"),
    (schema.LENGTH_MEAN, "tokens", "{:.0f}"),
    (schema.LENGTH_P95, "p95", "{:.0f}"),
    (schema.TRUNCATED, "cut off", "{:.1%}"),
    *((schema.verdict_of(why), why, "{:.1%}") for why in WHY if why not in ("right", "cut off")),
    (schema.NO_SIGNAL, "no signal", "{:.0%}"),
    (schema.ENTROPY, "entropy", "{:.3f}"),
    (schema.KL, "kl", "{:.4f}"),
    (schema.GRAD_NORM, "grad", "{:.2f}"),
    (schema.MISMATCH, "mismatch", "{:.0e}"),
    (schema.TOKENS_PER_SECOND, "tokens/s", "{:.0f}"),
    (schema.SECONDS_STEP, "s", "{:.1f}"),
)

_VERDICTS = schema.verdict_of("")


class Reporter:
    """Tells people: one line for a step on the console, all of it to the trackers.

    Ranks but the first say nothing.

    Args:
        config: of the run.
        done: steps that were done before.
        problems: that it trains on.
        history: lines of metrics.jsonl, of those steps.
        validation_limit: the most tokens of a response in validations; None if there are none.
    """

    def __init__(
        self,
        config: Config,
        done: int,
        problems: Problems,
        history: Sequence[Line] = (),
        validation_limit: int | None = None,
    ):
        first = dist.get_rank() == 0
        self._console = terminal(highlight=False, soft_wrap=True, quiet=not first)
        self._steps = config.steps
        self._warned = False
        self._seconds: deque[float] = deque(maxlen=20)
        folder = Path(config.out)
        tracked = Tracked(folder, "train", as_written(config), config.wandb, config.tensorboard)
        self._trackers = Trackers(tracked, history) if first else None
        left_out = [f"{problems.too_long} dropped as too long"] * bool(problems.too_long)
        if problems.duplicates:
            was = "dropped as" if config.data.duplicates == "drop" else "of them"
            left_out.append(
                f"{problems.duplicates} {was} duplicate{'s' * (problems.duplicates != 1)}"
            )
        dropped = f" ({', '.join(left_out)})" if left_out else ""
        measured = "no validation"
        if validation_limit is not None:
            measured = f"validation with at most {validation_limit} tokens"
        size = str(config.data.train_batch_size)
        size += f" x {config.rollout.n}" if config.data.weights is None else " of the chosen"
        self.say(
            f"{config.model} -> {config.out}: "
            f"{counted(len(problems.problems), 'problem')}{dropped}, "
            f"{size} responses of at most "
            f"{config.rollout.max_response_length} tokens a step, {measured}; "
            f"processes: {dist.get_world_size()}" + (f"; goes on after step {done}" if done else "")
        )

    def say(self, text: str) -> None:
        """A line of words. W&B keeps what is printed: without values of the environment."""
        self._console.print(Text(hidden(text), "dim"))

    def warn(self, text: str) -> None:
        """A warning, of what may be wrong with the run."""
        self._console.print(f"megaprune: warning: {hidden(text)}", markup=False)

    def warn_of_failed(self, answers: Sequence[Rollout]) -> None:
        """Say, the first time, that a grader failed; samples tell the reason of each."""
        failed = [a.verdict for a in answers if a.verdict.failed]
        if failed and not self._warned:
            self._warned = True
            self.warn(
                f"the grader failed on {len(failed)} of {len(answers)} answers "
                f"({failed[0].why}: {failed[0].detail.strip()}); they count as wrong"
            )

    def show(self, line: Mapping[str, Any]) -> None:
        """What a training step or a validation came to."""
        validation = schema.REWARD not in line
        prefix = schema.VALIDATION if validation else ""
        name = "  validation" if validation else f"step {line['step']}/{self._steps}"
        text = Text(f"{name:<12}", "cyan" if validation else "bold")
        for key, word, form in _SHOWN:
            value = line.get(prefix + key)
            if value is not None and (value or not key.startswith(_VERDICTS)):
                text.append(f"  {word} ", "dim not bold").append(
                    form.format(value), "default not bold"
                )
        if not validation:
            self._seconds.append(line[schema.SECONDS_STEP])
            left = (self._steps - line["step"]) * float(np.median(self._seconds))
            text.append(f"  left {duration(left)}  {datetime.now():%H:%M:%S}", "dim not bold")
        self._console.print(text)
        if self._trackers is not None:
            self._trackers.log(line)

    def close(self) -> None:
        """Close the trackers."""
        if self._trackers is not None:
            self._trackers.close()


def duration(seconds: float) -> str:
    """A length of time in one or two units: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 36 else f"{hours // 24} d {hours % 24} h"
