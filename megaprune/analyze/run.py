"""An analysis: from answers to analysis.json and a figure."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megaprune import schema
from megaprune.analyze.judge import prompt_digest, steps_of
from megaprune.analyze.settings import AnalysisSettings, Endpoint, JudgeLimits, warn
from megaprune.analyze.summary import behaviour_figure, summarise
from megaprune.analyze.thoughts import AnalysisInput, ProblemKey, choose, read_inputs
from megaprune.errors import InputError
from megaprune.files import write_files

PAIR = "left out of another input"


def analyze(
    settings: AnalysisSettings, endpoint: Endpoint | None = None, limits: JudgeLimits | None = None
) -> dict[str, Any]:
    """Count markers, and have a judge name behaviours if there is an endpoint; write the folder.

    Returns:
        The content of analysis.json; see `summary.summarise` for its inputs.

    Raises:
        InputError: an input, the folder or the endpoint cannot be used.
    """
    limits = limits or JudgeLimits()
    inputs = read_inputs(settings.paths, settings.close)
    paired = choose(inputs, settings.answers, settings.seed)
    if len(inputs) > 1 and not paired:
        warn("the inputs share no problems: their answers are not to the same ones")
    _check_out(settings.out, endpoint)
    settings.out.mkdir(parents=True, exist_ok=True)
    behaviours: list[dict[ProblemKey, Counter[str]] | None] = [None] * len(inputs)
    cost: dict[str, Any] | None = None
    if endpoint is not None:
        judged, cost = asyncio.run(_judge(settings, endpoint, limits, inputs))
        if paired:
            _same_in_all(inputs)
        behaviours = [
            {key: steps[key] for key in group.thoughts}
            for group, steps in zip(inputs, judged, strict=True)
        ]
    for group in inputs:
        if not group.thoughts:
            why = ", ".join(f"{reason}: {n}" for reason, n in group.left_out.items())
            raise InputError(f"{group.path}: none of {group.problems} answers can be used ({why})")
    analysis = {
        "mode": "lexical" if endpoint is None else "judge",
        "settings": _recorded_settings(settings, endpoint, limits) | {"paired": paired},
        "inputs": [
            summarise(group, steps) for group, steps in zip(inputs, behaviours, strict=True)
        ],
        "cost": cost,
    }
    png = io.BytesIO()
    behaviour_figure(analysis).savefig(png, format="png", metadata={"Software": None})
    text = json.dumps(analysis, indent=2) + "\n"
    write_files(
        settings.out,
        {schema.BEHAVIOURS_FILE: png.getvalue(), schema.ANALYSIS_FILE: text.encode()},
    )
    return analysis


async def _judge(
    settings: AnalysisSettings,
    endpoint: Endpoint,
    limits: JudgeLimits,
    inputs: Sequence[AnalysisInput],
) -> tuple[list[dict[ProblemKey, Counter[str]]], dict[str, Any]]:
    """Have a judge name behaviours: steps of each behaviour by input and problem; and the cost."""
    # httpx, which only a judge needs.
    from megaprune.analyze.client import Client
    from megaprune.analyze.judging import Judging, ReplyStore

    for group in inputs:
        for key, thought in list(group.thoughts.items()):
            if len(thought.steps) > settings.max_steps:
                group.leave_out(key, f"more than {settings.max_steps} steps (--max-steps)")
    thoughts = [thought for group in inputs for thought in group.thoughts.values()]
    replies = ReplyStore(settings.out, endpoint.model, prompt_digest())
    try:
        client = Client(endpoint)
        try:
            judging = Judging(client, replies, limits)
            await judging.ask(thoughts)
        finally:
            await client.close()
        behaviours: list[dict[ProblemKey, Counter[str]]] = []
        for group in inputs:
            behaviours.append({})
            for key, thought in list(group.thoughts.items()):
                outcome = judging.outcome(thought)
                if isinstance(outcome, str):
                    group.leave_out(key, outcome)
                else:
                    behaviours[-1][key] = steps_of(outcome)
        rows = replies.all()
        cost = {
            "replies": dict(judging.faults(thoughts).most_common()),
            "tokens_in": sum(row["tokens_in"] or 0 for row in rows),
            "tokens_out": sum(row["tokens_out"] or 0 for row in rows),
            "without_usage": sum(row["tokens_in"] is None for row in rows),
            "cost": limits.cost(rows),
        }
        return behaviours, cost
    finally:
        replies.close()


def _same_in_all(inputs: Sequence[AnalysisInput]) -> None:
    """Leave out the answers whose problem another input has lost."""
    shared = set.intersection(*(set(group.thoughts) for group in inputs))
    for group in inputs:
        for key in group.thoughts.keys() - shared:
            group.leave_out(key, PAIR)


def _recorded_settings(
    settings: AnalysisSettings, endpoint: Endpoint | None, limits: JudgeLimits
) -> dict[str, Any]:
    recorded = asdict(settings) | {"out": str(settings.out), "paths": list(settings.paths)}
    if endpoint is None:
        del recorded["max_steps"]
        return recorded
    asked = {"endpoint": endpoint.place, "model": endpoint.model, "prompt": prompt_digest()}
    return recorded | asked | asdict(limits)


def _check_out(out: Path, endpoint: Endpoint | None) -> None:
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if there and not there & {schema.ANALYSIS_FILE, schema.REPLIES_FILE}:
        raise InputError(
            f"{out} is no analysis' folder, and has {', '.join(sorted(there)[:3])} in it; give "
            f"another --out"
        )
    if endpoint is None and schema.REPLIES_FILE in there:
        raise InputError(f"{out} has the replies of a judge; give another --out without one")
