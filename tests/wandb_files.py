"""What lies in W&B's offline files, which are LevelDB logs of records: read without the server."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

BLOCK = 32768
HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def _crc(kind: int, data: bytes) -> int:
    """W&B's are of zlib's kind, and not masked as LevelDB's are."""
    return zlib.crc32(bytes([kind]) + data)


def entries(content: bytes) -> list[bytes]:
    """The whole entries of a log; what was cut off at its end is left out."""
    assert content[:4] == b":W&B", content[:8]
    place, parts, found = 7, [], []
    while place + HEADER.size <= len(content):
        if BLOCK - place % BLOCK < HEADER.size:  # no header fits into what is left of the block
            place += BLOCK - place % BLOCK
            continue
        crc, size, kind = HEADER.unpack_from(content, place)
        data = content[place + HEADER.size : place + HEADER.size + size]
        if len(data) < size or kind not in (FULL, FIRST, MIDDLE, LAST):
            break
        assert crc == _crc(kind, data), f"byte {place}"
        parts = [data] if kind in (FULL, FIRST) else [*parts, data]
        if kind in (FULL, LAST):
            found.append(b"".join(parts))
        place += HEADER.size + size
    return found


class Segment:
    """One file: a run, or a part of one."""

    def __init__(self, path: Path):
        from wandb.proto import wandb_internal_pb2

        self.path = path
        self.run: Any = None
        self.config: dict[str, Any] = {}
        self.steps: dict[int, dict[str, Any]] = {}
        self.whole = False
        for entry in entries(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(entry)
            kind = record.WhichOneof("record_type")
            if kind == "run" and self.run is None:
                self.run = record.run
                self._configure(record.run.config)
            elif kind == "config":
                self._configure(record.config)
            elif kind == "history":
                self._add(record.history)
            elif kind == "exit":
                self.whole = True

    def _configure(self, record: Any) -> None:
        self.config |= {item.key: json.loads(item.value_json) for item in record.update}

    def _add(self, history: Any) -> None:
        row = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in history.item
        }
        number = history.step.num if history.HasField("step") else row["_step"]
        self.steps.setdefault(number, {}).update(row)


def segments(folder: Path) -> list[Segment]:
    """All offline files of a job's folder, in the order in which they were begun."""
    return [Segment(path) for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]
