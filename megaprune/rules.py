"""What fields cannot be: by themselves, together, with a model, on so many processes.

Each rule is here once, as a function that gives its words, with the fields' names in them. They
need no file but a model's config.json. `validate` asks them all before a run; a plan asks them for
each machine that it tries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from megaprune.algorithms.advantages import GroupStd
from megaprune.algorithms.algorithm import Algorithm
from megaprune.algorithms.registry import is_own, name_of
from megaprune.config.limits import training_limits
from megaprune.config.run import Config, EngineConfig, GradingConfig
from megaprune.data.instructions import BOX
from megaprune.data.sets import graders as known_graders
from megaprune.errors import InputError, counted
from megaprune.grading.thought import THOUGHTS, thought_at_end
from megaprune.grading.verdict import BOX_GRADERS
from megaprune.parallelism import Parallel, cache_bytes, engine_layout
from megaprune.weights.layouts import Layout
from megaprune.weights.layouts.base import divisors
from megaprune.weights.model import Model

if TYPE_CHECKING:
    from megaprune.evaluation.config import EvaluateConfig
    from megaprune.harmonizing.config import HarmonizeConfig
    from megaprune.pruning.config import PruneConfig


def refuse(problems: Iterable[str]) -> None:
    """Raise an InputError that has all problems in its words, if there are any."""
    if words := "; ".join(problems):
        raise InputError(words)


# Fields alone.


def run_problems(config: Config) -> Iterator[str]:
    """Yield what is wrong with the fields of a run together."""
    yield from learning_problems(config)
    yield from training_problems(config)


def learning_problems(config: Config) -> Iterator[str]:
    """Yield what is wrong with the fields that say what is learned."""
    yield from update_problems(config)
    if config.data.weights is not None:
        yield from weight_problems(config)
        return
    if config.data.cutoff is not None:
        yield f"data.cutoff={config.data.cutoff} without data.weights; expected null"
    algorithm = config.algorithm
    if (name := algorithm.needs_reference) and config.data.references is None:
        yield (
            f"reward {name} compares with responses of the reference model; expected "
            f"data.references, the folder of its evaluation on data.train"
        )
    if algorithm.length == "thought" and config.grading.thought == "none":
        yield (
            "algorithm.length=thought with grading.thought=none: no mark tells where a thought "
            "ends; expected the model's family as grading.thought, or algorithm.length=response"
        )
    keeps = getattr(algorithm.filter, "keeps", None)
    if algorithm.unit > 1 and not is_own("filter", algorithm.filter) and keeps != algorithm.unit:
        yield (
            f"algorithm.loss.name={name_of('loss', algorithm.loss)} takes {algorithm.unit} "
            f"responses of each group, and algorithm.filter.name="
            f"{name_of('filter', algorithm.filter)} keeps another number of them; expected "
            f"algorithm.filter.name=right_pair"
        )
    advantage = algorithm.advantage
    if config.rollout.n == 1 and getattr(advantage, "within_group", False):
        yield (
            f"rollout.n=1 with algorithm.advantage.name={name_of('advantage', advantage)}; "
            f"expected n=2 or more: a response that is alone has no group to be better than"
        )


def update_problems(config: Config) -> Iterator[str]:
    """A batch that cannot be divided among the updates of a step."""
    count, size = config.algorithm.num_minibatches, config.data.train_batch_size
    if size % count:
        yield f"algorithm.num_minibatches={count} does not divide data.train_batch_size={size}"


def weight_problems(config: Config) -> Iterator[str]:
    """Fields that mean nothing where responses have weights."""
    if config.data.rollouts is None:
        yield (
            f"data.weights={config.data.weights} without data.rollouts; expected the folder with "
            f"the responses that are weighed"
        )
    if (count := len(config.algorithm.rewards)) > 1:
        yield (
            f"algorithm.rewards has {count} rewards, and the weights of data.weights take their "
            f"place; leave algorithm.rewards out"
        )
    if config.algorithm.kl_in_reward:
        yield (
            "algorithm.loss.kl_in=reward with weights of responses, which are no rewards; expected "
            "algorithm.loss.kl_in=loss"
        )


def shaping_problems(algorithm: Algorithm) -> Iterator[str]:
    """Yield what an algorithm will likely not do as it is meant to."""
    smooth = [entry.reward for entry in algorithm.rewards if getattr(entry.reward, "smooth", False)]
    if smooth and isinstance(algorithm.advantage, GroupStd):
        name = name_of("reward", smooth[0])
        yield (
            f"algorithm.advantage.name=group_std with the reward {name}: where all answers of a "
            f"group are right, dividing by its deviation takes away how strong the penalty of "
            f"length is; group_mean and batch_std keep it"
        )


def training_problems(config: Config) -> Iterator[str]:
    """Yield what is wrong with the fields that say how the actor is computed."""
    actor = config.actor
    if actor.sequence_parallel and actor.tp == 1:
        yield (
            "actor.sequence_parallel=true with actor.tp=1; expected actor.tp=2 or more: there is "
            "nothing to divide activations among"
        )
    if actor.frozen_layers and actor.trainable_layers is not None:
        yield (
            f"actor.frozen_layers={actor.frozen_layers} with "
            f"actor.trainable_layers={actor.trainable_layers}; expected one of them"
        )
    optimizer = config.optimizer
    if optimizer.on_cpu and not (optimizer.distributed and config.dtype == "bfloat16"):
        yield (
            f"optimizer.on_cpu={optimizer.on_cpu:g} with "
            f"optimizer.distributed={str(optimizer.distributed).lower()} and dtype={config.dtype}; "
            f"expected optimizer.distributed=true and dtype=bfloat16, or optimizer.on_cpu=0"
        )
    if optimizer.schedule == "cosine" and optimizer.warmup_steps >= config.steps:
        yield (
            f"optimizer.warmup_steps={optimizer.warmup_steps} with optimizer.schedule=cosine; "
            f"expected less than steps={config.steps}"
        )
    longest = config.data.max_prompt_length + max(training_limits(config))
    prompt, cutoff = config.data.max_prompt_length, config.data.cutoff
    what = f"data.max_prompt_length={prompt} and the length limit"
    if cutoff is not None and cutoff < longest:
        longest, what = cutoff, f"data.cutoff={cutoff}"
    if (unit := config.algorithm.unit) > 1:
        what += f", of {unit} samples that algorithm.loss takes together"
    yield from sample_problems(actor.max_tokens, longest * unit, what)


def sample_problems(max_tokens: int, longest: int, what: str) -> Iterator[str]:
    """A sample that no micro-batch holds.

    Args:
        longest: tokens of the longest sample.
        what: where it is from.
    """
    if longest > max_tokens:
        yield (
            f"actor.max_tokens={max_tokens}, and a sample may have {longest} tokens ({what}); "
            f"expected {longest} or more"
        )


def falling_problems(limits: list[int]) -> Iterator[str]:
    """Length limits of rounds that do not fall."""
    if any(a <= b for a, b in zip(limits, [*limits, 0][1:], strict=True)):
        yield f"limits={limits}; expected numbers of tokens that fall, as in limits=4000,3000,2000"


def prune_problems(config: PruneConfig) -> Iterator[str]:
    """Yield what is wrong with the fields of a pruning together."""
    if not config.limits:
        yield "limits=[]; expected numbers of tokens that fall, as in limits=4000,3000,2000"
    yield from falling_problems(config.limits)
    yield from run_problems(config)
    if config.data.validation is None or not config.validation.every:
        yield (
            "each round's model is chosen by validation; give data.validation=FILE.parquet (not "
            "what the model will be tested on) and validation.every=STEPS"
        )
    if not config.checkpoint.keep_best:
        yield "each round's best model is taken; leave checkpoint.keep_best=true"


def harmonize_problems(config: HarmonizeConfig) -> Iterator[str]:
    """Yield what is wrong with the fields of a harmonizing together."""
    yield from weighing_problems(config)
    yield from training_problems(config)


def weighing_problems(config: HarmonizeConfig) -> Iterator[str]:
    """Yield what is wrong with the fields that say what a harmonizing draws, weighs and learns."""
    data, drawn, chosen = config.data, config.presample.n, config.harmonize.responses
    for name in ("rollouts", "weights", "references"):
        if getattr(data, name) is not None:
            yield (
                f"data.{name}={getattr(data, name)} is not a harmonizing's to set; "
                f"presample.folder takes responses that are there"
            )
    if chosen != "all" and chosen > drawn:
        yield (
            f"harmonize.responses={chosen} with presample.n={drawn}; expected "
            f"presample.n={chosen} or more: they are chosen from the responses to a problem"
        )
    elif drawn == 1 and config.method == "o1_pruner":
        yield (
            "presample.n=1; expected presample.n=2 or more: a response that is alone has no others "
            "to be shorter than"
        )
    if drawn == 1 and config.method in ("dpo", "simpo"):
        yield f"presample.n=1 with method={config.method}; expected 2 or more, which make a pair"
    if config.choose == "best" and not (data.validation and config.validation.every):
        yield (
            "choose=best without a validation; give data.validation=FILE.parquet (not what the "
            "model will be tested on) and validation.every=STEPS, or choose=last"
        )
    if config.choose == "best" and not config.checkpoint.keep_best:
        yield "choose=best with checkpoint.keep_best=false; leave checkpoint.keep_best=true"
    if any(budget < 1 for budget in config.test.budgets):
        yield f"test.budgets={config.test.budgets}; expected numbers of tokens above 0"
    if config.algorithm.kl_in_reward:
        yield "algorithm.loss.kl_in=reward: weights are no rewards; expected kl_in=loss"
    yield from update_problems(config)


def evaluate_problems(config: EvaluateConfig) -> Iterator[str]:
    """Yield what is wrong with the fields of an evaluation together."""
    if not config.data:
        yield "data must be given, as data=FILE.parquet,...; make some: megaprune data"
    limit = config.max_response_length
    if config.temperature == 0 and (config.n or 1) > 1:
        yield (
            f"n={config.n} with temperature=0: all responses to a problem would be the same; "
            f"expected n=1, or null"
        )
    if any(budget < 1 for budget in config.budgets):
        yield f"budgets={config.budgets}; expected numbers of tokens above 0"
    if any(not 0 < exit_at < limit for exit_at in config.exit_at):
        yield (
            f"exit_at={config.exit_at}; expected numbers of tokens above 0 and less than "
            f"max_response_length={limit}"
        )


# Fields and data.


def batch_problems(config: Config, problems: int) -> Iterator[str]:
    """More prompts a step than there are problems."""
    size = config.data.train_batch_size
    if size > problems:
        yield (
            f"data.train_batch_size={size}, and data.train has {counted(problems, 'problem')}: "
            f"some come more than once in a step, as groups of their own; "
            f"data.train_batch_size={problems} or less takes each once"
        )


def duplicate_problems(
    name: str, count: int, contradicting: int, duplicates: str | None = None
) -> Iterator[str]:
    """Problems that repeat an earlier one.

    Args:
        name: of the file, with its field.
        count: how many do; `contradicting` of them with another answer.
        duplicates: the field data.duplicates; None where there is none.
    """
    if count and duplicates != "drop":
        others = f", {contradicting} of them with another answer" if contradicting else ""
        drop = "; data.duplicates=drop leaves them out" if duplicates else ""
        have = "has" if count == 1 else "have"
        problems = counted(count, "problem")
        yield f"{name}: {problems} {have} the prompt of an earlier one{others}{drop}"


def format_problems(
    name: str, asked: Mapping[tuple[str, str], int], grading: GradingConfig
) -> Iterator[str]:
    """Prompts that ask for an answer in a form that their grader does not read.

    Args:
        name: of the file, with its field.
        asked: problems by data source and the form that their prompt asks for.
        grading: the graders.
    """
    chosen = known_graders() | grading.graders
    unread: Counter[tuple[str, str]] = Counter()
    for (source, form), count in asked.items():
        grader = chosen.get(source, grading.default)
        if form != BOX and grader in BOX_GRADERS:
            unread[form, grader] += count
    for (form, grader), count in unread.items():
        yield (
            f"{name}: {counted(count, 'prompt')} asking for the answer as {form!r}, and not for "
            f"the box that the grader {grader} reads: such answers count as wrong; make it anew "
            f"with `megaprune data --instructions drop --family NAME`, or choose a grader of your "
            f"own that reads them (grading.default=file.py:function)"
        )


def thought_problems(name: str, prompt: str, grading: GradingConfig) -> Iterator[str]:
    """A prompt that ends with a mark of a thought that the graders do not look for.

    Args:
        name: of the file, with its field.
        prompt: one of it, in the model's chat template.
        grading: the graders.
    """
    if grading.default not in ("strict", "olympiad") or (end := thought_at_end(prompt)) is None:
        return
    mark, closes = end
    chosen = THOUGHTS[grading.thought]
    fits = not chosen.required or not chosen.closes if closes else mark == chosen.opens
    if closes and not fits:
        yield (
            f"{name}: prompts end with {mark!r}, so that responses have no thought, and "
            f"grading.thought={grading.thought} takes them for thoughts that are not closed; "
            f"grading.thought=none takes them for answers"
        )
    elif not closes and not (fits and chosen.required):
        family = next(key for key, thought in THOUGHTS.items() if thought.opens == mark)
        yield (
            f"{name}: prompts end with {mark!r}, and grading.thought={grading.thought} does not "
            f"wait for the end of that thought; expected grading.thought={family}"
        )


def mark_problems(model: str, known: Iterable[str], grading: GradingConfig) -> Iterator[str]:
    """A family of models that likely does not write the thoughts that graders wait for.

    Args:
        model: its folder.
        known: texts that may have a mark in them: tokens of its vocabulary, its chat template, a
            prompt.
        grading: the graders.
    """
    chosen = THOUGHTS[grading.thought]
    if grading.default not in ("strict", "olympiad") or grading.thought not in ("think", "qwen3"):
        return
    marks = (chosen.opens, chosen.closes)
    if chosen.required and not any(mark in text for text in known for mark in marks):
        yield (
            f"model={model}: neither its vocabulary nor its prompts have {chosen.closes!r}, "
            f"which grading.thought={grading.thought} waits for: where a family never writes it, "
            f"all answers count as wrong; expected grading.thought=none, or that of the family "
            f"({', '.join(THOUGHTS)})"
        )


# Fields and a model.


def context_problems(config: Config, context: int) -> Iterator[str]:
    """Responses that are too long for a model; no parallelism helps.

    Args:
        context: tokens that the model can take; 0 if that is not known.
    """
    name = "limits" if getattr(config, "limits", []) else "rollout.max_response_length"
    for field, limit in (
        (name, max(training_limits(config))),
        ("validation.max_response_length", config.validation.max_response_length),
    ):
        yield from length_problems(
            field, limit or 0, "data.max_prompt_length", config.data.max_prompt_length, context
        )


def length_problems(
    limit_field: str, limit: int, prompt_field: str, prompt: int, context: int
) -> Iterator[str]:
    """Refuse limits of response and prompt that exceed a model's context together, if known."""
    if context and prompt + limit > context:
        yield (
            f"{limit_field}={limit} and {prompt_field}={prompt} are more than the model's context "
            f"of {context} tokens; lower one of them"
        )


