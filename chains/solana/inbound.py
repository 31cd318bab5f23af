"""Transfers of USDC from and to watched wallets, found by token account and signature.

Of a busy wallet the signatures are listed back to the newest final one that was read; of any other only when
its balance has changed or something of it waits, and every now and then all the same. A transaction counts as
what it did to the balances of the token accounts, which holds for every way of moving tokens, with fees
withheld or not. Failed transactions move nothing.
Methods: https://solana.com/docs/rpc/http/getsignaturesforaddress and …/gettransaction
"""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from solders.pubkey import Pubkey
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID
from sqlalchemy.ext.asyncio import AsyncSession

from chains import watching
from chains.protocol import ChainName, ChainUnavailable, Inbound, Opening, TransactionKind, Transfer
from chains.solana.addresses import token_account
from chains.solana.history import History, Missing
from chains.solana.rpc import Call, Rpc
from chains.watching import Made, Watch
from core.logs import get_logger

logger = get_logger(__name__)

_PAGE: Final = 1_000
_PROGRAMS: Final = (TOKEN_PROGRAM_ID, TOKEN_2022_PROGRAM_ID)
# Where a token account keeps its amount, for both token programs
# (https://github.com/solana-program/token, state.rs).
_AMOUNT: Final = {"offset": 64, "length": 8}
_TRANSACTION: Final = {"commitment": "confirmed", "encoding": "json", "maxSupportedTransactionVersion": 1}
# How often a quiet account is asked for its signatures though its balance has not changed.
_QUIET_SECONDS: Final = 60.0
_REMEMBERED: Final = 20_000
# Who stands for the other side where tokens were made or burnt: the system program's address.
NOBODY: Final = "11111111111111111111111111111111"
# Our own money between our own addresses.
_OWN: Final = frozenset({TransactionKind.SWEEP, TransactionKind.MOVE})


@dataclass(frozen=True, slots=True)
class _Signature:
    """A transaction that touched a token account, as the list of its signatures tells of it."""

    hash: str
    slot: int
    failed: bool


@dataclass(frozen=True, slots=True)
class _Change:
    """What a transaction did to one token account of the mint: by how much it rose or, below zero, fell.
    `position` is its place among the transaction's accounts, `owner` whose it was or, where it rose, is now:
    an account can be handed to anybody, who need not even know."""

    position: int
    account: str
    owner: str
    amount: int


