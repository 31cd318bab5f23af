"""Text that a node, and so anybody, wrote: not as it came into the database or the logs."""

from __future__ import annotations

from typing import Final, overload

_LONGEST: Final = 500


@overload
def clean(text: str) -> str: ...
@overload
def clean(text: None) -> None: ...
def clean(text: str | None) -> str | None:
    """`text` on one line, without what PostgreSQL refuses or a terminal obeys, and at most 500 characters."""
    if text is None:
        return None
    # A surrogate of its own, which JSON can hold, is not printable either.
    printable = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * _LONGEST])
    return " ".join(printable.split())[:_LONGEST]
