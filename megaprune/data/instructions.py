r"""What a prompt says about the form of the answer: in a box, behind "Answer:", and so on.

Published sets carry such words in their problems, for the graders that they were made for. A run
whose grader reads another form finds no answer in any response.
"""

from __future__ import annotations

import re

BOX = r"\boxed{}"
STEPS = "step by step"
"""Words that ask for reasoning, and for no form."""

_FORMS = {
    "####": re.compile(r"####"),
    "<answer>": re.compile(r"<\s*answer\s*>", re.I),
    # A word of the instruction before it: a problem may speak of an answer too.
    "Answer:": re.compile(
        r"\b(?:form(?:at)?|lines?|write|put|ends?|begins?|starts?|say|output|give|after|as|with)\b"
        r"[^\n]{0,80}?[\"“'`*]*\b(?:final )?answer\s*(?:is\s*)?:",
        re.I,
    ),
    "JSON": re.compile(r"\bJSON\b[^\n.]{0,60}\banswer|\banswer\b[^\n.]{0,60}\bJSON\b", re.I),
}
_BOX = re.compile(r"\bboxed\b", re.I)
_NO_BOX = re.compile(r"\b(?:not|n't|without|instead of)\b[^.\n]{0,40}\bboxed\b", re.I)

_SPEAKS = re.compile(r"[Aa]nswer|ANSWER|[Bb]oxed|####")  # seldom: the others are slow
_ANSWER = re.compile(r"answer|result|solution|conclu", re.I)
_STEPS = re.compile(
    r"^(?:please |now |you should |let'?s |let us )*(?:solve|reason|think)\b.*"
    r"\bstep[- ]by[- ]step\b",
    re.I | re.S,
)
_SENTENCE = re.compile(r"(?<=[.!?])[\"”)\]*]*\s+|\n+")
_LONGEST = 400
"""Characters of a sentence that may be an instruction."""


def asked_format(text: str) -> str | None:
    r"""Return the form of answer that a prompt asks for; None if it asks for none.

    Args:
        text: the whole prompt: a chat template may ask for a form, too.

    Returns:
        BOX if it speaks of a box, whatever else it says; else one of `_FORMS`.
    """
    if not _SPEAKS.search(text):
        return None
    if _BOX.search(_NO_BOX.sub("", text)):
        return BOX
    return next((form for form, pattern in _FORMS.items() if pattern.search(text)), None)


def without_instructions(problem: str) -> str:
    """Return a problem without the sentences at its beginning and end that ask for a form.

    Sentences within the problem stay, and so does a problem that is nothing else.
    """
    ends = [0, *(match.end() for match in _SENTENCE.finditer(problem)), len(problem)]
    spans = [(a, b) for a, b in zip(ends, ends[1:], strict=False) if problem[a:b].strip()]
    first, last = 0, len(spans)
    while first < last and _is_instruction(problem[slice(*spans[first])]):
        first += 1
    while last > first and _is_instruction(problem[slice(*spans[last - 1])]):
        last -= 1
    if first == last:
        return problem
    return problem[spans[first][0] : spans[last - 1][1]].strip()


def _is_instruction(sentence: str) -> bool:
    sentence = sentence.strip()
    if len(sentence) > _LONGEST:
        return False
    if _STEPS.search(sentence):
        return True
    asks = _BOX.search(sentence) or any(form.search(sentence) for form in _FORMS.values())
    return bool(asks and _ANSWER.search(sentence))