def frozen_problems(config: Config, model: Model) -> Iterator[str]:
    """Refuse to freeze all layers of a model, or to train more than it has."""
    frozen, trainable = config.actor.frozen_layers, config.actor.trainable_layers
    if trainable is not None and trainable > model.layers:
        yield f"actor.trainable_layers={trainable}; the model has {model.layers} layers"
    if frozen >= model.layers:
        yield (
            f"actor.frozen_layers={frozen}; the model has {model.layers} layers, and the last must "
            f"be trained"
        )


def cache_problems(engine: EngineConfig, model: Model, dtype: str, longest: int) -> Iterator[str]:
    """A key-value cache of a given size that does not hold one sequence.

    Args:
        dtype: of the keys and values.
        longest: tokens of the longest sequence.
    """
    size = engine.kv_cache_memory_bytes
    needed = cache_bytes(model, engine.tp, dtype, longest)
    if size is not None and size < needed:
        yield (
            f"rollout.kv_cache_memory_bytes={size}, and a sequence of {longest} tokens takes "
            f"{needed}; expected that or more, or null"
        )


# Ranks.


def parallelism_problems(config: Config, model: Model, processes: int) -> Iterator[str]:
    """Yield which of heads, layers and ranks the parallelism does not divide."""
    try:
        actor_layout(config, model, processes)
    except InputError as error:
        yield str(error)
    yield from engine_problems(config.rollout.tp, model, processes)


def engine_problems(tp: int, model: Model, processes: int) -> Iterator[str]:
    """Yield the same for the engines alone."""
    try:
        engine_layout(model, tp, processes)
    except InputError as error:
        yield str(error)


def node_problems(tp: int, on_a_node: int) -> Iterator[str]:
    """Engines that would be on several nodes.

    Args:
        on_a_node: GPUs of one.
    """
    if tp > on_a_node:
        yield (
            f"rollout.tp={tp} is more than the {on_a_node} GPUs of a node; "
            f"choose {divisors(on_a_node)}"
        )


def actor_layout(config: Config, model: Model, processes: int) -> Layout:
    """Lay out the actor's weights over its ranks.

    Raises:
        InputError: it cannot be divided so.
    """
    return _megatron(model, Parallel.of(config.actor), processes)


@lru_cache(maxsize=4)
def _megatron(model: Model, parallel: Parallel, processes: int) -> Layout:
    return parallel.layout(model, processes, "te")
