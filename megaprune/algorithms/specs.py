"""Specs of algorithms: plain dictionaries, as YAML has them, put together from presets and changes.

    {"preset": "dler", "reward": {"name": "soft_overlong", "cache": 500}}

`reward` is short for `rewards` with a single entry. What is not said is the preset's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from megaprune.algorithms.presets import DEFAULT, PRESETS
from megaprune.config.fields import nearest
from megaprune.errors import InputError

_SINGLE = ("num_minibatches", "length")
PARTS = ("preset", "reward", "rewards", "advantage", "filter", "loss", *_SINGLE)
"""What a spec may say."""

Spec: TypeAlias = Mapping[str, Any] | str
"""The name of a preset, or any of `PARTS`."""


def whole_spec(spec: Spec) -> dict[str, Any]:
    """A spec with all its parts: `rewards`, `advantage`, `filter`, `loss`, and single fields.

    Raises:
        InputError: no such preset or part; begins with the dotted name of the field.
    """
    given = _mapping(spec)
    return _changed(_preset(given.get("preset", DEFAULT)), given)


def merge_specs(base: Spec, change: Spec) -> dict[str, Any]:
    """A whole spec with some of it changed.

    A component that is given another name loses the fields of the one whose place it takes; one
    that is given fields alone keeps the others. A preset takes the place of everything.

    Raises:
        InputError: as `whole_spec`.
    """
    given = _mapping(change)
    return whole_spec(change) if "preset" in given else _changed(whole_spec(base), given)


def _changed(whole: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if "reward" in given and "rewards" in given:
        raise InputError("algorithm.reward and algorithm.rewards are both given; expected one")
    result = copy.deepcopy(whole)
    for part, value in given.items():
        if part == "reward":
            result["rewards"] = [_single(result["rewards"], value)]
        elif part == "rewards":
            result["rewards"] = _entries(value)
        elif part in _SINGLE:
            result[part] = value
        elif part != "preset":
            result[part] = _component(result[part], value, f"algorithm.{part}")
    return result


def _preset(name: Any) -> dict[str, Any]:
    if name not in PRESETS:
        raise InputError(f"algorithm={name!r}; {nearest(str(name), list(PRESETS))}")
    return {"length": "response", **PRESETS[name].spec}


def _mapping(spec: Any) -> Mapping[str, Any]:
    if isinstance(spec, str):
        return {"preset": spec}
    if not isinstance(spec, Mapping):
        raise InputError(
            f"algorithm={spec}; expected a preset ({', '.join(PRESETS)}) or fields such as "
            f"algorithm.reward.name"
        )
    for part in spec:
        if part not in PARTS:
            advice = nearest(f"algorithm.{part}", [f"algorithm.{p}" for p in PARTS])
            raise InputError(f"algorithm.{part}: there is no such field; {advice}")
    return spec


def _component(base: Mapping[str, Any], value: Any, where: str) -> dict[str, Any]:
    """A component's spec, on top of the one that it changes or takes the place of."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise InputError(f"{where}={value}; expected fields, or {where}.name=...")
    if value.get("name", base["name"]) != base["name"]:
        return dict(value)
    return {**base, **value}


def _single(rewards: Sequence[Mapping[str, Any]], value: Any) -> dict[str, Any]:
    named = isinstance(value, str) or (isinstance(value, Mapping) and "name" in value)
    if len(rewards) > 1 and not named:
        names = ", ".join(str(entry["name"]) for entry in rewards)
        raise InputError(
            f"algorithm.reward: there are several rewards ({names}); set its fields in "
            f"algorithm.rewards=[...], or choose one by algorithm.reward.name=..."
        )
    base = rewards[0] if len(rewards) == 1 else {"name": None}
    return _component(base, value, "algorithm.reward")


def _entries(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence) or not value:
        raise InputError(
            f"algorithm.rewards={value}; expected a list such as [{{name: truncate}}, "
            f"{{name: my_rewards.py:Brevity, weight: 0.2}}]"
        )
    entries = []
    for number, entry in enumerate(value):
        where = f"algorithm.rewards[{number}]"
        if not isinstance(entry, (str, Mapping)) or (
            isinstance(entry, Mapping) and not entry.get("name")
        ):
            raise InputError(f"{where}={entry}; expected a name and fields: {{name: truncate}}")
        entries.append({"name": entry} if isinstance(entry, str) else dict(entry))
    return entries