class Watcher:
    """Reads on for the watched wallets of one mint. `history` proves that a transaction is gone."""

    def __init__(self, rpc: Rpc, mint: Pubkey, history: History) -> None:
        self._rpc = rpc
        self._mint = mint
        self._history = history
        self._program: Pubkey | None = None
        self._read: OrderedDict[_Signature, tuple[_Change, ...]] = OrderedDict()
        self._asked: dict[str, float] = {}

    async def opening(self, address: str) -> Opening:
        """Both balances of a wallet as of one slot, at confirmed."""
        account = str(token_account(address, self._mint, await self._token_program()))
        slot, found = await self._rpc.accounts([address, account], dataSlice=_AMOUNT)
        wallet = found[address]
        return Opening(slot, _amount(found[account]), 0 if wallet is None else int(wallet["lamports"]))

    async def inbound(self, session: AsyncSession, pending: Sequence[Transfer]) -> Inbound:
        """See `Chain.inbound`. Raises `ChainUnavailable`; the caller then rolls back and calls again."""
        await self._rpc.check_genesis()
        watches = {one.address: one for one in await watching.watched(session, ChainName.SOLANA)}
        if not watches:
            return Inbound()
        program = await self._token_program()
        accounts = {address: str(token_account(address, self._mint, program)) for address in watches}
        final = await self._rpc.number("getSlot", "finalized")
        for also in await self._rpc.others(lambda one: one.number("getSlot", "finalized")):
            final = min(final, also)
        _, balances = await self._rpc.accounts(
            [accounts[address] for address, one in watches.items() if not one.busy], dataSlice=_AMOUNT
        )
        held = {
            address: _amount(balances[accounts[address]]) for address, one in watches.items() if not one.busy
        }
        waiting = {address for one in pending for address in (one.sender, one.recipient)}
        asked = [
            one
            for address, one in watches.items()
            if one.busy or address in waiting or held[address] != one.balance or self._is_due(address)
        ]
        listed = await self._listed(asked, accounts)
        made = await watching.made(
            session, ChainName.SOLANA, list({one.hash for found in listed.values() for one in found})
        )
        waits = {one.key: one.block for one in pending}
        transfers = {
            transfer.key: transfer
            for one, changes in await self._changes(listed, made)
            for transfer in _transfers(one, changes, watches, accounts, made.get(one.hash), final)
            if waits.get(transfer.key) != transfer.block
        }
        seen = {one.hash for found in listed.values() for one in found if not one.failed}
        still = [one for one in pending if one.key not in transfers]
        dropped, finals = await self._settled(still, seen, final)
        cursors = {each.address: _cursor(listed[each.address], final) for each in asked}
        await watching.read(
            session,
            ChainName.SOLANA,
            {address: (cursor, held.get(address)) for address, cursor in cursors.items()},
        )
        for each in asked:
            self._asked[each.address] = monotonic()
        finals |= {one.key for one in transfers.values() if one.final}
        ordered = sorted(transfers.values(), key=lambda one: (one.block, one.key))
        return Inbound(tuple(ordered), frozenset(dropped), frozenset(finals))

    def _is_due(self, address: str) -> bool:
        return self._asked.get(address, 0.0) + _QUIET_SECONDS <= monotonic()

    async def _listed(
        self, asked: Sequence[Watch], accounts: Mapping[str, str]
    ) -> dict[str, list[_Signature]]:
        """The signatures of each wallet's token account, oldest first, that came after what was read."""
        found: dict[str, list[_Signature]] = {one.address: [] for one in asked}
        before: dict[str, str | None] = {one.address: None for one in asked}
        left = {one.address: one for one in asked}
        while left:
            answers = await self._rpc.results(
                [_signatures_of(accounts[address], one, before[address]) for address, one in left.items()]
            )
            for (address, one), page in zip(list(left.items()), answers, strict=True):
                signatures = [_signature(entry) for entry in _listing(page)]
                found[address] += [each for each in signatures if each.slot > one.since]
                if len(signatures) < _PAGE or signatures[-1].slot <= one.since:
                    del left[address]
                else:
                    before[address] = signatures[-1].hash
        return {address: signatures[::-1] for address, signatures in found.items()}

    async def _changes(
        self, listed: Mapping[str, Sequence[_Signature]], made: Mapping[str, Made]
    ) -> list[tuple[_Signature, tuple[_Change, ...]]]:
        """What each listed transaction did. Of our own payments nothing is asked: what they did to the wallet
        that made them is in the log."""
        wanted: dict[str, _Signature] = {}
        for address, signatures in listed.items():
            for one in signatures:
                own = made.get(one.hash)
                if not one.failed and (own is None or (own.address != address and own.kind not in _OWN)):
                    wanted[one.hash] = one
        asked = [one for one in wanted.values() if one not in self._read]

        async def changes(rpc: Rpc) -> list[tuple[_Change, ...]]:
            answers = await rpc.results([("getTransaction", [one.hash, _TRANSACTION]) for one in asked])
            return [self._change(answer, one) for one, answer in zip(asked, answers, strict=True)]

        if asked:
            self._read |= zip(asked, await self._rpc.confirmed(changes), strict=True)
        result = [(one, self._read[one]) for one in wanted.values()]
        while len(self._read) > _REMEMBERED:
            self._read.popitem(last=False)
        return result

    def _change(self, answer: Any, expected: _Signature) -> tuple[_Change, ...]:
        """The changes of token accounts of the mint in an answer of getTransaction."""
        try:
            meta, message = answer["meta"], answer["transaction"]["message"]
            told = answer["transaction"]["signatures"][0], int(answer["slot"]), meta["err"]
            if told != (expected.hash, expected.slot, None):
                raise ChainUnavailable("the node has another transaction than it listed")
            loaded = meta.get("loadedAddresses") or {}
            keys = [*message["accountKeys"], *loaded.get("writable", ()), *loaded.get("readonly", ())]
            before, after = (self._balances(meta[side]) for side in ("preTokenBalances", "postTokenBalances"))
            return tuple(
                _Change(
                    position=place,
                    account=keys[place],
                    owner=_owner(before.get(place), after.get(place)),
                    amount=_held(after.get(place)) - _held(before.get(place)),
                )
                for place in sorted(before.keys() | after.keys())
            )
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise ChainUnavailable("the node's transaction cannot be read") from None

    def _balances(self, entries: Any) -> dict[int, Any]:
        """The entries of the mint by the place of their account."""
        return {entry["accountIndex"]: entry for entry in entries or () if entry["mint"] == str(self._mint)}

    async def _settled(
        self, pending: Sequence[Transfer], seen: set[str], final: int
    ) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
        """Which pending transfers are gone, which is proven, and which are final: still listed though their
        slot is final."""
        final_now = {one.key for one in pending if one.block <= final and one.hash in seen}
        missing = {one.hash: one for one in pending if one.block <= final and one.hash not in seen}
        if not missing:
            return set(), final_now
        gone = await self._history.gone(
            [Missing(hash, frozenset({hash}), one.block) for hash, one in missing.items()]
        )
        return {one.key for one in pending if one.hash in gone}, final_now

    async def _token_program(self) -> Pubkey:
        """The program that the mint belongs to."""
        if self._program is None:
            _, found = await self._rpc.accounts([str(self._mint)], dataSlice={"offset": 0, "length": 0})
            mint = found[str(self._mint)]
            owner = None if mint is None else str(mint["owner"])
            self._program = next((one for one in _PROGRAMS if str(one) == owner), None)
            if self._program is None:
                raise ChainUnavailable("there is no token at the configured mint")
        return self._program


