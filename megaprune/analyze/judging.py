"""A judge is asked about many thoughts at once, and what it says is kept.

The outcome of a thought is read from the replies on disk, whether they came now or before a kill.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megaprune import schema
from megaprune.analyze.answer import token_count
from megaprune.analyze.client import Client, NoReply, TooLong
from megaprune.analyze.judge import (
    MalformedReply,
    ThoughtPhase,
    messages,
    read_reply,
    reply_schema,
    thought_digest,
)
from megaprune.analyze.settings import JudgeLimits, warn
from megaprune.analyze.thoughts import Thought
from megaprune.errors import InputError

ATTEMPTS = 3
"""Replies about a thought at most: malformed ones are asked for again."""

TOO_LONG = "too long for the judge"
NO_REPLY = "no reply"
NOT_ASKED = "not asked (--limit-cost)"
MALFORMED = "malformed reply: "

_MOST_IN_A_ROW = 3
"""Thoughts without a reply, before the endpoint is given up."""

_SAY_EVERY = 30.0  # seconds


class Judging:
    """Has a judge sort thoughts.

    Args:
        client: the connection to the judge.
        replies: the store of what the judge says.
        limits: what asking may take.
    """

    def __init__(self, client: Client, replies: ReplyStore, limits: JudgeLimits):
        self._client, self._replies, self._limits = client, replies, limits
        self._asking = 0
        self._unanswered: set[str] = set()
        self._in_a_row = 0
        self._ended = False
        self._failure: BaseException | None = None
        self._said = time.monotonic()

    async def ask(self, thoughts: Sequence[Thought]) -> None:
        """Ask until each thought has a well-formed reply, or as many as it may have.

        Raises:
            InputError: the endpoint will not answer. What it said until then is kept.
        """
        todo = iter({thought_digest(thought): thought for thought in thoughts}.items())
        workers = [asyncio.create_task(self._work(todo)) for _ in range(self._limits.parallel)]
        # Requests on their way are paid for: when one worker fails, the others keep their replies.
        await asyncio.gather(*workers, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    def outcome(self, thought: Thought) -> list[ThoughtPhase] | str:
        """Return a thought's phases, or say why there are none."""
        digest = thought_digest(thought)
        phases = _read(self._replies.of(digest), len(thought.steps))
        if not isinstance(phases, MalformedReply):
            return phases
        if phases.kind == TOO_LONG:
            return TOO_LONG
        if len(self._replies.of(digest)) < ATTEMPTS:
            return NO_REPLY if digest in self._unanswered else NOT_ASKED
        return MALFORMED + phases.kind

    def faults(self, thoughts: Sequence[Thought]) -> Counter[str]:
        """Count all replies about thoughts by what was wrong with them, or as "well-formed"."""
        counts: Counter[str] = Counter()
        for digest, steps in {thought_digest(t): len(t.steps) for t in thoughts}.items():
            for row in self._replies.of(digest):
                reading = _read([row], steps)
                counts[reading.kind if isinstance(reading, MalformedReply) else "well-formed"] += 1
        return counts

    async def _work(self, todo: Iterator[tuple[str, Thought]]) -> None:
        try:
            for digest, thought in todo:
                await self._settle(digest, thought)
                if self._ended:
                    return
        except BaseException as error:
            self._ended, self._failure = True, self._failure or error
            self._client.stop()
            raise

    async def _settle(self, digest: str, thought: Thought) -> None:
        """Ask about one thought until it needs no further reply."""
        while True:
            rows = self._replies.of(digest)
            reading = _read(rows, len(thought.steps))
            if (
                not isinstance(reading, MalformedReply)
                or reading.kind == TOO_LONG
                or len(rows) >= ATTEMPTS
            ):
                return
            if self._ended or not self._affordable():
                return
            self._asking += 1
            try:
                row = await self._reply(thought)
            except NoReply as error:
                self._missed(digest, error)
                return
            finally:
                self._asking -= 1
            self._in_a_row = 0
            self._replies.add(digest, {"attempt": len(rows) + 1, **row})
            self._say()

    async def _reply(self, thought: Thought) -> dict[str, Any]:
        steps = len(thought.steps)
        before = [_read([row], steps) for row in self._replies.of(thought_digest(thought))]
        conversation = messages(thought, [str(fault) for fault in before])
        tokens = self._limits.reply_tokens or 256 + 32 * steps
        try:
            return asdict(await self._client.ask(conversation, tokens, reply_schema(steps)))
        except TooLong as error:
            none: dict[str, Any] = dict.fromkeys(("tokens_in", "tokens_out"), 0)
            return {"text": str(error), "finish": TOO_LONG, "structured": False, **none}

    def _affordable(self) -> bool:
        """Tell whether one more reply, at the mean cost, and those underway stay in the limit."""
        rows = self._replies.all()
        cost, limit = self._limits.cost(rows), self._limits.limit_cost
        if limit is None or cost is None:
            return True
        if any(row["tokens_in"] is None or row["tokens_out"] is None for row in rows):
            raise InputError(
                "the endpoint does not say how many tokens it used, and so --limit-cost cannot be "
                "held; do without it"
            )
        mean = cost / len(rows) if rows else 0.0
        if cost < limit and cost + mean * (self._asking + 1) <= limit:
            return True
        self._ended = True
        warn(f"{cost:.4f} was spent, and --limit-cost is {limit:g}: nothing more is asked")
        return False

    def _missed(self, digest: str, error: NoReply) -> None:
        self._unanswered.add(digest)
        self._in_a_row += 1
        if self._ended:
            return
        if self._in_a_row >= _MOST_IN_A_ROW:
            raise InputError(
                f"no reply to {self._in_a_row} requests in a row, the last of them from {error}. "
                f"See that the endpoint is well; the same command goes on from where this was"
            ) from error
        warn(f"no reply about a thought from {error}; the same command asks for it again")

    def _say(self) -> None:
        if time.monotonic() - self._said < _SAY_EVERY:
            return
        self._said, rows = time.monotonic(), self._replies.all()
        cost = self._limits.cost(rows)
        spent = "" if cost is None else f", {cost:.4f} spent"
        print(f"{len(rows)} replies{spent}", file=sys.stderr)


