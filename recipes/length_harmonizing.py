"""Released reasoning models: how each is harmonized, as O1-Pruner (arXiv 2501.12570) did.

Each recipe takes a model folder below models/, problems of MATH to train on, and the three sets
that are measured before and after:

    megaprune data math_train --family marco --out data/math_train_marco.parquet
    megaprune data math_o1_pruner --input math_test.json --family marco \\
        --out data/math_o1_pruner_marco.parquet
    megaprune data gsm8k --family marco --out data/gsm8k_marco.parquet
    megaprune data gaokao2023 --family marco --out data/gaokao2023_marco.parquet
    megaprune harmonize recipe=marco_o1_7b_harmonize

`--family` is marco for Marco-o1, qwq_preview for QwQ-32B-Preview, and deepseek for the distillation
of R1; `--fast` makes the prompts of the fast-solving baseline.

What was published, and is the same here: K responses to each of 5,000 problems at temperature 0.5
and top_p 0.8, of at most 8,192 tokens; two of them are learned from, once, 32 in a step, cut to
3,072 tokens with the prompt (4,096 for QwQ), beyond which a response has no end token; the weights
of `harmonize.preset=o1_pruner_paper`; a cosine that warms up over a tenth of the steps, gradients
clipped to 10, no weight decay; one greedy response to each problem that is measured. Where the
recipes of the paper's two models differ from its code:

- Prompts are in words of our own, the same to draw and to train; there the two differed.
- Adam has both moments, of fp32; for Marco-o1 there it was Adam-mini.
- The 5,000 problems are the first of MATH's 7,500; nobody has said which they were.

`method=sft`, `dpo` and `simpo` make the baselines. Their published learning rates are 1e-6 for 2
epochs (sft) and 5e-8 (dpo), and for QwQ-32B-Preview 5e-6 (sft) and 2e-7 for 2 epochs (dpo, of the
last 36 layers).
"""

from __future__ import annotations

from megaprune.algorithms import Algorithm
from megaprune.algorithms.sample_weights import SampleWeights
from megaprune.config.run import (
    ActorConfig,
    CheckpointConfig,
    DataConfig,
    GradingConfig,
    OptimizerConfig,
    RolloutConfig,
    WandbConfig,
)
from megaprune.harmonizing.config import HarmonizeConfig, HeldOutConfig, PresampleConfig

GPUS = {
    "marco_o1_7b_harmonize": 8,
    "qwq_32b_preview_harmonize": 8,
    "r1_distill_qwen_1_5b_harmonize": 8,
}
"""How many GPUs each recipe is for, by its name: one node."""


def marco_o1_7b_harmonize() -> HarmonizeConfig:
    """Harmonize Marco-o1 (7B) on 8 GPUs: an engine on each, actor TP2 x PP2 x DP2.

    Published, for MATH, GSM8K and GaoKao2023: 73.8, 89.2 and 57.1 % right at 1,156, 530 and 1,112
    tokens before; 77.5, 91.4 and 61.6 % at 657, 343 and 664 after.
    """
    return _harmonizing(
        "Marco-o1",
        "marco",
        thought="marco",
        harmonize=SampleWeights.from_spec({"preset": "o1_pruner_paper", "lam": 2.0}),
        presample=_presample(16),
        cutoff=3072,
        lr=2e-7,
        actor=ActorConfig(tp=2, pp=2, max_tokens=6144),
    )


def qwq_32b_preview_harmonize() -> HarmonizeConfig:
    """Harmonize QwQ-32B-Preview, of which the last 48 of 64 layers are trained, on 8 GPUs of 80 GB:
    engines of TP4, actor TP8.

    Published, for MATH, GSM8K and GaoKao2023: 90.6, 95.1 and 79.0 % right at 2,191, 777 and 2,183
    tokens before; 91.0, 96.5 and 80.3 % at 1,385, 534 and 1,446 after.
    """
    return _harmonizing(
        "QwQ-32B-Preview",
        "qwq_preview",
        thought="none",
        harmonize=SampleWeights.from_spec({"preset": "o1_pruner_paper", "lam": 5.0}),
        presample=_presample(12),
        cutoff=4096,
        lr=2e-6,
        # This leaves room for a pair of responses, which method=dpo learns from together.
        actor=ActorConfig(
            tp=8, trainable_layers=48, sequence_parallel=True, max_tokens=8192, recompute="full"
        ),
        tp=4,
    )  # fmt: skip


def r1_distill_qwen_1_5b_harmonize() -> HarmonizeConfig:
    """Harmonize DeepSeek-R1-Distill-Qwen-1.5B on 8 GPUs, with `harmonize.preset=o1_pruner`.

    With the paper's weights others found it longer and less right. Here responses are weighed
    within each problem, those that were cut off do not gain by being short, and all 16 of a problem
    that was solved at least once are learned from, as they are drawn at temperature 1. The lower
    clip is 0.001 in place of 0.2: a response of 5,000 tokens loses 5 nats at most, and not 1,100.
    The rest is as for Marco-o1. No numbers were published with this.
    """
    return _harmonizing(
        "DeepSeek-R1-Distill-Qwen-1.5B",
        "deepseek",
        thought="think",
        harmonize=SampleWeights.from_spec("o1_pruner"),
        presample=PresampleConfig(n=16, max_response_length=16000),
        test=_measured("deepseek", 16000),
        lr=2e-7,
        actor=ActorConfig(max_tokens=17408),
        clip_ratio_low=0.001,
    )


def _harmonizing(
    model: str,
    family: str,
    *,
    thought: str,
    harmonize: SampleWeights,
    presample: PresampleConfig,
    lr: float,
    actor: ActorConfig,
    tp: int = 1,
    cutoff: int | None = None,
    test: HeldOutConfig | None = None,
    clip_ratio_low: float = 0.2,
) -> HarmonizeConfig:
    loss = {"name": "o1_pruner", "clip_ratio_low": clip_ratio_low}
    return HarmonizeConfig(
        model=f"models/{model}",
        out=f"runs/{model}-harmonized",
        data=DataConfig(
            train=f"data/math_train_{family}.parquet",
            train_batch_size=32,
            max_prompt_length=1024,
            cutoff=cutoff,
        ),
        harmonize=harmonize,
        presample=presample,
        test=test or _measured(family, 8192),
        algorithm=Algorithm.from_spec({"loss": loss}),
        rollout=RolloutConfig(tp=tp),
        grading=GradingConfig(thought=thought),
        optimizer=OptimizerConfig(
            lr=lr, schedule="cosine", weight_decay=0.0, clip_grad=10.0
        ),
        warmup_ratio=0.1,
        actor=actor,
        checkpoint=CheckpointConfig(every=50),
        wandb=WandbConfig(mode="offline"),
    )  # fmt: skip


def _presample(n: int) -> PresampleConfig:
    return PresampleConfig(problems=5000, n=n, temperature=0.5, top_p=0.8, max_response_length=8192)


def _measured(family: str, max_response_length: int) -> HeldOutConfig:
    """One greedy response to each problem of three sets, as published."""
    return HeldOutConfig(
        data=[
            f"data/{name}_{family}.parquet" for name in ("math_o1_pruner", "gsm8k", "gaokao2023")
        ],
        temperature=0.0,
        top_p=1.0,
        max_response_length=max_response_length,
    )
