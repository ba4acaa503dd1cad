"""What runs, prunings, evaluations and analyses leave on disk: files, columns, metrics.

Whatever writes one of these and whatever reads it takes the name from here. `schema_page` writes
docs/metrics.md from the same declarations.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

# Files and folders of a run ----------------------------------------------------------------------
CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
STARTS_FILE = "starts.jsonl"
SAMPLES_FOLDER = "samples"
VALIDATION_FOLDER = "validation"
FAILED_FOLDER = "failed"
CHECKPOINTS_FOLDER = "checkpoints"
MODEL_FOLDER = "model"
REPORT_FOLDER = "report"
PAGE_FILE = "index.html"
WANDB_ID_FILE = "wandb_id"
TENSORBOARD_FOLDER = "tensorboard"
LEASE_FILE = ".megaprune-lease"

# Of a pruning, besides the runs of its rounds
ROUNDS_FILE = "rounds.json"
ROUND_FOLDERS = "round_*_limit_*"
CHOSEN_FOLDER = "chosen"

# Of an evaluation
SUMMARY_FILE = "summary.json"
IDENTITY_FILE = "identity.json"
PART_FILES = "part_*_*.parquet"

# Of a harmonizing
HARMONIZE_FILE = "harmonize.json"
HARMONIZE_ROUNDS = "round_*"
PRESAMPLE_FOLDER = "presample"
WEIGHTS_FILE = "weights.parquet"
STATISTICS_FILE = "statistics.json"
REFERENCE_FOLDER = "reference"
REFERENCE_FILES = "part_*.parquet"
TRAIN_FOLDER = "train"
BEFORE_FOLDER = "before"
AFTER_FOLDER = "after"

# Of a study, besides the runs
STUDY_FILE = "study.json"
RUNS_FOLDER = "runs"
START_FOLDER = "start"
REFERENCES_FOLDER = "references"
LOGS_FOLDER = "logs"
RUNS_TABLE = "runs"

# Of an analysis
ANALYSIS_FILE = "analysis.json"
REPLIES_FILE = "replies.jsonl"
BEHAVIOURS_FILE = "behaviours.png"

FILES = {
    f"RUN/{CONFIG_FILE}": "the resolved configuration",
    f"RUN/{METRICS_FILE}": "one JSON object a line: one for each step and each validation",
    f"RUN/{STARTS_FILE}": "one JSON object a line: seconds of the parts of a start, and settings",
    f"RUN/{SAMPLES_FOLDER}/step_000001.parquet": "the responses that a step drew",
    f"RUN/{VALIDATION_FOLDER}/step_000020.parquet": "the responses of a validation after a step",
    f"RUN/{FAILED_FOLDER}/step_000007.parquet": "the batch of a step that ended the run",
    f"RUN/{CHECKPOINTS_FOLDER}/iter_0000020/": "checkpoints",
    f"RUN/{MODEL_FOLDER}/": "the model that came out, in Hugging Face's format",
    f"RUN/{REPORT_FOLDER}/{PAGE_FILE}": "the report",
    f"RUN/{WANDB_ID_FILE}": "the id of the run on Weights & Biases",
    f"RUN/{TENSORBOARD_FOLDER}/": "metrics for TensorBoard",
    f"RUN/{LEASE_FILE}": "which process writes in the folder, while one does",
    f"PRUNING/{ROUNDS_FILE}": "what was chosen in each round, and why the last one ended",
    "PRUNING/round_1_limit_4000/": "the run of a round",
    f"HARMONIZING/{HARMONIZE_FILE}": "what came of each round, and of the test before and after",
    f"HARMONIZING/round_1/{PRESAMPLE_FOLDER}/": "the evaluation whose responses are weighed",
    f"HARMONIZING/round_1/{WEIGHTS_FILE}": "what each response weighs, and which are chosen",
    f"HARMONIZING/round_1/{STATISTICS_FILE}": "numbers of the responses and of their weights",
    f"HARMONIZING/round_1/{REFERENCE_FOLDER}/part_000000.parquet": "the reference model's "
    "log-probs of chosen responses",
    f"HARMONIZING/round_1/{TRAIN_FOLDER}/": "the run of a round",
    f"HARMONIZING/{BEFORE_FOLDER}/": "the evaluation of the model as it was, on the test's sets",
    f"HARMONIZING/{AFTER_FOLDER}/": "that of the model that came out",
    f"EVALUATION/{SUMMARY_FILE}": "numbers of each set, and their average",
    f"EVALUATION/{IDENTITY_FILE}": "digests of the model that drew the responses",
    f"EVALUATION/{SAMPLES_FOLDER}/SET/part_0_000001.parquet": "responses, engine by engine",
    f"STUDY/{STUDY_FILE}": "which runs there are, and where",
    f"STUDY/{START_FOLDER}/": "the evaluation of the model that all runs begin with",
    f"STUDY/{REFERENCES_FOLDER}/": "its evaluation on the training problems, if a reward needs it",
    f"STUDY/{PRESAMPLE_FOLDER}_seed_N/": "the responses that harmonizings learn from",
    f"STUDY/{RUNS_FOLDER}/VARIANT_seed_0/": "a run",
    f"STUDY/{LOGS_FOLDER}/": "what the runs print",
    f"STUDY/{REPORT_FOLDER}/{SUMMARY_FILE}": "numbers of each variant, with intervals",
    f"STUDY/{REPORT_FOLDER}/{RUNS_TABLE}.parquet": "numbers of each run; also as runs.csv",
    f"ANALYSIS/{ANALYSIS_FILE}": "what thoughts consist of",
    f"ANALYSIS/{REPLIES_FILE}": "what the judge has said",
    f"ANALYSIS/{BEHAVIOURS_FILE}": "the figure of the analysis",
}


def step_file(step: int) -> str:
    """The name of the file with a step's responses."""
    return f"step_{step:06}.parquet"


