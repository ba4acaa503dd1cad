r"""Units behind a value: which text is one, and what it measures.

A unit has a dimension and a size: 3 hours are 180 minutes, and no length. What is set upright
(\text{m}, \mathrm{~km}/\mathrm{h}) is a unit; a plain letter behind a number may be a variable.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from megaprune.grading.normal import word_set
from megaprune.grading.numbers import in_words, scale

# Name, size and dimension of each unit; other names for it, in any case and also in the plural.
_TABLE = """
mm     1/1000      length       millimeter millimetre 毫米
cm     1/100       length       centimeter centimetre 厘米
dm     1/10        length       decimeter decimetre 分米
m      1           length       meter metre 米
km     1000        length       kilometer kilometre 千米 公里
in     254/10000   length       inch inches
ft     3048/10000  length       foot feet
yd     9144/10000  length       yard
mi     1609344/1000  length     mile
mg     1/1000000   mass         milligram
g      1/1000      mass         gram gm 克
kg     1           mass         kilogram kilo 千克 公斤
ton    1000        mass         tonne 吨
lb     45359237/100000000  mass pound lbs
oz     45359237/1600000000 mass ounce
ms     1/1000      time         millisecond
s      1           time         second sec 秒
min    60          time         minute 分钟
h      3600        time         hour hr 小时 时
day    86400       time         天 日
week   604800      time         周 星期
month  1           month        月
year   12          month        yr 年
mL     1/1000000   length^3     ml milliliter millilitre 毫升
L      1/1000      length^3     l liter litre 升
gal    1           gallon       gallon
acre   1           acre         acres
ha     10000       length^2     hectare
N      1           force        newton
J      1           energy       joule
kJ     1000        energy       kilojoule
W      1           power        watt
kW     1000        power        kilowatt
V      1           voltage      volt
A      1           current      ampere amp
K      1           temperature  kelvin
Hz     1           frequency    hertz
Pa     1           pressure     pascal
mol    1           amount       mole
rad    1           angle        radian
USD    100         dollar       dollar buck US$ $
cent   1           dollar       ¢ penny pennies
EUR    1           euro         €
GBP    1           sterling     £
JPY    1           yen          ¥
INR    1           rupee        rs ₹
CNY    1           yuan         元 rmb
am     1           am           a.m
pm     1           pm           p.m
"""
_COMPOUND_WORDS = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "mps": "m/s"}

_SYMBOLS: dict[str, tuple[Fraction, Counter[str]]] = {}
_WORDS: dict[str, str] = {}
for _line in _TABLE.strip().splitlines():
    _symbol, _size, _dimension, *_names = _line.split()
    _base, _, _power = _dimension.partition("^")
    _SYMBOLS[_symbol] = (Fraction(_size), Counter({_base: int(_power or 1)}))
    _WORDS |= {name: _symbol for name in _names}

_PLAIN = word_set(
    """
    mm cm km kg ft in min yd mph kph hr sec mi lb
    """
)
"""Symbols that are units also where they stand in a formula, as in 5cm."""

_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERS_BEHIND = {"squared": 2, "cubed": 3}

# Words behind a number that change it, or say something of it.
_NO_NOUN = word_set(
    """
    plus minus times over mod modulo than not sin cos tan log ln exp is was has does as its
    this less unless factorial squared cubed choose or and if but more most least few fewer
    about perhaps always sometimes maybe wrong incorrect false true correct no to percents
    halves answers solves equals represents means implies gives versus except powers power
    divided multiplied the out
    """
)
_PEOPLE = word_set(
    """
    people men women children feet teeth mice geese dice fish sheep deer cattle police oxen
    units unit total way geese data points point
    """
)
_COUNTERS = frozenset("倍个只条张本人名种次道件块岁页颗枝支位辆棵根双台套米元")
_JUDGES = frozenset("不非错或以多少约")
_OPPOSITES = [
    ("east", "west"), ("north", "south"), ("up", "down"), ("left", "right"), ("am", "pm"),
    ("clockwise", "counterclockwise"), ("above", "below"), ("profit", "loss"), ("gain", "loss"),
    ("increase", "decrease"), ("ahead", "behind"), ("forward", "backward"), ("faster", "slower"),
    ("square", "cubic"), ("sq", "cu"), ("square", "cu"), ("sq", "cubic"), ("older", "younger"),
    ("taller", "shorter"), ("bc", "ad"), ("before", "after"),
]  # fmt: skip
_LAST_WORDS = frozenset(word for pair in _OPPOSITES for word in pair) | {"each", "apart", "away"}


@dataclass(frozen=True)
class Unit:
    """A unit: its text, and its size and dimension if it is a known one, not just a noun."""

    text: str
    size: Fraction = Fraction(1)
    dimension: tuple[tuple[str, int], ...] = ()
    known: bool = False
    scale: Fraction = Fraction(1)
    """What the words multiply the value by: 3 million dollars."""

    sure: bool = True
    """It cannot be a variable: it is upright, or a name of several letters."""

    spaced: bool = True
    """It stands apart from its value, or is sure: 2 m, but not 2m."""

    @property
    def is_percent(self) -> bool:
        """Whether it is the percent sign."""
        return self.dimension == PERCENT.dimension

    @property
    def is_degree(self) -> bool:
        """Whether it is the degree of an angle."""
        return self.dimension == DEGREE.dimension

    def conflicts(self, other: Unit) -> bool:
        """Say whether a value in this unit is none in the other."""
        if self.known and other.known:
            return self.dimension != other.dimension
        ours, theirs = (set(unit.text.casefold().split()) for unit in (self, other))
        return any(
            (a in ours and b in theirs) or (b in ours and a in theirs) for a, b in _OPPOSITES
        )


NO_UNIT = Unit("")
PERCENT = Unit("%", Fraction(1, 100), (("%", 1),), known=True)
DEGREE = Unit("°", Fraction(1), (("degree", 1),), known=True)
RADIAN = (("angle", 1),)

_CURRENCY_BEFORE = re.compile(
    r"(?P<sign>[+-]?) ?(?P<unit>\\\$|US ?\\?\$|USD|EUR|GBP|CNY|JPY|INR|\$|€|£|¥|₹|Rs\.?"
    r"|\\euro|\\pounds?|\\yen|\\text\{ ?(?:(?:US)?\\?[$€£¥]|USD|EUR|GBP|CNY) ?\})"
    r" ?(?P<value>(?=[\d.\\]).+)"
)
_BEGINS = re.compile(
    r" ?(?=\\text\{)|(?:(?<=[\d})!])| |\\cdot ?)(?:(?=\\text\{|\()|(?<![A-Za-z\\])(?=[A-Za-z$]))"
)
_UNFINISHED = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|exp|circ|arc[a-z]+)(?:[ ^_]|\{?-?\d\}?)*$"
)
_OF_ANGLES = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_CURRENCY = {"euro": "€", "pounds": "£", "pound": "£", "yen": "¥", "US$": "$", "USD": "$"}
_TEMPERATURE = re.compile(r"(.*[\d)}]) ?\^\\circ ?(?:\\text\{ ?)?([CF])(?: ?\})?")
_ALLOWED = "".join(chr(c) for c in range(128) if chr(c).isalnum()) + r" ^{}/.()-\$"
_MAX_TRIES = 6


def split_unit(text: str) -> tuple[str, Unit]:
    r"""Split a tidy text into its value and its unit: "5 \text{ square feet}" -> ("5", ft^2).

    Without one, the unit is NO_UNIT. A word that is no known unit is a noun, as in "12 apples".
    """
    if match := _TEMPERATURE.fullmatch(text):
        return match[1], Unit(match[2], Fraction(1), ((f"degree {match[2]}", 1),), known=True)
    for ending, unit in ((r"^\circ", DEGREE), ("%", PERCENT)):
        if text.endswith(ending) and len(text) > len(ending) and not _OF_ANGLES.search(text):
            return text.removesuffix(ending).rstrip(), unit
    if text.endswith(r"\$") and len(text) > 2:
        return text.removesuffix(r"\$").rstrip(), unit_of("$") or NO_UNIT
    if match := _CURRENCY_BEFORE.fullmatch(text):
        sign = re.sub(r"\\text|[\\{} ]", "", match["unit"])
        money = unit_of(_CURRENCY.get(sign, sign.rstrip(".")))
        value, more = split_unit(match["value"])
        if more.known and more.conflicts(money or NO_UNIT):
            return text, NO_UNIT
        if money is not None:
            return match["sign"] + value, Unit(
                money.text, money.size, money.dimension, True, more.scale
            )
    return _behind(text)


def _behind(text: str) -> tuple[str, Unit]:
    if not text[-2:].isascii():
        return _foreign(text)
    prefix = len(text.rstrip(_ALLOWED))
    tries = 0
    # A unit begins where a word, an upright text or a bracket does, behind a value.
    for match in _BEGINS.finditer(text[prefix:]):
        begin, end = prefix + match.start(), prefix + match.end()
        value = text[:begin].rstrip()
        value = value.removesuffix(r"\cdot").rstrip()
        if not value or value[-1] in r"\,;({[^_/+-=<>" or _UNFINISHED.search(value):
            continue
        tries += 1
        upright = text.startswith(r"\text{", end)
        unit = unit_of(text[end:])
        if unit is None and value[-1] == ")" and not upright:
            continue
        if unit is not None and _may_follow(unit, value, upright, begin < end):
            return value, Unit(
                unit.text, unit.size, unit.dimension, unit.known, unit.scale,
                sure=upright or _is_sure(unit, text[end:]), spaced=begin < end,
            )  # fmt: skip
        if tries >= _MAX_TRIES:
            break
    return text, NO_UNIT


def _may_follow(unit: Unit, value: str, upright: bool, spaced: bool) -> bool:
    """Say whether a unit can stand right behind this value; a noun needs room, and a number."""
    if unit.known or upright:
        return True
    return spaced and (value[-1].isdigit() or value[-1] in "})")


def _is_sure(unit: Unit, text: str) -> bool:
    letters = re.findall(r"[A-Za-z]+", text)
    if not unit.known:
        return len(letters[0]) > 2
    return any(len(word) > 2 or word in _PLAIN for word in letters)


def _foreign(text: str) -> tuple[str, Unit]:
    """Split off a unit or counter that is written in Chinese, or a sign of a currency."""
    value = text.rstrip("".join({char for char in text if not char.isascii()}) + r"/\text{} ()")
    tail = text[len(value) :]
    if text[len(value) : len(value) + 1] == "}" and r"\text" not in tail:
        value, tail = value + "}", tail[1:]
    word = re.sub(r"\\text|[{} ()]", "", tail)
    word = word.replace("平方", "square ").replace("立方", "cubic ")
    factor = Fraction(1)
    while word and (by := scale(word[0])) is not None and word[0] not in _COUNTERS:
        if (unit := unit_of(word)) is not None and unit.known:
            break
        factor, word = factor * by, word[1:]
    counted = word[:1] in _COUNTERS and len(word) <= 4 and not _JUDGES.intersection(word)
    if not value or (word and unit_of(word) is None and not counted):
        return text, NO_UNIT
    unit = unit_of(word) if word else NO_UNIT
    if unit is None:
        return value, Unit(word, scale=factor)
    return value, Unit(unit.text, unit.size, unit.dimension, unit.known, factor)


_TOKEN = re.compile(
    r" ?(?:(?P<word>[A-Za-z.¢$€£¥₹\u4e00-\u9fff]+(?:['-][A-Za-z]+)*)"
    r"|\^ ?(?:\{ ?(?P<group>-?\d) ?\}|(?P<power>-?\d))|(?P<attached>\d)|(?P<op>/|\\cdot|[()·]))"
)


def unit_of(text: str) -> Unit | None:
    """Read a text that is a unit and nothing else; None if it is none."""
    plain = re.sub(r"\\text ?\{|\\[,;: ]|~", " ", text)
    plain = re.sub(r"\}(?= ?\^)|(?<!\d)\}|(?<=\d)\}(?! ?$)(?=\})", " ", plain).strip(" .{}")
    plain = " ".join(plain.split()).removeprefix("(").removesuffix(")").strip()
    if "^{" in plain and plain.count("{") > plain.count("}"):
        plain += "}"
    tokens = []
    place = 0
    while place < len(plain):
        match = _TOKEN.match(plain, place)
        if match is None or match.end() == place:
            return None
        tokens.append(match)
        place = match.end()
    return _of_tokens(plain, tokens) if tokens and len(tokens) <= 12 else None


def _of_tokens(text: str, tokens: list[re.Match[str]]) -> Unit | None:
    words = [match["word"].rstrip(".").casefold() for match in tokens if match["word"]]
    reader = _UnitReader()
    if not words or not all(map(reader.take, tokens)):
        return None
    if reader.nouns:
        unit = Unit(" ".join(words), scale=reader.scale)
        return unit if _is_noun(words, reader.nouns) else None
    if not reader.dimension and reader.scale == 1:
        return None
    kept = tuple(sorted((base, power) for base, power in reader.dimension.items() if power))
    return Unit(" ".join(words), reader.size, kept, bool(reader.dimension), reader.scale)


class _UnitReader:
    """What the tokens of a unit come to, from left to right."""

    def __init__(self) -> None:
        self.size = self.scale = Fraction(1)
        self.dimension: Counter[str] = Counter()
        self.nouns: list[str] = []
        self._sign = self._before = 1
        self._last: tuple[Fraction, Counter[str], int] | None = None

    def take(self, match: re.Match[str]) -> bool:
        """Take the next token; False if it cannot be part of a unit."""
        if match["word"]:
            return self._word(match["word"])
        if match["op"]:
            self._sign = -1 if match["op"] == "/" else self._sign
            return True
        if self._last is None or match["attached"] in ("0", "1"):
            return False
        self._raise(int(match["group"] or match["power"] or match["attached"]) - 1)
        self._last = None
        return True

    def _word(self, word: str) -> bool:
        word = word.rstrip(".") if len(word) > 1 else word
        low = word.casefold()
        if low == "per":
            self._sign = -1
        elif low in _POWERS:
            self._before = _POWERS[low]
        elif low in _POWERS_BEHIND and self._last is not None:
            self._raise(_POWERS_BEHIND[low] - 1)
        elif (factor := scale(low)) is not None and low not in ("second", "seconds"):
            if self._last is not None or self.nouns:
                return False
            self.scale *= factor
        elif (known := _known(word)) is not None:
            self._last = (*known, self._sign)
            self._raise(self._before)
            self._before = 1
        else:
            self.nouns.append(low)
            self._last = None
        return True

    def _raise(self, power: int) -> None:
        """Multiply by a power of the last unit."""
        if self._last is not None:
            size, dimension, sign = self._last
            self.size *= size ** (sign * power)
            for base, exponent in dimension.items():
                self.dimension[base] += exponent * sign * power


def _known(word: str) -> tuple[Fraction, Counter[str]] | None:
    if word in _SYMBOLS:
        return _SYMBOLS[word]
    low = word.casefold()
    if low in _COMPOUND_WORDS:
        over, under = _COMPOUND_WORDS[low].split("/")
        (a, x), (b, y) = _SYMBOLS[over], _SYMBOLS[under]
        return a / b, Counter({**x, **{base: -power for base, power in y.items()}})
    if low in ("degree", "degrees", "deg", "度"):
        return Fraction(1), Counter({"degree": 1})
    for name in (low, low.removesuffix("s"), low.removesuffix("es")):
        if name in _WORDS:
            return _SYMBOLS[_WORDS[name]]
        if name in _SYMBOLS and len(name) > 1:
            return _SYMBOLS[name]
    return None


_ORDINAL = re.compile("(?:teenth|ieth|ndth|andth)s?$")


def _is_noun(words: list[str], nouns: list[str]) -> bool:
    """Say whether words name what is counted: they end in a plural, and none of them judges."""
    if _NO_NOUN.intersection(words) or len(words) > 6:
        return False
    if any(scale(word) or in_words(word) is not None or _ORDINAL.search(word) for word in words):
        return False
    return any(
        (noun.endswith("s") and len(noun) > 3 and not noun.endswith("ss"))
        or noun in _PEOPLE
        or noun in _LAST_WORDS
        for noun in nouns
    )
