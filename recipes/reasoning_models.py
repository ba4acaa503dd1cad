"""Released reasoning models: how each is pruned, and evaluated afterwards.

Each recipe takes a model folder below models/, and problems with the limit in their prompts:

    megaprune data numina_amc_aime --family qwen --limit 4000,3000,2000 \\
        --out 'data/train_qwen_{limit}.parquet'
    megaprune data aime22_23 --family qwen --limit 4000,3000,2000 \\
        --out 'data/choice_qwen_{limit}.parquet'
    megaprune prune recipe=qwq_32b

`--family` is deepseek for the distillations of R1 and for DeepScaleR, and qwen for QwQ and Qwen3,
whose limits are 32000,24000,16000.

All recipes have the algorithm of DLER (arXiv 2510.15110): a response that is right within the limit
earns 1, advantages are centred by group and divided by the deviation of the batch, the ratio's
upper clip is 0.28, groups without signal are replaced by other problems, and there is neither a KL
term nor an entropy bonus. The limits fall from round to round as in ThinkPrune (arXiv 2504.01296);
DLER had one limit, 4000. The rest is ThinkPrune's too: 128 prompts x 16 samples with one optimizer
step on them, AdamW at 1e-6, temperature 1, and validation every 20 steps of at most 10 epochs.

The recipes whose names end in `_paper` have ThinkPrune's algorithm as well. Where they differ from
its released code:

- KL to the round's first model is a cost; there its sign made it a reward.
- A response earns something only if it ended by itself, closed its thought and is right after it;
  there a box anywhere in a cut text could do.
- The loss is the mean over all tokens of a step; there over those of each micro-batch.
- The first step has the full learning rate; there it had none.
- A round's model is chosen by AIME 2022 and 2023 under a limit of its own; there by hand, from
  scores under the training limit, with AIME 2024, the test, among them.
- Training and evaluation have the same prompt; there two instructions were swapped.
- The last two checkpoints and the best are kept, there 10 or 20; vLLM may use CUDA graphs, there it
  was eager; micro-batches have at most so many tokens, there so many responses.

Parallelism, recomputation and offload are those that `megaprune plan` finds fastest on GPUs of
80 GB, but for 5 % that leave memory to spare. No number depends on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from megaprune.algorithms import Algorithm
from megaprune.config.run import (
    ActorConfig,
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    GradingConfig,
    OptimizerConfig,
    RolloutConfig,
    ValidationConfig,
    WandbConfig,
)
from megaprune.evaluation.config import EvaluateConfig
from megaprune.pruning.config import PruneConfig

STEPS_OF_10_EPOCHS = 190  # of the 2,470 problems that others count in this subset, 128 a step

_GPUS_OF_MODELS = {
    "r1_distill_qwen_1_5b": 16,
    "r1_distill_qwen_7b": 8,
    "r1_distill_qwen_32b": 32,
    "deepscaler_1_5b": 16,
    "qwq_32b": 32,
    "qwen3_8b": 16,
    "qwen3_32b": 32,
}
_OF_THE_PAPER = ("r1_distill_qwen_1_5b", "deepscaler_1_5b", "qwq_32b")

GPUS = {
    **_GPUS_OF_MODELS,
    **{f"{name}_test": gpus for name, gpus in _GPUS_OF_MODELS.items()},
    **{f"{name}_paper": _GPUS_OF_MODELS[name] for name in _OF_THE_PAPER},
}
"""How many GPUs each recipe is for, by its name: nodes of 8."""


# Pruning.


def r1_distill_qwen_1_5b() -> PruneConfig:
    """Prune DeepSeek-R1-Distill-Qwen-1.5B on 2 x 8 GPUs: engine and model fit on each GPU.

    DLER (2510.15110, table 1) publishes AIME 2024 from 29.8 % at 16,916 tokens to 34.4 % at 3,551,
    and 10,499 to 2,466 tokens on average over five sets: with the limit 4000 alone, and on
    DeepScaleR's problems. No numbers were published with falling limits. Validation responses may
    have 32,000 tokens, so that they compare with the curve of the ThinkPrune authors, which
    `megaprune report` draws beside them.
    """
    return _pruning(
        "DeepSeek-R1-Distill-Qwen-1.5B",
        "deepseek",
        ActorConfig(),
        max_prompt_length=768,
        validation_limit=32000,
    )


def r1_distill_qwen_1_5b_paper() -> PruneConfig:
    """Prune it as ThinkPrune did.

    Published are, in its abstract, half the tokens on AIME 2024 for 2 points, and by its authors
    (issue 1 of their repository) AIME 2022 and 2023 in the round under 4000: 20.7 % at 17,712
    tokens at step 20, and 20.6 % at 9,336 at step 180.
    """
    return _as_in_the_paper(r1_distill_qwen_1_5b())


def deepscaler_1_5b() -> PruneConfig:
    """Prune DeepScaleR-1.5B-Preview on 2 x 8 GPUs. No numbers were published with this."""
    return _pruning("DeepScaleR-1.5B-Preview", "deepseek", ActorConfig(), max_prompt_length=768)


def deepscaler_1_5b_paper() -> PruneConfig:
    """Prune it as ThinkPrune did.

    LAPO (2507.15758) measured the model that ThinkPrune released after its last round: 62.3 % at
    3,303 tokens on average over four sets, from 62.5 % at 6,229.
    """
    return _as_in_the_paper(deepscaler_1_5b())


def qwq_32b() -> PruneConfig:
    """Prune QwQ-32B on 4 x 8 GPUs: engines of TP4, actor TP2 x PP8 x DP2.

    No numbers were published with this.
    """
    return _pruning("QwQ-32B", "qwen", _ACTOR_OF_32B, tp=4, gpu_memory_utilization=0.7)


def qwq_32b_paper() -> PruneConfig:
    """Prune it as ThinkPrune did, but for the parallelism.

    The paper's engines are TP8. With those and an actor of TP8 x PP2 that computes all activations
    again, the plan has 1,400 GPU-hours of 80 GB; with this parallelism 1,078, and 13 GB of each GPU
    are free. Nobody but the authors has published numbers of this model.
    """
    return _as_in_the_paper(qwq_32b())


def r1_distill_qwen_7b() -> PruneConfig:
    """Prune DeepSeek-R1-Distill-Qwen-7B on 8 GPUs: an engine on each, actor PP2 x DP4.

    DLER (2510.15110, table 1) publishes AIME 2024 from 55.4 % at 13,241 tokens to 55.6 % at 3,230,
    and 7,747 to 2,405 tokens on average over five sets: with the limit 4000 alone, and on
    DeepScaleR's problems. No numbers were published with falling limits.
    """
    return _pruning(
        "DeepSeek-R1-Distill-Qwen-7B",
        "deepseek",
        ActorConfig(pp=2, offload="optimizer"),
        gpu_memory_utilization=0.7,
    )


def r1_distill_qwen_32b() -> PruneConfig:
    """Prune DeepSeek-R1-Distill-Qwen-32B on 4 x 8 GPUs, divided as QwQ-32B is.

    No numbers were published with this. By another reward, LASER-DE (2505.15612, table 4) has
    79.8 % at 4,313 tokens on average over its sets, from 81.0 % at 6,941.
    """
    return _pruning(
        "DeepSeek-R1-Distill-Qwen-32B", "deepseek", _ACTOR_OF_32B, tp=4, gpu_memory_utilization=0.7
    )


def qwen3_8b() -> PruneConfig:
    """Prune Qwen3-8B on 2 x 8 GPUs: engines of TP4, actor TP4 x PP2 x DP2.

    No numbers were published with this. What is known of Qwen3 asks for long limits: to begin with
    a short one works for distillations of R1, and failed for Qwen3 with 24,000 tokens (POLARIS,
    issue 8). So the first limit is 32000, and the last is 16000. DLER's mean length is 0.6 of its
    limit, which would be about 10,000 tokens here; 2602.09591 finds the best length of hard
    mathematics at 6,000 to 8,000. Rounds have half as many steps as those of the other recipes,
    because steps take ten times as long. Look at the first round's validations before you let the
    others begin.
    """
    actor = ActorConfig(tp=4, pp=2, sequence_parallel=True, max_tokens=33792, offload="all")
    return _qwen3("Qwen3-8B", actor, tp=4)


def qwen3_32b() -> PruneConfig:
    """Prune Qwen3-32B on 4 x 8 GPUs: engines of TP8, actor TP4 x PP2 x DP4.

    No numbers were published with this; the limits are those of `qwen3_8b`, for the same reasons.
    """
    actor = ActorConfig(
        tp=4, pp=2, sequence_parallel=True, max_tokens=33792, recompute="full", offload="all"
    )
    return _qwen3("Qwen3-32B", actor, tp=8)


_ACTOR_OF_32B = ActorConfig(
    tp=2, pp=8, sequence_parallel=True, max_tokens=5120, offload="optimizer"
)
"""The actor of Qwen2's shape of 32 billion parameters, under a limit of 4,000 tokens."""


