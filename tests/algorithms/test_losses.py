"""The policy loss: by hand, by its gradient, and divided in any way."""

import math
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megaprune.algorithms.losses import Grpo, k3
from megaprune.errors import InputError


class Said(NamedTuple):
    log_probs: torch.Tensor
    entropy: torch.Tensor


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def said(log_probs, entropy=None):
    log_probs = torch.as_tensor(log_probs, dtype=torch.float64).clone().requires_grad_()
    entropy = torch.ones_like(log_probs) if entropy is None else entropy
    return Said(log_probs, torch.as_tensor(entropy, dtype=torch.float64).clone().requires_grad_())


def logs(*numbers):
    return torch.tensor([math.log(n) for n in numbers], dtype=torch.float64)


def near(expected):
    return pytest.approx(expected, rel=0, abs=1e-6)


def test_on_policy_the_gradient_is_the_advantage():
    model = said([-1.0, -2.0, -0.5])
    loss, metrics = Grpo().loss(10)(model, {"advantage": vector(1, -2, 0)})
    loss.backward()
    # Each ratio is 1: -(1 - 2 + 0) / 10, and d loss / d log-prob = -A / 10.
    assert loss.item() == near(0.1)
    assert model.log_probs.grad.tolist() == near([-0.1, 0.2, 0.0])
    assert model.entropy.grad is None
    assert metrics == {
        "tokens": 3.0,
        "policy_loss_sum": near(1.0),
        "clipped_tokens": 0.0,
        "entropy_sum": near(3.0),
    }


# ratio, advantage -> loss, its derivative by the log-prob, clipped; with 0.8 and 1.2
CLIPPING = [
    (1.5, 2.0, -2.4, 0.0, True),  # more of a good token than allowed
    (1.5, -2.0, 3.0, 3.0, False),  # more of a bad one: never clipped
    (0.5, 2.0, -1.0, -1.0, False),  # less of a good one: never clipped
    (0.5, -2.0, 1.6, 0.0, True),  # less of a bad one than allowed
    (1.1, 2.0, -2.2, -2.2, False),
    (0.9, -2.0, 1.8, 1.8, False),
    (1.5, 0.0, 0.0, 0.0, False),
]


@pytest.mark.parametrize(("ratio", "advantage", "value", "slope", "clipped"), CLIPPING)
def test_clipping_by_hand(ratio, advantage, value, slope, clipped):
    model = said(logs(0.2 * ratio))
    values = {"advantage": vector(advantage), "old": logs(0.2)}
    loss, metrics = Grpo(clip_low=0.2, clip_high=0.2).loss(1)(model, values)
    loss.backward()
    assert loss.item() == near(value)
    assert model.log_probs.grad.tolist() == near([slope])
    assert metrics["clipped_tokens"] == clipped


def test_the_two_clips_are_apart():
    values = {"advantage": vector(1, 1, -1, -1), "old": logs(0.2, 0.2, 0.2, 0.2)}
    model = said(logs(0.2 * 1.25, 0.2 * 1.5, 0.2 * 0.95, 0.2 * 0.5))
    loss, metrics = Grpo(clip_low=0.1, clip_high=0.28).loss(1)(model, values)
    # -1.25, -1.28 (clipped), +.95, +.9 (clipped)
    assert loss.item() == near(-0.68)
    assert metrics["clipped_tokens"] == 2


def test_kl_by_hand():
    # d = ln 2: 2 - ln 2 - 1 = .3068528; d = -ln 2: .5 + ln 2 - 1 = .1931472; d = 0: 0
    expected = [0.3068528, 0.1931472, 0.0]
    assert k3(logs(2, 0.5, 1)).tolist() == near(expected)
    model = said(logs(0.2, 0.2, 0.2))
    values = {"advantage": vector(0, 0, 0), "reference": logs(0.4, 0.1, 0.2)}
    loss, metrics = Grpo(kl=0.01).loss(5)(model, values)
    loss.backward()
    assert metrics["kl_sum"] == near(0.5)
    assert loss.item() == near(0.01 * 0.5 / 5)
    # d k3 / d log-prob = 1 - exp(d), with a positive sign in the loss: where the reference says
    # more (d > 0) a step downhill makes the model say more.
    slopes = [-1.0, 0.5, 0.0]
    assert model.log_probs.grad.tolist() == near([0.01 * s / 5 for s in slopes])


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
    loss, _ = Grpo(kl=kl).loss(3)(Said(logits.log_softmax(0), torch.zeros(3)), values)
    loss.backward()
    logits.data -= 0.5 * logits.grad
    assert (divergence() < before) == nearer


