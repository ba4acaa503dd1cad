"""The jobs of a study: an evaluation of the start model, and a run for each variant and seed."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from megaprune import schema
from megaprune.config.fields import leaves, shown
from megaprune.config.limits import validation_limit
from megaprune.config.read import dotted
from megaprune.config.run import Config, read_config
from megaprune.errors import InputError
from megaprune.evaluation.config import EvaluateConfig, read_evaluate_config
from megaprune.hub import find_model
from megaprune.lease import holder_of
from megaprune.rules import evaluate_problems, refuse, run_problems
from megaprune.study.config import StudyConfig
from megaprune.weights.model import read_config as read_model_config
from megaprune.weights.rope import context_of

T = TypeVar("T")

Fields = Mapping[str, Any]
"""Values of fields by their dotted names."""

BUDGETS = 6
"""So many budgets, each half of the one before, if the study does not say others."""


@dataclass(frozen=True)
class Variant:
    """One way to train: its name, and the fields that it has beside those of all runs."""

    name: str
    fields: Fields


@dataclass(frozen=True)
class Job:
    """A run of a study, or an evaluation of its start model.

    Args:
        name: also that of its folder.
        words: the arguments of megaprune that it is the same as.
        config: of the run or the evaluation.
        variant, seed: of a run.
    """

    name: str
    words: tuple[str, ...]
    config: Config | EvaluateConfig
    variant: Variant | None = None
    seed: int = 0

    @property
    def needs_references(self) -> bool:
        """Whether it can only begin when the start model's references are there."""
        return isinstance(self.config, Config) and bool(self.config.algorithm.needs_reference)

    @property
    def done(self) -> bool:
        """Whether it has done all that it was to do, as its folder says."""
        if isinstance(self.config, Config):
            # It needs torch, which whoever submits jobs need not have.
            from megaprune.trainer.checkpoint_files import finished

            return finished(self.config)
        return (Path(self.config.out) / schema.SUMMARY_FILE).is_file()

    @property
    def state(self) -> str:
        """What its folder says of it, in a word or two."""
        folder = Path(self.config.out)
        if self.done:
            return "done"
        if holder_of(folder / schema.LEASE_FILE):
            return "running"
        return "begun" if (folder / schema.CONFIG_FILE).is_file() else "to do"

    @property
    def processes(self) -> dict[str, Any]:
        """What must be the same for jobs to follow each other in the same processes."""
        config = self.config
        same = {"processes": config.processes, "dtype": config.dtype, "tp": config.rollout.tp}
        if isinstance(config, Config):
            actor = {name: value for name, value in leaves(config.actor) if name != "max_tokens"}
            same |= {"deterministic": config.deterministic, **actor}
        return same


def study_problems(config: StudyConfig) -> Iterator[str]:
    """Yield what is wrong with the fields of a study by themselves."""
    if not config.seeds or len({*config.seeds}) < len(config.seeds):
        yield f"seeds={config.seeds}; expected one or more, each once"
    for name, fields in config.variants.items():
        if fields is not None and not isinstance(fields, Mapping):
            yield (
                f"variants.{name}={fields!r}; expected a mapping of fields to values, as in "
                f"variants.{name}.algorithm.reward.name=relative"
            )


def variants_of(config: StudyConfig) -> list[Variant]:
    """Return all variants, each with every combination of the grid.

    Raises:
        InputError: two have the same name, or a name cannot be that of a folder.
    """
    named = {name: dict(dotted(fields or {})) for name, fields in config.variants.items()}
    grid = {name: _values(name, value) for name, value in dotted(config.grid)}
    variants = []
    for (name, fields), values in itertools.product(
        (named or {"": {}}).items(), itertools.product(*grid.values())
    ):
        chosen = dict(zip(grid, values, strict=True))
        parts = [name] * bool(name) + [_label(field, chosen[field]) for field in chosen]
        variants.append(Variant("_".join(parts) or "run", {**fields, **chosen}))
    names = [variant.name for variant in variants]
    for name in names:
        if not re.fullmatch(r"[\w+=-][\w.+=-]*", name):
            raise InputError(
                f"variant {name!r} cannot be the name of a folder; expected letters, digits and "
                f"any of . _ + = -"
            )
        if names.count(name) > 1:
            raise InputError(f"two variants have the name {name!r}; give each a name of its own")
    return variants


