r"""Normal spelling: the same LaTeX for what people and models write in many ways.

Every pass reads the text once, so that the time is linear in its length.
"""

from __future__ import annotations

import re
import unicodedata


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


class Unparsable(Exception):
    """Raised for a text that cannot be read as mathematics."""


_SYMBOLS = {
    "−": "-", "–": "-", "‐": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*",
    "÷": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ",
    "√": r"\sqrt ", "°": r"^\circ ", "º": r"^\circ ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "ℚ": r"\mathbb{Q}", "α": r"\alpha ", "β": r"\beta ",
    "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ", "θ": r"\theta ", "λ": r"\lambda ",
    "μ": r"\mu ", "ρ": r"\rho ", "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ", "∠": r"\angle ",
    "△": r"\triangle ", "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "⟨": r"\langle ",
    "⟩": r"\rangle ", "∨": r"\lor ", "∧": r"\land ", "∖": r"\setminus ", "≈": r"\approx ",
    "…": r"\ldots ", "⋯": r"\ldots ", "∶": ":", "、": ",", "。": ".", "⌊": r"\lfloor ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "℃": r"^\circ C", "℉": r"^\circ F",
    "\u0304": "\u0305", "或": r"\lor ", "和": r"\land ", "且": r"\land ", "￥": "¥",
}  # fmt: skip

_END = r"(?![a-zA-Z])"
_FONT = (
    r"\\(?:emph|text(?:bf|it|rm|sf|tt|sl|up|normal)?|math(?:rm|bf|it|sf|normal)|[mh]box"
    r"|operatorname\*?) ?\{"
)
_LAYOUT = (
    r"\\(?:left|right|middle|[bB]igg?[lrm]?)" + _END + r" ?(?:\.(?!\d))?"
    r"|\\(?:displaystyle|textstyle|limits|nolimits|rm|bf|it|large|Large|small|normalsize|strut"
    r"|mathstrut|centering|nonumber|hfill|hline|allowbreak|mathop|underline|boxed|fbox|smash"
    r"|boldsymbol|bm|ensuremath|math(?:rel|bin|ord|op))" + _END + r"|\\!"
    r"|\\(?:[hv]space\*?|[hv]?phantom|label|tag\*?|color) ?\{[^{}]*\}"
    r"|\\(?:textcolor|colorbox) ?\{[^{}]*\}|\\phantom ?-?"
)
_FUNCTIONS = (
    "arcsin|arccos|arctan|arccot|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|lg|exp|gcd|lcm"
    "|max|min|abs|floor|ceil"
)