def _pruning(
    model: str,
    family: str,
    actor: ActorConfig,
    *,
    limits: Sequence[int] = (4000, 3000, 2000),
    steps: int = STEPS_OF_10_EPOCHS,
    max_prompt_length: int = 1024,
    validation_limit: int = 16000,
    tp: int = 1,
    gpu_memory_utilization: float = 0.6,
) -> PruneConfig:
    return PruneConfig(
        model=f"models/{model}",
        out=f"runs/{model}",
        steps=steps,
        limits=[*limits],
        data=DataConfig(
            train=f"data/train_{family}_{{limit}}.parquet",
            validation=f"data/choice_{family}_{{limit}}.parquet",
            train_batch_size=128,
            max_prompt_length=max_prompt_length,
        ),
        rollout=RolloutConfig(
            n=16,
            max_response_length=limits[0],
            temperature=1.0,
            tp=tp,
            gpu_memory_utilization=gpu_memory_utilization,
        ),
        algorithm=Algorithm.from_spec("dler"),
        optimizer=OptimizerConfig(
            lr=1e-6,
            warmup_steps=0,
            weight_decay=0.01,
            weight_decay_on_vectors=True,  # verl gives all parameters to torch's AdamW
            clip_grad=1.0,
        ),
        actor=actor,
        validation=ValidationConfig(
            every=20, n=16, temperature=0.6, top_p=0.95, max_response_length=validation_limit
        ),
        checkpoint=CheckpointConfig(every=20),
        wandb=WandbConfig(mode="offline"),
    )


