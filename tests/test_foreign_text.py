"""Words of others on their way to a terminal: shown, and without power or passwords."""

import ast
import io
import unicodedata
from pathlib import Path

import pytest
from mutations import ODD, TOKENS, draws

from megaprune.foreign_text import for_people, masked, printable, terminal, without_passwords

PACKAGE = Path(__file__).parents[1] / "megaprune"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é and 中 and 🙂", "plain, é and 中 and 🙂"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x1b]8;;http://x\x1b\\y", r"\x1b]8;;http://x\x1b\y"),
        ("\r\x08\x0b\x0c\x7f", r"\x0d\x08\x0b\x0c\x7f"),
        ("\x9b31m\x90", r"\x9b31m\x90"),
        ("\u202eabc\u202c", r"\u202eabc\u202c"),
        ("\u2066\u2069\u200e\u200f", r"\u2066\u2069\u200e\u200f"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\ufeff\u00ad", r"\ufeff\xad"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("नमस्\u200dते", "नमस्\u200dते"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


def test_any_text_is_printable():
    for rng in draws(300):
        text = "".join(chr(rng.randrange(0x110000)) for _ in range(50))
        text += str(rng.choice(ODD)) + rng.choice(TOKENS).decode("latin-1")
        shown = printable(text)
        shown.encode()
        bad = {"Cc", "Cs", "Zl", "Zp"}
        assert not [c for c in shown if unicodedata.category(c) in bad and c not in "\n\t"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pass@host/v1", "http://***@host/v1"),
        ("see https://token@host:8/a and b", "see https://***@host:8/a and b"),
        ("http://u:p@ss@host", "http://***@host"),
        ("('http://u:p@host',)", "('http://***@host',)"),
        ("http://u:p/w@host", "http://***@host"),
        ("s3+x://u:p@host ftp://a:b@c", "s3+x://***@host ftp://***@c"),
        ("mail me@host, http://host/v1", "mail me@host, http://host/v1"),
        ("", ""),
    ],
)
def test_passwords_in_addresses(text, shown):
    assert without_passwords(text) == shown
    assert for_people(f"{text}\x1b") == rf"{shown}\x1b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key sk-0123456789ab.", "key ***."),
        ("sk-0123456789absk-0123456789ab", "***"),
        ("begin sk-01234", "begin ***"),
        ("end 456789ab", "end ***"),
        ("sk-0123", "sk-0123"),
        ("the middle 01234567 of it", "the middle *** of it"),
        ("sk-0123456 sk-0123456789ab", "*** ***"),
        ("", ""),
    ],
)
def test_secrets_and_their_parts(text, shown):
    assert masked(text, ["sk-0123456789ab"]) == shown


def test_short_secrets():
    assert masked("an abc and an abcd", ["abcd", "abc", ""]) == "an abc and an ***"


def test_the_terminal_shows_what_it_is_given():
    """Also within tables and styled text, where rich has its own codes."""
    from rich.table import Table
    from rich.text import Text

    file = io.StringIO()
    console = terminal(
        file=file, force_terminal=True, color_system="standard", width=80, highlight=False
    )
    table = Table("name\x1b[31m", title="\x9b title")
    table.add_row(Text("row\x1b]0;x\x07", "red"))
    console.print(table)
    console.print(Text("styled \x1b]0;x", "red"), soft_wrap=True)
    console.print("[bold]words[/] [/nothing] \x1b[2J", style="dim")
    shown = file.getvalue()
    assert r"\x1b[31m" in shown
    assert r"\x9b title" in shown
    assert r"styled \x1b]0;x" in shown
    assert r"[bold]words[/] [/nothing] \x1b[2J" in shown
    assert "\x1b[31mrow" in shown  # that is ours
    assert "\x07" not in shown
    assert "\x1b[2J" not in shown


def test_nothing_is_printed_past_it():
    """Consoles are made in one place; errors of others are printed by one function."""
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "foreign_text.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id == "Console":
                wrong.append(f"{path}:{node.lineno}: Console(...) and not foreign_text.terminal")
            call = ast.unparse(node)
            of_error = "{error}" in call or "(error)" in call
            if node.func.id == "print" and of_error and "for_people" not in call:
                wrong.append(f"{path}:{node.lineno}: {call[:80]}")
    assert wrong == []
