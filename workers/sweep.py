"""The queue `sweep`: work whose hint was lost, and what is past its time."""

from __future__ import annotations

import dramatiq

from chains.protocol import ChainName
from ledger import expiry
from treasury import gas, sweep
from treasury.deposits import addresses, sweeps
from treasury.policies import approvals
from workers.broker import HINT_MS, broker
from workers.dispatch import dispatch_wallet
from workers.runtime import runtime


@dramatiq.actor(broker=broker, queue_name="sweep", max_age=HINT_MS)
async def sweep_wallets() -> None:
    """Wake dispatch for every wallet on which intents wait."""
    for wallet_id in await sweep.wallets_with_waiting_intents(runtime().database):
        dispatch_wallet.send(wallet_id)


@dramatiq.actor(broker=broker, queue_name="sweep", max_age=HINT_MS)
async def tend_chain(chain: str) -> None:
    """Send again what a chain has not seen."""
    here = runtime()
    await sweep.tend_chain(here.database, here.chains[ChainName(chain)])


@dramatiq.actor(broker=broker, queue_name="sweep", max_age=HINT_MS)
async def watch_gas(chain: str) -> None:
    """Tell of the wallets of a chain that run low on gas."""
    here = runtime()
    ethereum, solana = here.settings.ethereum, here.settings.solana
    if chain == ChainName.ETHEREUM and ethereum is not None:
        await gas.watch(here.database, here.chains[ChainName.ETHEREUM], ethereum.gas_alert_wei)
    elif chain == ChainName.SOLANA and solana is not None:
        await gas.watch(here.database, here.chains[ChainName.SOLANA], solana.gas_alert_lamports)


@dramatiq.actor(broker=broker, queue_name="sweep", max_age=HINT_MS)
async def ready_addresses(chain: str) -> None:
    """Derive deposit addresses before they are asked for."""
    here = runtime()
    await addresses.fill(here.database, here.chains[ChainName(chain)], here.settings.deposit_pool)


@dramatiq.actor(broker=broker, queue_name="sweep", max_age=HINT_MS)
async def sweep_deposits(chain: str) -> None:
    """Bring to the treasury what lies on deposit addresses."""
    here = runtime()
    await sweeps.sweep(here.database, here.chains[ChainName(chain)], here.settings.min_sweep)


@dramatiq.actor(broker=broker, queue_name="sweep", max_age=HINT_MS)
async def forget_expired() -> None:
    """Delete what is past its time."""
    await sweep.forget_expired(runtime().database)


@dramatiq.actor(broker=broker, queue_name="sweep", max_age=HINT_MS)
async def expire_holds() -> None:
    """Give back the holds whose time has run out."""
    await expiry.expire_holds(runtime().database)


@dramatiq.actor(broker=broker, queue_name="sweep", max_age=HINT_MS)
async def expire_approvals(hours: float) -> None:
    """Fail payments that waited longer than that for their approvals."""
    await approvals.expire_approvals(runtime().database, hours)
