"""What O1-Pruner is compared with, SFT, DPO and SimPO: from responses to gradients, by hand and
against plain numpy in float64."""

import numpy as np
import pytest
import torch

from megaprune.algorithms import Algorithm, Group, merge_specs
from megaprune.algorithms.loss_metrics import combine, to_host
from megaprune.algorithms.pair_losses import DpoLoss, SimpoLoss
from megaprune.algorithms.records import BatchInfo, LossBatch
from megaprune.errors import InputError


def near(expected):
    return pytest.approx(expected, rel=0, abs=1e-6)


def losses_and_gradient(loss, log_probs, reference, advantages, cuts=()):
    """The loss, the gradient by each token's log-prob and the metrics; micro-batches end at cuts."""
    leaf = torch.tensor(np.concatenate(log_probs), dtype=torch.float64, requires_grad=True)
    ends = np.cumsum([0, *map(len, log_probs)]).tolist()
    values = {
        "reference": torch.tensor(np.concatenate(reference), dtype=torch.float64),
        "advantage": torch.tensor(np.repeat(advantages, np.diff(ends))),
    }
    info, shares = BatchInfo(ends[-1], len(log_probs)), []
    for first, last in zip([0, *cuts], [*cuts, len(log_probs)], strict=True):
        piece = slice(ends[first], ends[last])
        micro = LossBatch(
            leaf[piece],
            torch.zeros_like(leaf)[piece],
            {name: value[piece] for name, value in values.items()},
            tuple(end - ends[first] for end in ends[first : last + 1]),
            info,
        )
        output = loss(micro)
        output.loss.backward()
        shares.append(to_host(output))
    total, metrics = combine(shares)
    return total, leaf.grad.numpy(), metrics


def test_dpo_by_hand():
    # s of the short one: -1.8 - -2.7 = .9; of the long one: -2.1 - -1.5 = -.6.
    log_probs = [[-0.5, -1.0, -0.3], [-2.0, -0.1]]
    reference = [[-0.9, -1.1, -0.7], [-1.0, -0.5]]
    loss, gradient, metrics = losses_and_gradient(DpoLoss(), log_probs, reference, (1.0, -1.0))
    # .1 x 1.5 = .15; -log sigmoid(.15) = .6209569; its slope -sigmoid(-.15) = -.4625702.
    assert loss == near(0.6209569)
    assert gradient == near([-0.04625702] * 3 + [0.04625702] * 2)
    assert metrics == {"pair/margin": near(0.15), "pair/accuracy": 1.0}
    # The other way round, and in the other order.
    loss, gradient, metrics = losses_and_gradient(DpoLoss(), log_probs, reference, (-0.2, 0.3))
    assert loss == near(0.7709569)
    assert gradient == near([0.05374298] * 3 + [-0.05374298] * 2)
    assert metrics == {"pair/margin": near(-0.15), "pair/accuracy": 0.0}


def test_simpo_by_hand():
    log_probs = [[-0.5, -1.0, -0.3], [-2.0, -0.1]]
    loss, gradient, metrics = losses_and_gradient(SimpoLoss(), log_probs, log_probs, (1.0, -1.0))
    # 2 x (-.6 - -1.05) - 1 = -.1; -log sigmoid(-.1) = .7443967; -sigmoid(.1) = -.5249792.
    assert loss == near(0.7443967)
    assert gradient == near([-2 * 0.5249792 / 3] * 3 + [2 * 0.5249792 / 2] * 2)
    assert metrics == {"pair/margin": near(-0.1), "pair/accuracy": 0.0}


def test_at_the_reference_dpo_is_log_2():
    log_probs = [[-0.5, -1.0], [-2.0]]
    loss, gradient, _ = losses_and_gradient(DpoLoss(beta=0.3), log_probs, log_probs, (1.0, -1.0))
    assert loss == near(np.log(2))
    assert gradient == near([-0.15, -0.15, 0.15])


@pytest.mark.parametrize("far", [1e4, -1e4])
def test_margins_beyond_all_bounds_stay_finite(far):
    loss, gradient, _ = losses_and_gradient(DpoLoss(), [[-far], [far]], [[0], [0]], (1.0, -1.0))
    assert loss == near(max(0.0, 2 * far * 0.1))
    assert gradient == near([-0.1 * (far > 0), 0.1 * (far > 0)])


@pytest.mark.parametrize("loss", [DpoLoss(), SimpoLoss()], ids=str)
def test_pairs_that_are_none(loss):
    with pytest.raises(ValueError, match="3 sequences; expected pairs"):
        losses_and_gradient(loss, [[-1.0]] * 3, [[-1.0]] * 3, (1.0, -1.0, 1.0))
    with pytest.raises(InputError, match="same advantage.*as minmax does"):
        losses_and_gradient(loss, [[-1.0]] * 2, [[-1.0]] * 2, (0.5, 0.5))
    # A batch in which nothing is preferred teaches nothing.
    total, gradient, metrics = losses_and_gradient(loss, [[-1.0]] * 3, [[-1.0]] * 3, (0, 0, 0))
    assert (total, gradient.tolist(), metrics) == (0, [0, 0, 0], {})


