"""Sending stored bytes, again while they can be mined, and signing anew what surely never was.

Two attempts of one transaction that could both be mined would be two payments. So an attempt is replaced only
when the *finalized* block height has passed its last valid one and the node, which has to know the chain from
the signing up to there, finds no attempt of the transaction in its whole history.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final

from solders.message import Message
from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.protocol import ChainName, ChainUnavailable, SignedTransaction, TransactionKind
from chains.signers import Signers
from chains.solana import stored, transactions
from chains.solana.building import Blockhash, Builder
from chains.solana.rpc import Rpc, RpcError
from core.logs import get_logger
from core.settings import SolanaSettings

# Between two looks at the block height while many are sent. Other calls to the node wait for a part at most.
_SENT_AT_ONCE: Final = 64

logger = get_logger(__name__)


class Sender:
    """Sends what is in the log. It is told what by the log alone."""

    def __init__(self, settings: SolanaSettings, rpc: Rpc, signers: Signers, builder: Builder) -> None:
        self._settings = settings
        self._rpc = rpc
        self._signers = signers
        self._builder = builder

    async def broadcast(self, session: AsyncSession, transaction_ids: Sequence[str]) -> None:
        """See `Chain.broadcast`. Bytes that are not committed are left alone."""
        await self._send(session, await stored.newest(session, transaction_ids))

    async def rebroadcast(self, session: AsyncSession) -> None:
        """See `Chain.rebroadcast`. What is signed anew here is sent by a later call, once it is committed."""
        unseen = await stored.unseen(session, self._settings.rebroadcast_after)
        if not unseen:
            return
        await self._send(session, unseen)
        async with log.between_transactions(session):
            # The slot is read first: whoever answers for it later has seen at least that height.
            height = await self._rpc.number("getBlockHeight", "finalized")
            slot = await self._rpc.number("getSlot", "finalized")
        expired = [one.transaction_id for one in unseen if one.expires_at < height]
        if expired:
            await self._renew(session, expired, height, slot)

    async def _send(self, session: AsyncSession, attempts: Sequence[stored.Bytes]) -> None:
        """Send and mark, part by part. No transaction is open while the node is asked, and none of `attempts`
        was written by the one that is committed here."""
        for at in range(0, len(attempts), _SENT_AT_ONCE):
            part = attempts[at : at + _SENT_AT_ONCE]
            async with log.between_transactions(session):
                answers = await self._post(part)
            sent = [hash for hash, refusal in answers.items() if refusal is None]
            errors = {hash: refusal for hash, refusal in answers.items() if refusal is not None}
            if errors:
                logger.warning("broadcast_refused", count=len(errors), error=next(iter(errors.values())))
            await log.mark(session, ChainName.SOLANA, sent, errors)

    async def _post(self, attempts: Sequence[stored.Bytes]) -> dict[str, str | None]:
        """Send those that have not expired; what the node said, None for yes, by signature."""
        try:
            height = await self._rpc.number("getBlockHeight", "confirmed")
        except ChainUnavailable as error:
            return dict.fromkeys((one.hash for one in attempts), str(error))
        alive = [one for one in attempts if height <= one.expires_at]
        answers = await self._rpc.answers([_sending(one.raw) for one in alive])
        return {one.hash: _refusal(answer, one.hash) for one, answer in zip(alive, answers, strict=True)}

    async def _renew(self, session: AsyncSession, ids: Sequence[str], height: int, slot: int) -> None:
        """Sign anew those of `ids` that can never be mined any more. `height` and `slot` are finalized.

        Two of these at once would sign twice, so the rows are locked, and the attempts read again below the
        lock: whoever came first has left one that has not expired.
        """
        locked = await stored.lock(session, ids)
        expired = [one for one in await stored.newest(session, locked) if one.expires_at < height]
        if not expired:
            return
        attempts = await stored.attempts(session, [one.transaction_id for one in expired])
        lost = await self._never_mined(expired, attempts, slot)
        if not lost:
            return
        latest = await self._builder.latest_blockhash()
        for one in lost:
            signed = await self._signed_anew(one, latest)
            logger.info("signed_anew", transactionId=one.transaction_id, expired=one.hash, signed=signed.hash)
            await log.add_attempts(session, one.org_id, ChainName.SOLANA, [signed], latest.slot)

    async def _never_mined(
        self, expired: Sequence[stored.Bytes], attempts: dict[str, dict[str, int]], slot: int
    ) -> list[stored.Bytes]:
        """Those of `expired` of which no attempt is known to a node whose memory covers all the time in which
        it could have been mined. Raises `ChainUnavailable` when there is no telling."""
        oldest = await self._rpc.call("getFirstAvailableBlock")
        if not isinstance(oldest, int):
            raise ChainUnavailable("getFirstAvailableBlock: not a number")
        hashes = [hash for of_one in attempts.values() for hash in of_one]
        looked_at, statuses = await self._rpc.statuses(hashes, history=True)
        if looked_at < slot:
            raise ChainUnavailable(f"the node answers from slot {looked_at}, behind the finalized {slot}")
        lost = []
        for one in expired:
            of_one = attempts[one.transaction_id]
            if any(statuses[hash] is not None for hash in of_one):
                continue
            if oldest > min(of_one.values()):
                logger.error("history_too_short", transactionId=one.transaction_id, first=oldest)
                continue
            lost.append(one)
        return lost

    async def _signed_anew(self, one: stored.Bytes, latest: Blockhash) -> SignedTransaction:
        made: Message = transactions.renewed(one.raw, latest.hash, await self._builder.price(one.address))
        hash, raw = await transactions.sign(made, await self._signers.signer(one.address))
        return SignedTransaction(
            one.transaction_id, TransactionKind.BATCH, (), raw, hash, expires_at=latest.last_valid_height
        )


def _sending(raw: bytes) -> tuple[str, list[Any]]:
    options = {"encoding": "base64", "skipPreflight": True, "maxRetries": 0}
    return "sendTransaction", [base64.b64encode(raw).decode(), options]


def _refusal(answer: Any, hash: str) -> str | None:
    """None when the node took the bytes or has them already; else what it said, which proves nothing."""
    if isinstance(answer, RpcError):
        named = isinstance(answer.data, dict) and answer.data.get("err") == "AlreadyProcessed"
        return None if named or "already been processed" in answer.message else str(answer)
    if isinstance(answer, ChainUnavailable):
        return str(answer)
    return None if answer == hash else f"the node answered with another signature: {answer}"
