r"""Which problems two sets share, word for word or nearly.

Normal text: one line in lower case, without layout of LaTeX (\left, \!, $, ...) and spaces beside
symbols. Three kinds of pairs are told apart:

exact    The normal texts are equal.
near     They share so much of their runs of three words, where a word is a run of letters, a number
         or a symbol: of all that either has (Jaccard), or, if the shorter text has 20 at least, of
         the shorter text's (containment), so that words put before or behind a problem do not hide
         it. One changed number costs three runs: it makes a long problem a near-duplicate of
         the other, a short one another problem.
numbers  They are the same but for their numbers, and too short to be near. The answers may differ,
         the method does not: worth knowing, no duplicate.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

KINDS = ("exact", "near", "numbers")

_RUN = 3  # words
_CONTAINED = 20  # runs

_LAYOUT = re.compile(
    r"\\(?:left|right|bigg?[lrm]?|displaystyle|limits|q?quad)(?![a-z])|\\[,;:!> ()\[\]]|[$~]"
)
_SPELLINGS = ((re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"), (re.compile(r"[{}]"), " "))
_WORD = re.compile(r"\\?[a-z]+|\d+(?:\.\d+)?|[^\s\w]")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class NormalizedText:
    """A problem's text, made ready to be compared."""

    original: str

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of the normal text."""
        text = _LAYOUT.sub(" ", self.original.lower())
        for pattern, spelling in _SPELLINGS:
            text = pattern.sub(spelling, text)
        return tuple(_WORD.findall(text))

    @cached_property
    def normal(self) -> str:
        """The normal text."""
        return " ".join(self.words)

    @cached_property
    def numberless(self) -> str:
        """The normal text without its numbers."""
        return _NUMBER.sub("#", self.normal)

    @cached_property
    def runs(self) -> frozenset[tuple[str, ...]]:
        """All runs of three words; of a shorter text, the whole."""
        last = max(1, len(self.words) - _RUN + 1)
        return frozenset(self.words[at : at + _RUN] for at in range(last))


@dataclass(frozen=True)
class OverlapPair:
    """Two problems that are too much alike.

    Args:
        kind: one of KINDS.
        similarity: how much of their runs of words they share, 0 to 1.
        ours, theirs: the problems' places in the two sets.
    """

    kind: str
    similarity: float
    ours: int
    theirs: int


class OverlapIndex:
    """A set that others are compared with.

    Args:
        problems: the texts of the set.
    """

    def __init__(self, problems: Sequence[str]):
        self._texts = [NormalizedText(problem) for problem in problems]
        self._by_run: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._by_numberless: dict[str, list[int]] = defaultdict(list)
        for place, text in enumerate(self._texts):
            for run in text.runs:
                self._by_run[run].append(place)
            self._by_numberless[text.numberless].append(place)

    def pairs(self, texts: Sequence[NormalizedText], near: float) -> Iterator[OverlapPair]:
        """Yield all pairs of one of `texts` and a problem of the index.

        Args:
            near: from which similarity on two problems are near, above 0.
        """
        for ours, text in enumerate(texts):
            shared = Counter(place for run in text.runs for place in self._by_run.get(run, ()))
            alike = set(self._by_numberless.get(text.numberless, ()))
            for theirs in sorted(alike | shared.keys()):
                other = self._texts[theirs]
                similarity = _similarity(text, other, shared[theirs])
                if text.normal == other.normal:
                    yield OverlapPair("exact", 1.0, ours, theirs)
                elif similarity >= near:
                    yield OverlapPair("near", similarity, ours, theirs)
                elif theirs in alike:
                    yield OverlapPair("numbers", similarity, ours, theirs)


def _similarity(a: NormalizedText, b: NormalizedText, shared: int) -> float:
    fewest = min(len(a.runs), len(b.runs))
    if fewest >= _CONTAINED:
        return shared / fewest
    return shared / (len(a.runs) + len(b.runs) - shared)
