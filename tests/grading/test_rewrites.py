"""Gold answers made here, written in other ways, and changed: the first are right, the others not."""

import math
import random
import re

import pytest

from megaprune.grading.equality import compare

CHANCE = random.Random(11)


def numbers(count):
    return [str(CHANCE.choice([-1, 1]) * CHANCE.randint(2, 99_999)) for _ in range(count)]


def fractions(count):
    pairs = [(CHANCE.randint(1, 60), CHANCE.randint(7, 97)) for _ in range(count)]
    return [rf"\frac{{{over}}}{{{under}}}" for over, under in pairs if over % under]


def surds(count):
    return [
        rf"{CHANCE.randint(2, 30)}\sqrt{{{CHANCE.choice([2, 3, 5, 7, 11])}}}" for _ in range(count)
    ]


def polynomials(count):
    return [
        f"{CHANCE.randint(2, 9)}x^{CHANCE.randint(2, 5)}-{CHANCE.randint(1, 9)}x+{CHANCE.randint(1, 99)}"
        for _ in range(count)
    ]


def tuples(count):
    return [f"({CHANCE.randint(-9, 9)}, {CHANCE.randint(10, 40)})" for _ in range(count)]


def lists(count):
    return [", ".join(map(str, CHANCE.sample(range(-60, 60), 3))) for _ in range(count)]


def intervals(count):
    return [f"[{CHANCE.randint(-9, 9)},{CHANCE.randint(10, 40)})" for _ in range(count)]


def complexes(count):
    return [f"{CHANCE.randint(2, 9)}-{CHANCE.randint(2, 9)}i" for _ in range(count)]


GOLDS = {
    make.__name__: list(dict.fromkeys(make(40)))
    for make in (numbers, fractions, surds, polynomials, tuples, lists, intervals, complexes)
}
EVERY = [gold for golds in GOLDS.values() for gold in golds]

ANY = {
    "dollars": "${}$",
    "brackets": r"\[ {} \]",
    "box": r"\boxed{{{}}}",
    "end": "{}.\n",
    "mark": "\ufeff{}",
    "colour": r"\textcolor{{red}}{{{}}}",
    "line": r"\underline{{{}}}",
    "space": r"\quad {}\hspace{{2mm}}",
    "answer": r"\text{{Answer: }}{}",
    "sentence": "The final answer is {}",
    "bold": "**{}**",
    "large": r"\large {} \\",
}


@pytest.mark.parametrize("way", ANY)
def test_any_answer_in_other_words(way):
    bad = [gold for gold in EVERY if compare(gold, ANY[way].format(gold)) != "right"]
    assert bad == []


def spaced(gold):
    return re.sub(r"([-+,=])", r" \1\\, ", gold)


def dressed(gold):
    return spaced(
        gold.replace(r"\frac", r"\dfrac").replace("(", r"\left(").replace(")", r"\right)")
    )


