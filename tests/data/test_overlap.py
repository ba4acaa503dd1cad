"""Planted duplicates are found with the similarity that one counts by hand; others are not."""

import random

import pytest

from megaprune.data.overlap import NormalizedText, OverlapIndex, OverlapPair

# 30 words, no two alike: 28 runs of three.
LONG = " ".join(f"{a}{b}" for a in "qwrtz" for b in "aeioux")


def pairs(ours, theirs, near=0.8):
    return list(OverlapIndex(theirs).pairs([NormalizedText(each) for each in ours], near))


def changed(text, *places):
    return " ".join("other" if at in places else word for at, word in enumerate(text.split()))


@pytest.mark.parametrize(
    "copy",
    [
        "What is $\\frac{1}{2} + x$?",
        "what is  $\\dfrac{1}{2}+x$ ?",
        "What is\n\\[\\left\\tfrac{1}{2}\\right + x\\]?",
        "WHAT is \\( \\frac{1}{2}\\, + x \\)?",
    ],
)
def test_spellings_are_exact(copy):
    assert pairs([copy], ["What is $\\frac{1}{2} + x$?"]) == [OverlapPair("exact", 1.0, 0, 0)]


@pytest.mark.parametrize(
    ("a", "b"),
    [("What is $x \\le 2$?", "What is $x \\ge 2$?"), ("Is $a - b$ odd?", "Is $a + b$ odd?")],
)
def test_symbols_count(a, b):
    assert pairs([a], [b]) == []


def test_one_word_of_thirty():
    """It is in three of 28 runs."""
    assert pairs([changed(LONG, 15)], [LONG]) == [OverlapPair("near", 25 / 28, 0, 0)]
    assert pairs([changed(LONG, 0)], [LONG]) == [OverlapPair("near", 27 / 28, 0, 0)]
    assert pairs([changed(LONG, 5, 15)], [LONG]) == []  # 22 / 28
    assert pairs([changed(LONG, 5, 15)], [LONG], near=22 / 28) == [
        OverlapPair("near", 22 / 28, 0, 0)
    ]


def test_an_instruction_behind_a_problem_does_not_hide_it():
    wordy = f"Solve this carefully please. {LONG} Write your answer in a box, and nothing else."
    assert pairs([wordy], [LONG]) == [OverlapPair("near", 1.0, 0, 0)]
    assert pairs([LONG], [wordy]) == [OverlapPair("near", 1.0, 0, 0)]


def test_a_short_text_within_a_long_one_is_no_duplicate():
    short = " ".join(LONG.split()[:21])  # 19 runs
    assert pairs([short], [LONG]) == []
    longer = " ".join(LONG.split()[:22])  # 20 runs
    assert pairs([longer], [LONG]) == [OverlapPair("near", 1.0, 0, 0)]


def test_a_changed_number():
    long = LONG.replace("ra ", "17 ")
    assert pairs([long.replace("17", "18")], [long]) == [OverlapPair("near", 25 / 28, 0, 0)]
    # Of 3 and 3 runs, "what is sin" is shared.
    assert pairs(["What is sin 30 ?"], ["What is sin 60 ?"]) == [
        OverlapPair("numbers", 1 / 5, 0, 0)
    ]
    assert pairs(["What is sin 30 ?"], ["What is cos 60 ?"]) == []


def test_two_words():
    assert pairs(["Find x"], ["Find x", "Find y"]) == [OverlapPair("exact", 1.0, 0, 0)]
    assert pairs(["", "?"], ["Find x"]) == []


def test_places():
    others = [" ".join(random.Random(n).choices(LONG.split(), k=30)) for n in range(20)]
    ours = [*others[:5], changed(LONG, 9)]
    theirs = [*others[5:15], LONG, others[2]]
    assert pairs(ours, theirs) == [
        OverlapPair("exact", 1.0, 2, 11),
        OverlapPair("near", 25 / 28, 5, 10),
    ]


def test_the_index_finds_what_comparing_all_finds():
    chance = random.Random(0)
    words = [f"{a}{b}" for a in "bcd" for b in "aeiou"] + ["3", "14", "15"]
    texts = [" ".join(chance.choices(words, k=chance.choice([4, 12, 30]))) for _ in range(60)]
    texts += [changed(text, chance.randrange(4)) for text in texts[:30]]

    def similarity(a, b):
        one, other = (
            {tuple(t.split()[i : i + 3]) for i in range(len(t.split()) - 2)} for t in (a, b)
        )
        fewest, both = min(len(one), len(other)), len(one & other)
        return both / fewest if fewest >= 20 else both / len(one | other)

    expected = {
        (i, j): pytest.approx(similarity(a, b))
        for i, a in enumerate(texts)
        for j, b in enumerate(texts)
        if similarity(a, b) >= 0.3
    }
    found = {
        (p.ours, p.theirs): p.similarity for p in pairs(texts, texts, 0.3) if p.kind != "numbers"
    }
    assert len(expected) > len(texts)
    assert found == expected