def step_of_file(name: str) -> int | None:
    """The step that a file's responses are of; None if it is no such file."""
    match = re.fullmatch(r"step_(\d+)\.parquet", name)
    return int(match[1]) if match else None


def round_folder(number: int, limit: int) -> str:
    """The name of a round's folder in that of its pruning."""
    return f"round_{number}_limit_{limit}"


def part_file(engine: int, count: int) -> str:
    """The name of a file with some responses of one engine of an evaluation."""
    return f"part_{engine}_{count:06}.parquet"


# Columns of tables of responses ------------------------------------------------------------------
@dataclass(frozen=True)
class Column:
    """A column of all tables of responses: those of runs and those of evaluations.

    Args:
        type: as pyarrow writes it.
        doc: what it holds, and where it is null.
    """

    name: str
    type: str
    doc: str


SAMPLE_COLUMNS = (
    Column("step", "int64", "the step, or for a validation the steps done; null in evaluations"),
    Column("set", "string", "the set of problems, as its folder is named; null in runs"),
    Column("problem", "string", "the problem's name, unique in its data source"),
    Column("data_source", "string", "the problem's data source"),
    Column("prompt", "string", "the prompt, with the chat template's markers"),
    Column("number", "int64", "number of the response among those to this prompt, from 0"),
    Column(
        "exit_at",
        "int64",
        "early exit: tokens after which the thought was closed; null if it was not",
    ),
    Column("response", "string", "the text, without the token that ended it"),
    Column("gold", "string", "the right answer"),
    Column(
        "length", "int64", "tokens of the response, the one that ended it and injected ones too"
    ),
    Column(
        "thought_length",
        "int64",
        "tokens of the thought, with the mark that closes it; `length` if nothing closes it",
    ),
    Column("injected", "int64", "how many of its tokens the model did not write; null in runs"),
    Column("finish", "string", "`stop`: the model ended it; `length`: the limit did"),
    Column("match", "bool", "whether the grader found it right"),
    Column("extracted", "string", "the answer that the grader read; null if there was none"),
    Column("why", "string", "the grader's reason"),
    Column("detail", "string", "more about the reason"),
    Column("reward", "double", "the reward; 1 or 0 in validations; null in evaluations"),
    Column("advantage", "double", "the advantage; null where it was not learned from"),
    Column("policy_version", "int64", "optimizer steps done by the model that drew it"),
    Column("prompt_tokens", "list<int32>", "the prompt's tokens"),
    Column("tokens", "list<int32>", "the response's tokens, `length` of them"),
    Column(
        "log_probs",
        "list<float>",
        "the engine's log-probs of `tokens`, in nats; NaN for injected ones; null if not kept",
    ),
)