def _qwen3(model: str, actor: ActorConfig, *, tp: int) -> PruneConfig:
    pruning = _pruning(
        model,
        "qwen",
        actor,
        limits=(32000, 24000, 16000),
        steps=STEPS_OF_10_EPOCHS // 2,
        validation_limit=32000,
        tp=tp,
        gpu_memory_utilization=0.8,
    )
    return replace(pruning, grading=GradingConfig(thought="qwen3"))


def _as_in_the_paper(pruning: PruneConfig) -> PruneConfig:
    algorithm = Algorithm.from_spec("thinkprune")
    return replace(pruning, out=f"{pruning.out}-paper", algorithm=algorithm)


# Evaluation.


def r1_distill_qwen_1_5b_test() -> EvaluateConfig:
    """Evaluate the pruned model on AIME 2024 (megaprune data aime24 --family deepseek ...)."""
    return _test(r1_distill_qwen_1_5b(), "deepseek")


def deepscaler_1_5b_test() -> EvaluateConfig:
    """Evaluate the pruned DeepScaleR in the same way."""
    return _test(deepscaler_1_5b(), "deepseek")


def qwq_32b_test() -> EvaluateConfig:
    """Evaluate the pruned QwQ-32B, with 16 samples as in ThinkPrune's released code."""
    return _test(qwq_32b(), "qwen", 16)


def r1_distill_qwen_7b_test() -> EvaluateConfig:
    """Evaluate the pruned DeepSeek-R1-Distill-Qwen-7B."""
    return _test(r1_distill_qwen_7b(), "deepseek")


def r1_distill_qwen_32b_test() -> EvaluateConfig:
    """Evaluate the pruned DeepSeek-R1-Distill-Qwen-32B, with 16 samples."""
    return _test(r1_distill_qwen_32b(), "deepseek", 16)


def qwen3_8b_test() -> EvaluateConfig:
    """Evaluate the pruned Qwen3-8B."""
    return _test(qwen3_8b(), "qwen")


def qwen3_32b_test() -> EvaluateConfig:
    """Evaluate the pruned Qwen3-32B, with 16 samples."""
    return _test(qwen3_32b(), "qwen", 16)


def _test(pruning: PruneConfig, family: str, n: int | None = None) -> EvaluateConfig:
    return EvaluateConfig(
        model=f"{pruning.out}/model",
        out=f"{pruning.out}-test",
        data=[f"data/aime24_{family}.parquet"],
        n=n,
        max_prompt_length=pruning.data.max_prompt_length,
        template=family,
        rollout=EngineConfig(tp=pruning.rollout.tp),
        grading=pruning.grading,
    )
