"""What the thoughts of a model consist of, before and after pruning.

`thoughts` reads and chooses answers, `markers` counts words, `judge` has a language model name the
behaviour of each step (`client` speaks to it, `replies` keeps what it said), `summary` adds up,
`figures` draws; `run` does all that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def behaviour_figure(analysis: Mapping[str, Any]) -> Figure:
    """The figure of an analysis.json: see `megaprune.analyze.figures.behaviour_figure`."""
    # matplotlib takes a second to import: only when something is drawn.
    from megaprune.analyze.figures import behaviour_figure

    return behaviour_figure(analysis)