OLD_COLUMNS = {"budget": "exit_at"}
"""Names that tables may have instead: a reader takes these for those."""


def stored_columns(columns: Sequence[str], there: Sequence[str]) -> dict[str, str]:
    """The names that columns have in a table of any age: {today's name: the table's name}.

    Args:
        columns: names of today; those that the table lacks are left out.
        there: the table's names.
    """
    old = {today: name for name, today in OLD_COLUMNS.items() if name in there}
    names = {name: name if name in there else old.get(name) for name in columns}
    return {name: stored for name, stored in names.items() if stored is not None}


def renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table of any age, with the names that its columns have today."""
    return {OLD_COLUMNS.get(name, name): value for name, value in row.items()}


OPTIONAL_COLUMNS = (
    "step", "reward", "advantage", "policy_version", "prompt_tokens", "log_probs", "thought_length",
)  # fmt: skip
"""Columns that tables may lack: a reader takes them for null."""

OUTCOME_COLUMNS = ("data_source", "problem", "length", "finish", "match")
"""What is needed to count: how long a response was, and whether it was right."""

TEXT_COLUMNS = ("number", "prompt", "response", "gold", "extracted", "why")
"""What is needed to read a response."""


@functools.cache
def samples_schema() -> pa.Schema:
    """The pyarrow schema of all tables of responses."""
    return _pyarrow_schema(SAMPLE_COLUMNS)


def _pyarrow_schema(columns: Sequence[Column]) -> pa.Schema:
    import pyarrow as pa

    types = {
        "int64": pa.int64(),
        "string": pa.string(),
        "bool": pa.bool_(),
        "double": pa.float64(),
        "list<int32>": pa.list_(pa.int32()),
        "list<float>": pa.list_(pa.float32()),
    }
    return pa.schema({column.name: types[column.type] for column in columns})


# Tables of weights -------------------------------------------------------------------------------
WEIGHT_COLUMNS = (
    Column("problem", "string", "the problem's name"),
    Column("number", "int64", "number of the response among those to this problem, from 0"),
    Column("length", "int64", "tokens that count (see `harmonize.end_token`)"),
    Column("correct", "bool", "whether it is right"),
    Column("answered", "bool", "whether it ended by itself, with an answer that can be read"),
    Column("raw", "double", "the weight before it is clipped and normalised"),
    Column("weight", "double", "what its advantage is in training"),
    Column("selected", "bool", "whether it is learned from"),
    Column("group", "int64", "responses that are learned from together; null if it is not"),
)


@functools.cache
def weights_schema() -> pa.Schema:
    """The pyarrow schema of a harmonizing's table of weights."""
    return _pyarrow_schema(WEIGHT_COLUMNS)


@functools.cache
def reference_schema() -> pa.Schema:
    """The pyarrow schema of files with the reference model's log-probs."""
    import pyarrow as pa

    return pa.schema(
        {"problem": pa.string(), "number": pa.int64(), "log_probs": pa.list_(pa.float32())}
    )


def reference_file(number: int) -> str:
    """The name of a file with the reference model's log-probs of some responses."""
    return f"part_{number:06}.parquet"


def harmonize_round(number: int) -> str:
    """The name of a round's folder in that of its harmonizing."""
    return f"round_{number}"


# Metrics -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class MetricDoc:
    """A number that is measured at each step, and named in metrics.jsonl and on W&B.

    Args:
        name: with `<...>` in it, a family of names.
        unit: "1" for a share of 1 or a number without a unit.
        formula: how it is computed; "" where the doc says all.
        of_loss: whether the loss tells it, and not the step.
    """

    name: str
    unit: str
    formula: str
    doc: str
    of_loss: bool = False


_METRICS: list[MetricDoc] = []


def _metric(name: str, unit: str, formula: str, doc: str, of_loss: bool = False) -> str:
    _METRICS.append(MetricDoc(name, unit, formula, doc, of_loss))
    return name