def jobs_of(config: StudyConfig) -> list[Job]:
    """Return the jobs in the order in which they are done: those of the first seed come first.

    The evaluation of the start model is the first, followed by that on the training problems, if a
    reward needs it. Every model is measured by the last validation of its run, alike.

    Raises:
        InputError: a run's fields cannot be, which is named; runs begin with different models; or
            it is not said how they are measured.
    """
    refuse(study_problems(config))
    variants, shared = variants_of(config), dict(dotted(config.run))
    folder, first = Path(config.out), _run(config, shared, variants[0], config.seeds[0])
    model = find_model(first.model)
    test_words = _test_words(config, first, model)
    test = _named("evaluate", lambda: read_evaluate_config(test_words))
    _named("evaluate", lambda: refuse(_test_problems(test)))
    measured = {
        "model": model,
        "data.validation": test.data[0],
        "validation.n": test.n,
        "validation.max_response_length": test.max_response_length,
        "validation.temperature": test.temperature,
        "validation.top_p": test.top_p,
        "wandb.group": first.wandb.group or folder.resolve().name,
    }
    jobs = [Job(schema.START_FOLDER, ("evaluate", *test_words), test)]
    runs = [
        _run_job(config, shared, first.model, measured, variant, seed)
        for seed in config.seeds
        for variant in variants
    ]
    if any(run.needs_references for run in runs):
        words = _reference_words(config, first, test, model)
        references = _named("references", lambda: read_evaluate_config(words))
        _named("references", lambda: refuse(evaluate_problems(references)))
        jobs.append(Job(schema.REFERENCES_FOLDER, ("evaluate", *words), references))
    return [*jobs, *runs]


def check_jobs(jobs: Sequence[Job]) -> None:
    """See that every job can begin or go on in its folder.

    Raises:
        InputError: a folder is that of another run, as after a change of its fields.
    """
    from megaprune.trainer.run_lock import check_folder

    for job in jobs:
        if job.state in ("begun", "done"):
            try:
                check_folder(Path(job.config.out), job.config)
            except InputError as error:
                raise InputError(
                    f"{job.name}: {error}. To keep its run, give the changed variant another "
                    f"name; else remove the folder"
                ) from error


def listing(config: StudyConfig, jobs: Sequence[Job]) -> dict[str, Any]:
    """What study.json says: which runs there are, and where; paths are within the study's folder.

    Args:
        jobs: all of the study's.
    """
    test = jobs[0].config
    assert isinstance(test, EvaluateConfig)
    return {
        "start": jobs[0].name,
        "budgets": test.budgets,
        "runs": [
            {
                "name": job.name,
                "variant": job.variant.name,
                "seed": job.seed,
                "folder": str(Path(job.config.out).relative_to(config.out)),
                "fields": dict(job.variant.fields),
            }
            for job in jobs
            if job.variant is not None
        ],
    }


def _run_job(
    config: StudyConfig, shared: Fields, model: str, measured: Fields, variant: Variant, seed: int
) -> Job:
    """The run of a variant with a seed."""
    name, plain = _run_name(variant, seed), _run(config, shared, variant, seed)
    if plain.model != model:
        raise InputError(
            f"{name}: model={plain.model}, and others begin with {model}; a study is of one model: "
            f"give each a study of its own"
        )
    own = {
        # What is measured last counts; more is measured if the study's fields say so.
        "validation.every": plain.steps,
        "validation.first": False,
        **{name: value for name, value in shared.items() if name.startswith("validation.")},
        **measured,
    }
    if plain.algorithm.needs_reference and plain.data.references is None:
        own["data.references"] = str(Path(config.out) / schema.REFERENCES_FOLDER)
    words = _run_words(config, shared, variant, seed, own)
    run = _named(name, lambda: read_config(words))
    _named(name, lambda: refuse(run_problems(run)))
    return Job(name, ("train", *words), run, variant, seed)


def _run(config: StudyConfig, shared: Fields, variant: Variant, seed: int) -> Config:
    words = _run_words(config, shared, variant, seed)
    return _named(_run_name(variant, seed), lambda: read_config(words))


