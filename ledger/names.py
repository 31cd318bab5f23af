"""How accounts are named: hierarchical, with colons, from the kind of party to the purpose."""

from __future__ import annotations


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
