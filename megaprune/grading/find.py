"""Finding the answer in a response. Every function reads the text once, however long it is."""

from __future__ import annotations

import re
from typing import NamedTuple

# Escapes are tokens of their own, so that \{ and \} are not counted as braces.
_TOKEN = re.compile(
    r"\\(?:boxed|fbox)\s*(?:(?P<box>\{)|(?P<bare>-?\d+(?:[.,/]\d+)*))|\\.|[{}]", re.S
)


# What may stand between two boxes of one answer: layout, commas, "and", a name that is set equal.
_BETWEEN = re.compile(
    r"(?:[\s$,;&*]|\\[()\[\]\\,;:!]|\\q?quad(?![a-zA-Z])|\\text\s*\{\s*(?:and|or)\s*\}|and|or"
    r"|[A-Za-z]\s?=)*"
)
_MOST_BETWEEN = 40  # characters


def last_box(text: str) -> str | None:
    r"""Return the content of the last complete `\boxed{}` or `\fbox{}`; None if there is none.

    Of nested boxes it is the outermost complete one. A box without braces must hold a number
    (`\boxed 42`), so that prose which speaks of \boxed is not an answer.
    """
    boxes = _boxes(text)
    return boxes[-1].inside(text) if boxes else None


def last_boxes(text: str) -> str | None:
    r"""Return the last box and those right before it: "3, 5" from `$\boxed{3}$ and $\boxed{5}$`.

    Between two boxes of one answer stands nothing but layout, commas, "and", "or" and names, as in
    `x = `. If all of them hold the same, it is a single answer, said again.
    """
    boxes = _boxes(text)
    answer = boxes[-1:]
    for box in reversed(boxes[:-1]):
        between = text[box.ends : answer[-1].begins]
        if len(between) > _MOST_BETWEEN or not _BETWEEN.fullmatch(between):
            break
        answer.append(box)
    contents = [box.inside(text).strip() for box in reversed(answer)]
    if len(set(contents)) == 1:
        return contents[0]
    return ", ".join(filter(None, contents)) if contents else None


def box_spans(text: str) -> list[tuple[int, int]]:
    """Where the complete boxes of a text begin and end, none that stand in another."""
    return [(box.begins, box.ends) for box in _boxes(text)]


class _Box(NamedTuple):
    """Where in a text a box stands, and where its content does."""

    begins: int
    ends: int
    first: int
    last: int

    def inside(self, text: str) -> str:
        return text[self.first : self.last]


def _boxes(text: str) -> list[_Box]:
    """Return all complete boxes in order; none that stand in another."""
    boxes: list[_Box] = []
    opened: list[tuple[int, int]] = []  # begin of each open group and its content; -1 if no box
    for token in _TOKEN.finditer(text):
        if token["box"]:
            opened.append((token.start(), token.end()))
        elif token["bare"]:
            boxes.append(_Box(*token.span(), *token.span("bare")))
        elif token[0] == "{":
            opened.append((-1, -1))
        elif token[0] == "}" and opened and (group := opened.pop())[0] >= 0:
            while boxes and boxes[-1].begins > group[0]:
                boxes.pop()
            boxes.append(_Box(group[0], token.end(), group[1], token.start()))
    return boxes


def anywhere(text: str) -> str:
    r"""Find the answer as ThinkPrune's released code does (arXiv 2504.01296); "" if none.

    After the last "boxed" anywhere, even in the thought and even if its brace never closes; else
    after phrases like "the answer is".
    """
    text = text.replace("ки", "")  # a stray token of some Qwen models
    answer = ""
    if "final answer is $" in text and "$. I hope" in text:
        answer = text.split("final answer is $", 1)[1].split("$. I hope", 1)[0]
    elif "boxed" in text:
        answer = _after_boxed(text.rpartition("boxed")[2])
    else:
        for phrase in ("he answer is", "final answer is", "答案是"):
            if phrase in text:
                answer = text.rpartition(phrase)[2].split("\n\n", 1)[0]
                break
    answer = answer.replace("\n", "").strip()
    return answer.removeprefix(":").removesuffix(".").removesuffix("/").strip()


def _after_boxed(rest: str) -> str:
    if not rest.startswith("{"):
        return rest.split("$", 1)[0]
    depth = 0
    for brace in re.finditer(r"[{}]", rest):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return rest[1 : brace.start()]
    return rest[1:]
