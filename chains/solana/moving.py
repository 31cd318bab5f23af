"""What is left of an address's lamports goes to another address of ours, when its key is given up."""

from __future__ import annotations

from uuid import UUID

from solders.instruction import Instruction
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.protocol import Built, ChainName, Payout, SignedTransaction, TransactionKind
from chains.signers import Purpose, Signers
from chains.solana import transactions
from chains.solana.cluster import Cluster
from chains.solana.formats import SIGNATURE_FEE
from chains.solana.transactions import MEMO_PROGRAM
from core.identifiers import new_id


async def move_native(
    cluster: Cluster,
    signers: Signers,
    session: AsyncSession,
    org_id: UUID,
    address: str,
    lamports: int,
    to: str,
    reference: str,
) -> Built:
    """See `Chain.move_native`: all of `lamports` but the fee. Raises `ChainUnavailable`."""
    amount = lamports - SIGNATURE_FEE
    if amount <= 0:
        return Built()
    payouts = (Payout(reference, to, amount),)
    id = new_id("ctx")
    latest = await cluster.latest_blockhash()
    payer = Pubkey.from_string(address)
    moves = transfer(TransferParams(from_pubkey=payer, to_pubkey=Pubkey.from_string(to), lamports=amount))
    steps = [moves, Instruction(MEMO_PROGRAM, id.encode(), [])]
    made = Message.new_with_blockhash(steps, payer, latest.hash)
    purpose = Purpose(id, TransactionKind.MOVE, payouts)
    hash, raw = await transactions.sign(made, await signers.signer(address), purpose)
    moved = SignedTransaction(
        id, TransactionKind.MOVE, payouts, raw, hash, expires_at=latest.last_valid_height
    )
    await log.record(session, org_id, ChainName.SOLANA, address, [moved], latest.slot)
    return Built([moved])
