"""Evaluations that were made before: whether a harmonizing can take them for its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megaprune import schema
from megaprune.config.read import from_yaml
from megaprune.data import Problem
from megaprune.errors import InputError, counted
from megaprune.evaluation.config import EvaluateConfig
from megaprune.evaluation.identity import differing_parts, model_identity, read_identity
from megaprune.harmonizing.config import HarmonizeConfig
from megaprune.harmonizing.rounds import check_measured_alike
from megaprune.trainer.offline import stored_responses


def read_presampled_config(folder: Path) -> EvaluateConfig:
    """Read how the responses in the folder of an evaluation were drawn.

    Raises:
        InputError: it is no evaluation's folder.
    """
    return _read_config("presample.folder", folder, "data.train")


def _read_config(name: str, folder: Path, data: str) -> EvaluateConfig:
    path = folder / schema.CONFIG_FILE
    try:
        return from_yaml(EvaluateConfig, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, InputError) as error:
        raise InputError(
            f"{name}={folder}: {path} cannot be read as an evaluation's configuration "
            f"({' '.join(str(error).split())}); expected the folder of a `megaprune evaluate` of "
            f"{data}"
        ) from error


def check_measured(expected: EvaluateConfig, tokenizer: Any) -> None:
    """See that the evaluation in `test.before` is the one that would be made of the start model.

    Args:
        expected: that one, whose folder is `test.before`.
        tokenizer: of the model.

    Raises:
        InputError: it is of another model, has other settings, or has not ended.
    """
    folder = Path(expected.out)
    measured, advice = _read_config("test.before", folder, "test.data"), "measure it anew with null"
    identity = model_identity(Path(expected.model), tokenizer)
    if different := differing_parts(read_identity(folder), identity):
        raise InputError(
            f"test.before={folder}: it is not of model={expected.model}: {different}; {advice}"
        )
    check_measured_alike(expected, measured)
    if not (folder / schema.SUMMARY_FILE).is_file():
        raise InputError(
            f"test.before={folder}: that evaluation has not ended; go on with it first, or {advice}"
        )


def drawn_as_trained(config: EvaluateConfig) -> bool:
    """Whether responses are drawn from the distribution that the trained log-probs are of."""
    return config.temperature == 1 and config.top_p == 1


def check_presampled(config: HarmonizeConfig, tokenizer: Any, problems: Sequence[Problem]) -> None:
    """See that the responses in `presample.folder` can be learned from; nothing if it is null.

    Args:
        tokenizer: of the model.
        problems: that responses are wanted to.

    Raises:
        InputError: another model, tokenizer or chat template has drawn them, they are to other
            prompts, too few, or too long.
    """
    if config.presample.folder is None:
        return
    folder = Path(config.presample.folder)
    read_presampled_config(folder)
    identity = model_identity(Path(config.model), tokenizer)
    if different := differing_parts(read_identity(folder), identity):
        raise InputError(
            f"presample.folder={folder}: its responses are not of model={config.model}, which is "
            f"their reference: {different}; draw them anew with presample.folder=null"
        )
    if wrong := "; ".join(_wrong(config, folder, problems)):
        raise InputError(f"presample.folder={folder}: {wrong}")


def _wrong(config: HarmonizeConfig, folder: Path, problems: Sequence[Problem]) -> Iterator[str]:
    """What is wrong with the responses themselves."""
    prompts = {problem.name: len(problem.tokens) for problem in problems}
    counts = dict.fromkeys(prompts, 0)
    longest, longest_sample = 0, 0
    columns = ("problem", "exit_at", "prompt", "number", "length")
    for _, row in stored_responses("presample.folder", folder, problems, columns):
        counts[row["problem"]] += 1
        longest = max(longest, row["length"])
        longest_sample = max(longest_sample, row["length"] + prompts[row["problem"]])
    n, least = config.presample.n, min(counts.values())
    if least < n:
        short = sum(count < n for count in counts.values())
        yield (
            f"{short} of {counted(len(counts), 'problem')} have fewer than presample.n={n} "
            f"responses there; expected presample.n={least} or less, or a folder with more"
        )
    if longest_sample > config.actor.max_tokens:
        yield (
            f"a sample has {longest_sample} tokens, more than actor.max_tokens="
            f"{config.actor.max_tokens}; expected {longest_sample} or more"
        )
    elif longest > (limit := config.presample.max_response_length):
        yield (
            f"a response has {longest} tokens, more than presample.max_response_length={limit}; "
            f"expected {longest} or more"
        )
