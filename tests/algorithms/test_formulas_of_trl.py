"""The numbers of TRL's GRPO and RLOO trainers, by their formulas (trl 1.16.0, grpo_trainer.py).

Responses are rows of a padded matrix with a mask, as they are there. TRL's own functions were run
on the same numbers, too: losses and gradients were the same to 1e-16.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from megaprune.algorithms.advantages import Gdpo, GroupMean, GroupStd, LeaveOneOut
from megaprune.algorithms.losses import CispoLoss, DrGrpoLoss, GrpoLoss, GspoLoss
from megaprune.algorithms.records import BatchInfo, LossBatch

LENGTHS, LIMIT = (3, 1, 7, 5, 4), 11
COUNT = sum(LENGTHS)
ADVANTAGES = torch.tensor([1.5, -0.7, 2.0, -1.1, -2.0], dtype=torch.float64)


def drawn():
    rng = np.random.default_rng(0)
    log_probs = -rng.exponential(1.0, COUNT)
    old, reference = (log_probs + rng.normal(0, 0.4, COUNT) for _ in range(2))
    columns = {"old": old, "reference": reference, "rollout": old + rng.normal(0, 0.3, COUNT)}
    values = {name: torch.tensor(column) for name, column in columns.items()}
    return torch.tensor(log_probs), values


def padded(values):
    return pad_sequence(values.split(LENGTHS), batch_first=True)


MASK = padded(torch.ones(COUNT, dtype=torch.float64))


def of_trl(log_probs, values, loss_type, level="token", beta=0.0, low=0.2, high=0.2, delta=None,
           correction=None, correction_range=(0.0, np.inf)):  # fmt: skip
    """The loss of a batch, with TRL's names of what can be chosen."""
    x, old, reference, rollout = map(padded, (log_probs, *values.values()))
    apart = (x - old) * MASK
    if level == "sequence":
        apart = (apart.sum(1) / MASK.sum(1))[:, None]
    ratio, advantage = apart.exp(), ADVANTAGES[:, None]
    if loss_type == "cispo":
        loss = -ratio.detach().clamp(max=high) * advantage * x
    else:
        free = ratio if delta is None else ratio.clamp(max=delta)
        loss = -torch.minimum(free * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    if correction is not None:
        unit, how = correction.split("_")
        weight = (old - rollout) * MASK
        weight = (weight.sum(1, keepdim=True) if unit == "sequence" else weight).exp()
        least, most = correction_range
        outside = (weight < least) | (weight > most)
        loss = loss * (weight.clamp(least, most) if how == "truncate" else weight * ~outside)
    if beta:
        loss = loss + beta * ((reference - x).exp() - (reference - x) - 1)
    loss = loss * MASK
    if loss_type == "grpo":
        return (loss.sum(1) / MASK.sum(1)).mean()
    return loss.sum() / (len(LENGTHS) * LIMIT if loss_type == "dr_grpo" else MASK.sum())


CAPPED = {"correction": "token_truncate", "correction_range": (0.0, 1.2)}
MASKED = {"correction": "token_mask", "correction_range": (0.8, 1.2)}
BY_SEQUENCE = {"correction": "sequence_truncate", "correction_range": (0.0, 1.5)}
LOSSES = [
    ({"loss_type": "grpo", "beta": 0.1}, GrpoLoss(aggregate="sequence", kl_coef=0.1)),
    ({"loss_type": "bnpo", "beta": 0.1}, GrpoLoss(kl_coef=0.1)),
    ({"loss_type": "dapo", "high": 0.28}, GrpoLoss(clip_ratio_high=0.28)),
    ({"loss_type": "dapo", "delta": 1.3}, GrpoLoss(dual_clip=1.3)),
    ({"loss_type": "dr_grpo", "beta": 0.1}, DrGrpoLoss(kl_coef=0.1)),
    (
        {"loss_type": "grpo", "level": "sequence", "low": 0.1, "high": 0.15, "beta": 0.1},
        GspoLoss(clip_ratio_low=0.1, clip_ratio_high=0.15, kl_coef=0.1),
    ),
    # TRL has no lower bound of the ratio, and its upper bound is the ratio itself.
    ({"loss_type": "cispo", "high": 1.3}, CispoLoss(clip_ratio_low=0.999, clip_ratio_high=0.3)),
    ({"loss_type": "dapo", **CAPPED}, GrpoLoss(importance_cap=1.2)),
    (
        {"loss_type": "dapo", **MASKED},
        GrpoLoss(importance_cap=1.2, importance_floor=0.8, importance_above="mask"),
    ),
    (
        {"loss_type": "dapo", **BY_SEQUENCE},
        GrpoLoss(importance_cap=1.5, importance_level="sequence"),
    ),
]


@pytest.mark.parametrize(("chosen", "loss"), LOSSES, ids=str)
def test_losses(chosen, loss):
    log_probs, values = drawn()
    theirs, ours = (log_probs.clone().requires_grad_() for _ in range(2))
    expected = of_trl(theirs, values, **chosen)
    expected.backward()
    values["advantage"] = ADVANTAGES.repeat_interleave(torch.tensor(LENGTHS))
    borders = tuple(np.cumsum([0, *LENGTHS]).tolist())
    info = BatchInfo(COUNT, len(LENGTHS), limit=LIMIT, policy_moved=True)
    output = loss(LossBatch(ours, torch.ones(COUNT), values, borders, info))
    output.loss.backward()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)
    # What was chosen makes a difference.
    other = replace(loss, clip_ratio_high=loss.clip_ratio_high / 2)
    assert other(LossBatch(ours, torch.ones(COUNT), values, borders, info)).loss != output.loss


def test_advantages():
    parts = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 6, 5)))  # rewards, groups, K
    weights = torch.tensor([1.0, 0.3], dtype=torch.float64)
    total = torch.tensordot(weights, parts, 1)
    centred = total - total.mean(1, keepdim=True)
    grouped = (parts - parts.mean(2, keepdim=True)) / (parts.std(2, keepdim=True) + 1e-4)
    summed = torch.tensordot(weights, grouped, 1)
    others = (total.sum(1, keepdim=True) - total) / 4
    rewards, length = total.numpy(), np.ones((6, 5))
    for ours, theirs in (
        (GroupStd(epsilon=1e-4)(rewards), centred / (total.std(1, keepdim=True) + 1e-4)),
        (GroupMean()(rewards), centred),
        (LeaveOneOut()(rewards), total - others),
        (
            Gdpo(epsilon=1e-4)(parts.numpy(), weights.numpy(), length),
            (summed - summed.mean()) / (summed.std() + 1e-4),
        ),
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-12)
