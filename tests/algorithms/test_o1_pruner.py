"""O1-Pruner's loss: one clipped ratio to the reference a response; by hand, and from weights to gradients."""

import numpy as np
import pytest
import torch

from megaprune.algorithms import Algorithm
from megaprune.algorithms.records import BatchInfo, LossBatch
from megaprune.algorithms.sample_weights import ProblemResponses, SampleWeights

LOSS = Algorithm.from_spec({"loss": {"name": "o1_pruner"}})

LOG_PROBS = [[-0.5, -1.0, -0.3], [-2.0, -0.1]]
REFERENCE = [[-0.9, -1.1, -0.7], [-1.0, -0.5]]


def near(expected):
    return pytest.approx(expected, rel=0, abs=1e-6)


def loss_and_gradient(log_probs, reference, weights, cuts=()):
    """The loss and the gradient by each token's log-prob, in micro-batches that end at the cuts."""
    leaf = torch.tensor(np.concatenate(log_probs), dtype=torch.float64, requires_grad=True)
    ends = np.cumsum([0, *map(len, log_probs)]).tolist()
    values = {
        "reference": torch.tensor(np.concatenate(reference), dtype=torch.float64),
        "advantage": torch.tensor(np.repeat(weights, np.diff(ends))),
    }
    info, total = BatchInfo(ends[-1], len(log_probs), policy_moved=True), 0.0
    for first, last in zip([0, *cuts], [*cuts, len(log_probs)], strict=True):
        piece = slice(ends[first], ends[last])
        borders = tuple(end - ends[first] for end in ends[first : last + 1])
        micro = LossBatch(
            leaf[piece],
            torch.zeros_like(leaf)[piece],
            {name: value[piece] for name, value in values.items()},
            borders,
            info,
        )
        share = LOSS.compute_loss(micro).loss
        share.backward()
        total += share.item()
    return total, leaf.grad.numpy()


def plain_loss_and_gradient(log_probs, reference, weights):
    """The published loss, a sample at a time, and its gradient by hand."""
    total, gradient = 0.0, []
    for lp, ref, w in zip(log_probs, reference, weights, strict=True):
        rho = np.exp(np.mean(lp) - np.mean(ref))
        free, clipped = -w * rho, -w * np.clip(rho, 0.8, 1.2)
        total += max(free, clipped) / len(weights)
        slope = -w * rho if free >= clipped else 0.0
        gradient.append(np.full(len(lp), slope / (len(weights) * len(lp))))
    return total, np.concatenate(gradient)


# Ratios 1.349859 and .740818.
@pytest.mark.parametrize(
    ("weights", "loss", "slopes"),
    [
        ((1.5, -0.5), -0.7, (0, 0)),
        ((-1.5, 0.5), 0.827190, (0.337465, -0.092602)),
        ((1.5, 0.5), -1.085205, (0, -0.092602)),
        ((-1.5, -0.5), 1.212394, (0.337465, 0)),
    ],
)
def test_the_published_loss_by_hand(weights, loss, slopes):
    total, gradient = loss_and_gradient(LOG_PROBS, REFERENCE, weights)
    assert total == near(loss)
    assert gradient == near(np.repeat(slopes, [3, 2]))


def test_at_the_reference_the_gradient_is_the_weight():
    total, gradient = loss_and_gradient(LOG_PROBS, LOG_PROBS, (1.5, -0.5))
    assert total == near(-0.5)
    assert gradient == near([-0.25] * 3 + [0.125] * 2)


def test_one_ratio_a_sequence_is_the_geometric_mean():
    for lp, ref, rho in zip(LOG_PROBS, REFERENCE, (1.349859, 0.740818), strict=True):
        # A clip that holds nothing back, by the side of the weight's sign.
        assert loss_and_gradient([lp], [ref], (-1.0 if rho > 1 else 1.0,))[0] == near(
            rho if rho > 1 else -rho
        )


@pytest.mark.parametrize("seed", range(4))
def test_from_weights_to_gradients_in_any_division(seed):
    rng = np.random.default_rng(seed)
    problems = [
        ProblemResponses(rng.integers(0, 2, 6).astype(bool), rng.integers(1, 40, 6))
        for _ in range(5)
    ]
    settings = SampleWeights.from_spec("o1_pruner_paper")
    chosen = settings.select(problems, seed)
    weighed = settings.weigh(problems, chosen)
    weights = np.concatenate([w.weight[m] for w, m in zip(weighed, chosen, strict=True)])
    lengths = np.concatenate([p.length[m] for p, m in zip(problems, chosen, strict=True)])

    # The same from the formulas.
    raw = [p.length.mean() / p.length - 1 + 2 * (p.correct - p.correct.mean()) for p in problems]
    clipped = np.clip(np.concatenate([r[m] for r, m in zip(raw, chosen, strict=True)]), -2, 4)
    expected_weights = (clipped - clipped.mean()) / clipped.std()
    assert weights == near(expected_weights)

    log_probs = [-rng.exponential(1.0, n) for n in lengths]
    reference = [lp + rng.normal(rng.normal(0, 0.5), 0.2, len(lp)) for lp in log_probs]
    loss, gradient = plain_loss_and_gradient(log_probs, reference, expected_weights)
    assert 0 < (gradient == 0).mean() < 1  # some are clipped
    for cuts in ((), (1,), (3, 3, 7), range(1, 10)):
        found = loss_and_gradient(log_probs, reference, weights, cuts)
        assert found[0] == near(loss)
        assert found[1] == near(gradient)
