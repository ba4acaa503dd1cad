"""The hub, as a server of this test speaks it: huggingface_hub itself asks, over HTTP."""

import json
import os
import subprocess
import sys
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from megaprune.data.parquet import read_parquet

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "README.md": b"# Problems\n",
    "main/test-00000-of-00002.jsonl": b'{"question": "1+1?", "answer": "so\\n#### 2"}\n',
    "main/test-00001-of-00002.jsonl": b'{"question": "1+2?", "answer": "so\\n#### 3"}\n',
    "main/train.jsonl": b'{"question": "1+3?", "answer": "so\\n#### 4"}\n',
}
REPOSITORIES = {"lab/several": FILES, "lab/one": {"a.jsonl": FILES["main/train.jsonl"]}}
MODEL = {"config.json": b"{}", "model.safetensors": b"1234", "tokenizer.json": b"[]"}
MODELS = {"lab/model": MODEL | {"modeling_own.py": b"raise", "pytorch_model.bin": b"5678"}}


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        _, *parts = self.path.split("/")
        if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) in MODELS:
            files = MODELS["/".join(parts[2:4])]
            about = {"id": "lab/model", "sha": COMMIT}
            about["siblings"] = [{"rfilename": name} for name in files]
            tree = [
                {"type": "file", "path": name, "size": len(body), "oid": sha256(body).hexdigest()}
                for name, body in files.items()
            ]
            answer = tree if parts[4] == "tree" else about
            self._answer(200, json.dumps(answer).encode(), kind="application/json")
        elif parts[2:3] == ["resolve"]:
            self._answer(200, MODELS["/".join(parts[:2])]["/".join(parts[4:])])
        elif parts[:2] == ["api", "models"]:
            self._answer(404, b"", "RepoNotFound")
        elif parts[:2] == ["api", "datasets"]:
            self._describe("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        elif parts[0] == "datasets" and parts[3] == "resolve":
            self._send_file("/".join(parts[1:3]), "/".join(parts[5:]))
        else:
            self._answer(404, b"")

    def _describe(self, repository, revision):
        if repository == "lab/secret":
            self._answer(403, b"", "GatedRepo")
        elif repository == "lab/broken":
            self._answer(400, b"")
        elif repository not in REPOSITORIES:
            self._answer(404, b"", "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._answer(404, b"", "RevisionNotFound")
        else:
            names = [{"rfilename": name} for name in REPOSITORIES[repository]]
            about = {"id": repository, "sha": COMMIT, "siblings": names}
            self._answer(200, json.dumps(about).encode(), kind="application/json")

    def _send_file(self, repository, name):
        self._answer(200, REPOSITORIES[repository][name])

    def _answer(self, status, body, error=None, kind="text/plain"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{sha256(body).hexdigest()}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def environment_of(tmp_path, endpoint):
    known = {
        k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()
    }
    known |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    return known


def data(tmp_path, endpoint, *arguments, **environment):
    """The command, in a process whose hub is `endpoint`."""
    known = environment_of(tmp_path, endpoint)
    out = tmp_path / "out.parquet"
    command = [
        sys.executable,
        "-m",
        "megaprune.cli.main",
        "data",
        *arguments,
        "--json",
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=known | environment)
    said = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"error": done.stderr}
    assert (done.returncode == 0) == ("error" not in said), done.stderr
    return said, [row for _, row in read_parquet(out)] if done.returncode == 0 else []


def test_files_of_a_pattern(tmp_path, hub):
    said, rows = data(tmp_path, hub, "gsm8k", "--input", "hub:lab/several:main/test*")
    assert said["commit"] == COMMIT
    assert [(row.messages[0]["content"], row.gold) for row in rows] == [
        ("1+1?", "2"),
        ("1+2?", "3"),
    ]


def test_the_one_file_at_a_revision(tmp_path, hub):
    arguments = ("--input", "hub:lab/one", "--source", "mine", "--revision", COMMIT)
    said, rows = data(tmp_path, hub, *arguments)
    assert [row.data_source for row in rows] == ["mine"]
    assert said["input"] == "hub:lab/one"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--input", "hub:lab/several"],
            "several data files: main/test-00000-of-00002.jsonl, main/",
        ),
        (["--input", "hub:lab/several:*.csv"], "no data file like *.csv; it has main/test-00000"),
        (["--input", "hub:lab/one", "--revision", "v9"], "hub:lab/one has no revision 'v9'"),
        (["--input", "hub:lab/none"], "the hub has no data set lab/none, or it is private"),
        (["--input", "hub:lab/secret"], "to those alone who accepted its terms"),
        (["--input", "hub:lab/broken"], "hub:lab/broken cannot be fetched (BadRequestError"),
        ([], "the hub has no data set openai/gsm8k"),
    ],
)
def test_what_is_not_there(tmp_path, hub, arguments, words):
    said, _ = data(tmp_path, hub, "gsm8k", *arguments)
    assert words in said["error"]


def test_offline(tmp_path, hub):
    said, _ = data(tmp_path, hub, "gsm8k", HF_HUB_OFFLINE="1")
    assert (
        "HF_HUB_OFFLINE=1, fetch its files elsewhere and give them: --input FILE" in said["error"]
    )


def test_no_network(tmp_path):
    said, _ = data(tmp_path, "http://127.0.0.1:9", "gsm8k")
    assert "hub:openai/gsm8k cannot be fetched (ConnectError" in said["error"]
    assert "give them: --input FILE" in said["error"]


FIND = """
import json, sys
from megaprune.errors import InputError
from megaprune.hub import find_model
for name in sys.argv[1:]:
    try:
        print(json.dumps(find_model(name)))
    except InputError as error:
        print(json.dumps({"error": str(error)}))
"""


def find(tmp_path, endpoint, *names, **environment):
    """What is found of models, in a process whose hub is `endpoint`."""
    done = subprocess.run(
        [sys.executable, "-c", FIND, *names],
        capture_output=True,
        text=True,
        env=environment_of(tmp_path, endpoint) | environment,
        cwd=tmp_path,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_model_by_its_name(tmp_path, hub):
    """It is fetched once; a folder that is there, or whose parent is, is no name."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    here = ["runs/demo", "runs/typo", "demo", "/lab/model", "a/b/c"]
    found, missing, *others = find(tmp_path, hub, "lab/model", "lab/other", *here)
    assert others == here
    assert found.endswith(f"/models--lab--model/snapshots/{COMMIT}")
    assert {path.name: path.read_bytes() for path in Path(found).iterdir()} == MODEL
    assert "the hub has no model lab/other, or it is private" in missing["error"]
    assert find(tmp_path, hub, "lab/model", HF_HUB_OFFLINE="1") == [found]


def test_a_model_that_cannot_be_fetched(tmp_path):
    (said,) = find(tmp_path, "http://127.0.0.1:9", "lab/model")
    assert "model=lab/model: there is no such folder, and as a model of the hub" in said["error"]
    assert "hf download lab/model --local-dir model) and give its folder" in said["error"]
