"""Results that others have published of pruned models: accuracy and tokens, by model and set.

They are drawn beside one's own so that one sees whether a run is on the known road. Protocols
differ (prompts, limits, samples, graders), and so do the bases: compare the change from the base of
the same source.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class PublishedResult(NamedTuple):
    """What a source says of a model on a set.

    Args:
        model: the name of the model that pruning began with.
        set: of problems, as `megaprune data` calls it.
        method: how it was pruned; "base" if it was not.
        accuracy: in 0..1, pass@1 over the source's samples.
        tokens: mean tokens of a response.
        source: arXiv number, and the table where it is known.
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

_TABLES: dict[tuple[str, str, str], dict[str, tuple[float, int]]] = {
    # source, model, method: accuracy in percent and tokens by set.
    ("2510.15110, table 1", R1_1_5B, "base"): {
        "math500": (84.31, 5500), "aime24": (29.79, 16916), "amc23": (61.97, 10967),
        "minerva": (38.41, 7494), "olympiadbench": (44.07, 11620),
    },
    ("2510.15110, table 1", R1_1_5B, "DLER"): {
        "math500": (86.95, 1652), "aime24": (34.38, 3551), "amc23": (70.48, 2537),
        "minerva": (43.59, 2029), "olympiadbench": (48.31, 2563),
    },
    ("2510.15110, table 1", R1_7B, "base"): {
        "math500": (93.60, 3999), "aime24": (55.40, 13241), "amc23": (82.90, 7461),
        "minerva": (49.79, 5199), "olympiadbench": (58.21, 8837),
    },
    ("2510.15110, table 1", R1_7B, "DLER"): {
        "math500": (94.21, 1634), "aime24": (55.62, 3230), "amc23": (84.41, 2512),
        "minerva": (53.88, 2058), "olympiadbench": (60.48, 2592),
    },
    ("2507.15758", DEEPSCALER, "base"): {
        "math500": (85.8, 3280), "aime24": (35.5, 9246), "amc23": (74.2, 6416),
        "olympiadbench": (54.6, 5974),
    },
    ("2507.15758", DEEPSCALER, "ThinkPrune-4k"): {
        "math500": (86.6, 2042), "aime24": (35.5, 6488), "amc23": (76.3, 3839),
        "olympiadbench": (55.7, 4010),
    },
    ("2507.15758", DEEPSCALER, "ThinkPrune-iter2k"): {
        "math500": (85.5, 1707), "aime24": (34.9, 5095), "amc23": (74.3, 2913),
        "olympiadbench": (54.7, 3498),
    },
    ("2501.12570, table 2", QWQ_PREVIEW, "base"): {
        "math_test": (90.6, 2191), "gsm8k": (95.1, 777), "gaokao2023": (79.0, 2183),
    },
    ("2501.12570, table 2", QWQ_PREVIEW, "O1-Pruner"): {
        "math_test": (91.0, 1385), "gsm8k": (96.5, 534), "gaokao2023": (80.3, 1446),
    },
    ("2501.12570, table 2", QWQ_PREVIEW, "SFT"): {
        "math_test": (90.4, 2031), "gsm8k": (95.7, 717), "gaokao2023": (79.5, 2112),
    },
    ("2501.12570, table 2", QWQ_PREVIEW, "DPO"): {
        "math_test": (91.7, 1999), "gsm8k": (95.3, 704), "gaokao2023": (79.7, 2021),
    },
    ("2501.12570, table 2", MARCO, "base"): {
        "math_test": (73.8, 1156), "gsm8k": (89.2, 530), "gaokao2023": (57.1, 1112),
    },
    ("2501.12570, table 2", MARCO, "O1-Pruner"): {
        "math_test": (77.5, 657), "gsm8k": (91.4, 343), "gaokao2023": (61.6, 664),
    },
}  # fmt: skip


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
    known = {model.rstrip("/").rpartition("/")[2].lower() for model in models}
    return [
        result
        for result in published_results()
        if result.set == name and result.model.lower() in known
    ]
