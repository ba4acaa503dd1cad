"""A check on one line."""

from __future__ import annotations

from typing import Any


def line(part: str, check: dict[str, Any]) -> str:
    """A check on one line."""
    values = " ".join(f"{k}={_short(v)}" for k, v in check["values"].items() if k != "detail")
    return f"{part:10} {check['state']:7} {check['seconds']:6.1f}s  {check['check']}: {values}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_short(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_short, value)) + "]"
    return str(value)
