"""Components are called, and what they return is checked: a user's own may do anything."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaprune.algorithms import registry
from megaprune.algorithms.loss_metrics import Metric
from megaprune.algorithms.records import Group, LossBatch, LossOutput
from megaprune.algorithms.rewards.history import Memory
from megaprune.errors import InputError


def of_group_words(group: Group) -> str:
    """The words of a group in messages."""
    name = f" {group.name}" if group.name else ""
    return f" for group{name} of {len(group.correct)}"


def call(kind: str, component: Any, of_group: str, *args: Any, method: str = "__call__") -> Any:
    """What a component says; an error in the user's own is told in a line."""
    if not registry.is_own(kind, component):
        return getattr(component, method)(*args)
    try:
        return getattr(component, method)(*args)
    except Exception as error:
        raise InputError(
            f"{kind} {registry.name_of(kind, component)} failed{of_group}: "
            f"{registry.describe_error(error)}"
        ) from error


def checked_array(
    kind: str, component: Any, value: Any, shape: tuple[int, ...], of_group: str, dtype: type
) -> NDArray[Any]:
    """A component's answer as an array of this shape: of finite numbers, or of bool."""
    words = "true or false" if dtype is bool else "finite numbers"
    expected = f"{' x '.join(map(str, shape))} {words}"
    returned = f"{kind} {registry.name_of(kind, component)} returned"
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{returned} {value!r}{of_group}; expected {expected}") from error
    kinds = "b" if dtype is bool else "bif"
    if array.dtype.kind not in kinds and array.size:
        shown = f"{value!r}" if array.ndim == 0 else f"elements of type {array.dtype}"
        raise InputError(f"{returned} {shown}{of_group}; expected {expected}")
    if array.shape != shape:
        raise InputError(f"{returned} shape {array.shape}{of_group}; expected {expected}")
    if not np.isfinite(array).all():
        wrong = array[~np.isfinite(array)][0]
        raise InputError(f"{returned} {wrong}{of_group}; expected {expected}")
    return array.astype(dtype)


def plain_memory(reward: Any, memory: Any) -> Memory:
    """What a reward remembers, as a checkpoint holds it."""
    try:
        plain = json.loads(json.dumps(memory, allow_nan=False))
        if isinstance(plain, dict):
            return plain
        what = f"a {type(memory).__name__}"
    except (TypeError, ValueError) as error:
        what = str(error)
    raise InputError(
        f"reward {registry.name_of('reward', reward)}.observe returned {what}; expected a mapping "
        f"of numbers, texts, lists and mappings, as JSON has them"
    )


def wrong_output(output: Any, batch: LossBatch) -> str:
    """What is wrong with what a loss returned; empty if nothing is."""
    if not isinstance(output, LossOutput):
        return f"a {type(output).__name__}; expected a LossOutput(loss, metrics)"
    if not hasattr(output.loss, "numel") or output.loss.numel() != 1:
        shape = tuple(getattr(output.loss, "shape", ())) or type(output.loss).__name__
        return f"a loss of shape {shape}; expected a tensor with one number"
    sizes = {"token": batch.log_probs.numel(), "sequence": len(batch.borders) - 1, "": None}
    for name, metric in output.metrics.items():
        if not isinstance(metric, Metric):
            return (
                f"{metric!r} as metric {name!r}; expected one of sum_of, mean_by_token, "
                f"mean_by_sequence, maximum, percentiles"
            )
        size = sizes[metric.per]
        if size is not None and metric.size != size:
            return f"{metric.size} values of {name!r}; expected {size}, one for each {metric.per}"
    return ""
