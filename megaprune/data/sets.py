"""The problem sets that have names, and how each is read from what its authors publish."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from megaprune.errors import InputError

SourceRow = Mapping[str, Any]
"""A problem as its source has it: columns and values."""

PROBLEM_COLUMNS = ("problem", "question", "extra_info.problem", "prompt", "messages")
ANSWER_COLUMNS = ("answer", "final_answer", "ground_truth_answer", "reward_model", "solution")
"""Where problems and answers stand in copies of a set: the first that a row has, in any case of
letters; a dot is for a field of a column. A prompt is its last user message; a reward_model is its
ground_truth; of a solution, and of anything with a box in it, the last box is the answer."""


@dataclass(frozen=True)
class ProblemSet:
    """A published set of problems, and how it is read.

    Args:
        name: also its data_source.
        repository: where it is on the Hugging Face hub, or on GitHub.
        files: shell pattern of its files there.
        training: to train on; otherwise to measure with.
        samples: of each problem when a model is measured on it, if nobody says how many.
        licence: of the set, as its repository states it.
        grader: the grader that its answers need.
        keep: columns that are kept, where there are any (in any case of letters).
        wanted: whether a row is of the set; all are if None. It raises InputError where a row does
            not say.
        suffix: taken from the end of problems: an instruction that is not theirs.
        gold: the answer for the set's grader, where it takes more than the row's answer.
        on_hub: whether the repository is on the hub, where files are fetched from.
    """

    name: str
    repository: str
    files: str
    training: bool
    samples: int
    licence: str
    grader: str = "strict"
    keep: tuple[str, ...] = ()
    wanted: Callable[[SourceRow], bool] | None = None
    suffix: str = ""
    gold: Callable[[SourceRow, str], str] | None = None
    on_hub: bool = True

    @property
    def place(self) -> str:
        """Where the repository is, in words."""
        return self.repository if self.on_hub else f"github.com/{self.repository}"

    @property
    def split(self) -> str:
        """The words that verl has for its use."""
        return "train" if self.training else "test"


def graders() -> dict[str, str]:
    """Return the graders of sets whose answers need a special one, by data_source."""
    return {s.name: s.grader for s in SETS.values() if s.grader != "strict"}


_YEAR = re.compile(r"(?<!\d)(19[5-9]\d|20\d\d)(?!\d)")
_SHORT_YEAR = re.compile(r"AIME(\d\d)")


def year_of(row: SourceRow) -> int | None:
    """Read a competition's year from year, url, id or data_source; None if none of them has it."""
    values = {key.lower(): str(value) for key, value in row.items() if value is not None}
    for column in ("year", "url", "id"):
        if match := _YEAR.search(values.get(column, "")):
            return int(match[1])
    short = _SHORT_YEAR.fullmatch(values.get("data_source", ""))  # as ThinkPrune has them
    return 2000 + int(short[1]) if short else None


def _years(first: int, last: int) -> Callable[[SourceRow], bool]:
    """Want the problems of these years; of a single year also rows that do not say theirs."""

    def wanted(row: SourceRow) -> bool:
        year = year_of(row)
        if year is None and first != last:
            raise InputError(
                f"it does not say its year, in a column year, url, id or data_source; the set has "
                f"the years {first} to {last}: add a column year"
            )
        return year is None or first <= year <= last

    return wanted


def _of_numina(row: SourceRow) -> bool:
    if "data_source" not in row:
        raise InputError(
            "it lacks the column data_source; the set has the rows where that is numina_amc_aime"
        )
    return bool(row["data_source"] == "numina_amc_aime")


# OlympiadBench (arXiv 2402.14008).

_SENTENCE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,} ")


def olympiad_gold(row: SourceRow, answer: str) -> str:
    """Write the answer of a row as the JSON text that `megaprune.grading.olympiad` takes.

    Several answers are split at the commas that stand in no bracket, unless words come between
    ("f(x) = ax, where a is an integer, ..."): then the whole is one answer. They have no order: the
    set does not say when they have one.

    Args:
        row: has is_multiple_answer, unit and error, as the set has them.
        answer: that of the row, or what this function made of it before.

    Raises:
        InputError: the row lacks a column.
    """
    if answer.startswith('{"answers":'):
        return answer
    for column in ("is_multiple_answer", "unit", "error"):
        if column not in row:
            raise InputError(
                f"it lacks the column {column}, without which its answers cannot be graded; it has "
                f"{', '.join(row)}"
            )
    gold = {
        "answers": _split(answer) if row["is_multiple_answer"] else [answer],
        "error": _text(row["error"]),
        "unit": _text(row["unit"]),
        "ordered": False,
    }
    return json.dumps(gold, ensure_ascii=False)


