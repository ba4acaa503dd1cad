"""Supervised training of tiny models with the actor: tokenizer, Qwen2 model, training, saving.

The `make.py` of each tiny model calls `train` with the texts that its model is to write.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.algorithms.losses import SftLoss
from megaprune.config.run import ActorConfig, CheckpointConfig, OptimizerConfig
from megaprune.distributed.objects import broadcast_from_rank0
from megaprune.trainer.checkpoint import Checkpoints, export
from megaprune.weights.files.hf_folder import HfFolder

VOCABULARY = 320
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% endif %}"
)
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "tie_word_embeddings": True,
}


def train(
    about: str,
    write_start: Callable[[Path], object],
    lessons: Iterator[tuple[str, str]],
    write_problems: Callable[[Path], None],
    steps: int = 1000,
    lr: float = 3e-3,
) -> None:
    """Train on this rank, with the options of the command line; rank 0 writes model and problems.

    Args:
        about: the first line says in `--help` what the command does.
        write_start: writes the model to begin with, and its tokenizer, to a folder.
        lessons: questions and responses to train with, without end; alike on all ranks.
        write_problems: writes the sets of problems to a folder.
        steps, lr: unless the command line says otherwise.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=lr)
    options = parser.parse_args()
    work = Path(broadcast_from_rank0(tempfile.mkdtemp() if dist.get_rank() == 0 else ""))
    if dist.get_rank() == 0:
        write_start(work)
    dist.barrier()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work)
    actor = Actor(
        work,
        ActorConfig(max_tokens=4096),
        OptimizerConfig(beta2=0.98, weight_decay=0.0, distributed=False),
        torch.float32,
    )
    start = time.perf_counter()
    for step in range(options.steps):
        samples = [sample(*lesson, tokenizer) for lesson in islice(lessons, options.batch)]
        done = actor.step(samples, SftLoss(), lr=rate(step, options.steps, options.lr))
        if dist.get_rank() == 0 and step % 20 == 0:
            seconds = time.perf_counter() - start
            print(f"step {step}: loss {done.loss:.4f} nats/token, {seconds:.0f} s", flush=True)
    save(actor, options.steps, work, options.out, write_problems)


def write_untrained(folder: Path, texts: Iterable[str]) -> None:
    """Write an untrained model, and a tokenizer that is made of some texts."""
    tokenizer = make_tokenizer(folder, texts)
    make_model(folder, len(tokenizer), tokenizer.eos_token_id)


def make_tokenizer(folder: Path, texts: Iterable[str]) -> Any:
    """Byte-level BPE of a few hundred tokens; each digit is a token of its own, as in Qwen."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
    )
    fast.save_pretrained(folder)
    return fast


def make_model(folder: Path, vocabulary: int, end: int) -> None:
    """Write an untrained Qwen2 model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, bos_token_id=None, eos_token_id=end, pad_token_id=0, **SHAPE
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def sample(question: str, response: str, tokenizer: Any) -> Sample:
    """Return a question and the response to it, as tokens."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    first = tokenizer.encode(prompt, add_special_tokens=False)
    rest = tokenizer.encode(response, add_special_tokens=False)
    return Sample(np.array([*first, *rest, tokenizer.eos_token_id], np.int64), len(first))


def rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over a twentieth, then half a cosine down to a hundredth of the peak."""
    warm = steps / 20
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2)


def save(
    actor: Actor, step: int, work: Path, out: Path, write_problems: Callable[[Path], None]
) -> None:
    """Write a checkpoint, that as a Hugging Face folder, and the problems."""
    side = HfFolder(work).side_files()
    checkpoints = Checkpoints(work / "checkpoints", side, CheckpointConfig(wait=True))
    checkpoints.save(step, actor, {})
    if dist.get_rank() == 0:
        export(work / "checkpoints", out / "model")
        (out / "data").mkdir(exist_ok=True)
        write_problems(out / "data")
        print(f"{out}: model and data")
    dist.barrier()
