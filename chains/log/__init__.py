"""The log of chain transactions, read and written set by set: what was signed, sent, mined, and is final.

Both chains write it through these functions. Everything runs in the caller's transaction and commits nothing
but where it says so. Each statement locks the transactions it touches in id order, so that a broadcaster and
a follower wait for one another in turn; whoever locks blocks as well does so before. Every step names the
states it may start from: taken twice, it changes nothing the second time.
"""

from chains.log.listing import OpenTransaction, open_transactions
from chains.log.moving import Mined, confirm, expire, finalize, hold, include, put_back
from chains.log.ordering import OrderKind, carried_out, order, ordered
from chains.log.position import BLOCKS_KEPT, add_blocks, blocks, drop_blocks, hold_blocks
from chains.log.quarantine import quarantine, quarantined, release
from chains.log.reading import (
    Attempt,
    Sendable,
    attempts_of,
    awaits,
    in_flight,
    oldest_height,
    open_attempts,
    payouts,
    sendable,
    unmined,
    unmined_amount,
)
from chains.log.sending import Answer, between_transactions, mark
from chains.log.signing import add_attempts, record
from chains.log.text import clean

__all__ = [
    "BLOCKS_KEPT",
    "Answer",
    "Attempt",
    "Mined",
    "OpenTransaction",
    "OrderKind",
    "Sendable",
    "add_attempts",
    "add_blocks",
    "attempts_of",
    "awaits",
    "between_transactions",
    "blocks",
    "carried_out",
    "clean",
    "confirm",
    "drop_blocks",
    "expire",
    "finalize",
    "hold",
    "hold_blocks",
    "in_flight",
    "include",
    "mark",
    "oldest_height",
    "open_attempts",
    "open_transactions",
    "order",
    "ordered",
    "payouts",
    "put_back",
    "quarantine",
    "quarantined",
    "record",
    "release",
    "sendable",
    "unmined",
    "unmined_amount",
]
