"""A judge behind a real server, which answers well, badly, late or never."""

import fcntl
import json
import os
import signal
import subprocess
import time
from email.utils import formatdate

import pytest
from answer_rows import answer
from jobs import kill_when, megaprune, ran
from judge_server import behaviour, completion, steps_asked, well_formed

from megaprune.analyze.judge import BEHAVIOURS
from megaprune.cli.main import main

KEY = "sk-secret-0123456789"
STEPS = {
    "1": ["Add them.", "Let me check it.", "That is the answer."],
    "2": ["Add.", "Add.", "try another way", "so the answer"],
    "3": ["check", "check"],
    "4": ["one"],
}
BEFORE = [answer(name, steps) for name, steps in STEPS.items()]
AFTER = [answer(name, steps[-1:]) for name, steps in STEPS.items()]


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def before(write):
    return write("before.parquet", BEFORE)


@pytest.fixture
def analyze(before, tmp_path, capsys):
    """(server, *more) -> status, analysis or None, what was said."""

    def run(server, *more, paths=(before,), out=tmp_path / "out"):
        status = main(
            ["analyze", *map(str, paths), "--out", str(out), "--endpoint", getattr(server, "url", server),
             "--model", "judge", "--parallel", "1", *map(str, more)]
        )  # fmt: skip
        said = "".join(capsys.readouterr())
        assert KEY not in said
        for path in out.rglob("*"):
            assert KEY.encode() not in path.read_bytes()
        analysis = out / "analysis.json"
        return status, json.loads(analysis.read_text()) if analysis.exists() else None, said

    return run


def replies(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out" / "replies.jsonl").open()]


def shown(steps):
    """Steps of each behaviour, by the server's rules."""
    names = list(BEHAVIOURS)
    found = [names[behaviour(step) - 1] for step in steps]
    return {name: found.count(name) for name in names}


def test_the_numbers(analyze, serve, write, before):
    server = serve()
    after = write("after.parquet", AFTER)
    arguments = ["--price-in", 2, "--price-out", 10, "--parallel", 3]
    status, found, said = analyze(server, *arguments, paths=(before, after))
    assert status == 0, said
    assert found["mode"] == "judge"
    for one, rows in zip(
        found["inputs"], (STEPS.values(), [s[-1:] for s in STEPS.values()]), strict=True
    ):
        counts = shown([step for steps in rows for step in steps])
        total = sum(counts.values())
        assert one["answers"] == 4
        assert one["steps"] == total / 4
        for name, part in one["behaviours"].items():
            assert part["steps"] == counts[name]
            assert part["share"] == pytest.approx(counts[name] / total)
            assert part["per_answer"] == counts[name] / 4
            assert part["interval"][0] <= part["per_answer"] <= part["interval"][1]
    # "one" and "check" are thoughts of before and after; the former about the same problem.
    assert len(server.bodies) == 7
    assert found["cost"] == {
        "replies": {"well-formed": 7}, "tokens_in": 700, "tokens_out": 70, "without_usage": 0,
        "cost": pytest.approx(700 * 2e-6 + 70 * 10e-6),
    }  # fmt: skip
    assert "7 well-formed; 700 tokens in, 70 out, 0.0021 spent" in said
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in server.headers)
    for body in server.bodies:
        steps = len(steps_asked(body))
        assert (body["model"], body["temperature"]) == ("judge", 0)
        assert body["max_tokens"] == 256 + 32 * steps
        json_schema = body["response_format"]["json_schema"]
        assert json_schema["strict"] is True
        assert json_schema["schema"]["properties"]["phases"]["maxItems"] == steps