_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\\\ ?\[[^\[\]]*\]", r"\\\\ "),
        (r"(?<=\d)(?:, ?\\!| ?\{ ?, ?\}) ?(?=\d{3}(?!\d))", ""),
        (r"(?<!\\)\$|(?<!\\)\\[()\[\]]", ""),
        (_LAYOUT, ""),
        (
            r"(?<!\\)\\[,;:> ]|\\(?:q?quad|thinspace|enspace|enskip|medspace|thickspace|space)"
            + _END
            + r"|~|(?<!\\)\\$",
            " ",
        ),
        (r"\\[dtcs]frac" + _END + r"|\\(?:nice|x)frac" + _END, r"\\frac"),
        (r"\\[dt]binom" + _END, r"\\binom"),
        (
            r"(?:\{ ?\}|(?<![\w)}]))[_^] ?\{? ?(\d+) ?\}? ?C ?_ ?\{? ?(\d+) ?\}?",
            r"\\binom{\1}{\2}",
        ),
        (r"\\surd" + _END, r"\\sqrt"),
        (_FONT, r"\\text{"),
        (r"\\text\{ ?(-?\d[\d.,]*) ?\}|^ ?\\text\{ ?([A-Za-z]) ?\}", r"\1\2"),
        (r"^ ?\\text\{ ?(-?\d[\d.,]*)( [^{}]*)\}", r"\1\\text{\2}"),
        (r"\\text\{ ?[.,;:]? ?\}", ""),
        (r"\\(?:vee|lor)" + _END, r"\\lor "),
        (r"\\(?:wedge|land)" + _END + r"|\\&", r"\\land "),
        (r"\\text\{ ?,? ?and ?\}|(?<= )and(?= )", r"\\land "),
        (r"\\text\{ ?,? ?or ?\}|(?<= )or(?= )", r"\\lor "),
        (r" ?, ?(?=\\l(?:and|or) )", " "),
        (r"(?:(?<=\{)|^) ?\\approx ?|^ ?=(?!=)", ""),
        (r"\\frac ?\\pi ?(?=[\d{])", r"\\frac{\\pi}"),
        (r"\\%| ?\bpercent\b| ?\\text\{ ?(?:percent|%|\\%) ?\}", "%"),
        (r"\^ ?\{ ?\\circ ?\}|\^ ?\\circ" + _END + r"|\\(?:text)?degree" + _END, r"^\\circ "),
        (r"\\text ?\{ ?(\^\\circ) ?\}", r"\1"),
        (r"\\l(?:eq|eqslant)" + _END + r"|<=|=<", r"\\le "),
        (r"\\g(?:eq|eqslant)" + _END + r"|>=", r"\\ge "),
        (r"\\neq" + _END + r"|!=", r"\\ne "),
        (r"\\lt" + _END, "<"),
        (r"\\gt" + _END, ">"),
        (r"\\lbrace" + _END, r"\\{"),
        (r"\\rbrace" + _END, r"\\}"),
        (r"\\\{ ?\\\}", r"\\emptyset "),
        (r"\\langle" + _END, "("),
        (r"\\rangle" + _END, ")"),
        (r"\\(?:varnothing|empty)" + _END, r"\\emptyset "),
        (r"\\(?:vert|lvert|rvert)" + _END, "|"),
        (r"\\(?:dots|cdots|dotsc|dotsb)" + _END + r"|\.\.\.", r"\\ldots "),
        (r"\\(?:Bbb|mathbb) ?\{? ?([A-Z]) ?\}?", r"\\mathbb{\1}"),
        (r"\\var(theta|phi|epsilon|rho|sigma)" + _END, r"\\\1"),
        (r"(?<!\\)\b(?:infinity|inf)\b", r"\\infty "),
        (r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi "),
        (r" choose ", r" \\choose "),
        (r"\\sqrt (\d+|[A-Za-z](?![A-Za-z]))", r"\\sqrt{\1}"),
        (r"(?<![a-zA-Z\\])sqrt ?(?=[\d({])", r"\\sqrt"),
        (r"\\sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
        (rf"(?<![a-zA-Z\\])({_FUNCTIONS})(?= ?[(^_\\\d]| [a-zA-Z](?![a-zA-Z]))", r"\\\1 "),
        (r"\*\*", "^"),
        (r"(?<=[\d)}A-Za-z]) ?\* ?", r"\\cdot "),
        (r" +", " "),
    ]
]

_LABEL = re.compile(
    r"^ ?(?:\\text\{)? ?(?:(?:so|thus|therefore|hence),? )?(?:the )?(?:(?:final|correct) )?"
    r"(?:answer|solution|result)(?: is(?! ?not)(?: ?:)?| ?[:=]) ?(?:\\text\{)?"
    r"|^ ?(?:故|所以)?(?:最终)?答案?(?:为|是|：|:) ?",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"""(['"`])([^'"`]*)\1|\*\*([^*]+)\*\*""")


def tidy(text: str) -> str:
    """Rewrite a text in the normal spelling: no layout, fonts, dollar signs and outer braces."""
    if not text.isascii():
        text = _RAISED.sub(lambda run: "^{" + _plain(run[0]) + "}", text)
        text = _LOWERED.sub(lambda run: "_{" + _plain(run[0]) + "}", text)
        text = "".join(map(_latex, text))
    # A letter of digits with a bar or dot above is a repeating decimal's.
    if "\u0305" in text or "\u0307" in text:
        text = re.sub(r"((?:\d\u0305)+)", lambda m: rf"\overline{{{m[1]}}}", text)
        text = re.sub(r"(\d)\u0307", r"\\dot{\1}", text).replace("\u0305", "")
    text = " ".join(text.split())
    if match := _QUOTED.fullmatch(text):
        text = match[2] or match[3] or ""
    if r"\begin" in text or "matrix{" in text:
        text = _environments(text)
    if match := _LABEL.match(text):
        rest = text[match.end() :]
        text = rest.replace("}", "", 1) if _opens(match[0]) else rest
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return _stripped(text)


