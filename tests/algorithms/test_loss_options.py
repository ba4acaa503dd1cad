"""Options of the losses of GRPO's family, against their formulas sequence by sequence."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from megaprune.algorithms.advantages import Gdpo
from megaprune.algorithms.algorithm import Algorithm
from megaprune.algorithms.loss_metrics import combine, to_host
from megaprune.algorithms.losses import CispoLoss, DrGrpoLoss, GrpoLoss, GspoLoss
from megaprune.algorithms.records import BatchInfo, LossBatch
from megaprune.errors import InputError

LOSSES = [
    GrpoLoss(aggregate="sequence", kl_coef=0.2, entropy_coef=0.1),
    GrpoLoss(dual_clip=1.3),
    GrpoLoss(kl_coef=0.2, kl_estimator="k1"),
    GrpoLoss(kl_coef=0.2, kl_estimator="k2"),
    GrpoLoss(kl_coef=0.05, kl_in="reward", aggregate="sequence"),
    GrpoLoss(importance_cap=1.2, importance_above="mask"),
    GrpoLoss(importance_cap=1.4, importance_above="mask", importance_floor=0.7),
    GrpoLoss(importance_cap=1.5, importance_level="sequence"),
    GrpoLoss(importance_cap=1.5, importance_level="sequence", importance_above="mask"),
    DrGrpoLoss(sequence_tokens=13, dual_clip=1.3, kl_coef=0.1, kl_estimator="k2"),
    GspoLoss(clip_ratio_low=0.1, clip_ratio_high=0.15),
    GspoLoss(
        clip_ratio_low=0.1,
        clip_ratio_high=0.15,
        dual_clip=1.05,
        importance_cap=1.5,
        importance_level="sequence",
    ),
    GspoLoss(clip_ratio_low=0.1, clip_ratio_high=0.15, kl_coef=0.1, entropy_coef=0.1),
    GspoLoss(clip_ratio_low=0.2, clip_ratio_high=0.2, ratio_to="reference"),
    GrpoLoss(ratio_to="reference", importance_cap=1.4, kl_coef=0.1),
    CispoLoss(),
    CispoLoss(clip_ratio_low=0.1, clip_ratio_high=0.3, aggregate="sequence", kl_coef=0.1),
]
BORDERS = (0, 3, 4, 11, 16, 20)
SEQUENCES, TOKENS = 7, 33
"""Of the whole batch, of which this micro-batch is a part."""


def drawn(seed):
    """Log-probs and entropies [N], values by name; an advantage for each sequence."""
    rng = np.random.default_rng(seed)
    count = BORDERS[-1]
    log_probs = -rng.exponential(1.0, count)
    values = {name: log_probs + rng.normal(0, 0.4, count) for name in ("old", "reference")}
    values["rollout"] = values["old"] + rng.normal(0, 0.3, count)
    advantages = np.array([1.5, -0.7, 2.0, -1.1, -2.0])
    values["advantage"] = np.repeat(advantages, np.diff(BORDERS))
    return log_probs, rng.exponential(1.0, count), values


def plain(loss, log_probs, entropy, values, frozen):
    """The loss by its formulas; what has no gradient is computed of `frozen` log-probs."""
    total = 0.0
    for start, end in pairwise(BORDERS):
        span = range(start, end)
        old, ref, roll = (values[name] for name in ("old", "reference", "rollout"))
        base = values[loss.ratio_to]

        def kl(t, lp, ref=ref):
            d = ref[t] - lp[t]
            return {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}[loss.kl_estimator]

        advantage = values["advantage"][start]
        sequence_weight = math.exp(sum(old[t] - roll[t] for t in span))
        sequence_ratio = math.exp(sum(log_probs[t] - base[t] for t in span) / len(span))
        terms = []
        for t in span:
            low, high = 1 - loss.clip_ratio_low, 1 + loss.clip_ratio_high
            ratio = math.exp(log_probs[t] - base[t])
            if isinstance(loss, GspoLoss):
                ratio = sequence_ratio
            if isinstance(loss, CispoLoss):
                held = min(max(math.exp(frozen[t] - base[t]), low), high)
                policy = -advantage * held * log_probs[t]
            else:
                policy = max(-advantage * ratio, -advantage * min(max(ratio, low), high))
                if loss.dual_clip and advantage < 0:
                    policy = min(policy, -advantage * loss.dual_clip)
            if loss.importance_cap:
                w = math.exp(old[t] - roll[t])
                w = sequence_weight if loss.importance_level == "sequence" else w
                above = loss.importance_cap if loss.importance_above == "cap" else 0.0
                w = above if w > loss.importance_cap else w if w >= loss.importance_floor else 0.0
                policy *= w
            extra = loss.kl_coef * kl(t, log_probs) if loss.kl_in == "loss" else 0.0
            terms.append(policy + extra - loss.entropy_coef * entropy[t])
        total += sum(terms) / len(terms) if loss.aggregate == "sequence" else sum(terms)
    if isinstance(loss, DrGrpoLoss):
        return total / (SEQUENCES * loss.sequence_tokens)
    return total / (SEQUENCES if loss.aggregate == "sequence" else TOKENS)


def of(log_probs, entropy, values, borders=BORDERS):
    tensors = {name: torch.tensor(v) for name, v in values.items()}
    info = BatchInfo(TOKENS, SEQUENCES, policy_moved=True)
    return LossBatch(log_probs, torch.tensor(entropy), tensors, borders, info)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_against_the_formulas(loss):
    clipped = 0.0
    for seed in range(5):
        log_probs, entropy, values = drawn(seed)
        output = loss(of(torch.tensor(log_probs), entropy, values))
        expected = plain(loss, log_probs, entropy, values, log_probs)
        assert output.loss.item() == pytest.approx(expected, abs=1e-12)
        clipped += combine([to_host(output)])[1]["clip_ratio"]
    assert clipped > 0  # so that the clip is in what was compared


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_gradients_are_slopes(loss):
    log_probs, entropy, values = drawn(7)
    model = torch.tensor(log_probs).requires_grad_()
    loss(of(model, entropy, values)).loss.backward()
    assert model.grad is not None
    for t in range(BORDERS[-1]):
        nudge = np.zeros_like(log_probs)
        nudge[t] = 1e-6
        up, down = (plain(loss, log_probs + s * nudge, entropy, values, log_probs) for s in (1, -1))
        assert model.grad[t].item() == pytest.approx((up - down) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_micro_batches_add_up(loss):
    log_probs, entropy, values = drawn(3)
    whole = torch.tensor(log_probs).requires_grad_()
    parts = torch.tensor(log_probs).requires_grad_()
    total = loss(of(whole, entropy, values)).loss
    total.backward()
    shares = []
    for first, last in ((0, 2), (2, 2), (2, 3), (3, 5)):
        piece = slice(BORDERS[first], BORDERS[last])
        borders = tuple(b - BORDERS[first] for b in BORDERS[first : last + 1])
        micro = of(parts[piece], entropy[piece], {n: v[piece] for n, v in values.items()}, borders)
        shares.append(loss(micro).loss)
        shares[-1].backward()
    assert sum(share.item() for share in shares) == pytest.approx(total.item(), abs=1e-12)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=0, atol=1e-12)


def test_gspo_clips_a_response_as_a_whole():
    old = torch.log(torch.tensor([0.5, 0.5, 0.2, 0.2], dtype=torch.float64))
    # Ratios 2 and 1/2 have the geometric mean 1; ratios 1.44 and 1 have 1.2.
    model = torch.log(torch.tensor([1.0, 0.25, 0.288, 0.2], dtype=torch.float64))
    values = {"old": old, "advantage": torch.ones(4, dtype=torch.float64)}
    gspo = GspoLoss(clip_ratio_low=0.1, clip_ratio_high=0.1)
    batch = LossBatch(model, old, values, (0, 2, 4), BatchInfo(4, 2, policy_moved=True))
    output = gspo(batch)
    assert output.loss.item() == pytest.approx(-(1.0 + 1.1) / 2)
    assert combine([to_host(output)])[1]["clip_ratio"] == 0.5


def test_what_a_reward_loses_by_its_divergence():
    old, reference = torch.log(torch.tensor([[0.5, 0.2], [0.25, 0.4]], dtype=torch.float64))
    d = np.array([-math.log(2), math.log(2)])
    for estimator, kl in (("k1", -d), ("k2", d**2 / 2), ("k3", np.exp(d) - d - 1)):
        loss = GrpoLoss(kl_coef=0.3, kl_in="reward", kl_estimator=estimator)
        assert loss.reward_penalty(old, reference) == pytest.approx(0.3 * kl.sum())
        assert not loss.needs_all
        assert Algorithm(loss=loss).needs == {"old", "reference"}
    with pytest.raises(InputError, match="kl_in=reward with algorithm.advantage.name=gdpo"):
        Algorithm(loss=loss, advantage=Gdpo())


def test_what_cannot_be_together():
    with pytest.raises(InputError, match="aggregate=sequence; dr_grpo adds up tokens"):
        DrGrpoLoss(aggregate="sequence")
    with pytest.raises(InputError, match="dual_clip=3.0; cispo has no such bound"):
        CispoLoss(dual_clip=3.0)
    with pytest.raises(InputError, match=r"dual_clip=1.0; expected more than 1"):
        GrpoLoss(dual_clip=1.0)
