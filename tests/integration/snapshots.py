"""What a folder holds before each change of files that a command makes.

    snapshots.py FOLDER STORE COMMAND...

A process that is gone by SIGKILL leaves the files as they are at that moment: what it has handed to
the system stays, and what it has not is lost. So a snapshot before the N-th change is what a kill
at that change leaves, and one run gives the snapshots of all. What neighbours have in common, such
as those around an fsync, is stored once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from kill_at import Changes, run

_SETTLED_SECONDS = 1.0
"""A file that was changed longer ago than this has a time of change that tells it from others."""


class Store:
    """Snapshots of a folder, in another one.

    Args:
        folder: the folder that is to be looked at. Snapshots do not change it.
        store: where they are kept.
    """

    def __init__(self, folder: Path, store: Path):
        self._folder, self._store = folder, store
        self._digests: dict[tuple[int, ...], str] = {}
        for part in ("contents", "states"):
            (store / part).mkdir(parents=True, exist_ok=True)

    def points(self) -> list[str]:
        """Return the name of the state at each point, in their order."""
        return (self._store / "points.txt").read_text().split()

    def state(self, name: str) -> list[list[Any]]:
        """Return the entries of a state: path, kind, permissions, time in ns, and content."""
        return json.loads((self._store / "states" / name).read_text())

    def take(self) -> str:
        """Store what the folder holds now; returns the state's name. Times make no difference."""
        while True:
            with suppress(FileNotFoundError):  # another thread makes a change that was counted
                entries = self._entries()
                if entries == self._entries():
                    break
        text = json.dumps([[*entry[:3], *entry[4:]] for entry in entries])
        name = hashlib.sha256(text.encode()).hexdigest()
        path = self._store / "states" / name
        if not path.exists():
            path.write_text(json.dumps(entries))
        return name

    def add_point(self) -> None:
        with (self._store / "points.txt").open("a") as file:
            file.write(self.take() + "\n")

    def restore(self, name: str) -> None:
        """Make the folder what it was."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        entries = self.state(name)
        for path, kind, mode, _, content in entries:
            place = self._folder / path
            if kind == "folder":
                place.mkdir(mode=mode)
            elif kind == "link":
                place.symlink_to(content)
            elif kind == "same":  # as a file before it: a hard link
                os.link(self._folder / content, place)
            else:
                shutil.copyfile(self._store / "contents" / content, place)
                place.chmod(mode)
        for path, kind, _, nanoseconds, _ in reversed(entries):
            if kind != "link":
                os.utime(self._folder / path, ns=(nanoseconds, nanoseconds))

    def _entries(self) -> list[list[Any]]:
        entries, first = [], {}
        for path in sorted(self._folder.rglob("*")):
            status = path.lstat()
            name, mode = str(path.relative_to(self._folder)), stat.S_IMODE(status.st_mode)
            if stat.S_ISDIR(status.st_mode):
                kind, content = "folder", ""
            elif stat.S_ISLNK(status.st_mode):
                kind, content = "link", os.readlink(path)
            elif status.st_nlink > 1 and status.st_ino in first:
                kind, content = "same", first[status.st_ino]
            else:
                assert stat.S_ISREG(status.st_mode), f"{path} is a file of another kind"
                kind, content = "file", self._content(path, status)
                first[status.st_ino] = name
            entries.append([name, kind, mode, status.st_mtime_ns, content])
        return entries

    def _content(self, path: Path, status: os.stat_result) -> str:
        """Store a file's content, if it is not there; returns its digest."""
        key = status.st_ino, status.st_size, status.st_ctime_ns
        digest = self._digests.get(key)
        if digest is None:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            place = self._store / "contents" / digest
            if not place.exists():
                place.write_bytes(content)
            if time.time() - status.st_ctime > _SETTLED_SECONDS:
                self._digests[key] = digest
        return digest


def main() -> None:
    """Run a command, and take the snapshots."""
    folder = Path(sys.argv[1])
    store = Store(folder, Path(sys.argv[2]))
    Changes(folder, lambda _: store.add_point())
    sys.exit(run(sys.argv[3:]))


if __name__ == "__main__":
    main()
