"""Folders of runs, written as a run writes them."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megaprune.schema import samples_schema

CONFIG = "model: org/a-model\nseed: 7\nsteps: 4\nrollout:\n  max_response_length: 1000\n  n: 2\n"

# (problem, number): (length, right) before and after. Each problem's mean length before is 800, 400,
# 600, 200, mean 500; after 400, 300, 200, 300, mean 300: -40 %. Right before: 1, 0.5, 0, 1, mean
# 62.5 %; after 1, 1, 1, 0, mean 75 %: +12.5 points. Of 8 answers, 2 are cut off before, none after.
BEFORE = {
    ("a", 0): (900, True),
    ("a", 1): (700, True),
    ("b", 0): (300, True),
    ("b", 1): (500, False),
    ("c", 0): (1000, False),
    ("c", 1): (200, False),
    ("d", 0): (100, True),
    ("d", 1): (300, True),
}
AFTER = {
    ("a", 0): (300, True),
    ("a", 1): (500, True),
    ("b", 0): (250, True),
    ("b", 1): (350, True),
    ("c", 0): (150, True),
    ("c", 1): (250, True),
    ("d", 0): (200, False),
    ("d", 1): (400, False),
}
CUT_BEFORE = {("a", 0), ("c", 0)}


def row(step, problem, number, length, right, **other):
    """One answer as a run keeps it."""
    return {
        "step": step,
        "problem": problem,
        "data_source": "sums",
        "prompt": f"What is {problem}?",
        "number": number,
        "response": f"Let me think about {problem} at step {step}. It is 4.",
        "gold": "4",
        "length": length,
        "finish": "stop",
        "match": right,
        "extracted": "4" if right else None,
        "why": "equal" if right else "no answer",
        "reward": float(right),
        "advantage": None,
        "prompt_tokens": [1, 2],
        "tokens": [3] * 4,
        **other,
    }


def rows_of(step, answers, cut=()):
    return [
        row(
            step,
            problem,
            number,
            length,
            right,
            finish="length" if (problem, number) in cut else "stop",
        )
        for (problem, number), (length, right) in answers.items()
    ]


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=samples_schema()), path)


def training_line(step, **other):
    return {
        "step": step,
        "reward": 0.4 + step / 10,
        "accuracy": 0.5 + step / 10,
        "response_length/mean": 500.0 - 50 * step,
        "response_length/p50": 450.0 - 50 * step,
        "response_length/p95": 900.0 - 50 * step,
        "truncated": 0.1,
        "verdict/right": 0.5 + step / 10,
        "verdict/wrong": 0.4 - step / 10,
        "verdict/cut_off": 0.1,
        "verdict/crash": 0.0,
        "no_signal": 0.25,
        "entropy": 0.3,
        "kl": 0.001,
        "grad_norm": 1.5,
        "lr": 1e-6,
        "mismatch": 0.001,
        "tokens_per_second": 1000.0,
        "seconds/generate": 20.0,
        "seconds/update": 10.0,
        "seconds/step": 30.0,
        **other,
    }


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_long_run(folder, steps=40, problems=120, n=8):
    """A run as long as real ones: lengths fall, accuracy wavers."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"model: deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B\nseed: 17\nsteps: {steps}\n"
        "rollout:\n  max_response_length: 4000\n  n: 8\n  temperature: 1.0\noptimizer:\n  lr: 2.0e-6\n"
    )
    ease = rng.normal(size=problems)

    def answers(step, names, ease, limit):
        rows = []
        for name, easy in zip(names, ease, strict=True):
            for number in range(n):
                long = np.exp(7.9 - 0.35 * easy - 0.8 * step / steps + 0.4 * rng.normal())
                length = int(min(long, limit))
                right = bool(length < limit and rng.random() < 1 / (1 + np.exp(-1.2 - 1.3 * easy)))
                text = (
                    f"Okay, so I need to find what {name} is. "
                    + "Wait, let me check that again. " * (length // 30)
                )
                answer = "\\boxed{42}" if right else "\\boxed{41}"
                rows.append(
                    row(
                        step,
                        name,
                        number,
                        length,
                        right,
                        response=f"<think>\n{text}\n</think>\n\nThe answer is ${answer}$.",
                        finish="length" if length == limit else "stop",
                        data_source="math500" if hash_of(name) % 4 else "aime24",
                        prompt=f"<|User|>Find the sum of the first {name} odd primes that are not twins.<|Assistant|>",
                    )
                )
        return rows

    names = [f"problem {index:03}" for index in range(problems)]
    lines = []
    for step in range(steps + 1):
        if step:
            rows = answers(
                step, [f"train {step}/{index}" for index in range(32)], rng.normal(size=32), 4000
            )
            write_rows(folder / f"samples/step_{step:06}.parquet", rows)
            lengths = np.array([one["length"] for one in rows])
            right = float(np.mean([one["match"] for one in rows]))
            lines.append(
                training_line(
                    step,
                    **{
                        "response_length/mean": lengths.mean(),
                        "response_length/p50": np.median(lengths),
                        "response_length/p95": np.percentile(lengths, 95),
                        "accuracy": right,
                        "reward": right - 0.02,
                        "truncated": float((lengths == 4000).mean()),
                        "no_signal": 0.2 + 0.2 * rng.random(),
                        "entropy": 0.4 - 0.004 * step + 0.02 * rng.normal(),
                        "grad_norm": 0.8 + 0.2 * rng.random(),
                        "mismatch": 0.002 + 0.0004 * rng.normal(),
                        "seconds/generate": 95 - step + 5 * rng.random(),
                        "seconds/grade": 2.0,
                        "seconds/update": 48 - 0.4 * step,
                        "seconds/sync": 3.1,
                        **({"seconds/save": 25.0} if step % 10 == 0 else {}),
                    },
                )
            )
        if step % 10 == 0:
            rows = answers(step, names, ease, 16000)
            write_rows(folder / f"validation/step_{step:06}.parquet", rows)
            lines.append(
                {
                    "step": step,
                    "validation/accuracy": float(np.mean([one["match"] for one in rows])),
                    "validation/response_length/mean": float(
                        np.mean([one["length"] for one in rows])
                    ),
                }
            )
    write_lines(folder / "metrics.jsonl", lines)
    return folder


def hash_of(name):
    return sum(map(ord, name))


def text_of(path):
    """A page's words, without its markup."""
    page = re.sub(r"<style>.*?</style>", "", path.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
