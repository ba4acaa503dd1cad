"""The actor in bfloat16 and float32 against transformers; recompute, steps and checkpoints."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.algorithms.loss_metrics import combine, sum_of
from megaprune.algorithms.records import BatchInfo, LossBatch, LossOutput
from megaprune.config.run import OFFLOADS, ActorConfig, CheckpointConfig, OptimizerConfig
from megaprune.distributed import device
from megaprune.trainer.checkpoint import Checkpoints
from smoke.models import TINY_LAYER, samples_of, write_model
from smoke.offload import offload, optimizer_tensors
from smoke.report import Report, expect
from smoke.start import start

TEMPERATURE = 0.7
SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 16,
    "vocab_size": 32768,
}
"""0.31 B parameters; heads of 128 and 4 queries to a key, nearly as in QwQ-32B."""

SHORT, LONG = (1, 7, 2048, 513, 130), (8192,)


def run(report: Report, scratch: Path, options: argparse.Namespace) -> None:
    start()
    shape, short, long = SHAPE, samples_of(SHORT, 32768), samples_of(LONG, 32768)
    if options.cpu:
        shape = {**TINY_LAYER, "num_hidden_layers": 4, "vocab_size": 512}
        short, long = samples_of((1, 7, 150, 60), 512), samples_of((300,), 512)
    folder = write_model(scratch / "model", **shape)
    with report.check("float32 against transformers") as values:
        values |= float32(folder, short)
    with report.check("float32 with YaRN against transformers") as values:
        yarn = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}
        # Half of the longest sample: most of its tokens lie beyond.
        yarn["original_max_position_embeddings"] = max(len(s.tokens) for s in short) // 2
        stretched = write_model(scratch / "yarn", **shape, rope_parameters=yarn)
        values |= float32(stretched, short)
    with report.check("bfloat16 against transformers") as values:
        values |= bfloat16(folder, short + long)
    with report.check("recompute equals none") as values:
        values |= recompute(folder, short + long)
    with report.check("two steps") as values:
        values |= two_steps(folder, short + long)
    with report.check("not finite") as values:
        values |= not_finite(folder, short)
    with report.check("other weights for a while") as values:
        values |= other_weights(folder, short)
    for kind in OFFLOADS[1:]:
        with report.check(f"offload={kind}") as values:
            values |= offload(actor_of(folder, offload=kind), short, loss)
    with report.check("checkpoint and restore") as values:
        values |= checkpoint(folder, scratch / "checkpoints", short)


def loss(batch: LossBatch) -> LossOutput:
    """This micro-batch's share of a weighted sum, as `Reference` computes it."""
    share = -(batch.log_probs * batch.values["w"]).sum() / 1000 + batch.entropy.sum() * 1e-6
    return LossOutput(share, {"tokens": sum_of(torch.ones_like(batch.log_probs))})


def actor_of(folder: Path, dtype: torch.dtype = torch.bfloat16, **options) -> Actor:
    optimizer = OptimizerConfig(lr=1e-4, weight_decay=0.0)
    return Actor(folder, ActorConfig(max_tokens=16384, **options), optimizer, dtype)


@dataclass
class Reference:
    """What transformers makes of samples, one by one: log-probs of all tokens, gradients."""

    log_probs: np.ndarray
    gradients: dict[str, torch.Tensor]

    @staticmethod
    def of(folder: Path, samples: Sequence[Sample], dtype: torch.dtype) -> Reference:
        """One sample after another, forward and backward."""
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device.device())
        # float32 attention that shares key heads keeps all of its weights: 2 GB a layer.
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        pieces = []
        for sample in samples:
            if not sample.scored:
                continue
            tokens = torch.from_numpy(sample.tokens)[None].to(device.device())
            logits = model(tokens, use_cache=False).logits[0, sample.prompt - 1 : -1]
            every = (logits.float() / TEMPERATURE).log_softmax(-1)
            chosen = every.gather(1, tokens[0, sample.prompt :, None])[:, 0]
            entropy = -(every.exp() * every).sum(1)
            weights = torch.from_numpy(sample.values["w"]).to(device.device())
            count = len(chosen)
            batch = LossBatch(chosen, entropy, {"w": weights}, (0, count), BatchInfo(count, 1))
            loss(batch).loss.backward()
            pieces.append(chosen.detach().cpu().numpy())
        gradients = {n: p.grad.float() for n, p in model.named_parameters()}
        return Reference(np.concatenate(pieces), gradients)


