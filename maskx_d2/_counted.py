"""Numbers of things in sentences."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, thing: str, things: str | None = None) -> str:
    """A number and what it counts: "1 image", "2 images"; ``things`` if no "s" will do."""
    return f"{count} {thing if count == 1 else things or thing + 's'}"
