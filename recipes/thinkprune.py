"""ThinkPrune's models and settings (arXiv 2504.01296), and beside each what we recommend.

Each takes a model folder below models/, and problems with the round's limit in their prompts:

    megaprune data numina_amc_aime --family qwen --limit 4000,3000,2000 \\
        --out 'data/train_qwen_{limit}.parquet'
    megaprune data aime22_23 --family qwen --limit 4000,3000,2000 \\
        --out 'data/choice_qwen_{limit}.parquet'
    megaprune prune recipe=qwq_32b

(deepseek in place of qwen for the models of 1.5B). The paper's settings: 128 prompts x 16 samples
with one optimizer step on them, AdamW at 1e-6, temperature 1, limits 4000, 3000 and 2000, and
validation every 20 steps of at most 10 epochs. Where they differ from its released code:

- KL to the round's first model is a cost; there its sign made it a reward.
- A response earns something only if it ended by itself, closed its thought and is right after it;
  there a box anywhere in a cut text could do.
- The loss is the mean over all tokens of a step; there over those of each micro-batch.
- The first step has the full learning rate; there it had none.
- A round's model is chosen by AIME 2022 and 2023, with room for 16,000 tokens; there by hand, from
  scores under the training limit, with AIME 2024, the test, among them.
- Training and evaluation have the same prompt; there two instructions were swapped.
- The last two checkpoints and the best are kept, there 10 or 20; vLLM may use CUDA graphs, there it
  was eager; micro-batches have at most so many tokens, there so many responses.
- Parallelism, recomputation and offload are those that `megaprune plan` finds fastest on GPUs of
  80 GB, but for 5 % that leave memory to spare. No number depends on them.

The recommended variants keep the reward and change the optimizer (DLER, arXiv 2510.15110):
advantages centred by group and divided by the deviation of the batch, the ratio's upper clip at
0.28, groups without signal replaced by other problems, no KL and no entropy bonus.
"""

from __future__ import annotations

from dataclasses import replace

from megaprune.algorithms import Algorithm
from megaprune.config.run import (
    ActorConfig,
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    OptimizerConfig,
    RolloutConfig,
    ValidationConfig,
    WandbConfig,
)
from megaprune.evaluation.config import EvaluateConfig
from megaprune.pruning.config import PruneConfig

STEPS_OF_10_EPOCHS = 190  # of the 2,470 problems that others count in this subset, 128 a step

GPUS = {
    f"{name}{variant}": gpus
    for name, gpus in (("r1_distill_qwen_1_5b", 16), ("deepscaler_1_5b", 16), ("qwq_32b", 32))
    for variant in ("", "_recommended", "_test")
}
"""How many GPUs each recipe is for, by its name: nodes of 8."""


def r1_distill_qwen_1_5b() -> PruneConfig:
    """Prune DeepSeek-R1-Distill-Qwen-1.5B on 2 x 8 GPUs: engine and model fit on each GPU."""
    return _pruning("DeepSeek-R1-Distill-Qwen-1.5B", "deepseek", 768, ActorConfig())


def r1_distill_qwen_1_5b_recommended() -> PruneConfig:
    """Prune it with the recommended optimizer."""
    return _recommended(r1_distill_qwen_1_5b())


def deepscaler_1_5b() -> PruneConfig:
    """Prune DeepScaleR-1.5B-Preview on 2 x 8 GPUs."""
    return _pruning("DeepScaleR-1.5B-Preview", "deepseek", 768, ActorConfig())


def deepscaler_1_5b_recommended() -> PruneConfig:
    """Prune it with the recommended optimizer."""
    return _recommended(deepscaler_1_5b())


def qwq_32b() -> PruneConfig:
    """Prune QwQ-32B on 4 x 8 GPUs: engines of TP4, actor TP2 x PP8 x DP2.

    The paper's engines are TP8. With those and an actor of TP8 x PP2 that computes all activations
    again, the plan has 1,401 GPU-hours of 80 GB; with this parallelism 1,078, and 13 GB of each GPU
    are free.
    """
    parallelism = ActorConfig(
        tp=2, pp=8, sequence_parallel=True, max_tokens=5120, offload="optimizer"
    )
    return _pruning("QwQ-32B", "qwen", 1024, parallelism, tp=4, gpu_memory_utilization=0.7)


def qwq_32b_recommended() -> PruneConfig:
    """Prune it with the recommended optimizer."""
    return _recommended(qwq_32b())


def r1_distill_qwen_1_5b_test() -> EvaluateConfig:
    """Evaluate the pruned model on AIME 2024 (megaprune data aime24 --family deepseek ...)."""
    return _test(r1_distill_qwen_1_5b(), "deepseek", None)


def deepscaler_1_5b_test() -> EvaluateConfig:
    """Evaluate the pruned DeepScaleR in the same way."""
    return _test(deepscaler_1_5b(), "deepseek", None)


def qwq_32b_test() -> EvaluateConfig:
    """Evaluate the pruned QwQ-32B, with 16 samples as in the released code."""
    return _test(qwq_32b(), "qwen", 16)


def _test(pruning: PruneConfig, family: str, n: int | None) -> EvaluateConfig:
    return EvaluateConfig(
        model=f"{pruning.out}/model",
        out=f"{pruning.out}-test",
        data=[f"data/aime24_{family}.parquet"],
        n=n,
        max_prompt_length=pruning.data.max_prompt_length,
        template=family,
        rollout=EngineConfig(tp=pruning.rollout.tp),
    )


def _pruning(
    model: str,
    family: str,
    max_prompt_length: int,
    actor: ActorConfig,
    *,
    tp: int = 1,
    gpu_memory_utilization: float = 0.6,
) -> PruneConfig:
    return PruneConfig(
        model=f"models/{model}",
        out=f"runs/{model}",
        steps=STEPS_OF_10_EPOCHS,
        limits=[4000, 3000, 2000],
        data=DataConfig(
            train=f"data/train_{family}_{{limit}}.parquet",
            validation=f"data/choice_{family}_{{limit}}.parquet",
            train_batch_size=128,
            max_prompt_length=max_prompt_length,
        ),
        rollout=RolloutConfig(
            n=16,
            max_response_length=4000,
            temperature=1.0,
            tp=tp,
            gpu_memory_utilization=gpu_memory_utilization,
        ),
        algorithm=Algorithm.from_spec("thinkprune"),
        optimizer=OptimizerConfig(
            lr=1e-6,
            warmup_steps=0,
            weight_decay=0.01,
            weight_decay_on_vectors=True,  # verl gives all parameters to torch's AdamW
            clip_grad=1.0,
        ),
        actor=actor,
        validation=ValidationConfig(
            every=20, n=16, temperature=0.6, top_p=0.95, max_response_length=16000
        ),
        checkpoint=CheckpointConfig(every=20),
        wandb=WandbConfig(mode="offline"),
    )


def _recommended(paper: PruneConfig) -> PruneConfig:
    algorithm = Algorithm.from_spec("dler")
    return replace(paper, out=f"{paper.out}-recommended", algorithm=algorithm)
