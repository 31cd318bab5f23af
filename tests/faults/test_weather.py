"""What a chain does of itself: blocks that are taken back, dropped, dear, or do not come."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import jsonrpc
from tests.faults import runner
from tests.faults.conftest import Treasury
from treasury import dispatch, settlement, sweep

pytestmark = pytest.mark.xdist_group("crash-ethereum")


async def rpc(treasury: Treasury, method: str, *params: Any) -> Any:
    return await jsonrpc.call(treasury.ethereum, method, *params)


async def follow(treasury: Treasury) -> None:
    await settlement.follow(treasury.workers, treasury.chain)


async def raws(treasury: Treasury) -> list[str]:
    rows = await treasury.rows("SELECT raw FROM chain_attempt WHERE chain = 'ethereum' ORDER BY created_at")
    return ["0x" + bytes(row.raw).hex() for row in rows]


@pytest.fixture
def final_depth() -> int:
    """Deeper than the reorganisations here."""
    return 12


@pytest.mark.parametrize("depth", range(1, 11))
async def test_a_reorganisation_neither_loses_nor_doubles(treasury: Treasury, depth: int) -> None:
    """Once with the transactions out, so that they have to be sent again, and once with them in another of
    the new blocks; all of it before they are final."""
    await treasury.pay(2)
    await dispatch.run(treasury.workers, treasury.chains, treasury.wallet_id, 100)
    await treasury.mine(depth)
    await follow(treasury)
    assert {row.status for row in await treasury.rows("SELECT status FROM payment_intent")} == {"CONFIRMED"}
    await rpc(treasury, "anvil_reorg", depth, [])
    await follow(treasury)
    assert {row.status for row in await treasury.rows("SELECT status FROM payment_intent")} == {"BROADCAST"}
    await sweep.tend_chain(treasury.workers, treasury.chain)
    await treasury.mine(depth)
    await follow(treasury)
    signed = await raws(treasury)
    await rpc(treasury, "anvil_reorg", depth, [[raw, depth - 1] for raw in signed])
    await follow(treasury)
    await treasury.settled()


async def test_a_dropped_transaction_is_sent_again(treasury: Treasury) -> None:
    await treasury.pay(1)
    await dispatch.run(treasury.workers, treasury.chains, treasury.wallet_id, 100)
    (hash,) = [row.hash for row in await treasury.rows("SELECT hash FROM chain_attempt")]
    assert await rpc(treasury, "anvil_dropTransaction", hash) is not None
    await treasury.mine(1)
    await follow(treasury)
    await treasury.settled()


async def test_a_base_fee_that_rises_tenfold_is_paid(treasury: Treasury) -> None:
    await treasury.pay(1)
    await dispatch.run(treasury.workers, treasury.chains, treasury.wallet_id, 100)
    (signed,) = await treasury.rows("SELECT hash FROM chain_attempt")
    block = await rpc(treasury, "eth_getBlockByNumber", "latest", False)
    dear = 10 * max(int(block["baseFeePerGas"], 16), 10**9)
    await rpc(treasury, "anvil_setNextBlockBaseFeePerGas", hex(dear))
    await treasury.mine(1)
    assert await rpc(treasury, "eth_getTransactionReceipt", signed.hash) is None
    await treasury.settled()


async def test_payments_wait_while_no_block_comes(treasury: Treasury) -> None:
    """No node mines, and what was sent is neither given up nor signed twice."""
    await treasury.pay(2)
    assert await treasury.works_for(2.0, mines=False) == runner.TIMED_OUT
    nonces = await treasury.rows("SELECT nonce FROM chain_transaction")
    assert len({row.nonce for row in nonces}) == len(nonces)
    await treasury.settled()