def _amount(account: Any) -> int:
    """What a token account holds, as it was read with `_AMOUNT`; 0 when there is none."""
    if account is None or account["owner"] not in map(str, _PROGRAMS):
        return 0
    try:
        data = base64.b64decode(account["data"][0], validate=True)
    except (binascii.Error, IndexError, KeyError, TypeError):
        raise ChainUnavailable("an account came without its data") from None
    if len(data) != _AMOUNT["length"]:
        raise ChainUnavailable("a token account came with another size than it has")
    return int.from_bytes(data, "little")


def _transfers(
    one: _Signature,
    changes: Sequence[_Change],
    watches: Mapping[str, Watch],
    accounts: Mapping[str, str],
    made: Made | None,
    final: int,
) -> Iterable[Transfer]:
    """The changes of watched wallets' accounts as transfers. Of several on the other side the one that lost
    or won the most stands for all; where tokens were made or burnt, `NOBODY`. What went from one watched
    wallet to another is told of once, as what arrived, if the one stands for all that paid; and what we paid
    ourselves is not told of."""
    owners = {accounts[address]: address for address in watches}
    ours = {
        change.position: owners[change.account]
        for change in changes
        if change.account in owners and (change.amount < 0 or change.owner == owners[change.account])
    }
    payers = [change for change in changes if change.amount < 0]
    payees = [change for change in changes if change.amount > 0]
    payer = min(payers, key=lambda change: change.amount, default=None)
    outside = [change for change in payees if change.position not in ours]
    payee = max(outside, key=lambda change: change.amount, default=None)
    for change in changes:
        arrived = change.amount > 0
        told = arrived or (made is None and (payee is not None or not payees or change is not payer))
        if change.position not in ours or not change.amount or not told:
            continue
        address = ours[change.position]
        if one.slot <= watches[address].since:
            continue
        other = payer if arrived else payee
        party = NOBODY if other is None else other.owner
        if not arrived and party in watches:
            # In an account of theirs that is not watched: no deposit.
            party = NOBODY
        yield Transfer(
            hash=one.hash,
            position=change.position,
            block=one.slot,
            block_hash=str(one.slot),
            sender=party if arrived else address,
            recipient=address if arrived else party,
            amount=abs(change.amount),
            final=one.slot <= final,
            made=None if made is None else made.kind,
        )


def _cursor(signatures: Sequence[_Signature], final: int) -> str | None:
    """The newest signature that is final; what came before it need not be listed again."""
    return next((one.hash for one in reversed(signatures) if one.slot <= final), None)


def _signatures_of(account: str, watch: Watch, before: str | None) -> Call:
    options: dict[str, Any] = {"commitment": "confirmed", "limit": _PAGE}
    if watch.cursor is not None:
        options["until"] = watch.cursor
    if before is not None:
        options["before"] = before
    return "getSignaturesForAddress", [account, options]


def _listing(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise ChainUnavailable("getSignaturesForAddress: not a list")
    return answer


def _signature(entry: Any) -> _Signature:
    try:
        return _Signature(str(entry["signature"]), int(entry["slot"]), entry["err"] is not None)
    except (KeyError, TypeError, ValueError):
        raise ChainUnavailable("getSignaturesForAddress: an entry cannot be read") from None


def _owner(before: Any, after: Any) -> str:
    fell = _held(after) < _held(before)
    return str((before if fell or after is None else after)["owner"])


def _held(entry: Any) -> int:
    return 0 if entry is None else int(entry["uiTokenAmount"]["amount"])
