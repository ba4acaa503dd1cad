"""A server of chat completions on this host, which does what a test wants of it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RULES = ((r"\bcheck\b", 7), (r"\banother\b", 9), (r"\banswer\b", 10))
OTHERWISE = 5


def steps_asked(body):
    """The numbered steps of a request."""
    text = body["messages"][-1]["content"].split("# Thought")[1].split("# Note")[0]
    return re.findall(r"^\[\d+\] (.*)", text, re.MULTILINE)


def behaviour(step):
    return next((number for rule, number in RULES if re.search(rule, step)), OTHERWISE)


def phases_of(body):
    """What a judge says that goes by RULES, one phase for each step."""
    return [
        {"behaviour": behaviour(step), "first": i, "last": i}
        for i, step in enumerate(steps_asked(body), 1)
    ]


def completion(text, finish="stop", tokens=(100, 10)):
    """The body of a reply."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
    }
    usage = tokens and {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return {"choices": [choice], "usage": usage}


def well_formed(body):
    return 200, {}, completion(json.dumps({"phases": phases_of(body)}))


def body_of(said):
    if isinstance(said, bytes):
        return said
    return json.dumps(said).encode() if isinstance(said, dict) else said.encode()


class JudgeServer:
    """Serves until `close`.

    Args:
        answer: (body, number of the request from 0) -> (status, headers, body to send); a body
            that is no dict is sent as it is, an iterator's parts as they come.
    """

    def __init__(self, answer=lambda body, number: well_formed(body)):
        self.answer, self.bodies, self.headers = answer, [], []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.bodies)
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                status, headers, said = outer.answer(body, number)
                parts = said if isinstance(said, Iterator) else [body_of(said)]
                length = {} if parts is said else {"Content-Length": str(len(parts[0]))}
                self.send_response(status)
                for name, value in {**length, **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in parts:
                    self.wfile.write(part)
                    self.wfile.flush()

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a client that was killed, or did not wait

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
