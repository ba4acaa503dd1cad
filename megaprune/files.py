"""Small files that are replaced as a whole."""

from __future__ import annotations

import os
from pathlib import Path


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it: a reader sees the old one or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
