"""The losses: by hand, by their gradients, and divided in any way."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megaprune.algorithms.algorithm import LOG_PROBS
from megaprune.algorithms.loss_metrics import combine, to_host
from megaprune.algorithms.losses import DrGrpoLoss, GrpoLoss, SftLoss, k3, standard_metrics
from megaprune.algorithms.records import BatchInfo, LossBatch, LossOutput
from megaprune.errors import InputError


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def policy(log_probs, entropy=None):
    """Log-probs and entropies of the model in training, with gradients."""
    log_probs = torch.as_tensor(log_probs, dtype=torch.float64).clone().requires_grad_()
    entropy = torch.ones_like(log_probs) if entropy is None else entropy
    return log_probs, torch.as_tensor(entropy, dtype=torch.float64).clone().requires_grad_()


def batch(model, values, tokens, *, borders=None, **info):
    """One sequence unless borders say otherwise; of a batch of `tokens`, in one sequence."""
    info = {"total_sequences": 1, "policy_moved": "old" in values} | info
    borders = (0, len(model[0])) if borders is None else borders
    return LossBatch(*model, values, borders, BatchInfo(tokens, **info))


def metrics_of(*outputs):
    return combine([to_host(output) for output in outputs])[1]


def logs(*numbers):
    return torch.tensor([math.log(n) for n in numbers], dtype=torch.float64)


def near(expected):
    return pytest.approx(expected, rel=0, abs=1e-6)


def test_on_policy_the_gradient_is_the_advantage():
    model = policy([-1.0, -2.0, -0.5])
    micro = batch(model, {"advantage": vector(1, -2, 0)}, 10)
    output = GrpoLoss()(micro)
    output.loss.backward()
    # Each ratio is 1: -(1 - 2 + 0) / 10, and d loss / d log-prob = -A / 10.
    assert output.loss.item() == near(0.1)
    assert model[0].grad.tolist() == near([-0.1, 0.2, 0.0])
    assert model[1].grad is None
    # Metrics are over the tokens that have an advantage.
    assert metrics_of(output) == {"policy_loss": near(1.0 / 2), "clip_ratio": 0.0}
    told = metrics_of(LossOutput(output.loss, standard_metrics(micro)))
    assert told == {"learned_tokens": 3.0, "entropy": near(1.0)}


# ratio, advantage -> loss, its derivative by the log-prob, clipped; with 0.8 and 1.2
CLIPPING = [
    (1.5, 2.0, -2.4, 0.0, True),  # more of a good token than allowed
    (1.5, -2.0, 3.0, 3.0, False),  # more of a bad one: never clipped
    (0.5, 2.0, -1.0, -1.0, False),  # less of a good one: never clipped
    (0.5, -2.0, 1.6, 0.0, True),  # less of a bad one than allowed
    (1.1, 2.0, -2.2, -2.2, False),
    (0.9, -2.0, 1.8, 1.8, False),
    (1.5, 0.0, 0.0, 0.0, None),  # it is none of those that are counted
]


@pytest.mark.parametrize(("ratio", "advantage", "value", "slope", "clipped"), CLIPPING)
def test_clipping_by_hand(ratio, advantage, value, slope, clipped):
    model = policy(logs(0.2 * ratio))
    values = {"advantage": vector(advantage), "old": logs(0.2)}
    output = GrpoLoss(clip_ratio_low=0.2, clip_ratio_high=0.2)(batch(model, values, 1))
    output.loss.backward()
    assert output.loss.item() == near(value)
    assert model[0].grad.tolist() == near([slope])
    assert metrics_of(output).get("clip_ratio") == clipped


def test_means_are_over_tokens_with_an_advantage():
    model = policy([-1.0, -2.0, -0.5, -3.0], [1.0, 2.0, 3.0, 4.0])
    values = {"advantage": vector(0, 0, 1, -1), "rollout": vector(-2, -2, -0.75, -2.5)}
    output = GrpoLoss(importance_cap=1.0)(batch(model, values, 4))
    assert metrics_of(output)["importance_capped"] == 0.5  # of exp(0.25) and exp(-0.5)
    told = [
        metrics_of(LossOutput(output.loss, standard_metrics(batch(model, values, 4), by)))
        for by in (True, False)
    ]
    assert [t["entropy"] for t in told] == [near(3.5), near(2.5)]
    assert [t["mismatch"] for t in told] == [near(0.375), near(1.75 / 4)]
    assert [t["learned_tokens"] for t in told] == [4.0, 4.0]


def test_the_two_clips_are_apart():
    values = {"advantage": vector(1, 1, -1, -1), "old": logs(0.2, 0.2, 0.2, 0.2)}
    model = policy(logs(0.2 * 1.25, 0.2 * 1.5, 0.2 * 0.95, 0.2 * 0.5))
    output = GrpoLoss(clip_ratio_low=0.1, clip_ratio_high=0.28)(batch(model, values, 1))
    # -1.25, -1.28 (clipped), +.95, +.9 (clipped)
    assert output.loss.item() == near(-0.68)
    assert metrics_of(output)["clip_ratio"] == 2 / 4


def test_kl_by_hand():
    # d = ln 2: 2 - ln 2 - 1 = .3068528; d = -ln 2: .5 + ln 2 - 1 = .1931472; d = 0: 0
    expected = [0.3068528, 0.1931472, 0.0]
    assert k3(logs(2, 0.5, 1)).tolist() == near(expected)
    model = policy(logs(0.2, 0.2, 0.2))
    values = {"advantage": vector(0, 0, 0), "reference": logs(0.4, 0.1, 0.2)}
    output = GrpoLoss(kl_coef=0.01)(batch(model, values, 5))
    output.loss.backward()
    assert metrics_of(output)["kl"] == near(0.5 / 3)
    assert output.loss.item() == near(0.01 * 0.5 / 5)
    # d k3 / d log-prob = 1 - exp(d), with a positive sign in the loss: where the reference says
    # more (d > 0) a step downhill makes the model say more.
    slopes = [-1.0, 0.5, 0.0]
    assert model[0].grad.tolist() == near([0.01 * s / 5 for s in slopes])


@pytest.mark.parametrize(("kl", "nearer"), [(1.0, True), (-1.0, False)])
def test_a_step_downhill_goes_to_the_reference(kl, nearer):
    reference = logs(0.7, 0.2, 0.1)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def divergence():
        log_probs = logits.detach().log_softmax(0)
        return float((log_probs.exp() * (log_probs - reference)).sum())

    before = divergence()
    # The model says 1/3 of each of the three tokens: a fair sample has each once.
    values = {"advantage": torch.zeros(3), "reference": reference}
    micro = batch((logits.log_softmax(0), torch.zeros(3)), values, 3)
    GrpoLoss(kl_coef=kl)(micro).loss.backward()
    logits.data -= 0.5 * logits.grad
    assert (divergence() < before) == nearer


def test_a_token_far_from_the_reference_counts_no_more_than_the_limit():
    # d = 5 gives e^5 - 6 = 142, d = -15 gives 14 + e^-15: both cut off at 10, without a gradient.
    model = policy([-6.0, -1.0])
    values = {"advantage": vector(0, 0), "reference": vector(-1.0, -16.0)}
    output = GrpoLoss(kl_coef=1.0)(batch(model, values, 1))
    output.loss.backward()
    assert metrics_of(output)["kl"] == near(10.0)
    assert model[0].grad.tolist() == [0.0, 0.0]


def test_entropy_by_hand():
    model = policy([-1.0, -2.0], [0.5, 1.5])
    micro = batch(model, {"advantage": vector(0, 0)}, 4)
    output = GrpoLoss(entropy_coef=0.1)(micro)
    output.loss.backward()
    # Subtracted: a step downhill raises it.
    assert output.loss.item() == near(-0.1 * 2.0 / 4)
    assert model[1].grad.tolist() == near([-0.025, -0.025])
    assert metrics_of(LossOutput(output.loss, standard_metrics(micro)))["entropy"] == near(1.0)


def test_importance_weights_by_hand():
    # The trainer says .2 of each; the rollout drew with .4, .1, .05: weights .5, 2, 4 -> 3.
    model = policy(logs(0.2, 0.2, 0.2))
    values = {"advantage": vector(1, 1, -1), "rollout": logs(0.4, 0.1, 0.05)}
    micro = batch(model, values, 2)
    output = GrpoLoss(importance_cap=3.0)(micro)
    output.loss.backward()
    assert output.loss.item() == near((-0.5 - 2.0 + 3.0) / 2)
    assert model[0].grad.tolist() == near([-0.25, -1.0, 1.5])  # none through the weight
    assert metrics_of(output)["importance_capped"] == near(1 / 3)
    # ln 2 + ln 2 + ln 4; k3 of d = -ln 2, ln 2, ln 4: .1931472 + .3068528 + (3 - 1.3862944)
    told = metrics_of(LossOutput(output.loss, standard_metrics(micro)))
    assert told["mismatch"] == near(2.7725887 / 3)
    assert told["mismatch_kl"] == near(2.1137056 / 3)


def test_importance_weights_are_of_the_policy_before_the_step():
    model = policy(logs(0.22))
    values = {"advantage": vector(1), "old": logs(0.2), "rollout": logs(0.25)}
    micro = batch(model, values, 1)
    output = GrpoLoss(importance_cap=5.0)(micro)
    # ratio 1.1, weight .2 / .25 = .8
    assert output.loss.item() == near(-0.88)
    told = metrics_of(LossOutput(output.loss, standard_metrics(micro)))
    assert told["mismatch"] == near(0.2231436)  # ln 1.25


def test_the_mismatch_is_measured_without_a_correction():
    values = {"advantage": vector(1, 1), "rollout": logs(0.4, 0.2)}
    micro = batch(policy(logs(0.2, 0.2)), values, 2)
    output = GrpoLoss()(micro)
    assert output.loss.item() == near(-1.0)
    told = metrics_of(LossOutput(output.loss, standard_metrics(micro)))
    assert told["mismatch"] == near(0.6931472 / 2)
    assert "importance_capped" not in metrics_of(output)


def test_dr_grpo_divides_by_a_constant():
    # Two sequences of 1 and 3 tokens of a batch of 4 sequences; each counts as 10 tokens.
    model = policy([-1.0, -1.0, -1.0, -1.0])
    values = {"advantage": vector(2, 1, 1, 1)}
    micro = batch(model, values, 99, borders=(0, 1, 4), total_sequences=4, limit=10)
    output = DrGrpoLoss()(micro)
    output.loss.backward()
    # -(2 + 1 + 1 + 1) / (4 * 10): the batch's 99 tokens do not matter.
    assert output.loss.item() == near(-0.125)
    assert model[0].grad.tolist() == near([-0.05, -0.025, -0.025, -0.025])
    assert DrGrpoLoss(sequence_tokens=5)(micro).loss.item() == near(-0.25)
    # All of its terms have the same denominator.
    regular = DrGrpoLoss(kl_coef=0.5, entropy_coef=0.25)
    values["reference"] = logs(0.4, 0.1, 0.2, 0.2)
    model = policy(logs(0.2, 0.2, 0.2, 0.2), [1.0, 1.0, 1.0, 3.0])
    micro = batch(model, values, 99, borders=(0, 1, 4), total_sequences=4, limit=10)
    assert regular(micro).loss.item() == near((-5 + 0.5 * 0.5 - 0.25 * 6) / 40)


def test_dr_grpo_needs_a_limit():
    micro = batch(policy([-1.0]), {"advantage": vector(1)}, 1)
    with pytest.raises(ValueError, match="needs sequence_tokens"):
        DrGrpoLoss()(micro)


def test_supervised_by_hand():
    model = policy([-1.0, -2.0, -0.5])
    output = SftLoss()(batch(model, {}, 7))
    output.loss.backward()
    assert output.loss.item() == near(3.5 / 7)
    assert model[0].grad.tolist() == near([-1 / 7] * 3)
    assert SftLoss().needs == frozenset()
    assert SftLoss().needs_all


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ratios_beyond_all_bounds_stay_finite(dtype):
    far = torch.tensor([-1000.0, -1e-3, -1000.0, -1e-3], dtype=dtype)
    model = far.clone().requires_grad_(), torch.ones(4, dtype=dtype)
    values = {
        "advantage": torch.tensor([1.0, 1.0, -1.0, 0.0], dtype=dtype),
        "old": far.flip(0),
        "reference": far.flip(0),
        "rollout": far.flip(0),
    }
    micro = batch(model, values, 4)
    output = GrpoLoss(kl_coef=0.1, importance_cap=2.0)(micro)
    output.loss.backward()
    assert math.isfinite(output.loss.item())
    assert model[0].grad.isfinite().all()
    told = metrics_of(output, LossOutput(output.loss, standard_metrics(micro)))
    assert all(map(math.isfinite, told.values()))


def test_a_nan_is_not_hidden():
    output = GrpoLoss()(batch(policy([float("nan")]), {"advantage": vector(1)}, 1))
    assert math.isnan(output.loss.item())
    assert math.isnan(combine([to_host(output)])[0])


GRPO = [
    GrpoLoss(),
    GrpoLoss(clip_ratio_low=0.1, clip_ratio_high=0.3),
    GrpoLoss(kl_coef=0.3),
    GrpoLoss(entropy_coef=0.2),
    GrpoLoss(kl_coef=-0.1, entropy_coef=0.05, importance_cap=1.5),
    DrGrpoLoss(kl_coef=0.1, importance_cap=1.5),
    DrGrpoLoss(sequence_tokens=17),
]
LOSSES = [*GRPO, SftLoss()]


def some_values(rng, count, spread=0.5):
    log_probs = torch.from_numpy(-rng.exponential(1.0, count))
    values = {"advantage": torch.from_numpy(rng.normal(size=count))}
    for name in ("old", "reference", "rollout"):
        values[name] = log_probs + torch.from_numpy(rng.normal(0, spread, count))
    return log_probs, torch.from_numpy(rng.exponential(1.0, count)), values


def plain(loss, log_probs, entropy, values, denominator):
    """The same, a token at a time, from the formulas."""
    total = 0.0
    columns = [
        log_probs,
        entropy,
        *(values[n] for n in ("advantage", "old", "reference", "rollout")),
    ]
    for lp, h, a, old, ref, roll in zip(*(c.tolist() for c in columns), strict=True):
        rho = math.exp(lp - old)
        held = min(max(rho, 1 - loss.clip_ratio_low), 1 + loss.clip_ratio_high)
        weight = min(math.exp(old - roll), loss.importance_cap) if loss.importance_cap else 1.0
        kl = min(math.exp(ref - lp) - (ref - lp) - 1, 10.0)
        total += weight * max(-a * rho, -a * held) + loss.kl_coef * kl - loss.entropy_coef * h
    return total / denominator


INFO = {"total_sequences": 8, "limit": 11}


def denominator_of(loss, tokens):
    """From the formulas: tokens, or sequences times a constant."""
    if isinstance(loss, DrGrpoLoss):
        return 8 * (loss.sequence_tokens or 11)
    return tokens


@pytest.mark.parametrize("loss", GRPO, ids=str)
def test_against_the_formulas_token_by_token(loss):
    log_probs, entropy, values = some_values(np.random.default_rng(0), 200)
    output = loss(batch(policy(log_probs, entropy), values, 321, **INFO))
    expected = plain(loss, log_probs, entropy, values, denominator_of(loss, 321))
    assert output.loss.item() == pytest.approx(expected, abs=1e-12)
    assert metrics_of(output)["clip_ratio"] > 0.05  # so that the clip is in what was compared


@pytest.mark.parametrize("loss", GRPO, ids=str)
def test_gradients_are_slopes(loss):
    log_probs, entropy, values = some_values(np.random.default_rng(1), 30)
    model = policy(log_probs, entropy)
    loss(batch(model, values, 30, **INFO)).loss.backward()
    step, denominator = 1e-6, denominator_of(loss, 30)
    for i in range(30):
        nudge = torch.zeros(30, dtype=torch.float64)
        nudge[i] = step
        up = plain(loss, log_probs + nudge, entropy, values, denominator)
        down = plain(loss, log_probs - nudge, entropy, values, denominator)
        assert model[0].grad[i].item() == pytest.approx((up - down) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@settings(deadline=None)  # other tests share the processors
@given(st.data())
def test_any_division_gives_the_same_loss_and_gradient(loss, data):
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    borders = np.cumsum([0, *lengths]).tolist()
    count = borders[-1]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(lengths)), max_size=6)))
    log_probs, entropy, values = some_values(np.random.default_rng(count), count)
    whole, part = policy(log_probs, entropy), policy(log_probs, entropy)
    info = {"total_sequences": len(lengths), "limit": 9}
    micro = batch(whole, values, count, borders=tuple(borders), **info)
    output = loss(micro)
    output.loss.backward()
    expected = combine([to_host(with_standard(output, micro))])
    shares = []
    # Some are empty, as an actor's micro-batches may be.
    for start, stop in zip([0, *cuts], [*cuts, len(lengths)], strict=True):
        piece = slice(borders[start], borders[stop])
        micro = batch(
            (part[0][piece], part[1][piece]),
            {name: v[piece] for name, v in values.items()},
            count,
            borders=tuple(b - borders[start] for b in borders[start : stop + 1]),
            **info,
        )
        share = loss(micro)
        share.loss.backward()
        shares.append(to_host(with_standard(share, micro)))
    data.draw(st.randoms()).shuffle(shares)
    total, metrics = combine(shares)
    assert total == pytest.approx(expected[0], abs=1e-12)
    assert metrics == pytest.approx(expected[1], abs=1e-9)
    torch.testing.assert_close(part[0].grad, whole[0].grad, rtol=0, atol=1e-12)
    if getattr(loss, "entropy_coef", 0):
        torch.testing.assert_close(part[1].grad, whole[1].grad, rtol=0, atol=1e-12)


def with_standard(output, micro):
    return LossOutput(output.loss, {**standard_metrics(micro), **output.metrics})


def test_leaving_out_what_has_no_advantage_changes_nothing():
    loss = GrpoLoss(importance_cap=2.0)
    log_probs, entropy, values = some_values(np.random.default_rng(2), 60)
    values["advantage"][20:40] = 0.0
    kept = torch.cat([torch.arange(20), torch.arange(40, 60)])
    everything, some = policy(log_probs, entropy), policy(log_probs[kept], entropy[kept])
    full = loss(batch(everything, values, 60)).loss
    less = loss(batch(some, {name: v[kept] for name, v in values.items()}, 60)).loss
    full.backward()
    less.backward()
    assert full.item() == pytest.approx(less.item(), abs=1e-15)
    assert torch.equal(everything[0].grad[kept], some[0].grad)
    assert not everything[0].grad[20:40].any()


def test_what_it_needs():
    assert GrpoLoss().needs == {"old"}
    assert GrpoLoss(kl_coef=0.1).needs == {"old", "reference"}
    assert GrpoLoss(importance_cap=2.0).needs == {"old", "rollout"}
    assert GrpoLoss(ratio_to="reference").needs == {"reference"}
    assert GrpoLoss(ratio_to="reference", importance_cap=2.0).needs == LOG_PROBS
    assert not GrpoLoss(importance_cap=2.0).needs_all
    assert GrpoLoss(kl_coef=-0.1).needs_all
    assert GrpoLoss(entropy_coef=0.1).needs_all
    values = {"advantage": vector(1)}
    for loss, missing in (
        (GrpoLoss(kl_coef=1.0), "reference"),
        (GrpoLoss(importance_cap=2.0), "rollout"),
    ):
        with pytest.raises(ValueError, match=f"'{missing}'.*needs"):
            loss(batch(policy([-1.0]), values, 1))
    with pytest.raises(ValueError, match="'advantage'"):
        GrpoLoss()(batch(policy([-1.0]), {}, 1))
    with pytest.raises(ValueError, match="'old'"):
        GrpoLoss()(batch(policy([-1.0]), values, 1, policy_moved=True))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("clip_ratio_low", 1.0),
        ("clip_ratio_low", -0.1),
        ("clip_ratio_high", -0.1),
        ("clip_ratio_high", math.inf),
        ("kl_coef", math.nan),
        ("entropy_coef", math.inf),
        ("importance_cap", 0.0),
        ("importance_cap", math.nan),
    ],
)
def test_options_out_of_range(option, value):
    with pytest.raises(InputError, match=f"{option}={value}; expected"):
        GrpoLoss(**{option: value})


def test_needs_no_engine_and_no_torch():
    code = (
        "import sys, megaprune.algorithms.algorithm, megaprune.algorithms.losses\n"
        "heavy = {'torch', 'megatron', 'vllm', 'transformers', 'megaprune.actor'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
