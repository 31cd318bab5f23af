"""Deposits come home in transactions of two signatures: the deposit's key moves its tokens, and the treasury
pays the fee. No lamport is ever needed on a deposit address."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from solders.pubkey import Pubkey
from solders.signature import Signature
from sqlalchemy.ext.asyncio import AsyncSession

from chains import log, watching
from chains.protocol import (
    ChainName,
    ChainUnavailable,
    Holding,
    Payout,
    SignedTransaction,
    TransactionKind,
    Urgency,
)
from chains.signers import Purpose, Signers, SigningRequest
from chains.solana import formats, stored
from chains.solana.accounts import read_token
from chains.solana.cluster import Cluster
from chains.solana.formats import Budget, Compiled, Format
from chains.solana.rpc import Rpc, contents
from chains.solana.tokens import Token
from chains.solana.transactions import SigningFailed, memo_of, moving, opening
from core.faults import Point, reach
from core.identifiers import new_id
from core.logs import get_logger
from core.settings import SolanaSettings

logger = get_logger(__name__)

# A transfer takes some 6,200 compute units, the memo 7,000, opening an account 25,000.
_UNITS: Final = 60_000
_SIMULATED: Final = {"encoding": "base64", "commitment": "confirmed", "sigVerify": True}


def hindered(token: Token) -> bool:
    """Whether deposits of a token stay where they are: it withholds a fee, calls a program, or cannot be
    transferred."""
    return token.fee is not None or token.hook is not None or token.refusal is not None


async def sweep(
    rpc: Rpc,
    settings: SolanaSettings,
    signers: Signers,
    cluster: Cluster,
    token: Token,
    session: AsyncSession,
    org_id: UUID,
    address: str,
    holdings: Sequence[Holding],
) -> list[SignedTransaction]:
    """See `Chain.sweep`; `token` is not `hindered`. Raises `ChainUnavailable`, `UnknownKey` and
    `SigningFailed`; then nothing was written."""
    room = settings.max_in_flight - len(await stored.open_transactions(session, address))
    if room <= 0 or not holdings:
        return []
    await rpc.check_genesis()
    payer, target = Pubkey.from_string(address), token.account_of(address)
    price = (await cluster.prices(address))[Urgency.NORMAL]
    home = await read_token(rpc, token, str(target))
    latest = await cluster.latest_blockhash()
    signed: list[SignedTransaction] = []
    for one in holdings[:room]:
        source = Pubkey.from_string(one.source)
        held = await read_token(rpc, token, str(token.account_of(one.source)))
        if held is None or held.amount < one.amount:
            logger.error("not_swept", address=one.source, amount=one.amount, reason="the money is not there")
            continue
        id = new_id("ctx")
        payout = Payout(one.reference, address, one.amount)
        budget = Budget(_UNITS, price)
        steps = formats.budget_instructions(Format.LEGACY, budget)
        if home is None:
            steps.append(opening(payer, payer, target, token))
        steps += [moving(source, token.account_of(one.source), target, token, one.amount), memo_of(id)]
        made = formats.compiled(Format.LEGACY, payer, steps, latest.hash, budget)
        reach(Point.BUILD_NUMBERED)
        purpose = Purpose(id, TransactionKind.SWEEP, (payout,), settings.usdc)
        hash, raw = await sign(made, signers, {one.source: one.derivation}, purpose)
        if not await _would_succeed(rpc, raw, one):
            continue
        signed.append(
            SignedTransaction(
                id, TransactionKind.SWEEP, (payout,), raw, hash, expires_at=latest.last_valid_height
            )
        )
    if signed:
        reach(Point.BUILD_SIGNED)
        await log.record(session, org_id, ChainName.SOLANA, address, signed, latest.slot)
    return signed


async def sign_again(
    session: AsyncSession, made: Compiled, signers: Signers, purpose: Purpose
) -> tuple[str, bytes]:
    """Sign a sweep with another block hash. Raises `SigningFailed`, and what signers raise."""
    keys = [str(key) for key in made.account_keys[: made.header.num_required_signatures]]
    derivations = await watching.derivations(session, ChainName.SOLANA, keys)
    return await sign(made, signers, derivations, purpose)


async def sign(
    made: Compiled, signers: Signers, derivations: Mapping[str, int | None], purpose: Purpose
) -> tuple[str, bytes]:
    """The first signature in base58 and the bytes to send: signed by every key that the message wants, those
    in `derivations` being derived ones."""
    payload = formats.payload(made)
    signatures = []
    for key in made.account_keys[: made.header.num_required_signatures]:
        address = str(key)
        signer = await signers.signer(address, derivations.get(address))
        answer = await signer.sign(SigningRequest(ChainName.SOLANA, address, payload, purpose))
        if len(answer) != formats.SIGNATURE_SIZE or not Signature.from_bytes(answer).verify(key, payload):
            raise SigningFailed(address)
        signatures.append(answer)
    return str(Signature.from_bytes(signatures[0])), formats.signed_by(made, signatures)


async def _would_succeed(rpc: Rpc, raw: bytes, one: Holding) -> bool:
    answer: Any = contents(await rpc.call("simulateTransaction", base64.b64encode(raw).decode(), _SIMULATED))
    if not isinstance(answer, dict) or "err" not in answer:
        raise ChainUnavailable("simulateTransaction: no outcome")
    if answer["err"] is not None:
        logger.error("not_swept", address=one.source, amount=one.amount, reason=str(answer["err"])[:200])
    return answer["err"] is None