def _split(answer: str) -> list[str]:
    from megaprune.grading.normal import tidy
    from megaprune.grading.shapes import COMMA, split

    if _SENTENCE.search(answer):
        return [answer]
    return split(tidy(answer), COMMA)


def _text(value: Any) -> str | None:
    return str(value).strip() or None if value is not None else None


_MAA = "problems: MAA"

# Repositories are those of the sets' authors or of who published them as data sets; the patterns of
# files were written from knowledge of them, and not tried against the hub.
_ALL = (
    ProblemSet(
        # ThinkPrune's training set (arXiv 2504.01296); PRIME (2502.01456) put it together.
        "numina_amc_aime",
        "PRIME-RL/Eurus-2-RL-Data",
        "*train*.parquet",
        training=True,
        samples=1,
        licence=f"MIT; {_MAA}",
        wanted=_of_numina,
        suffix="\n\nPresent the answer in LaTex format: \\boxed{Your answer}",
    ),
    ProblemSet(
        # Without the years from 2022 on, which models are measured with.
        "aime_1983_2021",
        "di-zhang-fdu/AIME_1983_2024",
        "*.csv",
        training=True,
        samples=1,
        licence=f"MIT; {_MAA}",
        keep=("year", "difficulty"),
        wanted=_years(1983, 2021),
    ),
    ProblemSet(
        "math_train",
        "EleutherAI/hendrycks_math",
        "*/train*.parquet",
        training=True,
        samples=1,
        licence="MIT",
        keep=("level", "type", "difficulty"),
    ),
    ProblemSet(
        "gsm8k_train",
        "openai/gsm8k",
        "main/train*.parquet",
        training=True,
        samples=1,
        licence="MIT",
    ),
    ProblemSet(
        # To choose models by, as ThinkPrune did: not to report.
        "aime22_23",
        "AI-MO/aimo-validation-aime",
        "*train*.parquet",
        training=False,
        samples=16,
        licence=f"Apache-2.0; {_MAA}",
        keep=("url",),
        wanted=_years(2022, 2023),
    ),
    ProblemSet(
        "aime24",
        "AI-MO/aimo-validation-aime",
        "*train*.parquet",
        training=False,
        samples=64,
        licence=f"Apache-2.0; {_MAA}",
        keep=("url", "difficulty"),
        wanted=_years(2024, 2024),
    ),
    ProblemSet(
        "aime25",
        "math-ai/aime25",
        "*test*",
        training=False,
        samples=64,
        licence=f"Apache-2.0; {_MAA}",
        wanted=_years(2025, 2025),
    ),
    ProblemSet(
        "amc23",
        "AI-MO/aimo-validation-amc",
        "*train*.parquet",
        training=False,
        samples=64,
        licence=f"Apache-2.0; {_MAA}",
        keep=("url",),
        wanted=_years(2023, 2023),
    ),
    ProblemSet(
        "math500",
        "HuggingFaceH4/MATH-500",
        "test.jsonl",
        training=False,
        samples=16,
        licence="MIT",
        keep=("unique_id", "subject", "level", "difficulty"),
    ),
    ProblemSet(
        # Open-ended mathematics in English without pictures: 675 problems (arXiv 2402.14008).
        "olympiadbench",
        "Hothan/OlympiadBench",
        "*/OE_TO_maths_en_COMP*.parquet",
        training=False,
        samples=16,
        licence="Apache-2.0",
        grader="olympiad",
        keep=("subfield", "answer_type"),
        gold=olympiad_gold,
    ),
    ProblemSet(
        # O1-Pruner's MATH: 458 problems, all of them in MATH-500.
        "math_o1_pruner",
        "StarDewXXX/O1-Pruner",
        "data/dataset/math_test.json",
        training=False,
        samples=16,
        licence="MIT",
        on_hub=False,
    ),
    ProblemSet(
        # O1-Pruner's (arXiv 2501.12570). As many problems as need few samples each.
        "gaokao2023",
        "MARIO-Math-Reasoning/Gaokao2023-Math-En",
        "*",
        training=False,
        samples=16,
        licence="MIT, of its copy in Qwen2.5-Math",
    ),
    ProblemSet(
        # 1319 problems: with few samples of each, the interval is narrow.
        "gsm8k",
        "openai/gsm8k",
        "main/test*.parquet",
        training=False,
        samples=4,
        licence="MIT",
    ),
)

SETS: Mapping[str, ProblemSet] = {problem_set.name: problem_set for problem_set in _ALL}
"""Samples are ThinkPrune's where it used the set: 64 on sets of 30 or 40 problems, else 16."""
