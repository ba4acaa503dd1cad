"""Actor and rollout in one torchrun, and the weights between them; JSON lines.

    torchrun --nproc-per-node N sync_worker.py ROOT MODEL,MODEL...

ROOT/MODEL is a Hugging Face folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from actors import build_actor
from rotations import BUILT, named_config

import reference
from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.actor.rotary import attention_factor, inverse_frequencies
from megaprune.algorithms.records import LossOutput
from megaprune.config.run import EngineConfig
from megaprune.distributed import world
from megaprune.generation.generator import Generator, Prompt, SamplingOptions
from megaprune.parallelism import Parallel
from megaprune.weights.copy_plan import plan
from megaprune.weights.layouts import Pipeline
from megaprune.weights.model import Model, read_config
from megaprune.weights.rope import context_of, engine_overrides, rope_parameters
from megaprune.weights.sync import WeightsDiffer, WeightSync

CASES = {
    1: [Parallel()],
    2: [
        Parallel(),
        Parallel(2),
        Parallel(1, Pipeline(2)),
        Parallel(1, Pipeline(2, 2)),
        Parallel(1, Pipeline(2, first=1)),
    ],
    4: [
        Parallel(),  # dp 4
        Parallel(2),  # tp 2, dp 2
        Parallel(4),  # more ranks than key heads
        Parallel(1, Pipeline(2)),  # pp 2, dp 2
        Parallel(1, Pipeline(2, 2)),
        Parallel(1, Pipeline(4)),
        Parallel(2, Pipeline(2)),
        Parallel(2, Pipeline(2, 2)),
    ],
}
PROMPTS = [Prompt([5, 6, 7, 8 + i, 30 + i], f"prompt {i}") for i in range(4)]
BUFFER = 1 << 16  # bytes under way: small, so that transfers take several rounds


def say(**fields) -> None:
    if dist.get_rank() == 0:
        print(json.dumps(fields), flush=True)


def everyone(mine):
    out = [None] * dist.get_world_size()
    dist.all_gather_object(out, mine)
    return out


def actor_of(folder: Path, case: Parallel, **options) -> Actor:
    return build_actor(folder, case, max_tokens=200, distributed=False, **options)


def random_weights(model: Model, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=s).astype(np.float32) for n, s in model.tensors().items()}


@torch.no_grad()
def set_actor(actor: Actor, arrays: dict[str, np.ndarray]) -> None:
    """Other weights, put where Megatron-core has them by the formulas of reference.py."""
    model, case, ranks = actor.model, actor.parallel, dist.get_world_size()
    rank = dist.get_rank()
    stage = rank // (ranks // case.pipeline.stages)
    padded = -(-model.vocab // case.tp) * case.tp
    expected = reference.megatron_rank(
        model, arrays, case.tp, rank % case.tp, case.pipeline.layers(model.layers)[stage],
        stage == 0, stage == case.pipeline.stages - 1, padded, "local",
    )  # fmt: skip
    parameters = actor.parameters()
    assert parameters.keys() == expected.keys()
    for name, array in expected.items():
        parameters[name].copy_(torch.from_numpy(np.ascontiguousarray(array)))


def differences(rollout: Generator, arrays: dict[str, np.ndarray], held: dict) -> list[str]:
    """What `held` is not, compared with what vLLM's own loader makes of the whole tensors."""
    parameters = rollout.parameters()
    for parameter in parameters.values():
        parameter.fill_(float("nan"))
    rollout.load_weights((n, torch.from_numpy(a.copy())) for n, a in arrays.items())
    return [
        name
        for name, parameter in parameters.items()
        if not torch.equal(parameter.view(torch.uint8), held[name].view(torch.uint8))
        # vLLM's loader leaves the padding rows alone; the sync must make them zero.
        and not _same_but_for_padding(parameter, held[name])
    ]


def _same_but_for_padding(loaded: torch.Tensor, held: torch.Tensor) -> bool:
    rows = loaded.isnan().flatten(1).any(1) if loaded.dim() > 1 else torch.zeros(len(loaded)).bool()
    return torch.equal(loaded[~rows], held[~rows]) and not held[rows].any()


