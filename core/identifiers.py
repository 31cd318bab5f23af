"""Identifiers: TypeIDs, a prefix that says what a thing is and a UUIDv7 that sorts by creation.

Format: https://github.com/jetify-com/typeid/tree/main/spec (version 0.3).
"""

from __future__ import annotations

import re
from typing import Final

from typeid import TypeID
from uuid_utils import UUID

_SUFFIX: Final = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}", re.ASCII)


def new_id(prefix: str) -> str:
    """A fresh identifier such as `pi_01m7xpj34ve34agg2sna8fganv`."""
    return str(TypeID(prefix))


def is_id(prefix: str, text: str) -> bool:
    """Whether `text` is a well-formed identifier of that kind."""
    kind, _, suffix = text.rpartition("_")
    return kind == prefix and _SUFFIX.fullmatch(suffix) is not None


def to_id(prefix: str, uuid: UUID | str) -> str:
    """The TypeID of a UUID that is stored bare."""
    return str(TypeID.from_uuid(UUID(str(uuid)), prefix))