SAME = {
    "spaced": (EVERY, dressed),
    "thousands": (GOLDS["numbers"], lambda gold: f"{int(gold):,}"),
    "thin spaces": (GOLDS["numbers"], lambda gold: f"{int(gold):,}".replace(",", r"\,")),
    "underscores": (GOLDS["numbers"], lambda gold: f"{int(gold):_}"),
    "decimal": (GOLDS["numbers"], lambda gold: f"{gold}.00"),
    "centimetres": (GOLDS["numbers"], lambda gold: rf"{gold}\text{{ cm}}"),
    "metres": (GOLDS["numbers"], lambda gold: rf"{gold}\,\mathrm{{m}}"),
    "speed": (GOLDS["numbers"], lambda gold: rf"{gold}\mathrm{{~km}} / \mathrm{{h}}"),
    "area": (GOLDS["numbers"], lambda gold: rf"{gold}\,\mathrm{{cm^2}}"),
    "noun": (GOLDS["numbers"], lambda gold: f"{gold} apples"),
    "equation": (GOLDS["fractions"], lambda gold: f"x = {gold}"),
    "slash": (GOLDS["fractions"], lambda gold: re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", gold)),
    "doubled": (
        GOLDS["fractions"],
        lambda gold: re.sub(r"\d+", lambda number: str(2 * int(number[0])), gold),
    ),
    "times": (GOLDS["surds"], lambda gold: gold.replace(r"\sqrt", r" \cdot \sqrt")),
    "root": (
        GOLDS["surds"],
        lambda gold: re.sub(
            r"(\d+)\\sqrt\{(\d+)\}", lambda m: rf"\sqrt{{{int(m[1]) ** 2 * int(m[2])}}}", gold
        ),
    ),
    "turned": (GOLDS["polynomials"], lambda gold: "+".join(reversed(re.split(r"\+", gold)))),
    "braces": (GOLDS["polynomials"], lambda gold: re.sub(r"\^(\d)", r"^{\1}", gold)),
    "halves": (GOLDS["polynomials"], lambda gold: rf"\frac{{2({gold})}}{{2}}"),
    "backwards": (GOLDS["lists"], lambda gold: ", ".join(reversed(gold.split(", ")))),
    "set": (GOLDS["lists"], lambda gold: rf"\{{{gold}\}}"),
    "and": (GOLDS["lists"], lambda gold: gold.replace(", ", r" \text{ and } ")),
    "or": (GOLDS["lists"], lambda gold: gold.replace(", ", r" \lor ")),
    "names": (GOLDS["lists"], lambda gold: ", ".join(f"x={part}" for part in gold.split(", "))),
    "inequality": (
        GOLDS["intervals"],
        lambda gold: re.sub(r"\[(.*),(.*)\)", r"\1 \\le x < \2", gold),
    ),
    "condition": (
        GOLDS["intervals"],
        lambda gold: re.sub(r"\[(.*),(.*)\)", r"\\{x \\mid x \\ge \1, x < \2\\}", gold),
    ),
    "imaginary": (GOLDS["complexes"], lambda gold: gold.replace("i", r" \cdot \mathrm{i}")),
    "imaginary first": (
        GOLDS["complexes"],
        lambda gold: re.sub(r"(\d)-(\d)i", r"-\2i + \1.0", gold),
    ),
}


@pytest.mark.parametrize("way", SAME)
def test_the_same_written_otherwise(way):
    golds, write = SAME[way]
    bad = [(gold, write(gold)) for gold in golds if compare(gold, write(gold)) != "right"]
    assert bad == []


def digit(gold):
    """Change one digit; a first one not to 0."""
    at = CHANCE.choice([match.start() for match in re.finditer(r"\d", gold)])
    return gold[:at] + str((int(gold[at]) + CHANCE.randint(0, 7)) % 9 + 1) + gold[at + 1 :]


def float_of(surd):
    factor, under = re.fullmatch(r"(\d+)\\sqrt\{(\d+)\}", surd).groups()
    return int(factor) * math.sqrt(int(under))


CHANGED = {
    "digit": (EVERY, digit),
    "digit more": (EVERY, lambda gold: re.sub(r"(\d)(?!.*\d)", r"\g<1>7", gold)),
    "sign": (GOLDS["numbers"] + GOLDS["surds"], lambda gold: f"-({gold})"),
    "tiny": (
        GOLDS["numbers"] + GOLDS["fractions"] + GOLDS["surds"],
        lambda gold: rf"{gold}+\frac{{1}}{{2^{{98}}}}",
    ),
    "two answers": (EVERY, lambda gold: rf"{gold} \text{{ or }} 100001"),
    "million": (GOLDS["numbers"] + GOLDS["fractions"], lambda gold: f"{gold} million"),
    "squared": (GOLDS["numbers"], lambda gold: f"{gold} squared"),
    "or more": (GOLDS["numbers"], lambda gold: f"{gold} or more"),
    "is wrong": (GOLDS["numbers"] + GOLDS["fractions"], lambda gold: f"{gold} is wrong"),
    "variable": (GOLDS["numbers"] + GOLDS["surds"], lambda gold: f"{gold}m"),
    "flipped": (
        GOLDS["fractions"],
        lambda gold: re.sub(r"\{(\d+)\}\{(\d+)\}", r"{\2}{\1}", gold),
    ),
    "rounded": (
        GOLDS["surds"],
        lambda gold: f"{float_of(gold):.3f}",
    ),
    "no root": (GOLDS["surds"], lambda gold: gold.replace(r"\sqrt", "")),
    "minus": (GOLDS["polynomials"], lambda gold: gold.replace("-", "+")),
    "power": (GOLDS["polynomials"], lambda gold: re.sub(r"\^(\d)", r"^{\g<1>1}", gold)),
    "name": (GOLDS["polynomials"], lambda gold: gold.replace("x", "y")),
    "swapped": (GOLDS["tuples"], lambda gold: re.sub(r"\((.+), (.+)\)", r"(\2, \1)", gold)),
    "set for pair": (GOLDS["tuples"], lambda gold: rf"\{{{gold[1:-1]}\}}"),
    "one less": (GOLDS["lists"], lambda gold: gold.rpartition(", ")[0]),
    "one more": (GOLDS["lists"], lambda gold: f"{gold}, 777"),
    "closed": (GOLDS["intervals"], lambda gold: gold.replace(")", "]")),
    "open": (GOLDS["intervals"], lambda gold: gold.replace("[", "(")),
    "conjugate": (GOLDS["complexes"], lambda gold: gold.replace("-", "+")),
    "real": (GOLDS["complexes"], lambda gold: gold.replace("i", "")),
}


@pytest.mark.parametrize("way", CHANGED)
def test_near_misses(way):
    golds, change = CHANGED[way]
    bad = [
        (gold, changed)
        for gold in golds
        if (changed := change(gold)) != gold and compare(gold, changed) == "right"
    ]
    assert bad == []
