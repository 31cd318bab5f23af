"""Which addresses are watched for transfers of the token, and how far each chain was read for them.

A position of its own, apart from that of our own transactions: neither waits for the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import BigInteger, Column, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel

from chains.protocol import ChainName, TransactionKind
from core.columns import units


class ChainWatch(SQLModel, table=True):
    """An address whose transfers are told of, those after the block, or slot, `since`.

    `joined`: read as far as the chain's common position. `busy`: one of many transfers, a treasury's.
    `derivation` is the index of a derived key. `cursor` and `balance` are Solana's: the newest final
    signature that was read, and what the token account held when its signatures were last read.
    """

    __tablename__ = "chain_watch"

    chain: str = Field(primary_key=True)
    address: str = Field(primary_key=True)
    org_id: UUID = Field(index=True)
    since: int = Field(sa_column=Column(BigInteger, nullable=False))
    busy: bool
    joined: bool = False
    derivation: int | None = Field(default=None, sa_column=Column(BigInteger))
    cursor: str | None = None
    balance: int | None = Field(default=None, sa_column=units(nullable=True))


class ChainWatchedBlock(SQLModel, table=True):
    """The blocks that were read for watched addresses: where to go on, and how a reorganisation is noticed.
    Public facts, not a tenant's."""

    __tablename__ = "chain_watched_block"

    chain: str = Field(primary_key=True)
    number: int = Field(sa_column=Column(BigInteger, primary_key=True))
    hash: str


@dataclass(frozen=True, slots=True)
class Watch:
    """A row of `ChainWatch`, without the chain."""

    address: str
    org_id: UUID
    since: int
    busy: bool
    joined: bool
    cursor: str | None
    balance: int | None


_WATCH: Final = text(
    """
    INSERT INTO chain_watch (chain, address, org_id, since, busy, joined, derivation)
    SELECT :chain, address, CAST(:org_id AS uuid), :since, :busy, false, derivation
    FROM unnest(CAST(:addresses AS text[]), CAST(:derivations AS bigint[])) AS given (address, derivation)
    """
).bindparams(bindparam("since", type_=BigInteger))
_WATCHED: Final = text(
    "SELECT address, org_id, since, busy, joined, cursor, balance FROM chain_watch WHERE chain = :chain"
    " ORDER BY address"
)
_DERIVATIONS: Final = text(
    "SELECT address, derivation FROM chain_watch WHERE chain = :chain AND derivation IS NOT NULL"
    " AND address = ANY(CAST(:addresses AS text[]))"
)
_MOVE_START: Final = text(
    "UPDATE chain_watch SET since = :since WHERE chain = :chain AND address = :address"
).bindparams(bindparam("since", type_=BigInteger))
_JOIN: Final = text(
    "UPDATE chain_watch SET joined = true WHERE chain = :chain AND address = ANY(CAST(:addresses AS text[]))"
)
_READ: Final = text(
    """
    UPDATE chain_watch AS watch
    SET joined = true, cursor = coalesce(given.cursor, watch.cursor), balance = CAST(given.balance AS numeric)
    FROM unnest(CAST(:addresses AS text[]), CAST(:cursors AS text[]), CAST(:balances AS text[]))
        AS given (address, cursor, balance)
    WHERE watch.chain = :chain AND watch.address = given.address
    """
)
_BLOCKS: Final = text("SELECT number, hash FROM chain_watched_block WHERE chain = :chain ORDER BY number")
_ADD_BLOCKS: Final = text(
    """
    INSERT INTO chain_watched_block (chain, number, hash)
    SELECT :chain, number, hash
    FROM unnest(CAST(:numbers AS bigint[]), CAST(:hashes AS text[])) AS given (number, hash)
    """
)
_DROP_BLOCKS: Final = text(
    "DELETE FROM chain_watched_block WHERE chain = :chain AND (number > :above OR number < :below)"
).bindparams(bindparam("above", type_=BigInteger), bindparam("below", type_=BigInteger))
_MADE: Final = text(
    """
    SELECT attempt.hash, transaction.kind, transaction.address
    FROM chain_attempt AS attempt
        JOIN chain_transaction AS transaction ON transaction.id = attempt.transaction_id
    WHERE attempt.chain = :chain AND attempt.hash = ANY(CAST(:hashes AS text[]))
    """
)


