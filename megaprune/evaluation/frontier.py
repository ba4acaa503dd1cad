"""How far a model is from the best accuracy that is known within every number of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from megaprune.errors import InputError
from megaprune.evaluation.metrics import Right
from megaprune.yaml_text import load_yaml

Frontier: TypeAlias = Mapping[int, float]
"""The best accuracy that is known, in 0..1, by the tokens that a response may have."""

Curve: TypeAlias = NDArray[np.float64]
"""[limit]: accuracy in 0..1 if responses longer than 1, 2, ..., limit tokens were wrong."""

_EXPECTED = "expected for each set a mapping of tokens to accuracy, as {aime24: {1000: 0.1}}"


def efficiency_gap(frontier: Curve, own: Curve) -> float:
    """The Reasoning Efficiency Gap (REG of REO-RL, 2506.07104), in tokens.

    The area between the best accuracy that is known and a model's own, over the tokens that a
    response may have. Divided by the limit it is the mean accuracy that is missing. It is below 0
    for a model that is beyond the frontier.
    """
    return float((frontier - own).sum())


def accuracy_within(right: Right, lengths: Sequence[Sequence[int]], limit: int) -> Curve:
    """The curve of graded samples: each problem weighs the same, and each of its samples.

    Args:
        right: [P][n].
        lengths: [P][n], tokens.
        limit: tokens of the longest response that counts.
    """
    gains = np.zeros(limit)
    for verdicts, tokens in zip(right, lengths, strict=True):
        for verdict, length in zip(verdicts, tokens, strict=True):
            if verdict and length <= limit:
                gains[max(length, 1) - 1] += 1 / (len(verdicts) * len(right))
    return np.cumsum(gains)


def frontier_within(frontier: Frontier, limit: int) -> Curve:
    """The curve through the points of a frontier, from 0 at no token, and level behind the last."""
    points = {0: 0.0, **frontier}
    places = sorted(points)
    curve: Curve = np.interp(np.arange(1, limit + 1), places, [points[at] for at in places])
    return curve


def read_frontiers(name: str) -> dict[str, Frontier]:
    """Read the frontier of each set from a YAML file, as {aime24: {1000: 0.1, 2000: 0.25}}.

    Raises:
        InputError: the file cannot be read, or is something else.
    """
    where = f"frontier={name}"
    try:
        content = load_yaml(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: cannot be read ({error}); {_EXPECTED}") from error
    except InputError as error:
        raise InputError(f"{where}: {error}; {_EXPECTED}") from error
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{where}: {type(content).__name__}; {_EXPECTED}")
    return {str(key): _checked(points, f"{where}: {key}") for key, points in content.items()}


def _checked(points: Any, where: str) -> Frontier:
    if not isinstance(points, Mapping) or not points:
        raise InputError(f"{where}: {points!r}; {_EXPECTED}")
    for tokens, accuracy in points.items():
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise InputError(f"{where}: {tokens!r} for tokens; expected a whole number, 1 or more")
        number = isinstance(accuracy, int | float) and not isinstance(accuracy, bool)
        if not number or not 0 <= accuracy <= 1:
            raise InputError(f"{where}: {accuracy!r} at {tokens} tokens; expected 0 to 1")
    return {int(tokens): float(accuracy) for tokens, accuracy in points.items()}
