"""The jobs of a study: evaluations of the start model, and a job for each variant and seed."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from megaprune import schema
from megaprune.config.fields import leaves, shown
from megaprune.config.limits import validation_limit
from megaprune.config.read import dotted
from megaprune.config.run import Config, read_config
from megaprune.errors import InputError
from megaprune.evaluation.config import EvaluateConfig, read_evaluate_config
from megaprune.harmonizing.config import HarmonizeConfig, read_harmonize_config
from megaprune.harmonizing.rounds import Round, check_measured_alike, evaluations_of_test
from megaprune.harmonizing.rounds import finished as harmonized
from megaprune.hub import find_model
from megaprune.lease import holder_of
from megaprune.rules import evaluate_problems, harmonize_problems, refuse, run_problems
from megaprune.study.config import StudyConfig
from megaprune.study.variants import Fields, Variant, command_of, study_problems, variants_of
from megaprune.weights.model import read_config as read_model_config
from megaprune.weights.rope import context_of

T = TypeVar("T")

BUDGETS = 6
"""So many budgets, each half of the one before, if the study does not say others."""


@dataclass(frozen=True)
class Job:
    """A run, a harmonizing or an evaluation of a study.

    Args:
        name: also that of its folder.
        words: the arguments of megaprune that it is the same as.
        config: of the run, the harmonizing or the evaluation.
        variant, seed: None and 0 for an evaluation that others need.
        needs: the names of jobs that must be done before it can begin.
    """

    name: str
    words: tuple[str, ...]
    config: Config | EvaluateConfig
    variant: Variant | None = None
    seed: int = 0
    needs: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether it has done all that it was to do, as its folder says."""
        if isinstance(self.config, HarmonizeConfig):
            return harmonized(self.config)
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


def jobs_of(config: StudyConfig) -> list[Job]:
    """Return the jobs in the order in which they are done: those of the first seed come first.

    The evaluation of the start model is the first. Others of it follow, if they are needed: on the
    training problems for rewards that compare with it, and one for each seed that harmonizings draw
    their responses with. Every model is measured alike, a run's by its last validation.

    Raises:
        InputError: a job's fields cannot be, which is named; runs begin with different models; or
            it is not said how they are measured.
    """
    refuse(study_problems(config))
    variants, shared = variants_of(config), dict(dotted(config.run))
    trained = [each for each in variants if command_of(shared, each) != "evaluate"]
    if not trained:
        raise InputError("every variant is an evaluation; expected one that is trained")
    first = _read(config, shared, trained[0], config.seeds[0])
    model = find_model(first.model)
    test_words = _test_words(config, first, model)
    test = _named("evaluate", lambda: read_evaluate_config(test_words))
    _named("evaluate", lambda: refuse(_test_problems(test)))
    make = _Maker(config, shared, first, model, test)
    runs = [make.job(variant, seed) for seed in config.seeds for variant in variants]
    start = Job(schema.START_FOLDER, ("evaluate", *test_words), test)
    return [start, *make.evaluations.values(), *runs]