def _read(rows: Sequence[Mapping[str, Any]], steps: int) -> list[ThoughtPhase] | MalformedReply:
    """Read the first reply that is well-formed; if none is, say what is wrong with the last."""
    fault = MalformedReply(NO_REPLY, "not asked yet")
    if steps == 0:
        return []
    for row in rows:
        try:
            return _phases(row, steps)
        except MalformedReply as error:
            fault = error
    return fault


def _phases(row: Mapping[str, Any], steps: int) -> list[ThoughtPhase]:
    if row["finish"] == TOO_LONG:
        raise MalformedReply(TOO_LONG, row["text"])
    try:
        return read_reply(row["text"], steps)
    except MalformedReply as error:
        if row["finish"] == "length":
            raise MalformedReply("cut off", "it was longer than --reply-tokens") from error
        raise


class ReplyStore:
    """The replies of a judge, one a line in replies.jsonl; this process's alone until `close`.

    Each line has the judge's model, the digests of the prompt and of the thought, the number of the
    attempt, and what the judge said. What is no such line is passed over, with a warning, and asked
    for again.

    Args:
        folder: the folder, which must exist.
        model: the judge's model.
        prompt: the digest of the prompt.

    Raises:
        InputError: the replies there are another model's, or to another prompt, or another process
            has the store open.
    """

    def __init__(self, folder: Path, model: str, prompt: str):
        self._path = folder / schema.REPLIES_FILE
        self._whose = {"model": model, "prompt": prompt}
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(self._path, flags, 0o644), "a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise InputError(f"another process is at {folder}; wait, or end it") from error
        self._rows: dict[str, list[dict[str, Any]]] = {}
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def of(self, thought: str) -> list[dict[str, Any]]:
        """The replies about a thought, by its digest, in the order of the attempts."""
        return self._rows.get(thought, [])

    def all(self) -> list[dict[str, Any]]:
        """All replies."""
        return [row for rows in self._rows.values() for row in rows]

    def add(self, thought: str, row: Mapping[str, Any]) -> None:
        """Keep a reply; it is on disk when this returns."""
        whole = {"thought": thought, **self._whose, **row}
        self._file.write(json.dumps(whole).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._rows.setdefault(thought, []).append(whole)

    def close(self) -> None:
        """Let other processes have the store."""
        self._file.close()

    def _read(self) -> None:
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        torn = lines.pop()
        if torn:
            # By a kill: the next reply must not be joined to it.
            self._file.truncate(self._file.tell() - len(torn))
        bad = []
        for number, line in enumerate(lines, 1):
            row = _row(line)
            if row is None:
                bad.append(number)
                continue
            self._check(row)
            self._rows.setdefault(row["thought"], []).append(row)
        if bad:
            shown = ", ".join(map(str, bad[:5])) + (f" and {len(bad) - 5} more" if bad[5:] else "")
            warn(
                f"{self._path}: what is in line {shown} is no reply of a judge; it is passed over, "
                f"and asked for again"
            )

    def _check(self, row: Mapping[str, Any]) -> None:
        whose = {name: row[name] for name in self._whose}
        if whose != self._whose:
            raise InputError(
                f"{self._path} has replies of {whose['model']} to prompt {whose['prompt']}, not of "
                f"{self._whose['model']} to prompt {self._whose['prompt']}; give another --out"
            )


_TEXTS = ("thought", "model", "prompt", "text", "finish")
_COUNTS = ("tokens_in", "tokens_out")


def _row(line: bytes) -> dict[str, Any] | None:
    """Read a line of replies.jsonl; None if it is no reply."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in _TEXTS):
        return None
    counts = {name: token_count(row.get(name)) for name in _COUNTS}
    if not isinstance(row.get("attempt"), int) or any(row.get(n) != counts[n] for n in counts):
        return None
    return row | counts
