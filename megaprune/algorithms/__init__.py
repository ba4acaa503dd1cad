"""What is learned from graded responses: rewards, advantages, filters and losses as objects.

No process groups and no engines; torch is used through the tensors that a loss is given. A reward
or a loss of one's own needs no more than what is here:

    from megaprune.algorithms import Group, LossBatch, LossOutput, mean_by_token
"""

from megaprune.algorithms.algorithm import Algorithm, GroupScore, WeightedReward, describe_fields
from megaprune.algorithms.loss_metrics import (
    maximum,
    mean_by_sequence,
    mean_by_token,
    percentiles,
    sum_of,
)
from megaprune.algorithms.records import BatchInfo, Group, LossBatch, LossOutput
from megaprune.algorithms.specs import merge_specs

__all__ = [
    "Algorithm",
    "BatchInfo",
    "Group",
    "GroupScore",
    "LossBatch",
    "LossOutput",
    "WeightedReward",
    "describe_fields",
    "maximum",
    "mean_by_sequence",
    "mean_by_token",
    "merge_specs",
    "percentiles",
    "sum_of",
]
