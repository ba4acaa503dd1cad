"""Results that others have published of pruned models: accuracy and tokens, by model and set.

They are drawn beside one's own so that one sees whether a run is on the known road. Protocols
differ (prompts, limits, samples, graders), and so do the bases: compare the change from the base of
the same source. `PROTOCOLS` has what is known of each source's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple


class PublishedResult(NamedTuple):
    """What a source says of a model on a set.

    Args:
        model: the name of the model that pruning began with.
        set: of problems, as `megaprune data` calls it.
        method: how it was pruned; "base" if it was not.
        accuracy: in 0..1, pass@1 over the source's samples.
        tokens: mean tokens of a response.
        source: a key of `PROTOCOLS`: an arXiv number with the table, or a repository.
    """

    model: str
    set: str
    method: str
    accuracy: float
    tokens: int
    source: str


R1_1_5B, R1_7B = "DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distill-Qwen-7B"
DEEPSCALER = "DeepScaleR-1.5B-Preview"
QWQ_PREVIEW, MARCO = "QwQ-32B-Preview", "Marco-o1"

_DLER = "2510.15110, table 1"
_LAPO = "2507.15758"
_O1_PRUNER = "2501.12570, table 2"
_APR = "APR's repository"
_THINKPRUNE = "ThinkPrune's repository, issue 1"

PROTOCOLS = {
    _DLER: "trained under a limit of 4,000 tokens; how it samples is not in the table",
    _LAPO: "ThinkPrune's released models, as the authors of LAPO measured them",
    _O1_PRUNER: "one greedy response of at most 8,192 tokens",
    _APR: "the released models, measured with at most 8,000 tokens",
    _THINKPRUNE: (
        "by its authors, under a training limit of 4,000; the sampling is not said: their code has "
        "16 responses of at most 32,000 tokens, temperature 0.6, and no limit in the prompt"
    ),
}
"""How the responses of each source came about, as far as it is known."""

_TABLES: dict[tuple[str, str, str], dict[str, tuple[float, int]]] = {
    # source, model, method: accuracy in percent and tokens by set.
    (_DLER, R1_1_5B, "base"): {
        "math500": (84.31, 5500), "aime24": (29.79, 16916), "amc23": (61.97, 10967),
        "minerva": (38.41, 7494), "olympiadbench": (44.07, 11620),
    },
    (_DLER, R1_1_5B, "DLER"): {
        "math500": (86.95, 1652), "aime24": (34.38, 3551), "amc23": (70.48, 2537),
        "minerva": (43.59, 2029), "olympiadbench": (48.31, 2563),
    },
    (_DLER, R1_7B, "base"): {
        "math500": (93.60, 3999), "aime24": (55.40, 13241), "amc23": (82.90, 7461),
        "minerva": (49.79, 5199), "olympiadbench": (58.21, 8837),
    },
    (_DLER, R1_7B, "DLER"): {
        "math500": (94.21, 1634), "aime24": (55.62, 3230), "amc23": (84.41, 2512),
        "minerva": (53.88, 2058), "olympiadbench": (60.48, 2592),
    },
    (_APR, R1_1_5B, "base"): {
        "aime24": (19.2, 7278), "aime25": (20.4, 7045), "amc23": (51.5, 5727),
        "math500": (85.1, 3112), "minerva": (30.3, 4082), "olympiadbench": (37.5, 5775),
    },
    (_APR, R1_1_5B, "ThinkPrune-iter2k"): {
        "aime24": (30.0, 4670), "aime25": (19.6, 4320), "amc23": (65.2, 2964),
        "math500": (83.1, 1822), "minerva": (27.6, 2118), "olympiadbench": (42.9, 3162),
    },
    (_APR, R1_1_5B, "DLER"): {
        "aime24": (32.1, 3376), "aime25": (27.3, 3108), "amc23": (74.2, 2559),
        "math500": (86.9, 1787), "minerva": (31.5, 2225), "olympiadbench": (49.7, 2595),
    },
    (_APR, R1_1_5B, "LASER-DE-4096"): {
        "aime24": (25.6, 5173), "aime25": (22.5, 4674), "amc23": (65.9, 3333),
        "math500": (82.8, 1909), "minerva": (29.0, 2289), "olympiadbench": (44.2, 3335),
    },
    (_APR, R1_1_5B, "L1-Max"): {
        "aime24": (28.8, 2893), "aime25": (24.6, 2734), "amc23": (67.8, 2300),
        "math500": (84.8, 1899), "minerva": (29.4, 2779), "olympiadbench": (46.2, 2311),
    },
    # Its base of 7B on AIME 2025 repeats that of 1.5B: left out.
    (_APR, R1_7B, "base"): {
        "aime24": (37.7, 6707), "amc23": (69.5, 5014), "math500": (86.7, 3274),
        "minerva": (36.2, 4266), "olympiadbench": (46.1, 5395),
    },
    (_APR, R1_7B, "DLER"): {
        "aime24": (51.3, 3209), "amc23": (83.3, 2230), "math500": (91.8, 1429),
        "minerva": (39.5, 1798), "olympiadbench": (57.2, 2316),
    },
    (_APR, R1_7B, "LASER-DE-4096"): {
        "aime24": (47.7, 4642), "amc23": (82.1, 2793), "math500": (91.5, 1634),
        "minerva": (38.9, 1850), "olympiadbench": (56.0, 2998),
    },
    (_LAPO, DEEPSCALER, "base"): {
        "math500": (85.8, 3280), "aime24": (35.5, 9246), "amc23": (74.2, 6416),
        "olympiadbench": (54.6, 5974),
    },
    (_LAPO, DEEPSCALER, "ThinkPrune-4k"): {
        "math500": (86.6, 2042), "aime24": (35.5, 6488), "amc23": (76.3, 3839),
        "olympiadbench": (55.7, 4010),
    },
    (_LAPO, DEEPSCALER, "ThinkPrune-iter2k"): {
        "math500": (85.5, 1707), "aime24": (34.9, 5095), "amc23": (74.3, 2913),
        "olympiadbench": (54.7, 3498),
    },
    (_O1_PRUNER, QWQ_PREVIEW, "base"): {
        "math_test": (90.6, 2191), "gsm8k": (95.1, 777), "gaokao2023": (79.0, 2183),
    },
    (_O1_PRUNER, QWQ_PREVIEW, "O1-Pruner"): {
        "math_test": (91.0, 1385), "gsm8k": (96.5, 534), "gaokao2023": (80.3, 1446),
    },
    (_O1_PRUNER, QWQ_PREVIEW, "SFT"): {
        "math_test": (90.4, 2031), "gsm8k": (95.7, 717), "gaokao2023": (79.5, 2112),
    },
    (_O1_PRUNER, QWQ_PREVIEW, "DPO"): {
        "math_test": (91.7, 1999), "gsm8k": (95.3, 704), "gaokao2023": (79.7, 2021),
    },
    (_O1_PRUNER, MARCO, "base"): {
        "math_test": (73.8, 1156), "gsm8k": (89.2, 530), "gaokao2023": (57.1, 1112),
    },
    (_O1_PRUNER, MARCO, "O1-Pruner"): {
        "math_test": (77.5, 657), "gsm8k": (91.4, 343), "gaokao2023": (61.6, 664),
    },
}  # fmt: skip


class CurvePoint(NamedTuple):
    """What a source says of a model in training after a step: see `PublishedResult`."""

    step: int
    accuracy: float
    tokens: int


class PublishedCurve(NamedTuple):
    """The validations of a published run.

    Args:
        model, set, method, source: as of a `PublishedResult`.
        points: in the order of steps.
    """

    model: str
    set: str
    method: str
    source: str
    points: tuple[CurvePoint, ...]


_CURVES = (
    PublishedCurve(
        R1_1_5B,
        "aime22_23",
        "ThinkPrune",
        _THINKPRUNE,
        tuple(
            CurvePoint(step, percent / 100, tokens)
            for step, percent, tokens in (
                (20, 20.7, 17712), (40, 21.1, 16519), (60, 19.8, 14825), (80, 20.8, 13251),
                (100, 20.8, 11849), (120, 21.0, 11063), (140, 20.9, 10251), (160, 20.3, 9919),
                (180, 20.6, 9336),
            )
        ),
    ),
)  # fmt: skip


def curve_of(model: str, sets: Collection[str]) -> PublishedCurve | None:
    """The curve of a model's training that is validated on the same problems; None without any.

    Args:
        model: that training began with, as users name it: a path or a hub's name.
        sets: what the problems of the validations are from; it must be one set.
    """
    for curve in _CURVES:
        if curve.model.lower() == _last_part(model) and {*sets} == {curve.set}:
            return curve
    return None


def published_results() -> Iterator[PublishedResult]:
    """All results, source by source."""
    for (source, model, method), sets in _TABLES.items():
        for name, (percent, tokens) in sets.items():
            yield PublishedResult(model, name, method, percent / 100, tokens, source)


def results_of(models: frozenset[str], name: str) -> list[PublishedResult]:
    """Results of models on a set.

    Args:
        models: as users name them: a path or a hub's name, of which the last part counts.
        name: of the set.
    """
    known = {_last_part(model) for model in models}
    return [
        result
        for result in published_results()
        if result.set == name and result.model.lower() in known
    ]


def _last_part(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].lower()
