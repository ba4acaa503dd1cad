r"""Reading a LaTeX expression: one pass over its tokens, to a tree.

What the grammar does not know raises Unparsable; nothing is dropped. Two numbers side by side are
not multiplied, a subscript is part of a name, and i is a symbol like any other: `values` says what
it stands for.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from megaprune.grading.nodes import INFINITY, Node
from megaprune.grading.normal import Unparsable
from megaprune.grading.numbers import based
from megaprune.grading.tokens import ACCENTS, FUNCTIONS, GREEK, OF_LISTS, tokens_of

MAX_NESTING = 60


_CLOSING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}
_CONSTANTS = {
    "pi": Node("pi", ()), "infty": INFINITY, "imath": Node("sym", ("i",)),
    "jmath": Node("sym", ("j",)),
}  # fmt: skip
_CALLED = frozenset("fgFG")


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """Read a tidy text as an expression; raises Unparsable."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str):
        self.text = text
        self.tokens = list(tokens_of(text))
        self.at = 0
        self.depth = 0

    # Tokens.

    def peek(self, ahead: int = 0) -> str:
        place = self.at + ahead
        return self.tokens[place] if place < len(self.tokens) else ""

    def next(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def take(self, token: str) -> bool:
        if self.peek() == token:
            self.at += 1
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise Unparsable(self.text)

    # Grammar.

    def whole(self) -> Node:
        node = self.sum()
        if self.at < len(self.tokens):
            raise Unparsable(self.text)
        return node

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise Unparsable(self.text)
        parts = [self.product()]
        while self.peek() in ("+", "-"):
            minus = self.next() == "-"
            part = self.product()
            parts.append(Node("neg", (part,)) if minus else part)
        node = Node("add", tuple(parts)) if len(parts) > 1 else parts[0]
        if self.peek() in (r"\mod", r"\bmod"):
            self.next()
            node = Node("mod", (node, self.product()))
        if self.peek() in (r"\choose", r"\over"):
            node = Node("binom" if self.next() == r"\choose" else "div", (node, self.sum()))
        self.depth -= 1
        return node

    def product(self) -> Node:
        node = self.signed()
        while True:
            token = self.peek()
            if token in ("*", r"\cdot", r"\times", r"\ast"):
                self.next()
                node = Node("mul", (node, self.signed()))
            elif token in ("/", r"\div", ":"):
                self.next()
                if token == ":":
                    raise Unparsable(self.text)  # a ratio is no division
                node = Node("div", (node, self.signed()))
            elif self.starts() and not (
                token[0] in _DIGITS and self.tokens[self.at - 1][:1].isalnum()
            ):
                node = Node("mul", (node, self.power()))
            else:
                return node

    def signed(self) -> Node:
        if self.take("-"):
            self.depth += 1
            if self.depth > MAX_NESTING:
                raise Unparsable(self.text)
            node = Node("neg", (self.signed(),))
            self.depth -= 1
            return node
        while self.take("+"):
            pass
        return self.power()

    def starts(self) -> bool:
        """Say whether the next token can be a factor without a sign before it."""
        token = self.peek()
        if not token:
            return False
        if token[0].isalnum() or token[0] == "." or token in ("(", "[", "{"):
            return True
        if token == "|":
            return self.bars % 2 == 0
        return token[0] == "\\" and token not in _NO_FACTOR

    bars = 0

    def power(self) -> Node:
        node = self.atom()
        while True:
            token = self.peek()
            if token == "^":
                self.next()
                if self.peek() == r"\circ" or (
                    self.peek() == "{" and self.peek(1) == r"\circ" and self.peek(2) == "}"
                ):
                    self.at += 1 if self.peek() == r"\circ" else 3
                    node = Node("degrees", (node,))
                    continue
                exponent = self.exponent()
                if node.op == "sym" and (chosen := _combinations(node.args[0], exponent)):
                    node = chosen
                    continue
                if self.peek() == "^":
                    self.next()
                    exponent = Node("pow", (exponent, self.exponent()))
                    if self.peek() == "^":
                        raise Unparsable(self.text)
                node = Node("pow", (node, exponent))
            elif token == "!":
                self.next()
                node = Node("fact2" if self.take("!") else "fact", (node,))
                if self.peek() == "!":
                    raise Unparsable(self.text)
            elif token == "%":
                self.next()
                node = Node("div", (node, Node("num", (Fraction(100),))))
            else:
                return node

    def exponent(self) -> Node:
        if self.peek() in ("-", "+"):
            minus = self.next() == "-"
            node = self.argument(digits=True)
            return Node("neg", (node,)) if minus else node
        return self.argument(digits=True)

    def argument(self, digits: bool = False) -> Node:
        r"""Read what a command takes: a group, or a single token; of \frac12, a single digit."""
        token = self.peek()
        if token == "{":
            return self.group()
        if not digits and token.isdigit() and len(token) > 1:
            self.tokens[self.at] = token[1:]
            return Node("num", (Fraction(int(token[0])),))
        if token == "(" and digits:
            return self.group()
        if not token or token in _NO_FACTOR or token[0] in "+-*/^_!)]}|%,:":
            raise Unparsable(self.text)
        return self.atom()

    def group(self) -> Node:
        closing = _CLOSING.get(self.next())
        if closing is None:
            raise Unparsable(self.text)
        bars, self.bars = self.bars, 0
        node = self.sum()
        self.bars = bars
        self.expect(closing)
        return node

    def atom(self) -> Node:
        token = self.peek()
        if token in ("(", "[", "{"):
            return self.group()
        if token == "|":
            self.next()
            self.bars += 1
            node = self.sum()
            self.bars -= 1
            self.expect("|")
            return Node("abs", (node,))
        if not token:
            raise Unparsable(self.text)
        if token[0].isdigit() or token[0] == ".":
            return self.numeral()
        if token[0].isalpha():
            return self.letter()
        if token[0] == "\\":
            return self.command()
        raise Unparsable(self.text)

    def numeral(self) -> Node:
        token = self.next()
        if self.peek() == "_":
            self.next()
            based_value = based(token, self.raw_argument())
            if based_value is None:
                raise Unparsable(self.text)
            return Node("num", (Fraction(based_value),))
        value = Node("num", (Fraction(token.rstrip(".") or "0"),))
        if not token.isdigit():
            return value
        if self.take("\\mixed"):
            part = self.next(), self.next()
            if int(part[1]) == 0:
                raise Unparsable(self.text)
            return Node("num", (int(token) + Fraction(int(part[0]), int(part[1])),))
        if self.peek() == r"\frac":
            begin = self.at
            self.next()
            over, under = self.argument(), self.argument()
            if over.op == under.op == "num" and under.args[0] and self.peek() not in ("^", "!"):
                return Node("num", (value.args[0] + over.args[0] / under.args[0],))
            self.at = begin
        return value

    def letter(self) -> Node:
        name = self.next()
        if self.peek() == "_":
            self.next()
            name += "_" + self.raw_argument()
        if self.peek() == "(":
            if name[0] in _CALLED:
                return self.call(name)
            if name in ("C", "P") and self.peek(1).isdigit() and self.peek(2) == ",":
                over, under = self.list()
                if name == "C":
                    return Node("binom", (over, under))
                return Node("mul", (Node("binom", (over, under)), Node("fact", (under,))))
        return Node("sym", (name,))

    def call(self, name: str) -> Node:
        return Node("call", (name, *self.list()))

    def list(self) -> tuple[Node, ...]:
        closing = _CLOSING.get(self.peek())
        if closing is None:
            raise Unparsable(self.text)
        self.next()
        parts = [self.sum()]
        while self.take(","):
            parts.append(self.sum())
        self.expect(closing)
        return tuple(parts)

    def raw_argument(self) -> str:
        """Return what a subscript has, as text."""
        token = self.next()
        if token != "{":
            if not token or token in ("}", "^", "_", ")"):
                raise Unparsable(self.text)
            if token == r"\text":
                return self.raw_argument()
            return token
        parts, depth = [], 1
        while depth:
            token = self.next()
            if not token:
                raise Unparsable(self.text)
            depth += (token == "{") - (token == "}")
            if depth and token not in ("{", "}", r"\text", "(", ")"):
                parts.append(token)
        return "".join(parts)

    def command(self) -> Node:
        token = self.next()
        name = token[1:]
        if name in ("frac", "binom"):
            return Node("div" if name == "frac" else name, (self.argument(), self.argument()))
        if name in FUNCTIONS:
            return self.function(name)
        if name in ("abs", "floor", "ceil"):
            return Node(name, (self.group(),))
        if name in OF_LISTS:
            return Node(name, self.list())
        if name in ("sum", "prod"):
            return self.series(name)
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name == "sqrt":
            return self.root()
        if name in ("lfloor", "lceil"):
            node = self.sum()
            self.expect("\\r" + name[1:])
            return Node(name[1:], (node,))
        return self.named(token)

    def named(self, token: str) -> Node:
        r"""Read a name that is a command: \alpha, \vec{a}, \text{max}."""
        if token[1:] in GREEK:
            label = token
        elif token[1:] in ACCENTS:
            label = "" if token == r"\text" else token
            label += self.raw_argument().replace(" ", "")
        else:
            raise Unparsable(self.text)
        if self.take("_"):
            label += "_" + self.raw_argument()
        return Node("sym", (label,))

    def root(self) -> Node:
        index = Node("num", (Fraction(2),))
        if self.take("["):
            index = self.sum()
            self.expect("]")
        return Node("root", (index, self.argument()))

    def function(self, name: str) -> Node:
        base = exponent = None
        while self.peek() in ("^", "_"):
            if self.next() == "^":
                exponent = self.exponent()
            else:
                base = self.argument(digits=True)
        if self.peek() in ("(", "[", "{"):
            inside = self.group()
            if self.peek() == "^" and self.peek(1) == r"\circ":
                self.at += 2
                inside = Node("degrees", (inside,))
        else:
            inside = self.signed() if self.peek() == "-" else self.power()
            while self.starts() and self.peek()[1:] not in FUNCTIONS and self.peek() != "(":
                inside = Node("mul", (inside, self.power()))
        if name in ("log", "lg", "ln"):
            if base is None:
                base = Node("sym", ("e",)) if name == "ln" else Node("num", (Fraction(10),))
            node = Node("log", (base, inside))
        elif name == "exp":
            node = Node("pow", (Node("sym", ("e",)), inside))
        elif exponent == Node("neg", (Node("num", (Fraction(1),)),)) and "arc" + name in FUNCTIONS:
            return Node("arc" + name, (inside,))
        else:
            node = Node(name, (inside,))
        return node if exponent is None else Node("pow", (node, exponent))

    def series(self, name: str) -> Node:
        self.expect("_")
        self.expect("{")
        variable = self.letter()
        if self.next() != "=" or variable.op != "sym":
            raise Unparsable(self.text)
        low = self.sum()
        self.expect("}")
        self.expect("^")
        high = self.argument(digits=True)
        return Node(name, (variable, low, high, self.product()))


_NO_FACTOR = frozenset(
    [r"\cdot", r"\times", r"\div", r"\ast", r"\mod", r"\bmod", r"\choose", r"\over", r"\}",
     r"\{", r"\|", r"\rfloor", r"\rceil", r"\circ", r"\ldots", r"\mixed"]
)  # fmt: skip

_DIGITS = frozenset(".0123456789")


def _combinations(name: str, exponent: Node) -> Node | None:
    """Read C_{10}^{3}."""
    base = name.removeprefix("C_")
    if not base.isdigit() or exponent.op != "num":
        return None
    return Node("binom", (Node("num", (Fraction(base),)), exponent))
