"""Solana's JSON-RPC over HTTP. What is no proper answer is `ChainUnavailable`, and never "not found".

Calls go one by one with bounded concurrency, because not every node takes JSON-RPC arrays.
Methods: https://solana.com/docs/rpc/http
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from chains.endpoints import Call, Client, Endpoint, Pool, RpcError, Stranger, Trouble, open_pool, raised
from chains.log import clean
from chains.protocol import ChainName, ChainUnavailable
from core.settings import SolanaSettings

__all__ = ["Call", "Header", "Rpc", "RpcError", "contents"]

SIGNATURES_A_CALL: Final = 256
ACCOUNTS_A_CALL: Final = 100
BLOCKS_A_CALL: Final = 500_000
# NODE_UNHEALTHY and MIN_CONTEXT_SLOT_NOT_REACHED (https://solana.com/docs/rpc).
_BEHIND: Final = frozenset({-32005, -32016})


@dataclass(frozen=True, slots=True)
class Header:
    """A block's slot, its height, and the slot of the block before it."""

    slot: int
    height: int
    parent: int


class Rpc(Client):
    """`genesis` is the hash of the cluster that each node has to be of, None for any."""

    def __init__(self, pool: Pool, genesis: str | None = None) -> None:
        super().__init__(pool)
        self._genesis = genesis
        self._checked: set[Endpoint] = set()

    @classmethod
    def connect(cls, settings: SolanaSettings) -> Self:
        """A client of all endpoints of the settings."""
        genesis = settings.genesis_hash

        async def probe(endpoint: Endpoint) -> int:
            if genesis is not None:
                (found,) = await endpoint.ask([("getGenesisHash", [])])
                if raised(found) != genesis:
                    raise Stranger(f"the node is of cluster {clean(str(found))}, not {genesis}")
            (slot,) = await endpoint.ask([("getSlot", [{"commitment": "confirmed"}])])
            if not isinstance(raised(slot), int):
                raise ChainUnavailable("getSlot: not a number")
            return int(slot)

        return cls(open_pool(ChainName.SOLANA, settings, probe, _trouble), genesis)

    async def call(self, method: str, *params: Any) -> Any:
        """The `result` of one call. Raises `RpcError` for an error reply, else `ChainUnavailable`."""
        (answer,) = await self._pool.read([(method, params)], self._pin)
        return raised(answer)

    async def answers(self, calls: Sequence[Call]) -> list[Any]:
        """The result of each call, or the `ChainUnavailable` it ended in, in the calls' order.

        Once the node does not answer a call at all, those that are not made yet end in the same: each would
        wait for its time-out.
        """
        answers: list[Any] = [None] * len(calls)
        silent: list[ChainUnavailable] = []
        waiting = iter(enumerate(calls))

        async def work() -> None:
            for at, (method, params) in waiting:
                if silent:
                    answers[at] = silent[0]
                    continue
                try:
                    answers[at] = await self.call(method, *params)
                except RpcError as error:
                    answers[at] = error
                except ChainUnavailable as error:
                    answers[at] = error
                    silent.append(error)

        at_once = self._pool.endpoints[0].concurrency
        await asyncio.gather(*(work() for _ in range(min(at_once, len(calls)))))
        return answers

    async def send(self, calls: Sequence[Call]) -> list[list[Any]]:
        """Make the same calls to all endpoints that are well. What each of them answered, call by call: a
        result, or the `ChainUnavailable` it ended in."""

        async def through(endpoint: Endpoint) -> list[Any]:
            answers = await self._at(endpoint).answers(calls)
            if all(isinstance(one, ChainUnavailable) and not isinstance(one, RpcError) for one in answers):
                raise answers[0]
            return answers

        if not calls:
            return []
        outcomes = await self._pool.write(through)
        return [
            [outcome if isinstance(outcome, ChainUnavailable) else outcome[at] for outcome in outcomes]
            for at in range(len(calls))
        ]

    async def results(self, calls: Sequence[Call]) -> list[Any]:
        """The result of each call, in order. Raises what the first failing one raised."""
        answers = await self.answers(calls)
        for answer in answers:
            if isinstance(answer, ChainUnavailable):
                raise answer
        return answers

    async def accounts(self, addresses: Sequence[str], **options: Any) -> tuple[int, dict[str, Any]]:
        """The accounts at `addresses` at confirmed, None where there is none, and the oldest slot that
        they were read at (getMultipleAccounts)."""
        wanted = list(dict.fromkeys(addresses))
        config = {"encoding": "base64", "commitment": "confirmed"} | options
        parts = [wanted[at : at + ACCOUNTS_A_CALL] for at in range(0, len(wanted), ACCOUNTS_A_CALL)]
        found: dict[str, Any] = {}
        slot: int | None = None
        for part, result in zip(
            parts,
            await self.results([("getMultipleAccounts", [part, config]) for part in parts]),
            strict=True,
        ):
            values = contents(result)
            if not isinstance(values, list) or len(values) != len(part):
                raise ChainUnavailable("getMultipleAccounts: another number of accounts than asked for")
            read_at = int(result["context"]["slot"])
            slot = read_at if slot is None else min(slot, read_at)
            found.update(zip(part, values, strict=True))
        return slot or 0, found

    async def statuses(self, signatures: Sequence[str], *, history: bool) -> tuple[int, dict[str, Any]]:
        """The status of each signature, None when the node knows none, and the oldest slot at which it
        looked (getSignatureStatuses). `history` also searches what has left the node's recent memory."""
        config = {"searchTransactionHistory": history}
        parts = [
            list(signatures[at : at + SIGNATURES_A_CALL])
            for at in range(0, len(signatures), SIGNATURES_A_CALL)
        ]
        found: dict[str, Any] = {}
        slot: int | None = None
        for part, result in zip(
            parts,
            await self.results([("getSignatureStatuses", [part, config]) for part in parts]),
            strict=True,
        ):
            values = contents(result)
            if not isinstance(values, list) or len(values) != len(part):
                raise ChainUnavailable("getSignatureStatuses: another number of statuses than asked for")
            looked_at = int(result["context"]["slot"])
            slot = looked_at if slot is None else min(slot, looked_at)
            found.update(zip(part, values, strict=True))
        return slot or 0, found

    async def number(self, method: str, commitment: str) -> int:
        """A slot or a block height at `commitment`."""
        result = await self.call(method, {"commitment": commitment})
        if not isinstance(result, int):
            raise ChainUnavailable(f"{method}: not a number")
        return result

    async def blocks(self, start: int, count: int) -> list[int]:
        """The slots of the first `count` finalized blocks at the slot `start` or after it, or of as many as
        there are, ascending (getBlocksWithLimit)."""
        found: list[int] = []
        while len(found) < count:
            asked = min(count - len(found), BLOCKS_A_CALL)
            part = await self.call("getBlocksWithLimit", start, asked, {"commitment": "finalized"})
            if not isinstance(part, list) or len(part) > asked:
                raise ChainUnavailable("getBlocksWithLimit: not the slots asked for")
            for slot in part:
                if not isinstance(slot, int) or slot < start:
                    raise ChainUnavailable("getBlocksWithLimit: slots out of order")
                start = slot + 1
            found += part
            if len(part) < asked:
                break
        return found

    async def block(self, slot: int) -> Header:
        """The header of the finalized block at `slot`, which has to be there (getBlock)."""
        options = {
            "commitment": "finalized",
            "maxSupportedTransactionVersion": 1,
            "transactionDetails": "none",
            "rewards": False,
        }
        block = await self.call("getBlock", slot, options)
        try:
            return Header(slot, int(block["blockHeight"]), int(block["parentSlot"]))
        except (KeyError, TypeError, ValueError):
            raise ChainUnavailable("getBlock: no block with its height") from None

    async def check_genesis(self) -> None:
        """Raise `ChainUnavailable` when the node that answers is of another cluster. A node is asked until
        one answer was good."""
        if self._genesis is None or self.endpoint in self._checked:
            return
        genesis = await self.call("getGenesisHash")
        if genesis != self._genesis:
            raise ChainUnavailable(f"the node is of cluster {clean(str(genesis))}, not {self._genesis}")
        if self.endpoint is not None:
            self._checked.add(self.endpoint)


def contents(result: Any) -> Any:
    """The `value` of a result that comes with its context. Raises `ChainUnavailable` when there is none."""
    try:
        int(result["context"]["slot"])
        return result["value"]
    except (KeyError, TypeError, ValueError):
        raise ChainUnavailable("the result has no context") from None


def _trouble(error: RpcError) -> Trouble | None:
    if error.code in _BEHIND:
        return Trouble.BEHIND
    return Trouble.LIMITED if error.code == 429 else None
