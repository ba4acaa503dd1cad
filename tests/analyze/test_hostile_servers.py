"""A judge's server that sends anything at all: counted or bounded, never a traceback or a key."""

import asyncio
import base64
import gzip
import itertools
import json
import time
import tracemalloc
import zlib
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from email.utils import formatdate

import pytest
from answer_rows import answer
from judge_server import completion, well_formed
from mutations import draws, mutated

from megaprune.analyze.answer import MOST_BYTES, retry_after
from megaprune.analyze.client import Client, Completion, NoReply, TooLong
from megaprune.analyze.judge import MalformedReply, read_reply, reply_schema
from megaprune.analyze.judging import ReplyStore, _read
from megaprune.analyze.settings import Endpoint
from megaprune.cli.main import main
from megaprune.errors import InputError

KEY = "sk-secret-0123456789"
PASSWORD = "pass/w:rd@5813"
STEPS = 3
MESSAGES = [{"role": "user", "content": "# Thought\n\n[1] a\n\n[2] b\n\n[3] c"}]
GOOD = {
    "phases": [{"behaviour": 1, "first": 1, "last": 2}, {"behaviour": 5, "first": 3, "last": 3}]
}


def ask(server, **more):
    """One question: what came of it, and whether the client could be asked again."""

    async def asked():
        client = Client(
            Endpoint(server.url, "judge", KEY, **{"timeout": 5.0, "retries": 0, **more})
        )
        try:
            return await client.ask(MESSAGES, 100, reply_schema(STEPS))
        finally:
            await client.close()

    return asyncio.run(asked())


def outcome(server, **more):
    try:
        return ask(server, **more)
    except (NoReply, TooLong, InputError) as error:
        result = error
    assert KEY not in str(result)
    assert len(str(result)) < 1500
    return result


