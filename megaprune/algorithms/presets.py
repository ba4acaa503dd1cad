"""Vetted wholes, as specs. A preset is chosen as `algorithm=NAME`; any field set beside it makes
an assembly of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Preset(NamedTuple):
    """A whole algorithm.

    Args:
        doc: what it is and where it is from.
        spec: of all its parts; fields that are not there have their component's default.
    """

    doc: str
    spec: Mapping[str, Any]


DEFAULT = "grpo"
"""What an algorithm is where nothing is said."""

_DLER: Mapping[str, Any] = {
    "rewards": [{"name": "truncate"}],
    "advantage": {"name": "batch_std"},
    "filter": {"name": "no_signal", "max_resample_rounds": 2},
    "loss": {"name": "grpo", "clip_ratio_high": 0.28},
    "num_minibatches": 1,
}

PRESETS: Mapping[str, Preset] = {
    "grpo": Preset(
        "GRPO (2402.03300) as trainers run it now: the mean over all tokens of the batch, "
        "advantages over the group's deviation, no KL and no entropy bonus",
        {
            "rewards": [{"name": "truncate"}],
            "advantage": {"name": "group_std"},
            "filter": {"name": "none"},
            "loss": {"name": "grpo"},
            "num_minibatches": 1,
        },
    ),
    "thinkprune": Preset(
        "ThinkPrune (2504.01296): GRPO with a weak hold on the round's first model and a weak "
        "entropy bonus",
        {
            "rewards": [{"name": "truncate"}],
            "advantage": {"name": "group_std"},
            "filter": {"name": "none"},
            "loss": {"name": "grpo", "kl_coef": 0.001, "entropy_coef": 0.001},
            "num_minibatches": 1,
        },
    ),
    "dler": Preset(
        "DLER (2510.15110): the same reward; advantages centred by group and divided by the "
        "deviation of the batch, a higher upper clip, groups without signal replaced, no KL",
        _DLER,
    ),
    "dr_grpo": Preset(
        "Dr. GRPO (2503.20783): advantages are not divided by a deviation, nor sums of tokens by "
        "the lengths of responses, but by a constant",
        {
            "rewards": [{"name": "truncate"}],
            "advantage": {"name": "group_mean"},
            "filter": {"name": "none"},
            "loss": {"name": "dr_grpo"},
            "num_minibatches": 1,
        },
    ),
    "da_dler": Preset(
        "DA-DLER (2510.15110): as dler, with a smaller limit for problems that are mostly right",
        {**_DLER, "rewards": [{"name": "truncate", "easy_limit": 2000}]},
    ),
    "laser_de": Preset(
        "LASER-DE (2505.15612): a bonus within budgets that are found for three difficulties, and "
        "for wrong answers beyond them",
        {
            "rewards": [{"name": "step_bonus", "by_difficulty": True, "explore": True}],
            "advantage": {"name": "group_std"},
            "filter": {"name": "none"},
            "loss": {"name": "grpo"},
            "num_minibatches": 1,
        },
    ),
    "gfpo": Preset(
        "GFPO (2508.09726): many responses are drawn, and the shortest are learned from",
        {
            "rewards": [{"name": "correct"}],
            "advantage": {"name": "group_std"},
            "filter": {"name": "keep_shortest", "k": 8},
            "loss": {"name": "grpo", "kl_coef": 0.001, "entropy_coef": 0.001},
            "num_minibatches": 1,
        },
    ),
    "sft": Preset(
        "fine-tuning on the two shortest right responses to each problem, which O1-Pruner "
        "(2501.12570) is compared with",
        {
            "rewards": [{"name": "correct"}],
            "advantage": {"name": "group_mean"},
            "filter": {"name": "shortest_right"},
            "loss": {"name": "sft"},
            "num_minibatches": 1,
        },
    ),
    "dpo": Preset(
        "DPO (2305.18290) on the shortest and the longest right response to each problem, likewise",
        {
            "rewards": [{"name": "minmax"}],
            "advantage": {"name": "group_mean"},
            "filter": {"name": "right_pair"},
            "loss": {"name": "dpo"},
            "num_minibatches": 1,
        },
    ),
    "alp": Preset(
        "ALP (2506.05256): a token costs more the more of a group's answers are right; advantages "
        "are not divided by a deviation, which would take the strength out of it",
        {
            "rewards": [{"name": "solve_rate"}],
            "advantage": {"name": "group_mean"},
            "filter": {"name": "none"},
            "loss": {"name": "grpo"},
            "num_minibatches": 1,
        },
    ),
}
"""Presets by the name that a configuration calls them."""