def _run_words(
    config: StudyConfig, shared: Fields, variant: Variant, seed: int, own: Fields | None = None
) -> list[str]:
    out = Path(config.out) / schema.RUNS_FOLDER / _run_name(variant, seed)
    return _words({**shared, **variant.fields, **(own or {}), "seed": seed, "out": str(out)})


def _run_name(variant: Variant, seed: int) -> str:
    return f"{variant.name}_seed_{seed}"


def _test_words(config: StudyConfig, run: Config, model: str) -> list[str]:
    """The fields of the start model's evaluation; without a recipe, those of a run's validation."""
    given = dict(dotted(config.evaluate))
    own = {"model": model, "out": str(Path(config.out) / schema.START_FOLDER)}
    if "recipe" in given:
        return _words({**given, **own})
    if run.data.validation is None and "data" not in given:
        raise InputError(
            "it is not said on which problems the models are measured; expected "
            "evaluate.data=FILE.parquet, or evaluate.recipe=NAME"
        )
    limit = given.get("max_response_length")
    if limit is None:
        limit = validation_limit(run, context_of(read_model_config(Path(model))))
    limit = limit or run.rollout.max_response_length
    same = {
        "data": run.data.validation,
        "n": run.validation.n,
        "max_response_length": limit,
        "temperature": run.validation.temperature,
        "top_p": run.validation.top_p,
        "budgets": sorted({max(1, math.ceil(limit / 2**i)) for i in range(BUDGETS)}),
    }
    return _words({**same, **_engine_fields(run), **given, **own})


def _reference_words(
    config: StudyConfig, run: Config, test: EvaluateConfig, model: str
) -> list[str]:
    own = {"model": model, "out": str(Path(config.out) / schema.REFERENCES_FOLDER)}
    drawn = {
        "data": run.data.train,
        "n": min(4, run.rollout.n),
        "max_response_length": test.max_response_length,
        "temperature": run.rollout.temperature,
        "top_p": 1.0,
    }
    return _words({**drawn, **_engine_fields(run), **dict(dotted(config.references)), **own})


def _engine_fields(run: Config) -> dict[str, Any]:
    """Fields by which an evaluation reads, generates and grades as a run does."""
    engine = {
        name: value
        for name, value in leaves(run.rollout, "rollout.")
        if name.removeprefix("rollout.")
        in ("tp", "max_num_seqs", "kv_cache_memory_bytes", "gpu_memory_utilization",
            "enforce_eager")
    }  # fmt: skip
    return {
        "max_prompt_length": run.data.max_prompt_length,
        "enable_thinking": run.data.enable_thinking,
        "dtype": run.dtype,
        "processes": run.processes,
        **engine,
        **dict(leaves(run.grading, "grading.")),
    }


def _test_problems(test: EvaluateConfig) -> Iterator[str]:
    yield from evaluate_problems(test)
    if len(test.data) > 1:
        yield f"data={test.data}; expected one file or folder, which every run is measured on"
    if test.n is None:
        yield "n=null; expected the number of responses to each problem, as n=4"


def _words(fields: Fields) -> list[str]:
    """Fields as words of a command line; empty mappings say nothing."""
    return [
        f"{name}={json.dumps(value) if isinstance(value, list) else shown(value)}"
        for name, value in fields.items()
        if not isinstance(value, Mapping)
    ]


def _values(name: str, value: Any) -> list[Any]:
    """The values of a field of the grid; text is a list as on the command line: a,b,c."""
    if isinstance(value, str):
        content: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value=[{value}]"]))
        value = content["value"]
    if not isinstance(value, list):
        value = [value]
    if not value:
        raise InputError(f"grid.{name}=[]; expected one value or more")
    return list(value)


def _label(name: str, value: Any) -> str:
    """How a variant is named for a value of the grid: text by itself, else lr=0.001."""
    text = re.sub(r"[^\w.+-]+", "-", shown(value)).strip("-")
    return text if isinstance(value, str) else f"{name.rpartition('.')[2]}={text}"


def _named(name: str, make: Callable[[], T]) -> T:
    """Call a function; an InputError of it says which job it is about."""
    try:
        return make()
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error