def check_sync(folder: Path, rollout: Generator, case: Parallel, seed: int) -> None:
    actor = actor_of(folder, case)
    arrays = random_weights(actor.model, seed)
    transfer = WeightSync(
        plan(actor.layout, rollout.layout), actor.parameters(), rollout.parameters(),
        torch.float32, buffer_bytes=BUFFER,
    )  # fmt: skip
    set_actor(actor, arrays)
    try:
        transfer.verify()
        stale = ""
    except WeightsDiffer as error:
        stale = str(error)
    sent = transfer.run()
    rollout.weights_changed()
    transfer.verify()
    # One bit, on the last rank, of the first weight of the last parameter.
    held = rollout.parameters()
    name = list(held)[-1]
    bits = held[name].view(torch.int32).view(-1)
    bits[0] ^= dist.get_rank() == dist.get_world_size() - 1
    try:
        transfer.verify()
        flipped = ""
    except WeightsDiffer as error:
        flipped = str(error)
    bits[0] ^= dist.get_rank() == dist.get_world_size() - 1
    snapshot = {n: p.clone() for n, p in held.items()}
    wrong = differences(rollout, arrays, snapshot)
    say(
        job="sync", model=folder.name, case=str(case), vllm_tp=rollout.config.tp,
        wrong=everyone(wrong), parameters=len(snapshot), stale=stale != "",
        flipped=flipped, last=name,
        sent=everyone((sent.bytes_sent, sent.bytes_received, sent.messages, sent.rounds)),
        planned=[4 * n for n in transfer.plan.sent()],
        bound=[4 * n for n in transfer.plan.lower_bound()],
    )  # fmt: skip


def samples_of(rollout: Generator, responses: list) -> tuple[list[Sample], np.ndarray]:
    """All engines' responses on all ranks, and vLLM's log-probs of them."""
    found = everyone(responses)[:: rollout.config.tp]
    samples, log_probs = [], []
    for engine, mine in enumerate(found):
        numbers = range(engine, len(PROMPTS), rollout.engines)
        for response in mine:
            prompt = PROMPTS[numbers[response.prompt]].tokens
            samples.append(Sample(np.concatenate([prompt, response.tokens]), len(prompt)))
            log_probs.append(response.log_probs)
    return samples, np.concatenate(log_probs)


def generate(rollout: Generator, **options) -> list:
    prompts = [PROMPTS[i] for i in rollout.share(len(PROMPTS))]
    sampling = SamplingOptions(**{"n": 3, "limit": 24, "ignore_end": True, **options})
    seen = []
    out = sorted(
        rollout.generate(prompts, sampling, seen.append), key=lambda r: (r.prompt, r.number)
    )
    assert seen[-1].finished == seen[-1].total == len(out)
    assert seen[-1].tokens == sum(len(r.tokens) for r in out)
    return out


def tokens(responses) -> list[list[int]]:
    return [r.tokens.tolist() for r in responses]


