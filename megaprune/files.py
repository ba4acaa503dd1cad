"""Small files that are replaced as a whole."""

from __future__ import annotations

import os
from pathlib import Path


def replace_bytes(path: Path, content: bytes) -> None:
    """Replace a file, or leave it as it is: a reader sees the old one or the new one, whole.

    The content is on the disk before the file has its name.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Replace a file by a text in UTF-8, as `replace_bytes` does."""
    replace_bytes(path, text.encode("utf-8"))
