"""What one endpoint says of our transactions is borne out by others before they count as mined or final."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from chains.solana.rpc import Rpc

_LEVELS: Final = ("processed", "confirmed", "finalized")


def lesser(
    rpc: Rpc, statuses: Mapping[str, Any], others: Mapping[str, Any], agreed: Collection[str]
) -> dict[str, Any]:
    """`statuses` by signature, each no further than the status that another endpoint has of it; what was
    `agreed` to be confirmed before stays so.

    Raises `Disagreement` when the other says of one that it failed, or did not, or is final elsewhere.
    """
    return {
        hash: status
        if status is None or _level(status) < 1
        else _lesser(rpc, hash, status, others.get(hash), hash in agreed)
        for hash, status in statuses.items()
    }


def _lesser(rpc: Rpc, hash: str, status: Any, other: Any, agreed: bool) -> Any:
    level = min(_level(status), _level(other))
    if level >= 1:
        if (status["err"] is None) != (other["err"] is None):
            raise rpc.disagreement(f"transaction {hash}", status["err"], other["err"])
        if status["slot"] != other["slot"]:
            if level == 2:
                raise rpc.disagreement(f"slot of {hash}", status["slot"], other["slot"])
            level = 0
    return status | {"confirmationStatus": _LEVELS[max(level, 1 if agreed else 0)]}


def _level(status: Any) -> int:
    """How far an endpoint says a transaction is; nothing said counts as nothing more than processed."""
    said = status.get("confirmationStatus") if isinstance(status, dict) else None
    return _LEVELS.index(said) if said in _LEVELS else 0