def check_agreement(folder: Path, rollout: Generator, case: Parallel, before: torch.Tensor) -> None:
    """Sample, train on the samples, sync, sample again: both engines agree before and after."""
    actor = actor_of(folder, case, lr=3e-3)
    transfer = WeightSync(
        plan(actor.layout, rollout.layout), actor.parameters(), rollout.parameters(), torch.float32
    )
    transfer.run()
    rollout.weights_changed()
    first, again = generate(rollout), generate(rollout)
    other_seed, cold = generate(rollout, seed=1), generate(rollout, temperature=0.7, top_p=0.9)
    greedy = generate(rollout, n=1, temperature=0.0)
    # The first token that was drawn, as a token that ends a response.
    ends = generate(rollout, stop=(int(first[0].tokens[0]),))
    samples, inference = samples_of(rollout, first)
    mismatch = np.abs(np.concatenate(actor.log_probs(samples)) - inference)

    def away_from_them(batch):
        return LossOutput(batch.log_probs.mean() / 3)

    for _ in range(3):
        actor.step(samples, away_from_them, lr=None)
    # A request in flight and a cached prefix see the weights change.
    prompts = [PROMPTS[i] for i in rollout.share(len(PROMPTS))]
    assert list(rollout.generate([], SamplingOptions())) == []
    stop = (int(first[0].tokens[0]),)
    running = rollout.generate(prompts, SamplingOptions(n=3, limit=24, stop=stop, ignore_end=True))
    early = next(running)
    try:
        rollout.sleep()
        refused = False
    except RuntimeError:
        refused = True
    transfer.run()
    rollout.weights_changed()
    late = list(running)
    transfer.verify()
    were = {(r.prompt, r.number): r.tokens.tolist() for r in ends}
    # Handed out while others were generated, which went on under the new weights.
    early_alike = early.tokens.tolist() == were[early.prompt, early.number]
    late_alike = [r.tokens.tolist() == were[r.prompt, r.number] for r in late]
    trained = generate(rollout, n=1, temperature=0.0)
    drawn = generate(rollout)
    samples, inference = samples_of(rollout, drawn)
    after = np.abs(np.concatenate(actor.log_probs(samples)) - inference)
    greedy_samples, _ = samples_of(rollout, trained)
    say(
        job="agree", model=folder.name, case=str(case), vllm_tp=rollout.config.tp,
        mean=float(mismatch.mean()), largest=float(mismatch.max()), tokens=len(mismatch),
        after_mean=float(after.mean()), after_largest=float(after.max()),
        repeated=tokens(first) == tokens(again), reseeded=tokens(first) != tokens(other_seed),
        cold=tokens(cold) != tokens(first),
        alike_in_engine=all(
            tokens(a) == tokens(b)
            for a, b in zip(everyone(first), everyone(first)[1:], strict=False)
            if rollout.config.tp == dist.get_world_size()
        ),
        greedy=tokens(greedy), trained=tokens(trained),
        greedy_samples=[s.tokens.tolist() for s in greedy_samples],
        first=[r.tokens.tolist() for r in sum(everyone(first)[:: rollout.config.tp], [])],
        finishes=sorted({r.finish_reason for r in first}),
        stopped=(ends[0].finish_reason, tokens(ends)[0] == tokens(first)[0][:1]),
        same_until_stopped=all(
            a[: len(b)] == b for a, b in zip(tokens(first), tokens(ends), strict=True)
        ),
        refused=refused, early=len(early.tokens), early_alike=early_alike,
        late=len(late), late_alike=all(late_alike),
        random_state=torch.equal(before, torch.random.get_rng_state()),
        local_world=os.environ.get("LOCAL_WORLD_SIZE"),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    save(actor, folder.parent / "trained" / f"{folder.name}-{rollout.config.tp}.pt")


def save(actor: Actor, path: Path) -> None:
    """The actor's weights as whole Hugging Face tensors, gathered shard by shard."""
    shards = everyone({n: p.clone() for n, p in actor.parameters().items()})
    if dist.get_rank() == 0:
        whole = {n: torch.zeros(s) for n, s in actor.model.tensors().items()}
        for shard, layout in zip(shards, actor.layout.ranks, strict=True):
            for parameter in layout:
                for piece in parameter.pieces:
                    part = shard[parameter.name][piece.at.slices]
                    whole[piece.tensor][piece.box.slices] = part
        path.parent.mkdir(exist_ok=True)
        torch.save(whole, path)


def check_casting(folder: Path, rollout: Generator) -> None:
    """fp32 weights into other tensors of bf16: cast once, half the bytes."""
    actor = actor_of(folder, Parallel(1, Pipeline(2)))
    target = {n: p.bfloat16().fill_(7) for n, p in rollout.parameters().items()}
    transfer = WeightSync(
        plan(actor.layout, rollout.layout), actor.parameters(), target, torch.bfloat16
    )
    sent = transfer.run()
    transfer.verify()
    whole = WeightSync(
        plan(actor.layout, rollout.layout), actor.parameters(), rollout.parameters(), torch.float32
    )
    full = whole.run()
    same = all(torch.equal(t, rollout.parameters()[n].bfloat16()) for n, t in target.items())
    say(job="cast", same=all(everyone(same)), half=2 * sent.bytes_sent == full.bytes_sent)


def check_dummy_weights(folder: Path, start: Callable[..., Generator]) -> None:
    """An engine that began with random weights, after a sync: beside one that has read them."""
    rollout = start()
    actor = actor_of(folder, Parallel())
    sync = WeightSync(
        plan(actor.layout, rollout.layout), actor.parameters(), rollout.parameters(), torch.float32
    )
    try:
        sync.verify()
        random = False
    except WeightsDiffer:
        random = True
    sync.run()
    seen = everything(rollout), generate(rollout)
    rollout.close()
    rollout = start(dummy_weights=False)
    expected = everything(rollout), generate(rollout)
    rollout.close()
    say(
        job="dummy", random=random, tensors=len(expected[0]),
        same_tensors=seen[0].keys() == expected[0].keys()
        and all(torch.equal(tensor, expected[0][name]) for name, tensor in seen[0].items()),
        same_tokens=tokens(seen[1]) == tokens(expected[1]),
        same_log_probs=all(
            a.log_probs.tobytes() == b.log_probs.tobytes()
            for a, b in zip(seen[1], expected[1], strict=True)
        ),
    )  # fmt: skip


def everything(rollout: Generator) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers of an engine's model."""
    model = rollout._llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
    return {n: t.clone() for n, t in (*model.named_parameters(), *model.named_buffers())}


def check_rotations(root: Path) -> None:
    """The angles that vLLM computes of every spelling, over all of its context: against ours."""
    from vllm.config import ModelConfig, VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    off = {}
    for name, fields in BUILT.items():
        config = named_config({**fields, "head_dim": 16})
        (root / "config.json").write_text(json.dumps(config))
        length, rope = context_of(config), rope_parameters(config)
        theirs = ModelConfig(
            str(root), skip_tokenizer_init=True, dtype="float32", max_model_len=length,
            hf_overrides=engine_overrides(config), enforce_eager=True,
        ).hf_config  # fmt: skip
        with set_current_vllm_config(VllmConfig()):
            module = get_rope(
                16, theirs.max_position_embeddings, rope_parameters=theirs.rope_parameters,
                dtype=torch.float32,
            )  # fmt: skip
        angles = torch.outer(torch.arange(length).float(), inverse_frequencies(rope, 16))
        ours = torch.cat((angles.cos(), angles.sin()), -1) * attention_factor(rope)
        cached = module.cos_sin_cache[:length]
        off[name] = (cached - ours).abs().max().item() if len(cached) == length else len(cached)
    (root / "config.json").unlink()
    say(job="rotations", off=off)


def job() -> None:
    root, names = Path(sys.argv[1]), sys.argv[2].split(",")
    ranks = dist.get_world_size()
    for number, name in enumerate(names):
        folder = root / name
        kv_heads = Model.from_config(read_config(folder)).kv_heads
        for tp in (1, 2):
            if ranks % tp:
                continue
            with world.phase(f"vLLM tp {tp} of {name}"):
                before = torch.random.get_rng_state()
                # As a training run starts it.
                start = partial(
                    Generator,
                    folder,
                    EngineConfig(tp=tp, enforce_eager=True, kv_cache_memory_bytes=1 << 26),
                    torch.float32,
                    max_length=64,
                    dummy_weights=True,
                )
                rollout = start()
                # Every layout with the first model; with the others one that divides all.
                cases = CASES[ranks] if number == 0 else CASES[ranks][-1:]
                for seed, case in enumerate(cases):
                    if case.tp <= 2 or kv_heads <= case.tp:
                        check_sync(folder, rollout, case, seed)
                if number == 0 or ranks == 2:
                    check_agreement(folder, rollout, CASES[ranks][-1], before)
                if ranks == 1:
                    check_rotations(root)
                if ranks == 2 and number == 0 and tp == 2:
                    check_casting(folder, rollout)
                rollout.close()
                if ranks == 1:
                    check_dummy_weights(folder, start)


if __name__ == "__main__":
    sys.exit(world.run(job))
