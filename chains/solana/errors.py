"""Solana's transaction errors in words. Their JSON: `{"InstructionError": [index, reason]}`, or a name."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from chains.log import clean

# Custom 1 is the token program's InsufficientFunds and the system program's lack of lamports alike.
INSUFFICIENT_FUNDS: Final[Any] = {"Custom": 1}
ACCOUNT_FROZEN: Final[Any] = {"Custom": 17}
# Of Token-2022: the mint's fee, or what the recipient's account wants, has changed since it was read.
_FEE_MISMATCH: Final[Any] = {"Custom": 32}
_NO_MEMO: Final[Any] = {"Custom": 36}
CHANGED: Final = (_FEE_MISMATCH, _NO_MEMO)
# Limits that payments of one transaction share: no payment's own fault, and gone when they are fewer.
SHARED: Final[tuple[Any, ...]] = (
    "MaxInstructionTraceLengthExceeded",
    "ComputationalBudgetExceeded",
    "ProgramFailedToComplete",
    "MaxAccountsExceeded",
)

_WORDS: Final = {
    1: "insufficient funds",
    17: "account is frozen",
    32: "the token's fee has changed",
    36: "the recipient wants a memo",
}


def instruction_error(error: Any) -> tuple[int | None, Any]:
    """The index of the instruction that failed, None when it was none, and its reason."""
    if (
        isinstance(error, dict)
        and isinstance(parts := error.get("InstructionError"), list)
        and len(parts) == 2
    ):
        return int(parts[0]), parts[1]
    return None, error


def describe(error: Any) -> str:
    """The error as a person may read it, the chain's own words included."""
    index, reason = instruction_error(error)
    custom = reason.get("Custom") if isinstance(reason, dict) else None
    said = reason if isinstance(reason, str) else msgspec.json.encode(reason).decode()
    words = f"{_WORDS[custom]} ({said})" if custom in _WORDS else said
    return clean(words if index is None else f"instruction {index}: {words}")
