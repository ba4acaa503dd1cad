r"""The prompt of a family of models, the same in training and evaluation.

A template is a YAML file of these keys, all of them but for `budget` and `fast`:

    system: text or null             # the system message; null: there is none
    problem: "{problem}\n\n..."      # the user message
    limit: " ... {limit} tokens ..." # put behind the system text, or the user's without one, when
                                     # there is a limit
    budget: " ... {budget} tokens ..." # the same, where each problem has a budget to be met
    fast: "\n\nBe quick ..."          # put behind the user's message where thoughts are to be short
    thought: {open: "<think>", close: "</think>"}  # null: thoughts have no tags
    early_exit: "\n\n**Answer:** "   # behind the tag of a thought that is closed for the model

{problem}, {limit} and {budget} stand for the problem and the tokens. Other braces belong to LaTeX:
those of a command's arguments, as in \boxed{}, and \{ \}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megaprune.errors import InputError
from megaprune.yaml_text import load_yaml

TEMPLATES = ("deepseek", "qwen", "qwen3", "qwq_preview", "marco", "s1", "plain")
"""Families: DeepSeek-R1-Distill and its descendants; QwQ-32B; Qwen3; QwQ-32B-Preview; Marco-o1; s1;
the problem alone."""

_FOLDER = Path(__file__).with_suffix("")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "system": (),
    "problem": (),
    "limit": (),
    "budget": (),
    "fast": (),
    "thought": ("open", "close"),
    "early_exit": (),
}
_MAY_BE_EMPTY = ("early_exit",)
_MAY_BE_MISSING = ("budget", "fast")
_PLACES = ("problem", "limit", "budget")
_MAY_BE_NULL = ("system", "thought")
_ESCAPED = re.compile(r"\\[{}]")
_ARGUMENT = re.compile(r"(\\[a-zA-Z]+)\s*\{[^{}]*\}")


@dataclass(frozen=True)
class ThoughtTags:
    """The tags around the thought of a response."""

    open: str
    close: str


@dataclass(frozen=True)
class Template:
    """A prompt with its places for the problem and the tokens; see the module for the fields."""

    system: str | None
    problem: str
    limit: str
    thought: ThoughtTags | None
    early_exit: str
    budget: str = ""
    fast: str = ""

    def asking_for_speed(self) -> Template:
        """The same, with the words that ask for a short thought.

        Raises:
            InputError: it has none.
        """
        if not self.fast:
            raise InputError("the template has no key fast; add the text that asks for speed")
        return replace(self, problem=self.problem + self.fast)

    @property
    def end_of_thought(self) -> str:
        """What closes a thought; empty if thoughts have no tags."""
        return self.thought.close if self.thought else ""

    def messages(
        self, problem: str, limit: int | None, budget: int | None = None
    ) -> list[dict[str, str]]:
        """Return the role and content of each message.

        Args:
            problem: the question; it may hold braces of any kind.
            limit: tokens that a response may have, to be spoken of; None: do not.
            budget: tokens that a response should have; likewise.

        Raises:
            InputError: the limit or the budget is below 1, or the template says no budget.
        """
        notice = ""
        for name, text, tokens in (("limit", self.limit, limit), ("budget", self.budget, budget)):
            if tokens is None:
                continue
            if tokens < 1:
                raise InputError(f"a {name} of {tokens} tokens; expected 1 or more")
            if not text:
                raise InputError(f"the template has no key {name}; add the text that says it")
            notice += text.replace(f"{{{name}}}", str(tokens))
        user = self.problem.replace("{problem}", problem)
        if self.system is None:
            return [{"role": "user", "content": user + notice}]
        return [
            {"role": "system", "content": self.system + notice},
            {"role": "user", "content": user},
        ]


def load_template(name_or_path: str) -> Template:
    """Load the template of a family, or of a file ending in .yaml.

    Raises:
        InputError: there is no such family or file, or the file is not as the module says; names
            the key.
    """
    if name_or_path in TEMPLATES:
        return _read(_FOLDER / f"{name_or_path}.yaml")
    if not name_or_path.endswith((".yaml", ".yml")):
        from megaprune.config.fields import nearest

        raise InputError(
            f"there is no template {name_or_path!r}; {nearest(name_or_path, TEMPLATES)}, "
            f"or the name of a file that ends in .yaml"
        )
    return _read(Path(name_or_path))


def _read(path: Path) -> Template:
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"template {path} cannot be read: {error.strerror}") from error
    except (InputError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"template {path} is no YAML ({reason}); expected a mapping of {', '.join(_KEYS)}"
        ) from error
    _check_keys(content, tuple(_KEYS), f"template {path}", _MAY_BE_MISSING)
    texts: dict[str, Any] = {}
    for key, inner in _KEYS.items():
        if key not in content:
            continue
        where = f"template {path}, key {key}"
        texts[key] = content[key]
        if content[key] is None and key in _MAY_BE_NULL:
            continue
        if inner:
            _check_keys(content[key], inner, where)
            for name in inner:
                _check_text(content[key][name], f"{key}.{name}", path)
        else:
            _check_text(content[key], key, path)
    thought = texts.pop("thought")
    return Template(**texts, thought=thought and ThoughtTags(**thought))


def _check_keys(
    content: Any, keys: tuple[str, ...], where: str, optional: tuple[str, ...] = ()
) -> None:
    if not isinstance(content, dict):
        raise InputError(f"{where}: {content!r}; expected a mapping of {', '.join(keys)}")
    for key in keys:
        if key not in content and key not in optional:
            raise InputError(f"{where}: the key {key} is missing; expected {', '.join(keys)}")
    for key in content:
        if key not in keys:
            raise InputError(f"{where}: there is no key {key!r}; expected {', '.join(keys)}")


def _check_text(value: Any, key: str, path: Path) -> None:
    """Refuse what is not text, or lacks its placeholder, or has another."""
    where = f"template {path}, key {key}"
    if not isinstance(value, str):
        raise InputError(f"{where}: {value!r} ({type(value).__name__}); expected text in quotes")
    if not value and key not in _MAY_BE_EMPTY:
        raise InputError(f"{where}: empty; expected text")
    if key in _PLACES:
        if f"{{{key}}}" not in value:
            raise InputError(f"{where}: {value!r} lacks {{{key}}}; put it where the {key} belongs")
        value = value.replace(f"{{{key}}}", "")
    before, value = "", _ESCAPED.sub("", value)
    while value != before:  # a command may have several arguments, and others in them
        before, value = value, _ARGUMENT.sub(r"\1", value)
    if brace := re.search(r"\{[^{}]*\}?|\}", value):
        own = f" but {{{key}}} and" if key in _PLACES else " but"
        raise InputError(
            f"{where}: {brace[0]!r} stands for nothing; expected no braces{own} those of LaTeX "
            f"commands, as in \\boxed{{}}"
        )
