"""Numbers of graded samples, without torch and engines.

P problems have samples each, n of them or, where an evaluation was given more, differently many:
`right[p][i]` says whether sample i of problem p is right. Every mean is over problems of the mean
over their samples, so that each problem weighs the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaprune.algorithms.rewards.history import DIFFICULTIES, difficulty

Right: TypeAlias = Sequence[Sequence[bool]]
"""[P][n]."""

PERCENTILES = (20, 40, 50, 60, 80, 90, 99)
"""Those that ThinkPrune (2504.01296) tells of lengths."""

_ALIKE = 1e-9
"""Shares that differ by less are one: thirds are not exact."""

SUBSETS = 1000
"""Of a problem's samples, at most, that `majority_at_k` takes the mean over."""


def problem_means(values: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Mean of each problem's samples: [P][n] -> [P]; ValueError if a problem has none."""
    if not values or not all(map(len, values)):
        raise ValueError("a problem without samples, or no problem; expected one of each at least")
    return np.array([np.mean(samples) for samples in values], dtype=np.float64)


def accuracy(right: Right) -> float:
    """Average pass@1, as ThinkPrune (2504.01296) tells it: in 0..1."""
    return float(problem_means(right).mean())


def pass_at_k(right: Right, k: int) -> float | None:
    """The chance that one of k samples is right, in 0..1, estimated without bias (2107.03374).

    1 - C(n - c, k) / C(n, k) for c of n right; mean over problems of k samples or more, None if
    there are none.
    """
    chances = [
        1 - math.comb(len(samples) - sum(samples), k) / math.comb(len(samples), k)
        for samples in right
        if len(samples) >= k
    ]
    return float(np.mean(chances)) if chances else None


RIGHT_ANSWER = "right"
"""The vote of samples whose answer was graded right: they agree with the gold answer."""


def votes(forms: Sequence[str | None], verdicts: Sequence[bool]) -> list[str | None]:
    """Return what each sample of a problem votes for; None where it has no answer.

    Answers that were graded right are one class, however they are written; the others are classes
    by their normal form. No form can be taken for RIGHT_ANSWER: it has a mark before it.
    """
    rights = {form for form, verdict in zip(forms, verdicts, strict=True) if verdict}
    return [
        None if form is None else RIGHT_ANSWER if form in rights else f"={form}" for form in forms
    ]


def majority_at_k(
    answers: Sequence[Sequence[str | None]], right: Right, k: int, seed: int = 0
) -> float | None:
    """The chance that the answer which most of k samples give is right (maj@k, 2203.11171).

    Samples whose answers were graded right vote alike, others for their answer's normal form (see
    `votes`). Those without an answer do not vote, ties are split evenly, and where nobody votes
    the problem is wrong. Mean over all subsets of k of a problem's samples if there are at most
    SUBSETS (k = 1 and k = n are exact), else over so many random ones of this seed; then over
    problems of k samples or more.

    Args:
        answers: [P][n], the normal forms (`grading.forms`) of what was extracted from the samples.
        right: [P][n].

    Returns:
        In 0..1; None if no problem has k samples, or if a right sample has no answer: a grader of
        one's own need not say what it found.
    """
    chances = []
    for texts, verdicts in zip(answers, right, strict=True):
        if any(text is None and verdict for text, verdict in zip(texts, verdicts, strict=True)):
            return None
        if len(texts) >= k:
            chances.append(_majority(texts, verdicts, k, seed))
    return float(np.mean(chances)) if chances else None


def _majority(forms: Sequence[str | None], verdicts: Sequence[bool], k: int, seed: int) -> float:
    voted = votes(forms, verdicts)
    classes = sorted({vote for vote in voted if vote is not None})
    if not classes:
        return 0.0
    ballots = np.array([[vote == name for name in classes] for vote in voted], dtype=np.float64)
    chosen = _subsets(len(forms), k, seed)
    counts = chosen @ ballots
    rights = chosen @ (ballots * np.array(verdicts, dtype=np.float64)[:, None])
    won = (counts == counts.max(axis=1, keepdims=True)) & (counts > 0)
    share = np.divide(rights, counts, out=np.zeros_like(counts), where=won)
    return float(np.mean(share.sum(axis=1) / np.maximum(won.sum(axis=1), 1)))


@lru_cache(maxsize=64)
def _subsets(n: int, k: int, seed: int) -> NDArray[np.float64]:
    """Which of n samples are in each subset of k: 0 or 1 of [subsets, n]."""
    if math.comb(n, k) <= SUBSETS:
        chosen = np.array(list(combinations(range(n), k)))
    else:
        chosen = np.random.default_rng(seed).random((SUBSETS, n)).argsort(axis=1)[:, :k]
    subsets = np.zeros((len(chosen), n))
    np.put_along_axis(subsets, chosen, 1.0, axis=1)
    return subsets


def accuracy_at_budget(
    right: Right, lengths: Sequence[Sequence[int]], budgets: Sequence[int]
) -> dict[int, tuple[float, float]]:
    """If responses were cut at so many tokens: accuracy, and tokens used.

    A longer response is wrong and costs the budget; one of exactly so many tokens stands. An upper
    bound of what the model does when it knows the budget, without drawing anew.

    Args:
        right: [P][n].
        lengths: [P][n], tokens.

    Returns:
        For each budget (accuracy in 0..1, mean of min(length, budget)).
    """
    at_budget = {}
    for budget in budgets:
        in_time = [
            [verdict and length <= budget for verdict, length in zip(*pair, strict=True)]
            for pair in zip(right, lengths, strict=True)
        ]
        used = [[min(length, budget) for length in samples] for samples in lengths]
        at_budget[budget] = (accuracy(in_time), float(problem_means(used).mean()))
    return at_budget


def percentiles(lengths: Sequence[int]) -> dict[str, float] | None:
    """Count, mean and percentiles (linear between neighbours) of all samples; None of none."""
    if not lengths:
        return None
    values_at: Mapping[str, Any] = {f"p{p}": float(np.percentile(lengths, p)) for p in PERCENTILES}
    return {"count": len(lengths), "mean": float(np.mean(lengths)), **values_at}


def bootstrap(
    values: ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic over problems (Efron 1979).

    Problems are drawn anew, not samples: how sure one is of the next set of problems like these.

    Args:
        values: one for each problem, [P].
        statistic: of [draws, P] along axis=1 -> [draws].
        level: share of the draws that lies within.

    Returns:
        (low, high).
    """
    known = np.asarray(values, dtype=np.float64)
    if known.ndim != 1 or known.size == 0:
        raise ValueError(f"values of shape {known.shape}; expected one for each problem")
    generator = np.random.default_rng(seed)
    step = max(1, 2_000_000 // known.size)  # draws at a time: 16 MB
    means = np.concatenate(
        [
            statistic(known[generator.integers(known.size, size=(part, known.size))], axis=1)
            for part in [min(step, draws - begin) for begin in range(0, draws, step)]
        ]
    )
    outside = (1 - level) / 2
    return float(np.quantile(means, outside)), float(np.quantile(means, 1 - outside))


def wilson(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share of n independent cases (Wilson 1927): (low, high).

    It has width at 0 and 1 too, where a bootstrap has none.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and 1 one end is the share itself, but for rounding.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def share_interval(
    values: ArrayLike, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Interval of a mean of shares, one for each problem, [P]: `bootstrap`.

    Where all problems have the same share, as at 0 and 100 %, draws of problems cannot differ, and
    it is `wilson` of P cases.
    """
    known = np.asarray(values, dtype=np.float64)
    if known.size and np.ptp(known) < _ALIKE:
        return wilson(float(known[0]), known.size, level)
    return bootstrap(known, level=level, draws=draws, seed=seed)


def difference_interval(
    values: ArrayLike, baseline: ArrayLike, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean difference of shares on the same problems, [P] both: `paired_bootstrap`.

    Where all problems have the same difference, it reaches as far to both sides as a share may be
    of which P problems have no case (`wilson` of 0), and nowhere beyond -1 and 1.
    """
    differences = np.asarray(values, np.float64) - np.asarray(baseline, np.float64)
    if differences.size and np.ptp(differences) < _ALIKE:
        middle, reach = float(differences[0]), wilson(0.0, differences.size, level)[1]
        return max(-1.0, middle - reach), min(1.0, middle + reach)
    return paired_bootstrap(values, baseline, level, draws, seed)


def independent_interval(
    values: ArrayLike, baseline: ArrayLike, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the difference of means of shares on different problems, [P] and [Q].

    From the ends of both means' `share_interval`s (Newcombe 1998, method 10).
    """
    ends = []
    for shares in (values, baseline):
        mean = float(np.mean(np.asarray(shares, np.float64)))
        low, high = share_interval(shares, level, draws, seed)
        ends.append((mean, max(0.0, mean - low), max(0.0, high - mean)))
    (mean, below, above), (other, other_below, other_above) = ends
    return (
        max(-1.0, mean - other - math.hypot(below, other_above)),
        min(1.0, mean - other + math.hypot(above, other_below)),
    )


def paired_bootstrap(
    values: ArrayLike, baseline: ArrayLike, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """`bootstrap` of the mean difference to a baseline on the same problems, [P] both.

    What makes a problem hard for both cancels, which makes it narrower than two intervals.
    """
    known, others = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    if known.shape != others.shape:
        raise ValueError(f"values of shapes {known.shape} and {others.shape}; expected the same")
    return bootstrap(known - others, level=level, draws=draws, seed=seed)


def crossed_bootstrap(
    values: ArrayLike, level: float = 0.95, draws: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a mean over training seeds and problems, [S][P]: (low, high).

    Seeds and problems are drawn anew, both, each independently of the other (the pigeonhole
    bootstrap, Owen 2007): how sure one is of another training and another set of problems like
    these. It is slightly too wide. Of one seed, problems alone are drawn.
    """
    known = np.asarray(values, dtype=np.float64)
    if known.ndim != 2 or known.size == 0:
        raise ValueError(f"values of shape {known.shape}; expected one for each seed and problem")
    rows, columns = (_draws(size, draws, seed + i) for i, size in enumerate(known.shape))
    means = np.einsum("ds,sp,dp->d", rows, known, columns, optimize=True) / known.size
    outside = (1 - level) / 2
    return float(np.quantile(means, outside)), float(np.quantile(means, 1 - outside))


@lru_cache(maxsize=16)
def _draws(size: int, draws: int, seed: int) -> NDArray[np.float64]:
    """How often each of so many is drawn, in each draw with replacement: [draws][size]."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(size, np.full(size, 1 / size), draws).astype(np.float64)


def aes(
    accuracy: float, length: float, base_accuracy: float, base_length: float
) -> tuple[float, float] | None:
    """Accuracy-efficiency score against a baseline: (signed, absolute).

    With dL the share of the tokens that was saved and dA the relative change of accuracy: signed
    is dL + 3 dA for a gain and dL - 5 |dA| for a loss, which is the definition; absolute is dL +
    3 |dA|, which is what the table of O1-Pruner (2501.12570) prints: it credits losses. Its average
    is the mean of the sets' scores. None where the baseline has no right answer or no tokens.
    """
    if base_accuracy == 0 or base_length == 0:
        return None
    saved = 1 - length / base_length
    change = accuracy / base_accuracy - 1
    signed = saved + (3 if change >= 0 else 5) * change
    return signed, saved + 3 * abs(change)


def ock_score(accuracy: float, length: float) -> float:
    """OckScore (OckBench, 2511.05722): 100 accuracy - 10 ln(length / 10,000 + 1).

    The logarithm is the natural one, and 1 is added, as in the code that is published; the site's
    text has neither. OckBench counts the prompt's tokens too: here they are the response's.

    Args:
        accuracy: in 0..1.
        length: mean tokens of a response.
    """
    return 100 * accuracy - 10 * math.log(length / 10_000 + 1)


def area_under_budgets(at_budget: Mapping[int, float]) -> float | None:
    """The mean accuracy over budgets, each doubling weighing the same.

    The area under accuracy over the logarithm of the budget, by trapezoids, divided by its width:
    in 0..1; None for fewer than two budgets. Comparable only over the same budgets.
    """
    if len(at_budget) < 2:
        return None
    budgets = sorted(at_budget)
    logs = np.log([float(budget) for budget in budgets])
    values = np.array([at_budget[budget] for budget in budgets])
    area = float(np.sum(np.diff(logs) * (values[1:] + values[:-1]) / 2))
    return area / float(logs[-1] - logs[0])


def right_length_by_difficulty(
    right: Right, lengths: Sequence[Sequence[int]]
) -> dict[str, dict[str, float]]:
    """Tokens of right answers to easy, medium and hard problems.

    Args:
        right: [P][n].
        lengths: [P][n], tokens.

    Returns:
        For each difficulty with a right answer: "problems", how many have one, and "length", the
        mean over them of the mean tokens of their right answers.
    """
    means: dict[str, list[float]] = {}
    for verdicts, counts in zip(right, lengths, strict=True):
        if any(verdicts):
            of_right = [n for n, is_right in zip(counts, verdicts, strict=True) if is_right]
            means.setdefault(difficulty(verdicts), []).append(float(np.mean(of_right)))
    return {
        name: {"problems": len(means[name]), "length": float(np.mean(means[name]))}
        for name in DIFFICULTIES
        if name in means
    }