def test_without_a_key_none_is_sent(analyze, serve, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server = serve()
    assert analyze(server)[0] == 0
    assert "Authorization" not in server.headers[0]


def test_malformed_replies_are_asked_for_again_and_counted(analyze, serve, tmp_path):
    """Thought 1: mended at the third; 2: never; 3 and 4: at once."""
    seen = {}

    def judge(body, _):
        steps = steps_asked(body)
        tries = seen[len(steps)] = seen.get(len(steps), 0) + 1
        if len(steps) == 3 and tries < 3:
            text = (
                "no idea"
                if tries == 1
                else '{"phases": [{"behaviour": 12, "first": 1, "last": 3}]}'
            )
            return 200, {}, completion(text)
        if len(steps) == 4:
            text = '{"phases": [{"behaviour": 1, "first": 1, "last": 3}]}' if tries < 3 else '{"pha'
            return 200, {}, completion(text, "stop" if tries < 3 else "length")
        return well_formed(body)

    server = serve(judge)
    status, found, said = analyze(server)
    assert status == 0, said
    (one,) = found["inputs"]
    assert one["left_out"] == {"malformed reply: cut off": 1}
    assert one["answers"] == 3
    assert one["behaviours"]["Finalize and Present the Answer"]["steps"] == 1
    expected = {"well-formed": 3, "gap": 2, "no JSON": 1, "unknown behaviour": 1, "cut off": 1}
    assert found["cost"]["replies"] == expected
    assert "left out: malformed reply: cut off" in said
    asked = [b["messages"][1]["content"] for b in server.bodies if len(steps_asked(b)) == 3]
    assert "# Note" not in asked[0]
    assert "no JSON" in asked[1]
    assert "unknown behaviour: number 12" in asked[2]
    assert [row["attempt"] for row in replies(tmp_path)].count(3) == 2
    # Nothing is asked again of a thought that had as many replies as it may have.
    assert analyze(server)[1] == found
    assert len(server.bodies) == 8


def test_thoughts_that_are_too_long(analyze, serve, write):
    def judge(body, _):
        if len(steps_asked(body)) == 4:
            return 400, {}, {"error": {"message": "too many", "code": "context_length_exceeded"}}
        if len(steps_asked(body)) == 2:
            words = "This model's maximum context length is 10 tokens."
            return 400, {}, {"error": {"message": words, "code": 400, "param": "input_tokens"}}
        return well_formed(body)

    server = serve(judge)
    rows = [*BEFORE, answer("5", ["a"] * 6), answer("6", "<think>\n\n</think>", closed=False)]
    path = write("long.parquet", rows)
    status, found, said = analyze(server, "--max-steps", 5, paths=(path,))
    assert status == 0, said
    (one,) = found["inputs"]
    assert one["left_out"] == {"too long for the judge": 2, "more than 5 steps (--max-steps)": 1}
    assert one["answers"] == 3  # the one without steps too, and nobody was asked about it
    assert one["steps"] == pytest.approx((3 + 1 + 0) / 3)
    assert len(server.bodies) == 4
    assert "asked without it" not in said


def test_a_pair_is_left_out_of_both(analyze, serve, write, before):
    def judge(body, _):
        return well_formed(body) if len(steps_asked(body)) < 4 else (200, {}, completion("no"))

    after = write("after.parquet", AFTER)
    _, found, _ = analyze(serve(judge), paths=(before, after))
    assert [one["left_out"] for one in found["inputs"]] == [
        {"malformed reply: no JSON": 1}, {"left out of another input": 1},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "refusal",
    [
        {"error": {"message": "json_schema is not supported", "param": "response_format.type"}},
        {"error": "unknown field response_format"},
        {"detail": "bad request"},
        "what?",
    ],
)
def test_a_server_without_structured_output(analyze, serve, refusal, tmp_path):
    def judge(body, _):
        return (400, {}, refusal) if "response_format" in body else well_formed(body)

    server = serve(judge)
    status, found, said = analyze(server, "--parallel", 4)
    assert status == 0, said
    assert found["inputs"][0]["answers"] == 4
    assert said.count("refuses response_format") == 1
    assert sum("response_format" in body for body in server.bodies) <= 4
    assert {row["structured"] for row in replies(tmp_path)} == {False}


def test_a_server_with_other_options(analyze, serve):
    """As OpenAI's reasoning models: no temperature, and another name for the limit."""

    def judge(body, _):
        if "max_tokens" in body:
            words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return 400, {}, {"error": {"message": words, "param": "max_tokens"}}
        if "temperature" in body:
            words = "Unsupported value: 'temperature' does not support 0."
            return 400, {}, {"error": {"message": words, "param": "temperature"}}
        return well_formed(body)

    server = serve(judge)
    status, found, said = analyze(server, "--reply-tokens", 99)
    assert status == 0, said
    assert (len(server.bodies), found["inputs"][0]["answers"]) == (6, 4)
    assert server.bodies[-1]["max_completion_tokens"] == 99
    assert "response_format" in server.bodies[-1]
    assert said.count("refuses temperature") == said.count("asked without it") == 1


def test_failures_that_pass(analyze, serve):
    """An error and a late reply to one request, then what is no completion, to two others."""

    def judge(body, number):
        if number == 1:
            time.sleep(6)
        troubles = {0: (500, {}, "no"), 3: (200, {}, "<html>"), 5: (200, {}, {"choices": []})}
        return troubles.get(number) or well_formed(body)

    server = serve(judge)
    begin = time.monotonic()
    # Long enough for a busy machine to answer in time.
    status, found, said = analyze(server, "--timeout", 4, "--retries", 2)
    assert status == 0, said
    assert (len(server.bodies), found["inputs"][0]["answers"]) == (8, 4)
    assert time.monotonic() - begin > 4 + 0.75 * (1 + 2 + 1 + 1)  # the second pause is longer
    assert found["cost"]["replies"] == {"well-formed": 4}


@pytest.mark.parametrize("form", ["2", "date"])
def test_retry_after_holds_for_all_requests(analyze, serve, form):
    times = []

    def judge(body, number):
        times.append(time.time())
        if number == 0:
            after = form if form == "2" else formatdate(time.time() + 3, usegmt=True)
            return 429, {"Retry-After": after}, {"error": {"message": "slow down"}}
        if number < 3:
            time.sleep(0.3)  # so that the others were sent before they could know
        return well_formed(body)

    status, found, said = analyze(serve(judge), "--parallel", 2, "--retries", 1)
    assert status == 0, said
    assert found["inputs"][0]["answers"] == 4
    assert sum(moment - times[0] < 1.9 for moment in times) == 2
    assert len(times) == 5


def test_requests_per_minute(analyze, serve):
    begin = time.monotonic()
    server = serve()
    assert analyze(server, "--requests-per-minute", 120, "--parallel", 4)[0] == 0
    assert len(server.bodies) == 4
    assert time.monotonic() - begin >= 1.5


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [
        (401, {"error": {"message": f"Incorrect key: {KEY}"}}, "does not accept the key in the environment variable OPENAI_API_KEY"),
        (403, {"error": "Forbidden"}, "does not accept the key"),
        (404, {"error": {"message": "no such model"}}, "has no model 'judge'"),
        (400, {"error": {"message": "no messages", "param": "messages"}}, "refuses the request (status 400, no messages)"),
        (422, {"detail": "odd"}, "refuses the request (status 422"),
        (307, "", "refuses the request (status 307"),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, "status 429, pay"),
    ],
)  # fmt: skip
def test_failures_that_stay(analyze, serve, status, said, words):
    """One request, one line."""
    server = serve(lambda *_: (status, {"Location": "/elsewhere"}, said))
    ended, found, printed = analyze(server)
    assert (ended, found, len(server.bodies)) == (1, None, 1)
    (line,) = printed.splitlines()
    assert line.startswith("megaprune: error: ")
    assert words in line