def relative(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """Norm of the difference over the norm of what was expected, all tensors together."""
    difference = sum(float((found[n] - t).double().square().sum()) for n, t in expected.items())
    return math.sqrt(difference / sum(float(t.double().square().sum()) for t in expected.values()))


def as_named_by_transformers(actor: Actor) -> dict[str, torch.Tensor]:
    """The actor's gradients, taken apart."""
    gradients = actor.gradients()
    found: dict[str, torch.Tensor] = {}
    for parameter in actor.layout.ranks[0]:
        for piece in parameter.pieces:
            shape = actor.layout.tensors[piece.tensor]
            whole = found.setdefault(
                piece.tensor, torch.empty(shape, device=device.device(), dtype=torch.float32)
            )
            part = gradients[parameter.name][piece.at.slices]
            whole[piece.box.slices] = part.reshape(piece.box.shape)
    return found


def float32(folder: Path, samples: list[Sample]) -> dict:
    expected = Reference.of(folder, samples, torch.float32)
    actor = actor_of(folder, torch.float32)
    log_probs = np.concatenate(actor.log_probs(samples, TEMPERATURE))
    actor.accumulate(samples, loss, temperature=TEMPERATURE)
    values: dict = {
        "tokens": len(log_probs),
        "log_probs_max": float(np.abs(log_probs - expected.log_probs).max()),
        "gradient": relative(as_named_by_transformers(actor), expected.gradients),
    }
    expect(values["log_probs_max"] < 1e-3, f"log-probs within 1e-3: {values}")
    expect(values["gradient"] < 1e-3, f"gradients within 1e-3: {values}")
    return values


def bfloat16(folder: Path, samples: list[Sample]) -> dict:
    """Both in bfloat16 differ from transformers in float32; ours must not differ by more."""
    exact = Reference.of(folder, samples, torch.float32)
    theirs = Reference.of(folder, samples, torch.bfloat16)
    actor = actor_of(folder)
    ours = actor.log_probs(samples, TEMPERATURE)
    alone = [actor.log_probs([sample], TEMPERATURE)[0] for sample in samples]
    actor.accumulate(samples, loss, temperature=TEMPERATURE)
    mine = np.abs(np.concatenate(ours) - exact.log_probs)
    other = np.abs(theirs.log_probs - exact.log_probs)
    packed = np.abs(np.concatenate(ours) - np.concatenate(alone))
    bounds = np.cumsum([0, *(sample.scored for sample in samples)])
    values: dict = {
        "ours_mean": float(mine.mean()),
        "theirs_mean": float(other.mean()),
        "ours_max": float(mine.max()),
        "theirs_max": float(other.max()),
        "mean_by_length": {
            len(s.tokens): float(mine[a:b].mean())
            for s, a, b in zip(samples, bounds, bounds[1:], strict=False)
            if s.scored
        },
        "packed_against_alone_mean": float(packed.mean()),
        "ours_gradient": relative(as_named_by_transformers(actor), exact.gradients),
        "theirs_gradient": relative(theirs.gradients, exact.gradients),
    }
    expect(mine.mean() <= 1.5 * other.mean() + 1e-4, f"log-probs as near as theirs: {values}")
    expect(
        values["ours_gradient"] <= 1.5 * values["theirs_gradient"] + 1e-3,
        f"gradients as near as theirs: {values}",
    )
    return values


def recompute(folder: Path, samples: list[Sample]) -> dict:
    """Gradients and losses beside those without recompute; "again" is none once more.

    Attention's backward pass on a GPU adds in no fixed order, so that "again" need not be 0.
    """
    values: dict[str, float] = {}
    expected: dict[str, torch.Tensor] = {}
    first = math.nan
    kinds = {"none": "none", "again": "none", "core": "core_attention", "full": "full"}
    for name, kind in kinds.items():
        actor = actor_of(folder, recompute=kind)
        shares, _ = actor.accumulate(samples, loss, temperature=TEMPERATURE)
        total, _ = combine(shares)
        gradients = {n: g.clone() for n, g in actor.gradients().items()}
        if not expected:
            expected, first = gradients, total
            continue
        values[name] = relative(gradients, expected)
        values[f"{name}_loss"] = abs(total - first)
        del actor, gradients
    expect(
        max(values["core"], values["full"]) <= 3 * values["again"] + 1e-4,
        f"no further apart than twice the same: {values}",
    )
    expect(values["full_loss"] <= 1e-5 * abs(first) + 1e-7, f"the same loss: {values}")
    return values


def two_steps(folder: Path, samples: list[Sample]) -> dict:
    actor = actor_of(folder)
    before = {n: p.clone() for n, p in actor.parameters().items()}
    steps, seconds = [], []
    for _ in range(3):
        began = time.perf_counter()
        steps.append(actor.step(samples, loss, temperature=TEMPERATURE))
        device.synchronize()
        seconds.append(time.perf_counter() - began)
    moved = [float((p != before[n]).float().mean()) for n, p in actor.parameters().items()]
    values: dict = {
        "losses": [step.loss for step in steps],
        "grad_norms": [step.grad_norm for step in steps],
        "moved": sum(moved) / len(moved),
        "seconds": seconds,
    }
    expect(steps[2].loss < steps[1].loss < steps[0].loss, f"losses that fall: {values}")
    expect(values["moved"] > 0.2, f"weights moved: {values}")
    return values


def not_finite(folder: Path, samples: list[Sample]) -> dict:
    """A loss, then a gradient, that is not a number: both end the step."""
    actor = actor_of(folder)
    before = {n: p.clone() for n, p in actor.parameters().items()}
    errors = []

    def of_loss(batch: LossBatch) -> LossOutput:
        return LossOutput(loss(batch).loss * math.nan)

    def of_gradient(batch: LossBatch) -> LossOutput:
        return LossOutput((batch.log_probs.sum() * 0).sqrt())

    for broken in (of_loss, of_gradient):
        try:
            actor.step(samples, broken)
        except FloatingPointError as error:
            errors.append(str(error))
        if len(errors) == 1:
            same = all(torch.equal(p, before[n]) for n, p in actor.parameters().items())
            expect(same, "a loss that is not finite changed weights")
    expect(len(errors) == 2, f"two FloatingPointErrors, seen: {errors}")
    return {"errors": errors}


def other_weights(folder: Path, samples: list[Sample]) -> dict:
    """Log-probs of a reference that lies in the host's memory, as with algorithm.loss.kl_coef."""
    actor = actor_of(folder)
    reference, first = actor.weights(), np.concatenate(actor.log_probs(samples))
    actor.step(samples, loss)
    now = np.concatenate(actor.log_probs(samples))
    began = time.perf_counter()
    with actor.using(reference):
        meanwhile = np.concatenate(actor.log_probs(samples))
    device.synchronize()
    seconds = time.perf_counter() - began
    afterwards = np.concatenate(actor.log_probs(samples))
    expect(bool((meanwhile == first).all()), "log-probs of the reference are as they were")
    expect(bool((afterwards == now).all()), "log-probs of its own are as they were")
    expect(bool((now != first).any()), "the step changed log-probs")
    nbytes = sum(p.nbytes for p in actor.parameters().values())
    return {"seconds": seconds, "weights_GB": nbytes / 1e9}


def checkpoint(folder: Path, out: Path, samples: list[Sample]) -> dict:
    """What is restored is what was saved, to the bit, though training went on meanwhile."""
    actor = actor_of(folder)
    actor.step(samples, loss)
    weights = {n: p.clone() for n, p in actor.parameters().items()}
    state = [t.clone() for t in optimizer_tensors(actor)]
    checkpoints = Checkpoints(
        out, {"config.json": folder / "config.json"}, CheckpointConfig(wait=False)
    )
    torch.randn(3, device=device.device())
    began = time.perf_counter()
    actor.state()
    gathered = time.perf_counter() - began
    began = time.perf_counter()
    checkpoints.save(1, actor, {})
    blocked = time.perf_counter() - began
    drawn = torch.randn(8, device=device.device())
    after = actor.step(samples, loss)
    began = time.perf_counter()
    checkpoints.finish()
    values: dict = {
        "GB": sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e9,
        "gather_seconds": gathered,  # of the blocked ones, Megatron-core's
        "blocked_seconds": blocked,
        "waited_seconds": time.perf_counter() - began,
    }
    other = actor_of(folder)
    began = time.perf_counter()
    step = Checkpoints(out, {}, CheckpointConfig()).load_latest(other).step
    values["load_seconds"] = time.perf_counter() - began
    expect(step == 1, f"step 1 is restored: {step}")
    same = [torch.equal(p, weights[n]) for n, p in other.parameters().items()]
    expect(all(same), f"{same.count(False)} of {len(same)} weights differ")
    same = [torch.equal(a, b) for a, b in zip(optimizer_tensors(other), state, strict=True)]
    expect(all(same), f"{same.count(False)} of {len(same)} optimizer tensors differ")
    again = torch.randn(8, device=device.device())
    expect(torch.equal(drawn, again), f"random numbers go on: {drawn.tolist()} {again.tolist()}")
    repeated = other.step(samples, loss)
    values |= {"loss": after.loss, "loss_again": repeated.loss}
    pairs = [(p, other.parameters()[n]) for n, p in actor.parameters().items()]
    values["weights_equal"] = sum(float((a == b).float().mean()) for a, b in pairs) / len(pairs)
    expect(abs(after.loss - repeated.loss) < 1e-4 * abs(after.loss), f"the same loss: {values}")
    return values
