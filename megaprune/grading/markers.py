"""Words of doubt in a thought, counted.

A marker is a word or a phrase that says what its sentence is there for. A sentence counts once for
each kind that it has a marker of, so "Wait, let me check that, to be sure." is one hesitation and
one re-check. Case does not matter, words must be whole. As all word lists, these miss what is said
in other words, and take "check" in "a check for $5" for one: good to compare thoughts about the
same problems with each other, not to measure one thought.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MARKERS: Mapping[str, tuple[str, ...]] = {
    # Looks again at what is already found.
    "re-checks": (
        "check", "checks", "checking", "recheck", "rechecking", "verify", "verifying", "confirm",
        "confirming", "once more", "to be sure", "make sure", "making sure", "to be certain",
        "is that right", "is this right", "is it right", "is that correct", "is this correct",
        "is it correct", "did i make", "made a mistake", "recalculate", "recompute", "re-examine",
        "reexamine", "reconsider", "look again", "go over", "going over", "sanity",
    ),
    # Stops, and is not sure.
    "hesitations": (
        "wait", "hmm", "hm", "hold on", "actually", "not sure", "unsure", "maybe", "perhaps",
        "i doubt", "confused", "confusing", "that's strange", "that's odd", "can't be right",
        "doesn't seem right", "does not seem right", "let me think",
    ),
    # Leaves a way, for another one or for its beginning.
    "restarts": (
        "alternatively", "another way", "another approach", "another method", "another idea",
        "different way", "different approach", "different method", "start over", "starting over",
        "start again", "start fresh", "from scratch", "from the beginning", "from the start",
        "try again", "rethink", "go back", "going back", "let me try", "let's try",
    ),
}  # fmt: skip
"""Kinds of markers, and the words and phrases of each."""


def count_markers(text: str) -> dict[str, int]:
    """Count the sentences of a text that have a marker, by kind."""
    sentences = _SENTENCE_END.split(text)
    return {
        kind: sum(pattern.search(sentence) is not None for sentence in sentences)
        for kind, pattern in _PATTERNS.items()
    }


# A full stop within a number or a name has no blank behind it.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str]:
    words = "|".join(
        re.escape(phrase).replace(r"\ ", " +").replace("'", "['’]") for phrase in phrases
    )
    return re.compile(rf"\b(?:{words})\b", re.IGNORECASE)


_PATTERNS = {kind: _pattern(phrases) for kind, phrases in MARKERS.items()}