def test_a_key_with_a_line_break_is_not_shown(analyze, monkeypatch):
    monkeypatch.setenv("OTHER", KEY + "\n" + KEY)
    status, _, said = analyze("http://127.0.0.1:9/v1", "--key-variable", "OTHER")
    assert status == 1
    assert "environment variable OTHER has more than a key" in said


def test_a_server_that_is_not_there(analyze, serve, write):
    server = serve()
    server.close()
    status, found, said = analyze(server, "--retries", 1)
    assert (status, found) == (1, None)
    assert "no reply to 3 requests in a row" in said
    assert "the same command goes on" in said


def test_one_thought_without_a_reply(analyze, serve):
    """Is left out, and asked about again the next time."""

    def judge(body, _):
        return (503, {}, "busy") if len(steps_asked(body)) == 4 else well_formed(body)

    server = serve(judge)
    status, found, said = analyze(server, "--retries", 0)
    assert status == 0, said
    assert found["inputs"][0]["left_out"] == {"no reply": 1}
    assert "no reply about a thought from http://127.0.0.1" in said
    assert "status 503, busy" in said
    server.answer = lambda body, _: well_formed(body)
    status, found, _ = analyze(server)
    assert (found["inputs"][0]["left_out"], len(server.bodies)) == ({}, 5)


def test_limit_cost(analyze, serve):
    """A reply costs 0.01: of a limit of 0.025 two are asked for, then of 0.035 one more."""
    usage = {"usage": {"prompt_tokens": 10_000, "completion_tokens": 0}}
    server = serve(lambda body, _: (200, {}, well_formed(body)[2] | usage))
    prices = ["--price-in", 1, "--price-out", 1, "--limit-cost"]
    status, found, said = analyze(server, *prices, 0.025)
    assert status == 0, said
    assert len(server.bodies) == 2
    assert found["inputs"][0]["left_out"] == {"not asked (--limit-cost)": 2}
    assert found["cost"]["cost"] == pytest.approx(0.02)
    assert "0.0200 was spent, and --limit-cost is 0.025" in said
    assert analyze(server, *prices, 0.035)[1]["inputs"][0]["answers"] == 3
    assert analyze(server, *prices, 1, "--parallel", 4)[1]["inputs"][0]["answers"] == 4
    assert len(server.bodies) == 4


