"""What is said of all fields: on the console for --help-fields, and as docs/fields.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from megaprune.config.fields import FieldDoc, describe, sections, shown, unknown
from megaprune.foreign_text import terminal


@dataclass(frozen=True)
class Entry:
    """A field as it is shown.

    Args:
        name: with its section.
        default: as it is written; None where it must be given, empty where there is none to say.
        takes: type, choices, bounds and unit in words.
        may_change: whether a run that goes on may have another value.
        doc: what it means.
    """

    name: str
    default: str | None
    takes: str
    may_change: bool
    doc: str


@dataclass(frozen=True)
class Chapter:
    """Fields that belong together: those of a section, or those of the configuration itself."""

    name: str
    doc: str
    entries: list[Entry]


def chapters(kind: type) -> list[Chapter]:
    """All fields of a configuration, section by section."""
    docs = list(describe(kind))
    own = [_entry(doc) for doc in docs if "." not in doc.name and not doc.is_spec]
    result = [Chapter("", _first_paragraph(kind), own)]
    for name, section in sections(kind).items():
        entries = [_entry(doc) for doc in docs if doc.name.startswith(f"{name}.")]
        result.append(Chapter(name, _first_paragraph(section), entries))
    for doc in docs:
        if doc.is_spec:
            result.append(Chapter(doc.name, doc.doc, list(_spec_entries(doc))))
    return result


def show_fields(kind: type, name: str = "", console: Console | None = None) -> None:
    """Print what is said of fields.

    Args:
        kind: class of the configuration.
        name: of a field or a section, or a part of names; all fields if empty.

    Raises:
        InputError: no name has that in it; says the nearest.
    """
    console = console or terminal(highlight=False)
    all_chapters = chapters(kind)
    names = [entry.name for chapter in all_chapters for entry in chapter.entries]
    exact = [n for n in names if n == name or n.startswith(f"{name}.")]
    wanted = set(exact or [n for n in names if name in n])
    if not wanted:
        raise unknown(name, names)
    for chapter in all_chapters:
        entries = [entry for entry in chapter.entries if entry.name in wanted]
        if not entries:
            continue
        console.print(Text(chapter.name or "The run itself", "bold underline"))
        console.print(Text(chapter.doc, "dim"))
        for entry in entries:
            _show(entry, console)
        console.print()


def markdown(kinds: Sequence[tuple[str, type]]) -> str:
    """The page of all fields.

    Args:
        kinds: commands and the classes of their configurations; a field is listed once.
    """
    lines = [
        "# All fields",
        "",
        "Made by `megaprune config docs > docs/fields.md`. The same is said by `megaprune train "
        "--help-fields [NAME]`, and by the other commands of theirs. Fields marked * may be "
        "changed when a run goes on.",
    ]
    listed: set[Entry] = set()
    for command, kind in kinds:
        lines += ["", f"## {command}"]
        for chapter in chapters(kind):
            entries = [entry for entry in chapter.entries if entry not in listed]
            listed |= set(entries)
            if entries:
                lines += ["", *_table(chapter, entries)]
    return "\n".join(lines) + "\n"


def _table(chapter: Chapter, entries: Sequence[Entry]) -> Iterator[str]:
    if chapter.name:
        yield f"### {chapter.name}"
        yield ""
    yield from textwrap.wrap(chapter.doc, 100)
    yield ""
    yield "| field | default | takes | meaning |"
    yield "| --- | --- | --- | --- |"
    for entry in entries:
        mark = "*" if entry.may_change else ""
        default = entry.default and f"`{entry.default}`"
        default = "must be given" if default is None else default
        cells = (f"`{entry.name}`{mark}", default, entry.takes, entry.doc)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _show(entry: Entry, console: Console) -> None:
    head = Text("  ").append(entry.name, "bold")
    if entry.default is None:
        head.append("  must be given", "yellow")
    elif entry.default:
        head.append(f" = {entry.default}", "cyan")
    console.print(head)
    more = "; may change when a run goes on" if entry.may_change else ""
    console.print(Padding(Text(f"{entry.takes}{more}", "dim"), (0, 0, 0, 6)))
    if entry.doc:
        console.print(Padding(Text(entry.doc), (0, 0, 0, 6)))


def _entry(doc: FieldDoc) -> Entry:
    words = f"one of {', '.join(doc.choices)}" if doc.choices else doc.type
    if doc.choices and doc.type.endswith(" or null"):
        words += " or null"
    takes = ", ".join(part for part in (words, doc.bounds, doc.unit and f"in {doc.unit}") if part)
    return Entry(doc.name, doc.default, takes, doc.may_change, doc.doc)


def _spec_entries(spec: FieldDoc) -> Iterator[Entry]:
    """The fields of an object that is made of a spec."""
    for field in spec.python_type.describe_fields():
        unsaid = field.default is None and not field.component
        default = None if field.required else "" if unsaid else shown(field.default)
        of = f"of {field.component}: " if field.component else ""
        takes = ", ".join(part for part in (field.type, field.bounds) if part)
        doc = field.doc if field.name == spec.name else _sentence(field.doc)
        yield Entry(field.name, default, f"{of}{takes}", False, doc)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else ".")


def _first_paragraph(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())
