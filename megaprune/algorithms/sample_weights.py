"""Weights of pre-sampled responses by length and correctness (O1-Pruner, 2501.12570). Numpy alone.

A response of L tokens, right (c = 1) or not (c = 0), to a problem whose K responses have mean
length Lbar and accuracy cbar, is worth

    w = Lbar / L - 1 + lam * (c - cbar)

clipped to a range. The weights of the data set are then normalised, and of the K responses to a
problem m are learned from. `PRESETS` has the settings that were published, and ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from megaprune.algorithms.component_fields import (
    FieldDescription,
    check_fields,
    describe,
    read_values,
)
from megaprune.algorithms.presets import Preset
from megaprune.algorithms.records import Vector
from megaprune.config.fields import nearest
from megaprune.errors import InputError

Mask: TypeAlias = NDArray[np.bool_]
"""[K] bool, one for each response to a problem."""


@dataclass(frozen=True, eq=False)
class ProblemResponses:
    """The K graded responses that the reference model gave to one problem.

    Args:
        correct: [K] bool, the answer is right.
        length: [K] int, tokens, with or without the end token (see `SampleWeights.count_tokens`).
        answered: [K] bool, the response ended by itself, and has an answer that can be read; None
            if all have.
        name: of the problem.

    Raises:
        ValueError: the vectors are not of one length, or there is no response.
    """

    correct: Mask
    length: NDArray[np.int64]
    answered: Mask | None = None
    name: str = ""

    def __post_init__(self) -> None:
        given = [v for v in (self.correct, self.length, self.answered) if v is not None]
        shapes = {np.shape(v) for v in given}
        if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or shape[0] == 0:
            raise ValueError("correct, length, answered: expected [K] each, K of 1 or more")

    def __len__(self) -> int:
        """K."""
        return len(self.correct)


@dataclass(frozen=True, eq=False)
class Weighted:
    """What the responses to one problem weigh.

    Args:
        raw: [K], before they are clipped.
        weight: [K], as they are learned from; 0 where the problem is left out.
        kept: whether the problem is learned from.
    """

    raw: Vector
    weight: Vector
    kept: bool


@dataclass(frozen=True)
class SampleWeights:
    """How pre-sampled responses are weighed, and how many of each problem are learned from."""

    lam: Annotated[
        float,
        Field(ge=0, description="the weight of accuracy; published: 2 for Marco-o1, 5 for QwQ"),
    ] = 2.0
    clip_low: Annotated[float, Field(description="the least weight before normalisation")] = -2.0
    clip_high: Annotated[float, Field(description="the greatest")] = 4.0
    baseline: Annotated[
        Literal["all", "leave_one_out"],
        Field(
            description="the responses whose mean length and accuracy a response is compared with: "
            "all K, as published, or the other K - 1, which makes its weight K / (K - 1) times as "
            "large before it is clipped"
        ),
    ] = "leave_one_out"
    normalize: Annotated[
        Literal["data_set", "problem", "none"],
        Field(
            description="what is subtracted from clipped weights: the mean over the data set, "
            "after which they are divided by their population deviation, as published; the mean "
            "over the problem; or nothing. The mean over the data set is above 0, since the mean "
            "of Lbar / L - 1 is: it makes unlikelier a right answer of average length to a problem "
            "that is always solved"
        ),
    ] = "problem"
    shortness: Annotated[
        Literal["all", "answered"],
        Field(
            description="the responses that gain by being shorter than the mean: all, as "
            "published, or those that ended by themselves with an answer, so that one that was cut "
            "off or is empty does not"
        ),
    ] = "answered"
    all_wrong: Annotated[
        Literal["keep", "drop"],
        Field(
            description="whether problems without a right answer are learned from: as published "
            "they are, and shorter wrong answers become likelier"
        ),
    ] = "drop"
    difficulty: Annotated[
        Literal["all", "hard", "medium", "easy"],
        Field(
            description="which problems are learned from, by the share of their K responses that "
            "is right: all; or the 40 % with the least, those from 30 to 70 %, or the 40 % with "
            "the most, as published. Of problems with equal shares the first ones count as harder"
        ),
    ] = "all"
    responses: Annotated[
        int | Literal["all"],
        Field(
            description="how many of the K responses to a problem are learned from (2 as "
            "published), whatever their lengths and answers; or all"
        ),
    ] = "all"
    end_token: Annotated[
        bool,
        Field(
            description="whether the end token counts in the length of a stored response; as "
            "published it does not"
        ),
    ] = True

    def __post_init__(self) -> None:
        check_fields(self)
        if self.clip_low > self.clip_high:
            raise InputError(
                f"clip_low={self.clip_low}; expected clip_high={self.clip_high} or less"
            )
        if self.responses != "all" and self.responses < 1:
            raise InputError(f"responses={self.responses}; expected 1 or more, or all")

    @classmethod
    def from_spec(cls, spec: Spec) -> SampleWeights:
        """Weights of a spec: the name of a preset, or fields, on top of `preset` if it is there.

        Raises:
            InputError: they cannot be; begins with the dotted name of the field.
        """
        values = read_values(cls, cls.merge_specs({}, spec), SECTION, "harmonize")
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{SECTION}.{error}") from error

    @classmethod
    def merge_specs(cls, base: Spec, change: Spec) -> dict[str, Any]:
        """A spec with some of its fields changed; a preset takes the place of all.

        Raises:
            InputError: there is no such preset.
        """
        given = {"preset": change} if isinstance(change, str) else dict(change)
        if "preset" not in given:
            before = cls.merge_specs({}, base) if base else PRESETS[DEFAULT].spec
            return {**before, **given}
        preset = given.pop("preset")
        if preset not in PRESETS:
            raise InputError(f"{SECTION}.preset={preset!r}; {nearest(str(preset), list(PRESETS))}")
        return {**PRESETS[preset].spec, **given}

    @classmethod
    def describe_fields(cls) -> list[FieldDescription]:
        """All fields, and the presets."""
        doc = "; ".join(f"{name}: {preset.doc}" for name, preset in PRESETS.items())
        doc = f"settings that belong together; {doc}"
        preset = FieldDescription(f"{SECTION}.preset", "text", DEFAULT, doc, "")
        return [preset, *describe(cls, SECTION, "")]

    def to_spec(self) -> dict[str, Any]:
        """A plain dictionary that `from_spec` makes these of."""
        return asdict(self)

    def count_tokens(self, tokens: NDArray[np.int64], finished: Mask) -> NDArray[np.int64]:
        """The lengths [K] that count, of responses of so many tokens, as tables have them.

        Args:
            tokens: [K], the end token included where there is one.
            finished: [K], whether there is one.
        """
        return tokens if self.end_token else tokens - finished

    def weigh(
        self, problems: Sequence[ProblemResponses], selected: Sequence[Mask] | None = None
    ) -> list[Weighted]:
        """The weights of all K responses to each problem of a data set.

        Weights that are all equal, so that they have no deviation, are 0.

        Args:
            problems: the data set.
            selected: of each problem, the responses that are learned from, whose weights the mean
                and the deviation of the data set are of; None for all.

        Raises:
            InputError: a problem has too few responses.
        """
        for number, problem in enumerate(problems, 1):
            self._check_count(problem, problem.name or f"number {number}")
        raw = [self._raw(problem) for problem in problems]
        kept = [
            among and (self.all_wrong == "keep" or bool(problem.correct.any()))
            for problem, among in zip(problems, self.of_difficulty(problems), strict=True)
        ]
        clipped = [np.clip(values, self.clip_low, self.clip_high) for values in raw]
        counted = [
            values if selected is None else values[selected[number]]
            for number, values in enumerate(clipped)
            if kept[number]
        ]
        normalized = self._normalized(clipped, np.concatenate([np.zeros(0), *counted]))
        return [
            Weighted(before, weight if keep else np.zeros_like(weight), keep)
            for before, weight, keep in zip(raw, normalized, kept, strict=True)
        ]

    def select(self, problems: Sequence[ProblemResponses], seed: int) -> list[Mask]:
        """The responses [K] of each problem that are learned from, drawn by a seed.

        They depend on the seed, the problem's place and K alone.

        Raises:
            InputError: a problem has too few responses.
        """
        masks: list[Mask] = []
        for place, problem in enumerate(problems):
            self._check_count(problem, problem.name or f"number {place + 1}")
            mask: Mask = np.ones(len(problem), np.bool_)
            if self.responses != "all":
                order = np.random.default_rng((seed, place)).permutation(len(problem))
                mask[order[self.responses :]] = False
            masks.append(mask)
        return masks

    def of_difficulty(self, problems: Sequence[ProblemResponses]) -> list[bool]:
        """Whether each problem is as difficult as those that are learned from."""
        low, high = _SLICES[self.difficulty]
        accuracies = [problem.correct.mean() for problem in problems]
        among = [False] * len(problems)
        order = np.argsort(accuracies, kind="stable")
        for place in order[round(low * len(order)) : round(high * len(order))]:
            among[place] = True
        return among

    def _check_count(self, problem: ProblemResponses, name: str) -> None:
        least = 1 if self.responses == "all" else self.responses
        field_name, value = "responses", str(self.responses)
        if self.baseline == "leave_one_out" and least < 2:
            least, field_name, value = 2, "baseline", self.baseline
        if len(problem) < least:
            raise InputError(
                f"problem {name} has K={len(problem)}, and {SECTION}.{field_name}={value}; "
                f"expected {least} responses to each problem, or more"
            )

    def _raw(self, problem: ProblemResponses) -> Vector:
        """[K] weights before they are clipped. An empty response counts as one token."""
        length = np.maximum(problem.length, 1).astype(np.float64)
        correct = problem.correct.astype(np.float64)
        shorter = length.mean() / length - 1.0
        if self.shortness == "answered" and problem.answered is not None:
            shorter = np.where(problem.answered, shorter, np.minimum(shorter, 0.0))
        raw: Vector = shorter + self.lam * (correct - correct.mean())
        return raw * _others_factor(len(raw)) if self.baseline == "leave_one_out" else raw

    def _normalized(self, clipped: Sequence[Vector], counted: Vector) -> list[Vector]:
        """The weights of each problem; the data set's mean and deviation are of `counted`."""
        if self.normalize == "none":
            return list(clipped)
        if self.normalize == "problem":
            return [np.zeros_like(w) if _all_equal(w) else w - w.mean() for w in clipped]
        if not len(counted) or _all_equal(counted):
            return [np.zeros_like(w) for w in clipped]
        mean, deviation = counted.mean(), counted.std()
        return [(w - mean) / deviation for w in clipped]