def test_limit_cost_needs_counted_tokens(analyze, serve):
    server = serve(lambda body, _: (200, {}, well_formed(body)[2] | {"usage": None}))
    status, _, said = analyze(server, "--price-in", 1, "--price-out", 1, "--limit-cost", 1)
    assert status == 1
    assert "does not say how many tokens" in said
    status, found, said = analyze(server, "--price-in", 1, "--price-out", 1)
    assert (status, found["cost"]["without_usage"]) == (0, 4)


def test_it_goes_on_after_a_kill(serve, write, tmp_path):
    """kill -9 while it asks; nothing that was kept is asked for again, a torn line is mended."""
    rows = [answer(str(i), [f"Step {j} of {i}." for j in range(i % 5 + 1)]) for i in range(40)]
    path, kept = write("many.parquet", rows), tmp_path / "out" / "replies.jsonl"
    server = serve(lambda body, _: (time.sleep(0.05), well_formed(body))[1])
    command = [
        "analyze",
        path,
        "--out",
        tmp_path / "out",
        "--endpoint",
        server.url,
        "--model",
        "judge",
    ]
    kill_when(lambda: len(server.bodies) > 12, *command, seconds=60)
    whole = kept.read_bytes().count(b"\n")
    assert 0 < whole < 40
    with kept.open("ab") as file:
        file.write(kept.read_bytes()[:57])
    first = len(server.bodies)
    assert first - whole <= 4  # those on their way
    status, said = ran(*command, seconds=60)
    assert status == 0, said
    assert len(server.bodies) - first == 40 - whole
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert found["inputs"][0]["answers"] == 40
    assert len({row["thought"] for row in replies(tmp_path)}) == len(replies(tmp_path)) == 40
    assert found["inputs"][0]["steps"] == sum(i % 5 + 1 for i in range(40)) / 40


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(serve, before, tmp_path, number):
    """While a reply is waited for and another is to be asked for again: at once."""

    def judge(body, number):
        if number == 1:
            time.sleep(8)
        return (503, {"Retry-After": "60"}, "") if number == 2 else well_formed(body)

    server = serve(judge)
    command = megaprune(
        "analyze", before, "--out", tmp_path / "out", "--endpoint", server.url, "--model", "judge",
        "--parallel", 2,
    )  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while len(server.bodies) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    said = process.communicate(timeout=6)[1]
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert len(replies(tmp_path)) == 1


def test_more_answers_ask_for_the_others_alone(analyze, serve):
    server = serve()
    for answers in (1, 3, 2, 4):
        assert analyze(server, "--answers", answers)[1]["inputs"][0]["answers"] == answers
    assert len(server.bodies) == 4


def test_replies_of_another_judge(analyze, serve, tmp_path, monkeypatch, capsys):
    server = serve()
    assert analyze(server)[0] == 0
    status, _, said = analyze(server, "--model", "other")
    assert status == 1
    assert "has replies of judge to prompt" in said
    monkeypatch.setattr("megaprune.analyze.judge.SYSTEM", "Another prompt.")
    status, _, said = analyze(server)
    assert status == 1
    assert "give another --out" in said
    assert main(["analyze", str(tmp_path / "before.parquet"), "--out", str(tmp_path / "out")]) == 1
    assert "has the replies of a judge" in capsys.readouterr().err
    assert len(server.bodies) == 4


def test_a_line_that_is_no_reply(analyze, serve, tmp_path):
    server = serve()
    analyze(server)
    kept = tmp_path / "out" / "replies.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join([lines[0], "{}\n", *lines[1:]]))
    status, _, said = analyze(server)
    assert status == 0, said
    assert "replies.jsonl: what is in line 2 is no reply of a judge" in said
    assert len(server.bodies) == 4


def test_another_process(analyze, serve, tmp_path):
    server = serve()
    analyze(server)
    handle = os.open(tmp_path / "out" / "replies.jsonl", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        status, _, said = analyze(server)
    finally:
        os.close(handle)
    assert status == 1
    assert "another process is at" in said