def _opens(label: str) -> bool:
    return r"\text{" in label


_MOST_BRACES = 20
_ENDS = re.compile(r"(?:\\\\ ?)+$")


def _stripped(text: str) -> str:
    """Remove punctuation at the ends, and braces around the whole."""
    for _ in range(_MOST_BRACES):
        before = text
        text = _ENDS.sub("", text.strip(" ,;:").rstrip(" .,;:"))
        if text.startswith("{") and _closes(text) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            break
    return text


_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")


def _plain(text: str) -> str:
    """Write raised or lowered digits on the line."""
    return unicodedata.normalize("NFKC", text).replace("−", "-")


def _latex(char: str) -> str:
    if char.isascii():
        return char
    if char in _SYMBOLS:
        return _SYMBOLS[char]
    if unicodedata.category(char) == "Cf":  # a byte order mark, or another mark without width
        return ""
    how, *codes = unicodedata.decomposition(char).split() or [""]
    plain = "".join(chr(int(code, 16)) for code in codes) if how.startswith("<") else ""
    if how == "<fraction>" and "⁄" in plain:
        over, under = plain.split("⁄")
        return rf"\frac{{{over}}}{{{under or 1}}}"
    if how in ("<super>", "<sub>"):
        return ("^" if how == "<super>" else "_") + "{" + plain + "}"
    return plain if plain.isascii() and plain else char


def nesting(text: str) -> int:
    """Return how deep brackets stand in brackets, of any kind."""
    depth = deepest = 0
    for bracket in re.finditer(r"[(\[{]|[)\]}]", text):
        depth += 1 if bracket[0] in "([{" else -1
        deepest = max(deepest, depth)
    return deepest


def _closes(text: str) -> int:
    """Return where the group that opens the text closes; -1 if nowhere."""
    depth = 0
    for token in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.start()
    return -1


# Environments that only lay out: what they hold are lines, which make a list.
_LINES = [
    name + star
    for name in (
        "aligned", "alignedat", "align", "gathered", "gather", "split", "equation", "array",
        "cases", "dcases", "rcases",
    )
    for star in ("", "*")
]  # fmt: skip
_ARRAY = re.compile(
    r"(?:\\left ?)?[(\[] ?\\begin\{array\} ?\{[^{}]*\}(.*?)\\end\{array\} ?(?:\\right ?)?[)\]]"
)
_PLAIN_MATRIX = re.compile(r"\\(p|b|v|)matrix ?\{")


def _environments(text: str) -> str:
    r"""Turn lines of layout into a list, and \pmatrix{1 \cr 2} into an environment."""
    while match := _PLAIN_MATRIX.search(text):
        first = match.end() - 1
        last = first + _closes(text[first:])
        if last < first:
            break
        rows = text[first + 1 : last].replace(r"\cr", r"\\")
        name = f"{match[1]}matrix"
        rows = rf"\begin{{{name}}}{rows}\end{{{name}}}"
        text = text[: match.start()] + rows + text[last + 1 :]
    text = _ARRAY.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text)
    for name in _LINES:
        begin, end = rf"\begin{{{name}}}", rf"\end{{{name}}}"
        while begin in text:
            before, _, rest = text.partition(begin)
            inside, closed, after = rest.partition(end)
            listed = _listed(inside) if closed else None
            if listed is None:
                break
            before = re.sub(r"\\left ?(?:\\[{.]|\.|\\lbrace) ?$", "", before)
            after = re.sub(r"^ ?\\right ?(?:\.|\\})", "", after)
            text = f"{before}{listed}{after}"
    return text


def _listed(inside: str) -> str | None:
    """Return the lines of an environment as a list; None if its columns mean something."""
    inside = re.sub(r"^ ?\{[lcr|@ ]*\}", "", inside)
    lines = [line.strip(" ,;") for line in re.split(r"\\\\|\\cr" + _END, inside)]
    lines = [line for line in lines if line]
    joined = ""
    for line in lines:
        # Columns align relations: 'x &= 1'. Other columns are a table, or cases with conditions.
        if re.search(r"&(?! ?(?:=|<|>|\\[lg]|\\ne|\\approx))", line):
            return None
        plain = line.replace("&", " ").strip()
        joined += plain if not joined or plain.startswith("=") else f", {plain}"
    return joined
