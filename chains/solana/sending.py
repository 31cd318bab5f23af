"""Sending stored bytes, again while they can be mined, and signing anew what surely never was.

Two attempts of one transaction that could both be mined would be two payments. So an attempt is replaced only
when the *finalized* block height has passed its last valid one and every configured node, each of which has
to hold the whole chain from the signing up to there, finds no attempt of the transaction in its history.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from chains import answers, log
from chains.answers import Sending
from chains.endpoints import silence
from chains.log import Answer, clean
from chains.protocol import (
    ChainName,
    ChainUnavailable,
    Payout,
    Progress,
    SignedTransaction,
    TransactionKind,
    Urgency,
)
from chains.signers import Purpose, Signers, SigningRefused
from chains.solana import formats, stored, sweeping, transactions
from chains.solana.cluster import Blockhash, Cluster
from chains.solana.history import Expired, History
from chains.solana.rpc import Rpc, RpcError
from core.faults import Point, reach
from core.logs import get_logger
from core.settings import SolanaSettings

# Between two looks at the block height while many are sent. Other calls to the node wait for a part at most.
_SENT_AT_ONCE: Final = 64

logger = get_logger(__name__)


class Sender:
    """Sends what is in the log. It is told what by the log alone."""

    def __init__(
        self, settings: SolanaSettings, rpc: Rpc, signers: Signers, cluster: Cluster, history: History
    ) -> None:
        self._settings = settings
        self._rpc = rpc
        self._signers = signers
        self._cluster = cluster
        self._history = history

    async def broadcast(self, session: AsyncSession, transaction_ids: Sequence[str]) -> None:
        """See `Chain.broadcast`. Bytes that are not committed are left alone."""
        await self._send(session, await stored.newest(session, transaction_ids))

    async def rebroadcast(self, session: AsyncSession, stopped: Collection[str] = ()) -> list[Progress]:
        """See `Chain.rebroadcast`. What is signed anew here is sent by a later call, once it is committed."""
        waiting = await stored.unseen(session, self._settings.rebroadcast_after, stopped)
        if not waiting:
            return []
        async with log.between_transactions(session):
            landed = await self._landed(waiting)
        unseen = [one for one in waiting if one.hash not in landed]
        if not await self._send(session, unseen):
            return []
        async with log.between_transactions(session):
            # The slot is read first: whoever answers for it later has seen at least that height.
            height = await self._rpc.number("getBlockHeight", "finalized")
            slot = await self._rpc.number("getSlot", "finalized")
        expired = [one for one in unseen if one.expires_at < height and one.address not in stopped]
        return await self._renew(session, expired, slot) if expired else []

    async def _landed(self, attempts: Sequence[stored.Bytes]) -> set[str]:
        """Hashes of those that a node has run already, in a block that may still go: to send them again is
        work for it, and nothing else."""
        try:
            _, statuses = await self._rpc.statuses([one.hash for one in attempts], history=False)
        except RpcError:
            return set()
        return {hash for hash, status in statuses.items() if status is not None}

    async def _send(self, session: AsyncSession, attempts: Sequence[stored.Bytes]) -> bool:
        """Send and mark, part by part, until the node no longer answers; whether it did to the end. No
        transaction is open while it is asked, and none of `attempts` was written by the one that is committed
        here."""
        for at in range(0, len(attempts), _SENT_AT_ONCE):
            if at:
                reach(Point.SEND_PART)
            part = attempts[at : at + _SENT_AT_ONCE]
            async with log.between_transactions(session):
                reach(Point.SEND_BEGUN)
                answered = await self._post(part)
                reach(Point.SEND_ANSWERED)
            said = {hash: _judged(answer) for hash, answer in answered.items()}
            for hash, one in said.items():
                if one.sending is not Sending.SENT:
                    logger.warning("broadcast_refused", hash=hash, judged=one.sending.value, error=one.error)
            await log.mark(session, ChainName.SOLANA, said)
            if any(silence(each) is not None for each in answered.values()):
                return False
        return True

    async def _post(self, attempts: Sequence[stored.Bytes]) -> dict[str, list[ChainUnavailable | None]]:
        """Send those that have not expired; None for each endpoint that took them, else what came of it,
        which is an `RpcError` if the node answered at all; by signature."""
        try:
            height = await self._rpc.number("getBlockHeight", "confirmed")
        except ChainUnavailable as error:
            return {one.hash: [ChainUnavailable(str(error))] for one in attempts}
        alive = [one for one in attempts if height <= one.expires_at]
        answered = await self._rpc.send([_sending(one.raw) for one in alive])
        return {
            one.hash: [_refusal(answer, one.hash) for answer in each]
            for one, each in zip(alive, answered, strict=True)
        }

    async def _renew(
        self, session: AsyncSession, expired: Sequence[stored.Bytes], finalized: int
    ) -> list[Progress]:
        """Sign anew those of `expired` that can never be mined any more. `finalized` is a slot. What the
        signer refuses for a payout's own sake is given up: its payouts may be handed over again, without it.

        The nodes are asked with no transaction open. Two of these at once would sign twice, so the rows are
        locked afterwards, and signed anew is only what still has the attempts that were asked for.
        """
        attempts = await stored.attempts(session, [one.transaction_id for one in expired])
        async with log.between_transactions(session):
            asked = [_expired(one, attempts[one.transaction_id]) for one in expired]
            lost = await self._history.never_mined(asked, finalized)
            if lost:
                latest = await self._cluster.latest_blockhash()
            addresses = {one.address for one in expired if one.transaction_id in lost}
            prices = {address: (await self._cluster.prices(address))[Urgency.HIGH] for address in addresses}
        if not lost:
            return []
        reach(Point.RENEW_PROVEN)
        refused: dict[str, SigningRefused] = {}
        locked = await stored.lock(session, sorted(lost))
        current = await stored.attempts(session, locked)
        paid = await log.payouts(session, locked)
        for one in await stored.newest(session, locked):
            if current[one.transaction_id] != attempts[one.transaction_id]:
                continue
            try:
                payouts = tuple(paid[one.transaction_id])
                signed = await self._signed_anew(session, one, payouts, latest, prices[one.address])
                reach(Point.RENEW_SIGNED)
                async with session.begin_nested():
                    await log.add_attempts(session, one.org_id, ChainName.SOLANA, [signed], latest.slot)
            except SigningRefused as refusal:
                logger.error("not_signed_anew", transactionId=one.transaction_id, error=repr(refusal))
                if refusal.rejections:
                    refused[one.transaction_id] = refusal
                continue
            except Exception as error:
                # One wallet's key, wherever it is kept, must not keep the others' payments from being made.
                reason = clean(repr(error))
                logger.error("not_signed_anew", transactionId=one.transaction_id, error=reason)
                continue
            reach(Point.RENEW_STORED)
            logger.info("signed_anew", transactionId=one.transaction_id, expired=one.hash, signed=signed.hash)
        return [
            step
            for id, refusal in refused.items()
            for step in await log.expire(
                session, ChainName.SOLANA, [id], code=refusal.code, error=refusal.message, retry=True
            )
        ]

    async def _signed_anew(
        self,
        session: AsyncSession,
        one: stored.Bytes,
        payouts: tuple[Payout, ...],
        latest: Blockhash,
        price: int,
    ) -> SignedTransaction:
        made = formats.renewed(one.raw, latest.hash, price)
        keys = {str(key) for key in made.account_keys}
        token = self._settings.usdc if self._settings.usdc in keys else None
        purpose = Purpose(one.transaction_id, one.kind, payouts, token)
        if one.kind is TransactionKind.SWEEP:
            hash, raw = await sweeping.sign_again(session, made, self._signers, purpose)
        else:
            hash, raw = await transactions.sign(made, await self._signers.signer(one.address), purpose)
        return SignedTransaction(
            one.transaction_id, TransactionKind.BATCH, (), raw, hash, expires_at=latest.last_valid_height
        )


def _expired(newest: stored.Bytes, attempts: Mapping[str, int]) -> Expired:
    return Expired(newest.transaction_id, frozenset(attempts), min(attempts.values()), newest.expires_at)


def _sending(raw: bytes) -> tuple[str, list[Any]]:
    options = {"encoding": "base64", "skipPreflight": True, "maxRetries": 0}
    return "sendTransaction", [base64.b64encode(raw).decode(), options]


def _judged(refusals: Sequence[ChainUnavailable | None]) -> Answer:
    """The class of what `_refusal` told of each endpoint's answer."""
    errors = [one for one in refusals if one is not None]
    if len(errors) < len(refusals):
        return Answer(Sending.SENT)
    verdicts = [
        answers.of_error(ChainName.SOLANA, one.code, one.message, one.data)
        if isinstance(one, RpcError)
        else answers.UNKNOWN
        for one in errors
    ]
    return Answer(answers.combined(verdicts).sending, str(errors[0]))


def _refusal(answer: Any, hash: str) -> ChainUnavailable | None:
    """None when the node took the bytes or has them already; else what it said, which proves nothing."""
    if isinstance(answer, RpcError):
        verdict = answers.of_error(ChainName.SOLANA, answer.code, answer.message, answer.data)
        return None if verdict.sending is Sending.SENT else answer
    if isinstance(answer, ChainUnavailable):
        return answer
    if answers.of_result(answer, hash).sending is Sending.SENT:
        return None
    return ChainUnavailable(f"the node answered with another signature: {answer}")
