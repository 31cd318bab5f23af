"""Which blocks were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import (
    ChainName,
)

# A reorganisation deeper than this is answered by starting over at the final block.
BLOCKS_KEPT: Final = 128

_BLOCKS: Final = text("SELECT number, hash FROM chain_block WHERE chain = :chain ORDER BY number")
_HOLD_BLOCKS: Final = text(
    """
    SELECT number, hash FROM chain_block
    WHERE chain = :chain AND number = ANY(CAST(:numbers AS bigint[])) ORDER BY number FOR SHARE
    """
)
_ADD_BLOCKS: Final = text(
    """
    INSERT INTO chain_block (chain, number, hash)
    SELECT :chain, number, hash
    FROM unnest(CAST(:numbers AS bigint[]), CAST(:hashes AS text[])) AS given (number, hash)
    """
)
_FORGET_BLOCKS: Final = text("DELETE FROM chain_block WHERE chain = :chain AND number <= :number").bindparams(
    bindparam("number", type_=BigInteger)
)
_DROP_BLOCKS: Final = text("DELETE FROM chain_block WHERE chain = :chain AND number > :number").bindparams(
    bindparam("number", type_=BigInteger)
)


async def blocks(session: AsyncSession, chain: ChainName) -> dict[int, str]:
    """Number and hash of the blocks that were read and are remembered, oldest first."""
    rows = await session.execute(_BLOCKS, {"chain": chain.value})
    return {row[0]: row[1] for row in rows}


async def add_blocks(session: AsyncSession, chain: ChainName, read: Mapping[int, str]) -> None:
    """Remember blocks that were read, and forget all but the newest `BLOCKS_KEPT`."""
    if not read:
        return
    await session.execute(
        _ADD_BLOCKS, {"chain": chain.value, "numbers": list(read), "hashes": list(read.values())}
    )
    await session.execute(_FORGET_BLOCKS, {"chain": chain.value, "number": max(read) - BLOCKS_KEPT})


async def hold_blocks(session: AsyncSession, chain: ChainName, numbers: Sequence[int]) -> dict[int, str]:
    """Number and hash of those blocks that are remembered, which keeps them from being dropped until the
    caller's transaction ends."""
    rows = await session.execute(_HOLD_BLOCKS, {"chain": chain.value, "numbers": list(numbers)})
    return {row[0]: row[1] for row in rows}


async def drop_blocks(session: AsyncSession, chain: ChainName, above: int) -> None:
    """Forget the blocks above `above`: they are no part of the chain any more."""
    await session.execute(_DROP_BLOCKS, {"chain": chain.value, "number": above})