@dataclass(frozen=True, slots=True)
class Made:
    """A transaction of ours: what it is for, and the address that sent it."""

    kind: TransactionKind
    address: str


async def watch(
    session: AsyncSession,
    org_id: UUID,
    chain: ChainName,
    addresses: Collection[str],
    *,
    since: int,
    busy: bool,
    derivations: Mapping[str, int] | None = None,
) -> None:
    """Tell of every transfer that touches `addresses` after the block, or slot, `since`. `derivations` are
    the indexes of those whose keys are derived."""
    indexes = [(derivations or {}).get(address) for address in addresses]
    given = {"chain": chain.value, "org_id": org_id, "since": since, "busy": busy}
    await session.execute(_WATCH, given | {"addresses": list(addresses), "derivations": indexes})


async def move_start(session: AsyncSession, chain: ChainName, address: str, since: int) -> None:
    """Tell of the transfers of a watched address after the block, or slot, `since` alone."""
    await session.execute(_MOVE_START, {"chain": chain.value, "address": address, "since": since})


async def derivations(session: AsyncSession, chain: ChainName, addresses: Collection[str]) -> dict[str, int]:
    """The indexes of those of `addresses` whose keys are derived."""
    rows = await session.execute(_DERIVATIONS, {"chain": chain.value, "addresses": list(addresses)})
    return {row[0]: row[1] for row in rows}


async def watched(session: AsyncSession, chain: ChainName) -> list[Watch]:
    """Every address that is watched on a chain."""
    return [Watch(*row) for row in await session.execute(_WATCHED, {"chain": chain.value})]


async def join(session: AsyncSession, chain: ChainName, addresses: Collection[str]) -> None:
    """Note that addresses were read as far as the chain's position."""
    if addresses:
        await session.execute(_JOIN, {"chain": chain.value, "addresses": list(addresses)})


async def read(
    session: AsyncSession, chain: ChainName, found: Mapping[str, tuple[str | None, int | None]]
) -> None:
    """Note what was read of each address: its newest final signature, if there is one, and its balance."""
    if found:
        given = {
            "chain": chain.value,
            "addresses": list(found),
            "cursors": [cursor for cursor, _ in found.values()],
            "balances": [None if balance is None else str(balance) for _, balance in found.values()],
        }
        await session.execute(_READ, given)


async def blocks(session: AsyncSession, chain: ChainName) -> dict[int, str]:
    """Number and hash of the blocks that are remembered, oldest first."""
    rows = await session.execute(_BLOCKS, {"chain": chain.value})
    return {row[0]: row[1] for row in rows}


async def add_blocks(session: AsyncSession, chain: ChainName, read: Mapping[int, str]) -> None:
    """Remember blocks that were read."""
    if read:
        given = {"chain": chain.value, "numbers": list(read), "hashes": list(read.values())}
        await session.execute(_ADD_BLOCKS, given)


async def keep_blocks(session: AsyncSession, chain: ChainName, first: int, last: int) -> None:
    """Forget the blocks outside of `first` to `last`."""
    await session.execute(_DROP_BLOCKS, {"chain": chain.value, "above": last, "below": first})


async def made(session: AsyncSession, chain: ChainName, hashes: Sequence[str]) -> dict[str, Made]:
    """Which of the transactions with `hashes` are ours. Ours are in the log before they are sent."""
    if not hashes:
        return {}
    rows = await session.execute(_MADE, {"chain": chain.value, "hashes": list(hashes)})
    return {hash: Made(TransactionKind(kind), address) for hash, kind, address in rows}