_SLICES = {"all": (0.0, 1.0), "hard": (0.0, 0.4), "medium": (0.3, 0.7), "easy": (0.6, 1.0)}
"""From where to where problems are taken in the order of their accuracy, the least first."""

Spec: TypeAlias = Mapping[str, Any] | str
"""The name of a preset, or fields, with `preset` among them or not."""

SECTION = "harmonize"
"""What the fields' names begin with."""


DEFAULT = "o1_pruner"
"""What weights are where nothing is said."""

PRESETS: Mapping[str, Preset] = {
    "o1_pruner": Preset(
        "all responses to problems that were solved at least once, weighed within each problem; "
        "only answers gain by being short",
        {},
    ),
    "o1_pruner_paper": Preset(
        "O1-Pruner (2501.12570) as its code is, for Marco-o1; QwQ-32B-Preview had lam 5",
        {
            "baseline": "all",
            "normalize": "data_set",
            "shortness": "all",
            "all_wrong": "keep",
            "responses": 2,
            "end_token": False,
        },
    ),
}
"""Presets by name."""


def _others_factor(count: int) -> float:
    """How much farther a value is from the mean of the others than from that of all.

    Of x_1 ... x_K with mean m and mean m_i without x_i: x_i - m_i = (x_i - m) K / (K - 1). The same
    holds of m_i / x_i - 1.
    """
    return count / (count - 1)


def _all_equal(values: Vector) -> bool:
    """Whether values differ by rounding alone, whose deviation is not to be divided by."""
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))
