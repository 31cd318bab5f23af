"""How accounts are named: hierarchical, with colons, from the kind of party to the purpose."""

from __future__ import annotations

import re
from typing import Final

from core.errors import ValidationError
from ledger.errors import InvalidAccountName

MAX_LENGTH: Final = 200

# What a caller may put between two colons: no colon, which would make it a name of another shape.
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+|=/-]{0,99}", re.ASCII)
# First parts that say what kind of party it is; a provider called so could reach into another's accounts.
_KINDS: Final = frozenset({"user", "platform", "ext", "fx", "escrow", "wallet"})
# Of these, the kinds whose accounts Coffer opens and keeps itself, for it must be able to book on them.
_KEPT: Final = _KINDS - {"user"}


def checked(name: str) -> str:
    """`name`, if an account may be called so: two parts or more between colons, none of them empty or padded,
    all printable, at most `MAX_LENGTH` characters. Raises `InvalidAccountName`."""
    parts = name.split(":")
    if len(name) > MAX_LENGTH:
        raise InvalidAccountName(f"must have at most {MAX_LENGTH} characters")
    if not name.isprintable():
        raise InvalidAccountName("must hold printable characters alone")
    if len(parts) < 2 or any(not each or each != each.strip() for each in parts):
        raise InvalidAccountName("must be two parts or more with colons between, none of them empty")
    return name


def is_kept(name: str) -> bool:
    """Whether an account of that name is Coffer's own to open, close and limit."""
    return name.partition(":")[0] in _KEPT


def part(field: str, text: str) -> str:
    """`text`, if it may stand between two colons of a name. Raises `ValidationError` about `field`."""
    if not _PART.fullmatch(text):
        raise ValidationError.at(field, "must be 1 to 100 letters, digits or . _ @ + | = / -")
    return text


def wallet(chain: str, address: str, purpose: str) -> str:
    """An account of a treasury wallet; `purpose` is `available`, `reserved` or `gas`."""
    return f"wallet:{chain}:{address}:{purpose}"


def escrow(escrow_id: str, place: str, purpose: str) -> str:
    """An account of an escrow; `place` is the chain, or `bank`, where its money is."""
    return f"escrow:{escrow_id}:{place}:{purpose}"


def external(identifier: str) -> str:
    """A party outside: a beneficiary's address or bank account."""
    return f"ext:{identifier}"


def platform(purpose: str) -> str:
    """An account of the platform itself."""
    return f"platform:{purpose}"


def user(client_id: str) -> str:
    """A client's own money. Raises `ValidationError` for an id that can be no part of a name."""
    return f"user:{part('clientId', client_id)}"


def provider(name: str, identifier: str) -> str:
    """An account at a provider of payments. Raises `ValidationError` for what can be no part of a name."""
    if name.lower() in _KINDS:
        raise ValidationError.at("provider", "is the name of a kind of account")
    return f"{part('provider', name)}:{part('identifier', identifier)}"


def exchange(identifier: str) -> str:
    """A partner who changes one currency into another."""
    return f"fx:{identifier}"