# From responses to gradients.


def responses(rng):
    """Six graded responses to each of five problems, all of which have a pair."""
    groups = []
    while len(groups) < 5:
        correct, length = rng.integers(0, 2, 6).astype(bool), rng.integers(1, 40, 6)
        if len(set(length[correct].tolist())) > 1:
            groups.append(Group(correct, length, np.ones(6, bool), 40))
    return groups


def chosen_by(algorithm, groups):
    """(group, response) that are learned from, in the order of the batch, and their advantages."""
    scores = [algorithm.score(group) for group in groups]
    advantages = algorithm.advantages_of(scores, [group.length for group in groups])
    chosen = [(g, int(n)) for g, s in enumerate(scores) for n in np.flatnonzero(s.kept)]
    return chosen, np.array([advantages[place] for place in chosen])


def plain_sft(groups, log_probs, _):
    """The mean over the tokens of the two shortest right responses of each problem."""
    picked = [
        (g, n)
        for g, group in enumerate(groups)
        for n in sorted(
            (n for n in range(6) if group.correct[n]), key=lambda n: (group.length[n], n)
        )[:2]
    ]
    tokens = sum(len(log_probs[place]) for place in picked)
    loss = -sum(log_probs[place].sum() for place in picked) / tokens
    return loss, {place: np.full(len(log_probs[place]), -1 / tokens) for place in picked}


def plain_pairs(groups, log_probs, margin_and_slopes):
    """The mean over problems of -log sigmoid(margin), with its slope by each token."""
    loss, slopes = 0.0, {}
    for g, group in enumerate(groups):
        right = [n for n in range(6) if group.correct[n]]
        short = min(right, key=lambda n: group.length[n])
        long = max(right, key=lambda n: group.length[n])
        margin, of_short, of_long = margin_and_slopes((g, short), (g, long))
        loss += np.log1p(np.exp(-margin)) / len(groups)
        outer = -1 / (1 + np.exp(margin)) / len(groups)
        slopes[g, short] = np.full(len(log_probs[g, short]), outer * of_short)
        slopes[g, long] = np.full(len(log_probs[g, long]), outer * of_long)
    return loss, slopes


def plain_dpo(groups, log_probs, reference):
    def margin(short, long):
        gained = [(log_probs[p] - reference[p]).sum() for p in (short, long)]
        return 0.7 * (gained[0] - gained[1]), 0.7, -0.7

    return plain_pairs(groups, log_probs, margin)


def plain_simpo(groups, log_probs, _):
    def margin(short, long):
        mean = [log_probs[p].mean() for p in (short, long)]
        slopes = 2.5 / len(log_probs[short]), -2.5 / len(log_probs[long])
        return 2.5 * (mean[0] - mean[1]) - 0.8, *slopes

    return plain_pairs(groups, log_probs, margin)


METHODS = {
    "sft": ("sft", plain_sft),
    "dpo": ({"preset": "dpo", "loss": {"beta": 0.7}}, plain_dpo),
    "simpo": (
        {"preset": "dpo", "loss": {"name": "simpo", "beta": 2.5, "gamma": 0.8}}, plain_simpo,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_from_responses_to_gradients_in_any_division(name, seed):
    spec, plain = METHODS[name]
    algorithm = Algorithm.from_spec(merge_specs({}, spec))
    rng = np.random.default_rng(seed)
    groups = responses(rng)
    places = [(g, n) for g in range(5) for n in range(6)]
    log_probs = {p: -rng.exponential(1.0, groups[p[0]].length[p[1]]) for p in places}
    reference = {p: v + rng.normal(rng.normal(0, 0.5), 0.2, len(v)) for p, v in log_probs.items()}
    expected, slopes = plain(groups, log_probs, reference)

    chosen, advantages = chosen_by(algorithm, groups)
    assert set(chosen) == set(slopes)
    given = [log_probs[p] for p in chosen], [reference[p] for p in chosen]
    whole = losses_and_gradient(algorithm.compute_loss, *given, advantages)
    for cuts in ((), (2,), (4, 4, 8), (2, 4, 6, 8, 10)[: len(chosen) // 2]):
        loss, gradient, metrics = losses_and_gradient(
            algorithm.compute_loss, *given, advantages, cuts
        )
        assert loss == near(expected)
        assert gradient == near(np.concatenate([slopes[p] for p in chosen]))
        assert metrics == pytest.approx(whole[2])
