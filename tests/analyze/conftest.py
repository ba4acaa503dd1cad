import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from judge_server import JudgeServer

os.environ.setdefault("NO_PROXY", "127.0.0.1")


@pytest.fixture
def write(tmp_path):
    """(name, rows) -> a parquet file."""

    def written(name, rows):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path

    return written


@pytest.fixture
def serve():
    """(answer) -> a server."""
    servers = []

    def started(*arguments):
        servers.append(JudgeServer(*arguments))
        return servers[-1]

    yield started
    for server in servers:
        server.close()