def test_a_token_far_from_the_reference_counts_no_more_than_the_limit():
    # d = 5 gives e^5 - 6 = 142, d = -15 gives 14 + e^-15: both cut off at 10, without a gradient.
    model = said([-6.0, -1.0])
    values = {"advantage": vector(0, 0), "reference": vector(-1.0, -16.0)}
    loss, metrics = Grpo(kl=1.0).loss(1)(model, values)
    loss.backward()
    assert metrics["kl_sum"] == near(20.0)
    assert model.log_probs.grad.tolist() == [0.0, 0.0]


def test_entropy_by_hand():
    model = said([-1.0, -2.0], [0.5, 1.5])
    loss, metrics = Grpo(entropy=0.1).loss(4)(model, {"advantage": vector(0, 0)})
    loss.backward()
    # Subtracted: a step downhill raises it.
    assert loss.item() == near(-0.1 * 2.0 / 4)
    assert model.entropy.grad.tolist() == near([-0.025, -0.025])
    assert metrics["entropy_sum"] == near(2.0)


def test_importance_weights_by_hand():
    # The trainer says .2 of each; the rollout drew with .4, .1, .05: weights .5, 2, 4 -> 3.
    model = said(logs(0.2, 0.2, 0.2))
    values = {"advantage": vector(1, 1, -1), "rollout": logs(0.4, 0.1, 0.05)}
    loss, metrics = Grpo(importance_cap=3.0).loss(2)(model, values)
    loss.backward()
    assert loss.item() == near((-0.5 - 2.0 + 3.0) / 2)
    assert model.log_probs.grad.tolist() == near([-0.25, -1.0, 1.5])  # none through the weight
    assert metrics["capped_tokens"] == 1
    # ln 2 + ln 2 + ln 4; k3 of d = -ln 2, ln 2, ln 4: .1931472 + .3068528 + (3 - 1.3862944)
    assert metrics["mismatch_abs_sum"] == near(2.7725887)
    assert metrics["mismatch_kl_sum"] == near(2.1137056)


def test_importance_weights_are_of_the_policy_before_the_step():
    model = said(logs(0.22))
    values = {"advantage": vector(1), "old": logs(0.2), "rollout": logs(0.25)}
    loss, metrics = Grpo(importance_cap=5.0).loss(1)(model, values)
    # ratio 1.1, weight .2 / .25 = .8
    assert loss.item() == near(-0.88)
    assert metrics["mismatch_abs_sum"] == near(0.2231436)  # ln 1.25


def test_the_mismatch_is_measured_without_a_correction():
    values = {"advantage": vector(1, 1), "rollout": logs(0.4, 0.2)}
    loss, metrics = Grpo().loss(2)(said(logs(0.2, 0.2)), values)
    assert loss.item() == near(-1.0)
    assert metrics["mismatch_abs_sum"] == near(0.6931472)
    assert "capped_tokens" not in metrics


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ratios_beyond_all_bounds_stay_finite(dtype):
    far = torch.tensor([-1000.0, -1e-3, -1000.0, -1e-3], dtype=dtype)
    model = Said(far.clone().requires_grad_(), torch.ones(4, dtype=dtype))
    values = {
        "advantage": torch.tensor([1.0, 1.0, -1.0, 0.0], dtype=dtype),
        "old": far.flip(0),
        "reference": far.flip(0),
        "rollout": far.flip(0),
    }
    loss, metrics = Grpo(kl=0.1, importance_cap=2.0).loss(4)(model, values)
    loss.backward()
    assert math.isfinite(loss.item())
    assert model.log_probs.grad.isfinite().all()
    assert all(map(math.isfinite, metrics.values()))


def test_a_nan_is_not_hidden():
    loss, _ = Grpo().loss(1)(said([float("nan")]), {"advantage": vector(1)})
    assert math.isnan(loss.item())


OPTIONS = [
    Grpo(),
    Grpo(clip_low=0.1, clip_high=0.3),
    Grpo(kl=0.3),
    Grpo(entropy=0.2),
    Grpo(kl=-0.1, entropy=0.05, importance_cap=1.5),
]


def some_values(rng, count, spread=0.5):
    log_probs = torch.from_numpy(-rng.exponential(1.0, count))
    values = {"advantage": torch.from_numpy(rng.normal(size=count))}
    for name in ("old", "reference", "rollout"):
        values[name] = log_probs + torch.from_numpy(rng.normal(0, spread, count))
    return log_probs, torch.from_numpy(rng.exponential(1.0, count)), values


def plain(grpo, log_probs, entropy, values, tokens):
    """The same, a token at a time, from the formulas."""
    total = 0.0
    columns = [
        log_probs,
        entropy,
        *(values[n] for n in ("advantage", "old", "reference", "rollout")),
    ]
    for lp, h, a, old, ref, roll in zip(*(c.tolist() for c in columns), strict=True):
        rho = math.exp(lp - old)
        held = min(max(rho, 1 - grpo.clip_low), 1 + grpo.clip_high)
        weight = min(math.exp(old - roll), grpo.importance_cap) if grpo.importance_cap else 1.0
        kl = min(math.exp(ref - lp) - (ref - lp) - 1, 10.0)
        total += weight * max(-a * rho, -a * held) + grpo.kl * kl - grpo.entropy * h
    return total / tokens