class _Maker:
    """Makes the jobs of a study, and the evaluations of the start model that they need.

    Args:
        shared: the fields of all runs.
        first: one of them, as it is without what the study adds.
        model: the start model's folder.
        test: its evaluation.

    Attributes:
        evaluations: those that jobs need, by their names.
    """

    def __init__(
        self, config: StudyConfig, shared: Fields, first: Config, model: str, test: EvaluateConfig
    ):
        self._config, self._shared, self._first = config, shared, first
        self._model, self._test = model, test
        self._group = first.wandb.group or Path(config.out).resolve().name
        self.evaluations: dict[str, Job] = {}

    def job(self, variant: Variant, seed: int) -> Job:
        """Return the job of a variant with a seed."""
        make = {"train": self._run, "harmonize": self._harmonizing, "evaluate": self._evaluation}
        return make[command_of(self._shared, variant)](variant, seed)

    def _run(self, variant: Variant, seed: int) -> Job:
        """A run, measured by its last validation."""
        name, plain, test = _job_name(variant, seed), self._plain(variant, seed), self._test
        shared = self._shared
        own = {
            # What is measured last counts; more is measured if the study's fields say so.
            "validation.every": plain.steps,
            "validation.first": False,
            **{name: value for name, value in shared.items() if name.startswith("validation.")},
            "model": self._model,
            "data.validation": test.data[0],
            "validation.n": test.n,
            "validation.max_response_length": test.max_response_length,
            "validation.temperature": test.temperature,
            "validation.top_p": test.top_p,
            "wandb.group": self._group,
        }
        needs: tuple[str, ...] = ()
        if plain.algorithm.needs_reference and plain.data.references is None:
            needs = (schema.REFERENCES_FOLDER,)
            words = _reference_words(self._config, self._first, test, self._model)
            self._add_evaluation(schema.REFERENCES_FOLDER, words)
            own["data.references"] = str(Path(self._config.out) / schema.REFERENCES_FOLDER)
        words = _words_of(self._config, shared, variant, seed, own)
        run = _named(name, lambda: read_config(words))
        _named(name, lambda: refuse(run_problems(run)))
        return Job(name, ("train", *words), run, variant, seed, needs)

    def _harmonizing(self, variant: Variant, seed: int) -> Job:
        """A harmonizing, measured by its test; those that draw alike share the responses."""
        name, plain, test = _job_name(variant, seed), self._plain(variant, seed), self._test
        assert isinstance(plain, HarmonizeConfig)
        given = {**self._shared, **variant.fields}
        own = {
            "model": self._model,
            "test.data": test.data,
            "test.n": test.n,
            "test.max_response_length": test.max_response_length,
            "test.temperature": test.temperature,
            "test.top_p": test.top_p,
            "test.budgets": test.budgets,
            "test.before": test.out,
            "presample.seed": given.get("presample.seed", seed),
            "wandb.group": self._group,
        }
        needs: tuple[str, ...] = (schema.START_FOLDER,)
        if plain.presample.folder is None:
            words = _words_of(self._config, self._shared, variant, seed, own)
            drawn = _named(name, lambda: Round(read_harmonize_config(words), 1, self._model))
            needs += (folder := self._presample(drawn.presample(), seed),)
            own["presample.folder"] = str(Path(self._config.out) / folder)
        words = _words_of(self._config, self._shared, variant, seed, own)
        harmonizing = _named(name, lambda: read_harmonize_config(words))
        _named(name, lambda: refuse(harmonize_problems(harmonizing)))
        measured, _ = evaluations_of_test(harmonizing, self._model)
        _named(name, lambda: check_measured_alike(measured, test))
        return Job(name, ("harmonize", *words), harmonizing, variant, seed, needs)

    def _presample(self, drawn: EvaluateConfig, seed: int) -> str:
        """The name of the evaluation that draws these responses, which may be there already."""
        names = (f"{schema.PRESAMPLE_FOLDER}_seed_{seed}" + "_more" * i for i in itertools.count())
        for name in names:
            wanted = replace(drawn, out=str(Path(self._config.out) / name))
            if name not in self.evaluations:
                self._add_evaluation(name, _words(dict(leaves(wanted))))
                assert self.evaluations[name].config == wanted, "words lose fields"
            if self.evaluations[name].config == wanted:
                return name
        raise AssertionError("there are as many names as are needed")

    def _evaluation(self, variant: Variant, seed: int) -> Job:
        """The start model, measured with fields of its own, as with another prompt."""
        name = _job_name(variant, seed)
        if other := variant.fields.keys() & {"recipe", "model"}:
            raise InputError(
                f"{name}: {min(other)} is not an evaluation's to set in a study, which is of the "
                f"start model; give the fields that differ from `evaluate`, as data=FILE.parquet"
            )
        same = dict(leaves(self._test)) | {"seed": seed, "wandb.group": self._group}
        words = _words_of(self._config, same, variant, seed)
        evaluation = _named(name, lambda: read_evaluate_config(words))
        _named(name, lambda: refuse(_test_problems(evaluation)))
        return Job(name, ("evaluate", *words), evaluation, variant, seed)

    def _add_evaluation(self, name: str, words: Sequence[str]) -> None:
        evaluation = _named(name, lambda: read_evaluate_config(words))
        _named(name, lambda: refuse(evaluate_problems(evaluation)))
        self.evaluations[name] = Job(name, ("evaluate", *words), evaluation)

    def _plain(self, variant: Variant, seed: int) -> Config:
        plain = _read(self._config, self._shared, variant, seed)
        if plain.model != self._first.model:
            raise InputError(
                f"{_job_name(variant, seed)}: model={plain.model}, and others begin with "
                f"{self._first.model}; a study is of one model: give each a study of its own"
            )
        return plain


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


def _read(config: StudyConfig, shared: Fields, variant: Variant, seed: int) -> Config:
    """Read the fields of a run or a harmonizing, without what the study adds."""
    words = _words_of(config, shared, variant, seed)
    read = read_harmonize_config if command_of(shared, variant) == "harmonize" else read_config
    return _named(_job_name(variant, seed), lambda: read(words))


def _words_of(
    config: StudyConfig, shared: Fields, variant: Variant, seed: int, own: Fields | None = None
) -> list[str]:
    out = Path(config.out) / schema.RUNS_FOLDER / _job_name(variant, seed)
    return _words({**shared, **variant.fields, **(own or {}), "seed": seed, "out": str(out)})


def _job_name(variant: Variant, seed: int) -> str:
    return f"{variant.name}_seed_{seed}"


def _test_words(config: StudyConfig, run: Config, model: str) -> list[str]:
    """The fields of the start model's evaluation; without a recipe, those of a run's validation."""
    given = dict(dotted(config.evaluate))
    own = {"model": model, "out": str(Path(config.out) / schema.START_FOLDER)}
    if "recipe" in given:
        return _words({**given, **own})
    if isinstance(run, HarmonizeConfig) and run.test.data:
        tested = {name: value for name, value in leaves(run.test) if name not in ("before", "seed")}
        return _words({**tested, **_engine_fields(run), **given, **own})
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
    if test.problems is not None:
        yield f"problems={test.problems}; expected null: runs are measured on all problems of data"
    if test.n is None:
        yield "n=null; expected the number of responses to each problem, as n=4"


def _words(fields: Fields) -> list[str]:
    """Fields as words of a command line; empty mappings say nothing."""
    return [
        f"{name}={json.dumps(value) if isinstance(value, list | Mapping) else shown(value)}"
        for name, value in fields.items()
        if not isinstance(value, Mapping) or value
    ]


def _named(name: str, make: Callable[[], T]) -> T:
    """Call a function; an InputError of it says which job it is about."""
    try:
        return make()
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error
