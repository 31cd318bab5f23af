"""What is left of an address's ether goes to another address of ours, when its key is given up."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum.gas import DataFees, self_transfer_gas
from chains.ethereum.rpc import Rpc
from chains.ethereum.transactions import Call, sign_call
from chains.ethereum.wallets import lock_nonces, read_state, skip_foreign
from chains.protocol import Built, ChainName, Payout, SignedTransaction, TransactionKind
from chains.signers import Purpose, Signers
from core.identifiers import new_id
from core.settings import EthereumSettings


async def move_native(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    org_id: UUID,
    address: str,
    to: str,
    reference: str,
    data_fees: DataFees,
) -> Built:
    """See `Chain.move_native`. Locks the address's nonces until the caller's transaction ends.

    What its gas turns out to cost less than it might stays behind. Raises `ChainUnavailable`.
    """
    nonces = await lock_nonces(session, rpc, settings, org_id, address)
    state = await read_state(rpc, settings, address)
    await skip_foreign(rpc, settings, nonces, state)
    gas = await self_transfer_gas(rpc, address)
    (beside,) = await data_fees.most(rpc, [(0, gas)])
    amount = state.native_balance - gas * state.fees.max_fee - beside
    if amount <= 0:
        return Built()
    payouts = (Payout(reference, to, amount),)
    id = new_id("ctx")
    call = Call(nonces.take(), to, b"", gas, amount)
    purpose = Purpose(id, TransactionKind.MOVE, payouts)
    signed = await sign_call(await signers.signer(address), settings.chain_id, state.fees, call, purpose)
    moved = SignedTransaction(id, TransactionKind.MOVE, payouts, signed.raw, signed.hash, call.nonce)
    await nonces.keep(session)
    await log.record(session, org_id, ChainName.ETHEREUM, address, [moved], state.height)
    return Built([moved])