REWARD = _metric(
    "reward", "1", "mean over responses drawn", "What the responses of a step are worth."
)
REWARD_PART = _metric(
    "reward/<name>", "1", "mean over responses", "One of several rewards, before its weight."
)
REWARD_PART_WEIGHTED = _metric(
    "reward/<name>/weighted", "1", "weight * reward/<name>", "What it adds to the reward."
)
REWARD_WIPED = _metric(
    "reward/wiped",
    "1",
    "right responses worth 0 or less / right responses",
    "How many right answers the rewards make worth nothing.",
)
REWARD_ADJUSTED = _metric(
    "reward/adjusted",
    "1",
    "right responses not worth 1 / right responses",
    "How many right answers the rewards make worth more or less than being right.",
)
REWARD_UNSHAPED = _metric(
    "reward/unshaped",
    "1",
    "groups whose right responses are worth the same / groups with one",
    "The share of groups with a right answer in which length made no difference.",
)
ACCURACY = _metric(
    "accuracy", "1", "right / responses", "The share of responses that the grader found right."
)
LENGTH_MEAN = _metric(
    "response_length/mean", "tokens", "mean(length)", "How long responses are on average."
)
LENGTH_P50 = _metric(
    "response_length/p50", "tokens", "median(length)", "Half of the responses are shorter."
)
LENGTH_P95 = _metric(
    "response_length/p95",
    "tokens",
    "95th percentile(length)",
    "One response in twenty is longer.",
)
TRUNCATED = _metric(
    "truncated",
    "1",
    "cut off / responses",
    "The share of responses that the limit ended, and not the model.",
)
GRADING_FAILED = _metric(
    "grading_failed",
    "1",
    "failed / responses",
    "The share of responses that the grader could not grade: too slow, too much memory, an error. "
    "They count as wrong.",
)
VERDICT = _metric(
    "verdict/<verdict>",
    "1",
    "responses with it / responses",
    "The share of each of the grader's verdicts: right, wrong, cut_off, thought_not_closed, "
    "no_answer and so on. They add up to 1.",
)
NO_SIGNAL = _metric(
    "no_signal",
    "1",
    "groups with equal rewards / groups drawn",
    "The share of groups that teach nothing: all of their rewards are the same.",
)
LOSS = _metric("loss", "1", "sum of shares", "The minimised loss, mean over optimizer steps.")
POLICY_LOSS = _metric(
    "policy_loss",
    "1",
    "mean over learned tokens(max(-A r, -A clip(r)))",
    "The part of the loss that rewards and advantages A make; r is the ratio of policies.",
    of_loss=True,
)
GRAD_NORM = _metric(
    "grad_norm", "1", "|gradient|", "The norm before clipping, mean over optimizer steps."
)
LR = _metric(
    "lr", "1", "see `optimizer.schedule`; `lr` at the most", "The learning rate of the step."
)
ENTROPY = _metric(
    "entropy",
    "nats",
    "mean over learned tokens(-sum p log p)",
    "How open the policy is at the tokens that were drawn.",
)
CLIP_RATIO = _metric(
    "clip_ratio",
    "1",
    "clipped learned tokens / learned tokens",
    "The share of tokens whose ratio is clipped: they have no gradient.",
    of_loss=True,
)
KL = _metric(
    "kl",
    "nats",
    "mean over tokens(exp(d) - d - 1), d = log p_ref - log p",
    "How far the policy is from the model that the run began with; only with a KL term.",
    of_loss=True,
)
MISMATCH = _metric(
    "mismatch",
    "nats",
    "mean over learned tokens(|log p_actor - log p_engine|)",
    "How far Megatron and vLLM are apart on the same tokens; it should stay near 0.",
)
MISMATCH_KL = _metric(
    "mismatch_kl",
    "nats",
    "mean over learned tokens(exp(d) - d - 1), d = log p_actor - log p_engine",
    "The same as an estimate of the KL divergence of the engine from the actor.",
)
PAIR_MARGIN = _metric(
    "pair/margin",
    "1",
    "mean over pairs(the sigmoid's argument)",
    "How far preferred responses are ahead of the others; only with a loss of pairs.",
    of_loss=True,
)
PAIR_ACCURACY = _metric(
    "pair/accuracy",
    "1",
    "pairs with a margin above 0 / pairs",
    "The share of pairs in which the preferred response is ahead.",
    of_loss=True,
)
IMPORTANCE_CAPPED = _metric(
    "importance_capped",
    "1",
    "capped learned tokens / learned tokens",
    "The share of tokens whose importance weight is at its cap; only with importance_cap.",
    of_loss=True,
)
LEARNED_TOKENS = _metric(
    "learned_tokens",
    "tokens",
    "sum(length) over samples in the gradient",
    "Response tokens that went through forward and backward; samples without signal do not.",
)
TOKENS = _metric("tokens", "tokens", "sum(length) over responses drawn", "What the engines wrote.")
TOKENS_PER_SECOND = _metric(
    "tokens_per_second",
    "tokens/s",
    "tokens / (seconds/step)",
    "Response tokens over the whole time of a step, over all devices.",
)
SYNC_BYTES = _metric(
    "sync/bytes",
    "bytes",
    "sum over ranks",
    "Weights that travelled between ranks after the step; not of a run without an engine.",
)
SYNC_MESSAGES = _metric("sync/messages", "1", "sum over ranks", "In how many messages.")
SECONDS = _metric(
    "seconds/<phase>",
    "s",
    "",
    "Time of a phase: generate, grade, update, sync, save, log, report. What is done behind a "
    "step, as a report, is in the line of the step after it.",
)
SECONDS_STEP = _metric(
    "seconds/step", "s", "", "Time since the last step's line, without that of validations."
)
SHARE = _metric("share/<phase>", "1", "seconds/<phase> / seconds/step", "Share of a phase.")
LEARNED = "learned/"
LEARNED_ANY = _metric(
    "learned/<metric>",
    "",
    "",
    "reward, accuracy, response_length/..., truncated, grading_failed and verdict/... of the "
    "responses that are learned from, without what a filter leaves out. Without `learned/` they "
    "are of all groups that were drawn.",
)
SURPLUS = _metric(
    "surplus",
    "groups",
    "groups drawn behind the last one that was needed",
    "Groups that come first in the next step; only with a filter that replaces groups.",
)
VALIDATION = "validation/"
VALIDATION_ANY = _metric(
    "validation/<metric>",
    "",
    "",
    "accuracy, response_length/..., truncated, grading_failed and verdict/... of a validation's "
    "responses, in a line of its own.",
)
VALIDATION_SECONDS = _metric(
    "validation/seconds", "s", "", "Time of the validation, which is in no step's seconds."
)

