"""A judge asked about many thoughts at once, and what its replies come to.

What a thought came to is read from the replies that are on disk, whether they came now or before a
kill.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from megaprune.analyze.client import Client, NoReply, TooLong
from megaprune.analyze.judge import (
    Malformed,
    Phase,
    messages,
    read_reply,
    schema,
    thought_digest,
)
from megaprune.analyze.replies import Replies
from megaprune.analyze.settings import Means, warn
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
        client: speaks to it.
        replies: keeps what it says.
        means: what that may take.
    """

    def __init__(self, client: Client, replies: Replies, means: Means):
        self._client, self._replies, self._means = client, replies, means
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
        workers = [asyncio.create_task(self._work(todo)) for _ in range(self._means.parallel)]
        # Requests on their way are paid for: when one worker fails, the others keep their replies.
        await asyncio.gather(*workers, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    def outcome(self, thought: Thought) -> list[Phase] | str:
        """A thought's phases, or why there are none."""
        digest = thought_digest(thought)
        found = _read(self._replies.of(digest), len(thought.steps))
        if not isinstance(found, Malformed):
            return found
        if found.kind == TOO_LONG:
            return TOO_LONG
        if len(self._replies.of(digest)) < ATTEMPTS:
            return NO_REPLY if digest in self._unanswered else NOT_ASKED
        return MALFORMED + found.kind

    def faults(self, thoughts: Sequence[Thought]) -> Counter[str]:
        """All replies about thoughts by what was wrong with them; "well-formed" if nothing was."""
        found: Counter[str] = Counter()
        for digest, steps in {thought_digest(t): len(t.steps) for t in thoughts}.items():
            for row in self._replies.of(digest):
                one = _read([row], steps)
                found[one.kind if isinstance(one, Malformed) else "well-formed"] += 1
        return found

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
        """Ask about one thought until that is enough."""
        while True:
            rows = self._replies.of(digest)
            found = _read(rows, len(thought.steps))
            if not isinstance(found, Malformed) or found.kind == TOO_LONG or len(rows) >= ATTEMPTS:
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
        asked = messages(thought, [str(fault) for fault in before])
        tokens = self._means.reply_tokens or 256 + 32 * steps
        try:
            return asdict(await self._client.ask(asked, tokens, schema(steps)))
        except TooLong as error:
            none: dict[str, Any] = dict.fromkeys(("tokens_in", "tokens_out"), 0)
            return {"text": str(error), "finish": TOO_LONG, "structured": False, **none}

    def _affordable(self) -> bool:
        """Whether one more, at the mean cost, and those on their way stay within the limit."""
        rows = self._replies.all()
        cost, limit = self._means.cost(rows), self._means.limit_cost
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
        cost = self._means.cost(rows)
        spent = "" if cost is None else f", {cost:.4f} spent"
        print(f"{len(rows)} replies{spent}", file=sys.stderr)


def _read(rows: Sequence[Mapping[str, Any]], steps: int) -> list[Phase] | Malformed:
    """The phases of the first reply that is well-formed, or what is wrong with the last."""
    fault = Malformed(NO_REPLY, "not asked yet")
    if steps == 0:
        return []
    for row in rows:
        try:
            return _phases(row, steps)
        except Malformed as error:
            fault = error
    return fault


def _phases(row: Mapping[str, Any], steps: int) -> list[Phase]:
    if row["finish"] == TOO_LONG:
        raise Malformed(TOO_LONG, row["text"])
    try:
        return read_reply(row["text"], steps)
    except Malformed as error:
        if row["finish"] == "length":
            raise Malformed("cut off", "it was longer than --reply-tokens") from error
        raise
