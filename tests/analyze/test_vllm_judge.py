"""vLLM's own server as the judge, with the tiny overthinker, which knows nothing of the task.

Held to the schema, it can say nothing malformed about a thought of one step, and little else about
one of several.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from answer_rows import answer
from jobs import ran
from judge_server import well_formed

from launch import environment
from megaprune.cli.main import main
from megaprune.recipes.tiny import FOLDER

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(300),
]

KEY = "a-key-of-this-test"
ROWS = [answer(f"{i} + {i}", [f"It is {2 * i}. Wait, let me check: {2 * i}."]) for i in range(1, 9)]
LONGER = [answer(f"{i} - 1", ["First.", "Then check.", f"So {i - 1}."]) for i in range(1, 5)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(its address, its process group), until it is killed."""
    folder = tmp_path_factory.mktemp("judge") / "model"
    shutil.copytree(FOLDER / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    # The judge's question is longer than what the overthinker was made for.
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder.parent / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder,
         "--served-model-name", "judge", "--dtype", "float32", "--enforce-eager", "--host",
         "127.0.0.1", "--port", str(port), "--max-num-seqs", "8", "--api-key", KEY,
         # Else a model that does not know better writes line breaks without end.
         "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'],
        env=environment() | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
        stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1", process.pid
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url, process, log):
    end = time.monotonic() + 200
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if process.poll() is not None:
                break
            time.sleep(0.3)
    log.seek(0)
    raise AssertionError(log.read()[-4000:])


@pytest.fixture
def analyze(server, tmp_path, write, monkeypatch, capsys):
    """(rows, *more) -> status, analysis or None, what was said."""

    def run(rows, *more, key=KEY, endpoint=server[0]):
        monkeypatch.setenv("JUDGE_KEY", key)
        path, out = write("rows.parquet", rows), tmp_path / "out"
        status = main(
            ["analyze", str(path), "--out", str(out), "--endpoint", endpoint, "--model", "judge",
             "--key-variable", "JUDGE_KEY", *map(str, more)]
        )  # fmt: skip
        said = "".join(capsys.readouterr())
        analysis = out / "analysis.json"
        return status, json.loads(analysis.read_text()) if analysis.exists() else None, said

    return run


def test_held_to_the_schema(analyze, tmp_path):
    status, found, said = analyze(ROWS, "--price-in", 1, "--price-out", 1)
    assert status == 0, said
    (one,) = found["inputs"]
    assert (one["answers"], one["steps"]) == (8, 1)
    assert found["cost"]["replies"] == {"well-formed": 8}
    assert sum(part["steps"] for part in one["behaviours"].values()) == 8
    rows = [json.loads(line) for line in (tmp_path / "out" / "replies.jsonl").open()]
    assert all(row["structured"] and row["finish"] == "stop" for row in rows)
    assert all(row["tokens_in"] > 1000 and row["tokens_out"] > 10 for row in rows)
    spent = sum(row["tokens_in"] + row["tokens_out"] for row in rows) / 1e6
    assert found["cost"]["cost"] == pytest.approx(spent)
    assert one["lexical"] == {"re-checks": 1, "hesitations": 1, "restarts": 0}


def test_malformed_by_nature(analyze, tmp_path):
    """Of several steps the model makes no sense, and each reply is counted."""
    status, found, said = analyze([*ROWS[:1], *LONGER])
    assert status == 0, said
    (one,) = found["inputs"]
    assert one["answers"] + sum(one["left_out"].values()) == 5
    assert one["answers"] >= 1
    assert all(reason.startswith("malformed reply: ") for reason in one["left_out"])
    rows = [json.loads(line) for line in (tmp_path / "out" / "replies.jsonl").open()]
    assert sum(found["cost"]["replies"].values()) == len(rows)
    assert len(rows) > 5


def test_too_long_for_its_context(analyze):
    status, found, said = analyze([*ROWS[:2], answer("9", ["check " * 4000])])
    assert status == 0, said
    assert found["inputs"][0]["left_out"] == {"too long for the judge": 1}
    # A reply that may be longer than the whole context is no better.
    status, found, said = analyze(ROWS[2:4], "--reply-tokens", 9999)
    assert status == 1
    assert "(too long for the judge: 2)" in said


def test_a_wrong_key_and_a_wrong_name(analyze):
    status, _, said = analyze(ROWS, key="another")
    assert status == 1
    assert "does not accept the key in the environment variable JUDGE_KEY" in said
    status, _, said = analyze(ROWS, key="")
    assert status == 1
    assert "wants a key: set the environment variable JUDGE_KEY" in said
    status, _, said = analyze(ROWS, "--model", "jugde")
    assert status == 1
    assert "has no model 'jugde'" in said
    assert KEY not in said


def test_it_dies_in_the_middle(analyze, server, serve, write, tmp_path, monkeypatch):
    """Last: the server is killed. What it had said is kept, another one says the rest."""
    rows = [answer(str(i), [f"It is {i}."]) for i in range(200)]
    path, kept = write("many.parquet", rows), tmp_path / "out" / "replies.jsonl"

    def kill():
        while not kept.exists() or kept.read_bytes().count(b"\n") < 5:
            time.sleep(0.05)
        os.killpg(server[1], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    monkeypatch.setenv("JUDGE_KEY", KEY)
    command = ["analyze", path, "--out", tmp_path / "out", "--model", "judge", "--answers", 200]
    command += ["--key-variable", "JUDGE_KEY", "--parallel", 2, "--retries", 1, "--endpoint"]
    status, said = ran(*command, server[0], seconds=60)
    killer.join()
    assert status == 1, said
    assert "Traceback" not in said
    assert "no reply to 3 requests in a row" in said
    before = kept.read_bytes()
    assert 5 <= before.count(b"\n") < 200
    other = serve(lambda body, _: well_formed(body))
    status, said = ran(*command, other.url, seconds=60)
    assert status == 0, said
    assert kept.read_bytes().startswith(before)
    assert len(other.bodies) == 200 - before.count(b"\n")
    (one,) = json.loads((tmp_path / "out" / "analysis.json").read_text())["inputs"]
    assert (one["answers"], one["left_out"]) == (200, {})
