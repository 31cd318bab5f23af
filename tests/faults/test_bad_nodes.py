"""A node that lies, fails and forgets, one way at a time: every payment is made once all the same."""

from __future__ import annotations

import pytest

from chains.protocol import ChainName
from sandbox.torture.proxy import OF_REQUESTS, OF_SENDING, SENDING, Fault
from tests.faults import runner
from tests.faults.conftest import Treasury

METHODS = {ChainName.ETHEREUM: "eth_sendRawTransaction", ChainName.SOLANA: "sendTransaction"}
# What a node forgets about a transaction that it has mined.
FORGOTTEN = {
    ChainName.ETHEREUM: ("eth_getBlockReceipts", "eth_getTransactionReceipt"),
    ChainName.SOLANA: ("getSignatureStatuses", "getTransaction", "getBlock"),
}


def each_chain(*values: object) -> list[object]:
    return [
        pytest.param(chain, *values, id=chain.value, marks=pytest.mark.xdist_group(f"crash-{chain}"))
        for chain in ChainName
    ]


@pytest.fixture
def batched() -> bool:
    return False


@pytest.mark.parametrize("chain_name", each_chain(), indirect=True)
async def test_whatever_a_node_says_of_what_it_was_sent(treasury: Treasury) -> None:
    """One payment for each lie, one after the other, each with the first answer to its bytes spoiled."""
    method = METHODS[treasury.chain_name]
    lies = [*OF_SENDING[method], Fault.SWALLOWED, *OF_REQUESTS]
    for lie in lies:
        await treasury.pay(1)
        treasury.proxy.plan(lie, method)
        await treasury.settled()
    assert set(treasury.proxy.faults) == set(lies), "every lie was told"


@pytest.mark.parametrize("chain_name", each_chain(), indirect=True)
async def test_a_node_that_fails_at_everything_now_and_then(treasury: Treasury) -> None:
    await treasury.pay(4)
    treasury.proxy.chance = 0.2
    await treasury.works_for(3.0)
    treasury.proxy.behave()
    await treasury.settled()
    assert sum(treasury.proxy.faults.values()) > 3


@pytest.mark.parametrize("chain_name", each_chain(), indirect=True)
async def test_a_node_that_forgets_what_it_has_mined(treasury: Treasury) -> None:
    """It has no receipt and no status of anything for a while: nothing is paid again for it."""
    await treasury.pay(3)
    treasury.proxy.forgets = True
    assert await treasury.works_for(2.0) == runner.TIMED_OUT
    assert any(treasury.proxy.calls[method] for method in FORGOTTEN[treasury.chain_name])
    treasury.proxy.behave()
    await treasury.settled()


@pytest.mark.parametrize("chain_name", each_chain(), indirect=True)
async def test_a_node_that_lies_behind(treasury: Treasury) -> None:
    await treasury.pay(2)
    await treasury.proxy.lag()
    assert await treasury.works_for(2.0) == runner.TIMED_OUT
    treasury.proxy.catch_up()
    await treasury.pay(1)
    await treasury.settled()


@pytest.mark.parametrize("chain_name", each_chain(), indirect=True)
async def test_what_was_sent_and_swallowed_is_paid_once(treasury: Treasury) -> None:
    """For so long that it has to be offered again: dearer, or with a new block hash."""
    await treasury.pay(2)
    treasury.proxy.plan(Fault.SWALLOWED, *SENDING, times=10_000)
    assert await treasury.works_for(4.0) == runner.TIMED_OUT
    treasury.proxy.behave()
    await treasury.settled()
    attempts = await treasury.rows("SELECT transaction_id FROM chain_attempt")
    assert len(attempts) > len({row.transaction_id for row in attempts}), "something was signed again"