@pytest.fixture
def analyze(write, tmp_path, capsys, monkeypatch):
    """(url, *more) -> status, analysis or None, what was said; no secret is anywhere."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    before = write("before.parquet", [answer(str(n), [f"Step {n}."] * n) for n in range(1, 5)])

    def run(url, *more, secrets=(KEY,)):
        out = tmp_path / "out"
        status = main(
            ["analyze", str(before), "--out", str(out), "--endpoint", url, "--model", "judge",
             "--parallel", "1", "--retries", "0", *map(str, more)]
        )  # fmt: skip
        said = "".join(capsys.readouterr())
        written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
        for secret in secrets:
            assert secret not in said
            assert not any(secret.encode() in content for content in written)
        assert not set(said) & set(map(chr, [*range(9), *range(11, 32), *range(127, 160)]))
        analysis = out / "analysis.json"
        return status, json.loads(analysis.read_text()) if analysis.exists() else None, said

    return run


CHOICE = completion(json.dumps(GOOD))["choices"][0]
WRONG = {
    "null": "null", "number": "5", "text": '"text"', "list": "[]", "nothing": "", "html": "<html>",
    "two": "{}{}", "nan": "NaN", "digits": "9" * 5000, "not utf-8": b'{"choices": "\xff\xfe"}',
    "utf-16 half": b"\xff\xfe{", "nul": b"\x00" * 100, "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000, "deep choices": '{"choices":' + "[" * 5000 + "]" * 5000 + "}",
    "no choices": "{}", "choices null": '{"choices": null}', "choices text": '{"choices": "abc"}',
    "choices object": '{"choices": {"0": {}}}', "choices empty": '{"choices": []}',
    "choice null": '{"choices": [null]}', "choice text": '{"choices": ["a"]}',
    "choice list": '{"choices": [[]]}', "no message": '{"choices": [{}]}',
    "message text": '{"choices": [{"message": "a"}]}', "message list": '{"choices": [{"message": []}]}',
    "error in 200": '{"error": {"message": ["a"], "code": {}, "param": 5}}',
    "error deep": '{"error": {"message": ' + "[" * 800 + "]" * 800 + "}}",
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("status", [200, 400, 429, 500])
def test_what_is_no_completion(serve, name, status):
    begin = time.monotonic()
    result = outcome(serve(lambda *_: (status, {}, WRONG[name])))
    assert isinstance(result, (NoReply, InputError))
    assert time.monotonic() - begin < 10  # nothing is waited for, but machines are slow


USAGES = [
    None, [], "a", 5, {}, {"prompt_tokens": "5"}, {"prompt_tokens": [1]}, {"prompt_tokens": -1},
    {"prompt_tokens": 1.5}, {"prompt_tokens": True}, {"prompt_tokens": float("nan")},
    {"prompt_tokens": float("inf")}, {"prompt_tokens": 10**40}, {"prompt_tokens": {}},
]  # fmt: skip


@pytest.mark.parametrize("usage", USAGES)
def test_usage_of_any_form(serve, usage):
    said = {"choices": [CHOICE], "usage": usage}
    result = ask(serve(lambda *_: (200, {}, json.dumps(said))))
    assert result.text == json.dumps(GOOD)
    assert (result.tokens_in, result.tokens_out) == (None, None)


@pytest.mark.parametrize(
    "finish",
    [None, 5, [], {}, "", "too long for the judge", "\x1b[2J", "x" * 1000, "no reply", True],
)
def test_reasons_of_any_form(serve, finish):
    """Also our own words for what was not asked: they would keep a thought from being asked."""
    said = {"choices": [CHOICE | {"finish_reason": finish}]}
    result = ask(serve(lambda *_: (200, {}, json.dumps(said))))
    assert result.finish == "unknown"


@pytest.mark.parametrize("text", [None, 5, [], {"text": "a"}, True, ["a"]])
def test_texts_of_any_form(serve, text):
    said = {"choices": [{"message": {"content": text}}]}
    assert ask(serve(lambda *_: (200, {}, json.dumps(said)))).text == ""


REPLIES = {
    "deep": '{"phases": [{"behaviour": ' + "[" * 450 + "]" * 450 + "}]}",
    "deeper": '{"phases": ' + "[" * 5000,
    "objects": '{"a":' * 200_000,
    "braces": "{" * 1_000_000,
    "half text": '{"a":"' * 300_000,
    "large number": '{"phases": [{"behaviour": 1, "first": 1, "last": 1' + "0" * 4000 + "}]}",
    "larger number": '{"phases": [{"behaviour": ' + "9" * 5000 + "}]}",
    "float": '{"phases": [{"behaviour": 1.0, "first": 1, "last": 3}]}',
    "infinite": '{"phases": [{"behaviour": Infinity, "first": 1, "last": 3}]}',
    "text": '{"phases": [{"behaviour": "1", "first": "1", "last": "3"}]}',
    "true": '{"phases": [{"behaviour": true, "first": true, "last": true}]}',
    "phases text": '{"phases": ["a", "b"]}',
    "many": json.dumps({"phases": [{"behaviour": 1, "first": 1, "last": 1}] * 100_000}),
    "escapes": "\x1b]0;title\x07" + '{"phases": [{"behaviour": "\x1b[31m"}]}',
    "half of a pair": '{"phases": [{"behaviour": "\\ud800"}]}',
    "\ud800": "\ud800",
}


@pytest.mark.parametrize("name", REPLIES)
def test_replies_that_are_malformed(name):
    begin = time.monotonic()
    with pytest.raises(MalformedReply) as error:
        read_reply(REPLIES[name], STEPS)
    assert time.monotonic() - begin < 2
    assert len(str(error.value)) < 300


def test_a_malformed_reply_is_counted_and_said_without_its_characters(analyze, serve):
    """Kept, asked for again twice, and no more in the next run: no trap, and no escape code."""
    replies = itertools.cycle(REPLIES.values())
    server = serve(lambda *_: (200, {}, completion(next(replies))))
    status, found, said = analyze(server.url, "--answers", 2)
    assert status == 1
    assert "none of 4 answers can be used" in said
    asked = len(server.bodies)
    assert asked == 6
    assert analyze(server.url, "--answers", 2)[0] == 1
    assert len(server.bodies) == asked


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2.0), (" 2 ", 2.0), ("0", 0.0), ("1.5", 1.5), ("007", 7.0), ("9" * 20, 1e20),
        ("9" * 400, float("inf")), ("-5", None), ("+5", None), ("1e9", None), ("inf", None),
        ("nan", None), ("0x10", None), ("²", None), ("٣", None), ("1,5", None), ("1 2", None),
        ("", None), (" ", None), ("soon", None), ("12.", None), (".5", None), ("1_000", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Wed, 21 Oct 2015 07:28:00", 0.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None), ("Wed, 21 Oct 99999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 99:99:99 GMT", None), ("Wed, 21 Oct 2015 07:28:00 +9999999", None),
        ("Wed, 21 Oct", None), ("Mon", None), (", , ,", None), ("1" * 50_000, float("inf")),
    ],
)  # fmt: skip
def test_retry_after(header, seconds):
    assert retry_after(header) == seconds


def test_retry_after_a_date():
    assert 50 < retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60
    there = datetime.now(timezone(timedelta(hours=9))) + timedelta(seconds=60)
    assert 50 < retry_after(there.strftime("%a, %d %b %Y %H:%M:%S +0900")) <= 60


@pytest.mark.parametrize(
    "header", ["601", "86400", "99999999999999", "9" * 300, "Fri, 31 Dec 9999 23:59:59 GMT"]
)
def test_a_pause_that_is_too_long_is_not_waited_for(serve, header):
    server = serve(lambda *_: (429, {"Retry-After": header}, "slow down"))
    begin = time.monotonic()
    with pytest.raises(NoReply, match=r"asks for a pause of .* 600 s are waited at most"):
        ask(server, retries=5)
    assert time.monotonic() - begin < 2
    assert len(server.bodies) == 1


@pytest.mark.parametrize("header", ["-5", "nan", "soon", "Wed, 99 Oct 2015 07:28:00 GMT"])
def test_a_pause_that_is_none(serve, header):
    """Is our own."""
    server = serve(
        lambda body, n: (429, {"Retry-After": header}, "") if n == 0 else well_formed(body)
    )
    assert isinstance(ask(server, retries=1), Completion)


PACKED = {
    "gzip": lambda content: gzip.compress(content, 9),
    "x-gzip": lambda content: gzip.compress(content, 9),
    "deflate": lambda content: zlib.compress(content, 9),
}


@pytest.mark.parametrize("packing", PACKED)
def test_packed_replies(serve, packing):
    said = PACKED[packing](json.dumps(completion(json.dumps(GOOD))).encode())
    server = serve(lambda *_: (200, {"Content-Encoding": packing}, said))
    assert ask(server).text == json.dumps(GOOD)
    assert server.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("status", [200, 500])
def test_bombs(serve, packing, status):
    bomb = PACKED[packing](b" " * (1 << 29))
    assert len(bomb) < 1 << 20
    server = serve(lambda *_: (status, {"Content-Encoding": packing}, bomb))
    tracemalloc.start()
    begin = time.monotonic()
    result = outcome(server)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"more than {MOST_BYTES} bytes" in str(result)
    assert time.monotonic() - begin < 20
    assert peak < 4 * MOST_BYTES


@pytest.mark.parametrize(
    ("packing", "content"),
    [
        ("br", b"\x1b\xff\xff\xff"), ("zstd", b"\x28\xb5\x2f\xfd"), ("gzip, gzip", b"\x1f\x8b"),
        ("compress", b"x"), ("\x7f", b"x"), ("gzip", b"not packed"), ("deflate", b"\x00\x01"),
        ("GZIP", b"\x1f\x8b\x08\x00 and then not"), ("utf-8", b"{}"),
    ],
)  # fmt: skip
def test_packed_as_nobody_asked(serve, packing, content):
    result = outcome(serve(lambda *_: (200, {"Content-Encoding": packing}, content)))
    assert isinstance(result, NoReply)
    assert "packed" in str(result) or "Protocol" in str(result)


def test_a_packed_reply_that_is_cut(serve):
    said = gzip.compress(json.dumps(completion("a" * 5000)).encode())[:-20]
    assert isinstance(outcome(serve(lambda *_: (200, {"Content-Encoding": "gzip"}, said))), NoReply)


def test_a_body_without_end(serve):
    sent = itertools.count()

    def endless():
        while next(sent) < 10_000:
            yield b"x" * (1 << 20)

    result = outcome(serve(lambda *_: (200, {}, endless())))
    assert f"more than {MOST_BYTES} bytes" in str(result)
    assert next(sent) < 100


@pytest.mark.parametrize("pause", [0.2, 100])
def test_a_body_that_trickles(serve, pause):
    """Each part comes in time, and the whole does not."""

    def slow():
        for part in itertools.repeat(b" ", 100):
            yield part
            time.sleep(min(pause, 3))

    begin = time.monotonic()
    result = outcome(serve(lambda *_: (200, {}, slow())), timeout=1.0)
    assert "no reply in 1 s" in str(result)
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (200, {"Content-Length": "10"}, "{}"), (200, {"Content-Length": "-1"}, "{}"),
        (200, {"Content-Length": "a"}, "{}"), (200, {"Transfer-Encoding": "chunked"}, "zz\r\n"),
        (200, {"X": "y" * 200_000}, "{}"), (204, {}, ""), (999, {}, "{}"), (600, {}, "no"),
        (200, {"Content-Type": "text/event-stream"}, "data: {}\n\n"), (418, {}, "tea"),
    ],
)  # fmt: skip
def test_http_that_is_none(serve, status, headers, said):
    result = outcome(serve(lambda *_: (status, headers, said)), timeout=2.0)
    assert isinstance(result, (NoReply, InputError))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 304])
def test_a_key_is_not_sent_elsewhere(analyze, serve, status):
    other = serve()
    place = other.url.replace("127.0.0.1", "localhost") + "/chat/completions"
    server = serve(lambda *_: (status, {"Location": place}, ""))
    ended, _, said = analyze(server.url)
    assert ended == 1
    assert f"refuses the request (status {status}" in said
    assert "sent nowhere else" in said
    assert other.headers == []


ENCODED = "pass%2Fw%3Ard%405813"
PASSWORDS = {
    "user and password": (f"user:{ENCODED}@", "user:" + PASSWORD, [PASSWORD, ENCODED]),
    "password alone": (f":{ENCODED}@", ":" + PASSWORD, [PASSWORD, ENCODED]),
    "name alone": ("token-58135813@", "token-58135813:", ["token-58135813"]),
    "short password": ("user:abcd@", "user:abcd", ["user:abcd", "dXNlcjphYmNk"]),
    "unicode": ("us%C3%A9r:p%C3%A4ssword@", "usér:pässword", ["pässword", "p%C3%A4ssword"]),
}


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500])
@pytest.mark.parametrize("name", PASSWORDS)
def test_what_a_server_echoes(analyze, serve, name, status):
    """All that it was sent: in an error's message and in a reply's text."""
    given, sent, secrets = PASSWORDS[name]
    sent = base64.b64encode(sent.encode()).decode()

    def judge(*_):
        heard = " ".join(f"{k}: {v}" for k, v in server.headers[-1].items())
        everything = f"{heard} {' '.join(secrets)} http://{given}host/v1 {KEY} {KEY[3:15]}"
        if status == 200:
            return 200, {}, completion(everything)
        return status, {}, {"error": {"message": everything}}

    server = serve(judge)
    url = server.url.replace("http://", f"http://{given}")
    _, _, said = analyze(url, secrets=[*secrets, sent, KEY, KEY[3:15]])
    assert server.headers[0]["Authorization"] == f"Basic {sent}"
    assert "***" in said or status == 200


def test_a_password_is_not_kept(analyze, serve):
    server = serve()
    url = server.url.replace("http://", f"http://user:{ENCODED}@")
    status, found, _ = analyze(url, secrets=[PASSWORD, ENCODED, "user:"])
    assert status == 0
    assert found["settings"]["endpoint"] == server.url.replace("http://", "http://***@")


@pytest.mark.parametrize(
    "url",
    [
        "http://user:{}@", "user:{}@host/v1", "http://user:{}@host:port/v1", "ftp://user:{}@host/v1",
        "http://user:{}@host/v1?a=b", "http://user:{}@host/v1#a", "http://user:{} @host/v1",
        "http://user:{}@[::1/v1", "http://user:{}@host:99999/v1", "http://user:a/{}@host/v1",
        "http://user:a?{}@host/v1", "http://user:a#{}@host/v1", "//user:{}@host", "{}@", "@{}@",
        "http://user:{}\x00@host/v1", "http://host/v1?key={}", "https://user:{}@@host:x/v1",
        "http://user:[{}@host/v1", "HTTP://user:{}@/v1", "http://user:12/{}@host/v1",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_one(analyze, url):
    status, found, said = analyze(url.format("hush5813hush"), secrets=["hush5813hush", "5813"])
    assert (status, found) == (1, None)
    assert "--endpoint" in said or "no reply" in said


@pytest.mark.parametrize(
    "proxy",
    ["foo://u:hush5813@host", "http://u:hush5813@host:port", "socks5://u:hush5813@h:1", "::"],
)
def test_a_proxy_that_cannot_be_one(analyze, monkeypatch, proxy):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("NO_PROXY", "elsewhere")
    monkeypatch.setenv("no_proxy", "elsewhere")
    status, _, said = analyze("http://judge.invalid/v1", "--timeout", 2, secrets=["hush5813"])
    assert status == 1
    assert "Traceback" not in said


def test_representations_have_no_secrets():
    shown = repr(Endpoint(f"http://user:{ENCODED}@host/v1", "judge", KEY))
    assert KEY not in shown
    assert ENCODED not in shown


BAD_LINES = [
    b"", b"{}", b"null", b"5", b"[]", b'"a"', b"\xff\xfe", b"\x00", b"{" * 10, b"[" * 100_000,
    b'{"thought": 5}', b"not json", b"\x1b[2J", b'{"a":' * 50_000,
]  # fmt: skip
CHANGES = [
    ("thought", 5), ("thought", None), ("model", None), ("prompt", []), ("text", None),
    ("text", {"a": 1}), ("finish", 5), ("attempt", "1"), ("attempt", None), ("tokens_in", "5"),
    ("tokens_in", -1), ("tokens_in", [1]), ("tokens_out", 1.5), ("tokens_out", True),
    ("tokens_out", float("nan")), ("tokens_in", 10**40),
]  # fmt: skip


def poisoned(line, kind):
    if isinstance(kind, bytes):
        return kind
    row = json.loads(line)
    row[kind[0]] = kind[1]
    return json.dumps(row).encode()


@pytest.mark.parametrize("bad", [*BAD_LINES, *CHANGES], ids=lambda bad: repr(bad)[:40])
def test_lines_that_are_no_replies_are_passed_over(tmp_path, capsys, bad):
    store = ReplyStore(tmp_path, "judge", "prompt")
    for thought in "abc":
        reply = {"text": "{}", "finish": "stop", "tokens_in": 1, "tokens_out": None}
        store.add(thought, {"attempt": 1, **reply, "structured": True})
    store.close()
    kept = tmp_path / "replies.jsonl"
    first, second, third = kept.read_bytes().splitlines()
    kept.write_bytes(b"\n".join([first, poisoned(second, bad), third, b""]))
    store = ReplyStore(tmp_path, "judge", "prompt")
    assert [row["thought"] for row in store.all()] == ["a", "c"]
    store.close()
    assert "line 2 is no reply of a judge" in capsys.readouterr().err


def test_what_is_passed_over_is_asked_again(analyze, serve, tmp_path):
    server = serve()
    assert analyze(server.url)[0] == 0
    kept = tmp_path / "out" / "replies.jsonl"
    lines = kept.read_bytes().splitlines()
    lines[1:3] = [poisoned(lines[1], ("text", None)), b"\xff" * 9]
    kept.write_bytes(b"\n".join([*lines, b""]))
    status, found, said = analyze(server.url)
    assert status == 0, said
    assert "line 2, 3 is no reply of a judge" in said
    assert len(server.bodies) == 6
    assert found["inputs"][0]["answers"] == 4


def test_replies_lead_nowhere_else(analyze, serve, tmp_path):
    outside = tmp_path / "mine.jsonl"
    outside.write_text("my notes")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "replies.jsonl").symlink_to(outside)
    assert analyze(serve().url)[0] == 1
    assert outside.read_text() == "my notes"


def test_words_of_a_server_on_the_terminal(analyze, serve):
    words = "\x1b[2J\x1b]0;owned\x07 \x9b31m \r\x08 \u202e evil \u2028 done"
    status, _, said = analyze(serve(lambda *_: (422, {}, {"error": {"message": words}})).url)
    assert status == 1
    assert r"\x1b[2J\x1b]0;owned\x07" in said
    assert "\u202e" not in said


def test_any_reply_is_counted_or_bounded(serve, tmp_path):
    """Of mutated replies: a completion that can be kept and read again, or one of three errors."""
    server, kinds = serve(), {}
    (tmp_path / "replies").mkdir()
    endpoint = Endpoint(server.url, "judge", KEY, timeout=10.0, retries=0)

    async def tried(client, rng):
        said = mutated(rng, completion(json.dumps(mutated(rng, GOOD))) | {"id": KEY})
        if rng.random() < 0.3:
            said = {"error": mutated(rng, {"message": "a", "code": "b", "param": "c"})}
        said = json.dumps(said)
        status = rng.choice([200, 200, 200, 400, 429, 500])
        header = rng.choice(["0", "x", "-1", "9" * 30, "Wed, 21 Oct 2015 07:28:00 GMT"])
        server.answer = lambda *_: (status, {"Retry-After": header}, said)
        begin = time.monotonic()
        try:
            return await client.ask(MESSAGES, 100, reply_schema(STEPS))
        except (NoReply, TooLong, InputError) as error:
            return error
        finally:
            assert time.monotonic() - begin < 5

    async def all_of_them():
        results = []
        drawn = draws(300)
        for begin in range(0, len(drawn), 50):  # a client that leaves no option out yet
            client = Client(endpoint)
            results += [await tried(client, rng) for rng in drawn[begin : begin + 50]]
            await client.close()
        return results

    store = ReplyStore(tmp_path / "replies", "judge", "prompt")
    for number, result in enumerate(asyncio.run(all_of_them())):
        assert KEY not in str(result)
        kinds[type(result).__name__] = kinds.get(type(result).__name__, 0) + 1
        if isinstance(result, Completion):
            store.add(str(number), {"attempt": 1, **asdict(result)})
    kept = store.all()
    store.close()
    again = ReplyStore(tmp_path / "replies", "judge", "prompt")
    assert again.all() == kept
    for row in kept:
        assert isinstance(_read([row], STEPS), list | MalformedReply)
    again.close()
    assert {"Completion", "NoReply"} <= kinds.keys()
