"""What unsigned bytes do, read from the bytes alone.

Nothing here is shared with the code that builds transactions: a mistake there is not to be made here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from chains.protocol import Payout
from chains.signers import Purpose, SigningRefused

MISMATCH: Final = "SigningMismatch"
NOT_ALLOWED: Final = "SigningNotAllowed"


def mismatch(message: str) -> SigningRefused:
    """The bytes do something else than the request says."""
    return SigningRefused(MISMATCH, message)


def not_allowed(message: str) -> SigningRefused:
    """The bytes do what the signer's settings do not allow at all."""
    return SigningRefused(NOT_ALLOWED, message)


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be signed on one chain: its ids, tokens and contracts by their canonical addresses.

    `delegates` are contracts that an account may delegate to (EIP-7702), `spenders` those that it may give
    an allowance to, of `most_allowed` at a time, or of anything where that is None. `holds` tells whether the
    signer has the key of an address: money may be moved there that is no payment.
    """

    holds: Callable[[str], bool]
    chain_ids: frozenset[int] = frozenset()
    tokens: frozenset[str] = frozenset()
    delegates: frozenset[str] = frozenset()
    spenders: frozenset[str] = frozenset()
    most_allowed: int | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """What the bytes do. `pays` leaves our hands: none of it goes to a key of the signer's own.

    `fee` is the most that they can charge, in the native asset. Of all bytes of an address with the same
    `slot`, one at most can ever be mined.
    """

    slot: str
    pays: tuple[Payout, ...] = ()
    fee: int = 0
    fee_per_gas: int = 0
    owns: tuple[str, ...] = field(default=())


def same(purpose: Purpose, found: Sequence[tuple[str, int]]) -> None:
    """Refuse unless the bytes pay exactly what the request says, in its order."""
    said = [(payout.to, payout.amount) for payout in purpose.payouts]
    if said == list(found):
        return
    if len(said) != len(found):
        raise mismatch(f"the bytes make {len(found)} payments, {len(said)} are said")
    for position, (one, other) in enumerate(zip(said, found, strict=True)):
        if one[0] != other[0]:
            raise mismatch(f"payment {position} goes to {other[0]}, not to {one[0]}")
        if one[1] != other[1]:
            raise mismatch(f"payment {position} is of {other[1]}, not of {one[1]}")