METRICS = tuple(_METRICS)


def seconds_of(phase: str) -> str:
    """The name of a phase's seconds."""
    return SECONDS.replace("<phase>", phase)


def share_of(phase: str) -> str:
    """The name of a phase's share of a step's time."""
    return SHARE.replace("<phase>", phase)


def verdict_of(why: str) -> str:
    """The name of the share of responses with a verdict, one of `grading.verdict.WHY`."""
    return VERDICT.replace("<verdict>", why.replace(" ", "_"))


OLD_METRICS = {
    "length/mean": LENGTH_MEAN,
    "length/p50": LENGTH_P50,
    "length/p95": LENGTH_P95,
    "cut_off": TRUNCATED,
    "clipped": CLIP_RATIO,
    "capped": IMPORTANCE_CAPPED,
}
"""Names that metrics.jsonl may have instead: a reader takes these for those."""


def metric_name(name: str) -> str:
    """The name that a metric has here, for one that a metrics.jsonl of any age has."""
    prefix = VALIDATION if name.startswith(VALIDATION) else ""
    rest = name.removeprefix(prefix)
    return prefix + OLD_METRICS.get(rest, rest)


def metric_of(name: str) -> MetricDoc | None:
    """What is declared of a metric, be it of a family; None for one that is not declared."""
    fits = [m for m in METRICS if re.fullmatch(re.sub(r"<\w+>", ".+", m.name), name)]
    # Of two families the narrower one; a name of its own before all.
    return max(fits, key=lambda m: ("<" not in m.name, len(m.name)), default=None)
