"""Random changes of bytes and of JSON, as hostile or broken sources make them.

MEGAPRUNE_MUTATIONS=N has each fuzz try N of them, in place of a few hundred; MEGAPRUNE_FUZZ_SEED=N
draws others.
"""

from __future__ import annotations

import os
import random

COUNT = int(os.environ.get("MEGAPRUNE_MUTATIONS", "0"))
SEED = int(os.environ.get("MEGAPRUNE_FUZZ_SEED", "7"))

ODD = [
    None, True, False, 0, -1, 1, 10**30, 2**63, -(2**63) - 1, 1.5, -0.0, 1e308, float("inf"),
    float("nan"), "", " ", "\x00", "\x1b[31m\x1b]0;x\x07", "\u202e", "\ud800", "é" * 50, "x" * 5000,
    "null", "true", "1", "-1", "1e999", "${oc.env:HOME}", "${", "../../x", "/etc/passwd", "[b]", "{",
    "}" * 20, "\\boxed{" * 30, [], {}, [[]], [None], [1, "a"], {"": 0}, {"a": {"b": {}}}, ["x"] * 100,
]  # fmt: skip


def draws(few):
    """Sources of random numbers, one for each try."""
    return [random.Random(SEED * 1_000_003 + number) for number in range(COUNT or few)]


def deep(rng, levels):
    """A value in lists and objects in each other."""
    value = rng.choice(ODD[:20])
    for _ in range(levels):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def mutated(rng, value, share=0.1):
    """JSON like the given one, with odd values in some places, and some places gone or doubled."""
    if rng.random() < share:
        return deep(rng, rng.choice([3, 60])) if rng.random() < 0.1 else rng.choice(ODD)
    if isinstance(value, dict):
        content = {}
        for key, inner in value.items():
            if rng.random() < share / 3:
                continue
            name = (
                key
                if rng.random() > share / 3
                else rng.choice(["", key.upper(), key + "s", "\x1b"])
            )
            content[name] = mutated(rng, inner, share)
        return content
    if isinstance(value, list):
        inner = [mutated(rng, item, share) for item in value if rng.random() > share / 3]
        return inner * rng.choice([1, 1, 1, 2])
    return value


TOKENS = [
    b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[2J", b'"', b"'", b"{", b"}", b"[", b"]", b":", b"\n",
    b"\t", b"- ", b": ", b"? ", b"&a ", b"*a ", b"!!", b"!!python/name:os.system ", b"%", b"@", b"|\n",
    b"<<: ", b"---\n", b"...\n", b"${", b"${oc.env:HOME}", b"${a}", b"#", b"1e999", b".nan", b"~",
    b"[" * 200, b"{a: " * 120, b"9" * 5000,
]  # fmt: skip


def damaged(rng, content):
    """Bytes like the given ones: some flipped, cut, put in, doubled or gone."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        at = rng.randrange(len(content) + 1)
        end = min(len(content), at + rng.choice([1, 1, 4, 40]))
        kind = rng.randrange(6)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at:at] = rng.choice(TOKENS)
        elif kind == 2:
            del content[at:end]
        elif kind == 3:
            content[at:at] = content[at:end]
        elif kind == 4:
            content[at:end] = rng.randbytes(end - at)
        elif rng.random() < 0.3:
            del content[at:]
    return bytes(content)
