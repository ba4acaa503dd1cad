"""Answers in, analysis.json, a figure and a table out."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megaprune.analyze import behaviour_figure
from megaprune.analyze.judge import prompt_digest, steps_of
from megaprune.analyze.replies import NAME as REPLIES
from megaprune.analyze.replies import Replies
from megaprune.analyze.settings import Endpoint, Means, Settings, warn
from megaprune.analyze.summary import summarise
from megaprune.analyze.thoughts import Input, Key, choose, read_inputs
from megaprune.errors import InputError

ANALYSIS = "analysis.json"
FIGURE = "behaviours.png"
PAIR = "left out of another input"


def analyze(
    settings: Settings, endpoint: Endpoint | None = None, means: Means | None = None
) -> dict[str, Any]:
    """Count markers, and have a judge name behaviours if there is an endpoint; write the folder.

    Returns:
        The content of analysis.json; see `summary.summarise` for its inputs.

    Raises:
        InputError: an input, the folder or the endpoint cannot be used.
    """
    means = means or Means()
    inputs = read_inputs(settings.paths, settings.close)
    paired = choose(inputs, settings.answers, settings.seed)
    if len(inputs) > 1 and not paired:
        warn("the inputs share no problems: their answers are not to the same ones")
    _check_out(settings.out, endpoint)
    settings.out.mkdir(parents=True, exist_ok=True)
    found: list[dict[Key, Counter[str]] | None] = [None] * len(inputs)
    cost: dict[str, Any] | None = None
    if endpoint is not None:
        judged, cost = asyncio.run(_judge(settings, endpoint, means, inputs))
        if paired:
            _same_in_all(inputs)
        found = [
            {key: some[key] for key in one.thoughts}
            for one, some in zip(inputs, judged, strict=True)
        ]
    for one in inputs:
        if not one.thoughts:
            why = ", ".join(f"{reason}: {n}" for reason, n in one.left_out.items())
            raise InputError(f"{one.path}: none of {one.problems} answers can be used ({why})")
    analysis = {
        "mode": "lexical" if endpoint is None else "judge",
        "settings": _said(settings, endpoint, means) | {"paired": paired},
        "inputs": [summarise(one, some) for one, some in zip(inputs, found, strict=True)],
        "cost": cost,
    }
    png = io.BytesIO()
    behaviour_figure(analysis).savefig(png, format="png", metadata={"Software": None})
    _write(settings.out / FIGURE, png.getvalue())
    _write(settings.out / ANALYSIS, (json.dumps(analysis, indent=2) + "\n").encode())
    return analysis


async def _judge(
    settings: Settings, endpoint: Endpoint, means: Means, inputs: Sequence[Input]
) -> tuple[list[dict[Key, Counter[str]]], dict[str, Any]]:
    """Steps of each behaviour, by input and problem; and what that took."""
    # httpx, which only a judge needs.
    from megaprune.analyze.client import Client
    from megaprune.analyze.judging import Judging

    for one in inputs:
        for key, thought in list(one.thoughts.items()):
            if len(thought.steps) > settings.max_steps:
                one.leave_out(key, f"more than {settings.max_steps} steps (--max-steps)")
    thoughts = [thought for one in inputs for thought in one.thoughts.values()]
    replies = Replies(settings.out, endpoint.model, prompt_digest())
    try:
        client = Client(endpoint)
        try:
            judging = Judging(client, replies, means)
            await judging.ask(thoughts)
        finally:
            await client.close()
        found: list[dict[Key, Counter[str]]] = []
        for one in inputs:
            found.append({})
            for key, thought in list(one.thoughts.items()):
                outcome = judging.outcome(thought)
                if isinstance(outcome, str):
                    one.leave_out(key, outcome)
                else:
                    found[-1][key] = steps_of(outcome)
        rows = replies.all()
        cost = {
            "replies": dict(judging.faults(thoughts).most_common()),
            "tokens_in": sum(row["tokens_in"] or 0 for row in rows),
            "tokens_out": sum(row["tokens_out"] or 0 for row in rows),
            "without_usage": sum(row["tokens_in"] is None for row in rows),
            "cost": means.cost(rows),
        }
        return found, cost
    finally:
        replies.close()


def _same_in_all(inputs: Sequence[Input]) -> None:
    """Leave out the answers whose problem another input has lost."""
    shared = set.intersection(*(set(one.thoughts) for one in inputs))
    for one in inputs:
        for key in one.thoughts.keys() - shared:
            one.leave_out(key, PAIR)


def _said(settings: Settings, endpoint: Endpoint | None, means: Means) -> dict[str, Any]:
    said = asdict(settings) | {"out": str(settings.out), "paths": list(settings.paths)}
    if endpoint is None:
        del said["max_steps"]
        return said
    asked = {"endpoint": endpoint.url, "model": endpoint.model, "prompt": prompt_digest()}
    return said | asked | asdict(means)


def _check_out(out: Path, endpoint: Endpoint | None) -> None:
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if there and not there & {ANALYSIS, REPLIES}:
        raise InputError(
            f"{out} is no analysis' folder, and has {', '.join(sorted(there)[:3])} in it; give "
            f"another --out"
        )
    if endpoint is None and REPLIES in there:
        raise InputError(f"{out} has the replies of a judge; give another --out without one")


def _write(path: Path, content: bytes) -> None:
    """Write aside and rename: whoever looks meanwhile sees the old file or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