@pytest.mark.parametrize("grpo", OPTIONS, ids=str)
def test_against_the_formulas_token_by_token(grpo):
    log_probs, entropy, values = some_values(np.random.default_rng(0), 200)
    loss, metrics = grpo.loss(321)(said(log_probs, entropy), values)
    assert loss.item() == pytest.approx(plain(grpo, log_probs, entropy, values, 321), abs=1e-12)
    assert metrics["clipped_tokens"] > 10  # so that the clip is in what was compared


@pytest.mark.parametrize("grpo", OPTIONS, ids=str)
def test_gradients_are_slopes(grpo):
    log_probs, entropy, values = some_values(np.random.default_rng(1), 30)
    model = said(log_probs, entropy)
    grpo.loss(30)(model, values)[0].backward()
    step = 1e-6
    for i in range(30):
        nudge = torch.zeros(30, dtype=torch.float64)
        nudge[i] = step
        up = plain(grpo, log_probs + nudge, entropy, values, 30)
        down = plain(grpo, log_probs - nudge, entropy, values, 30)
        assert model.log_probs.grad[i].item() == pytest.approx((up - down) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("grpo", OPTIONS, ids=str)
@settings(deadline=None)  # other tests share the processors
@given(st.data())
def test_any_division_gives_the_same_loss_and_gradient(grpo, data):
    count = data.draw(st.integers(1, 40))
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=6)))
    log_probs, entropy, values = some_values(np.random.default_rng(count), count)
    whole, part = said(log_probs, entropy), said(log_probs, entropy)
    loss, metrics = grpo.loss(count)(whole, values)
    loss.backward()
    total, sums = 0.0, dict.fromkeys(metrics, 0.0)
    # Some are empty, as an actor's micro-batches may be.
    for start, stop in zip([0, *cuts], [*cuts, count], strict=True):
        piece = slice(start, stop)
        mine = {name: v[piece] for name, v in values.items()}
        share, told = grpo.loss(count)(Said(part.log_probs[piece], part.entropy[piece]), mine)
        share.backward()
        total += share.item()
        sums = {name: sums[name] + told[name] for name in sums}
    assert total == pytest.approx(loss.item(), abs=1e-12)
    assert sums == pytest.approx(metrics, abs=1e-9)
    torch.testing.assert_close(part.log_probs.grad, whole.log_probs.grad, rtol=0, atol=1e-12)
    if grpo.entropy:
        torch.testing.assert_close(part.entropy.grad, whole.entropy.grad, rtol=0, atol=1e-12)


def test_leaving_out_what_has_no_advantage_changes_nothing():
    grpo = Grpo(importance_cap=2.0)
    log_probs, entropy, values = some_values(np.random.default_rng(2), 60)
    values["advantage"][20:40] = 0.0
    kept = torch.cat([torch.arange(20), torch.arange(40, 60)])
    everything, some = said(log_probs, entropy), said(log_probs[kept], entropy[kept])
    full, _ = grpo.loss(60)(everything, values)
    less, _ = grpo.loss(60)(some, {name: v[kept] for name, v in values.items()})
    full.backward()
    less.backward()
    assert full.item() == pytest.approx(less.item(), abs=1e-15)
    assert torch.equal(everything.log_probs.grad[kept], some.log_probs.grad)
    assert not everything.log_probs.grad[20:40].any()


def test_what_it_needs():
    assert Grpo().needs == {"advantage"}
    assert Grpo(kl=0.1).needs == {"advantage", "reference"}
    assert Grpo(importance_cap=2.0).needs == {"advantage", "rollout"}
    assert not Grpo(importance_cap=2.0).needs_all
    assert Grpo(kl=-0.1).needs_all
    assert Grpo(entropy=0.1).needs_all
    with pytest.raises(ValueError, match=r"\['reference', 'rollout'\]"):
        Grpo(kl=1.0, importance_cap=2.0).loss(1)(said([-1.0]), {"advantage": vector(1)})
    with pytest.raises(ValueError, match="0 response tokens"):
        Grpo().loss(0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("clip_low", 1.0),
        ("clip_low", -0.1),
        ("clip_high", -0.1),
        ("clip_high", math.inf),
        ("kl", math.nan),
        ("entropy", math.inf),
        ("importance_cap", 0.0),
        ("importance_cap", math.nan),
    ],
)
def test_options_out_of_range(option, value):
    with pytest.raises(InputError, match=f"{option}={value}; expected"):
        Grpo(**{option: value})


def test_needs_no_engine():
    code = (
        "import sys, megaprune.algorithms.losses\n"
        "heavy = {'megatron', 'vllm', 'transformers', 'megaprune.actor'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
