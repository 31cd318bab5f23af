"""JSON-RPC to Ethereum's nodes: a proper answer, or an exception that says it is none.

httpx and msgspec rather than web3's provider: a batch takes half the time, nothing is retried behind our
back, and an answer is matched by its id or refused. An error never quotes a node's address, whose path is
often a credential.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Self

from chains.endpoints import Call, Client, Endpoint, RpcError, Stranger, Trouble, open_pool, raised
from chains.protocol import ChainName, ChainUnavailable
from core.settings import EthereumSettings

__all__ = ["Call", "Rpc", "RpcError", "digest", "octets", "quantity"]

_DIGEST: Final = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
# Of a caller that asks too often. EIP-1474 has -32005 for every kind of limit, so the words decide.
_LIMITED: Final = frozenset({-32005, -32016, -32029})
_LIMITED_WORDS: Final = re.compile(r"rate|too many requests|request count|capacity|quota|throughput", re.I)


class Rpc(Client):
    """A batch is answered by one endpoint. A client belongs to the event loop that first used it."""

    @classmethod
    def connect(cls, settings: EthereumSettings) -> Self:
        """A client of all endpoints of the settings."""

        async def probe(endpoint: Endpoint) -> int:
            answers = await endpoint.ask([("eth_chainId", []), ("eth_blockNumber", [])])
            chain_id, number = (quantity(raised(answer)) for answer in answers)
            if chain_id != settings.chain_id:
                raise Stranger(f"the node is on chain {chain_id}, not {settings.chain_id}")
            return number

        return cls(open_pool(ChainName.ETHEREUM, settings, probe, _trouble))

    async def call(self, method: str, *params: Any) -> Any:
        """The result of one call; it may be None. Raises `RpcError`, or `ChainUnavailable`."""
        (result,) = await self.batch([(method, params)])
        return raised(result)

    async def results(self, calls: Sequence[Call]) -> list[Any]:
        """The results of several calls in one request. Raises the first `RpcError`, or `ChainUnavailable`."""
        return [raised(result) for result in await self.batch(calls)]

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """What came of each call, in their order: its result, or its `RpcError` as a value. One request.

        Raises `ChainUnavailable` when the request as a whole has no answer, and then nothing is known of
        what the node did.
        """
        return await self._pool.read(calls, self._pin) if calls else []

    async def send(self, calls: Sequence[Call]) -> list[list[Any]]:
        """Make the same calls to all endpoints that are well. What each of them answered, call by call: a
        result, an `RpcError`, or the `ChainUnavailable` that the request ended in."""
        if not calls:
            return []
        if self._pool.only is not None:
            try:
                return [[answer] for answer in await self.batch(calls)]
            except ChainUnavailable as error:
                return [[_of_each(error, calls)] for _ in calls]
        outcomes = await self._pool.write(lambda endpoint: endpoint.ask(calls))
        return [
            [
                _of_each(outcome, calls) if isinstance(outcome, ChainUnavailable) else outcome[at]
                for outcome in outcomes
            ]
            for at in range(len(calls))
        ]


def _of_each(error: ChainUnavailable, calls: Sequence[Call]) -> ChainUnavailable:
    """What a request ended in as the answer to each of its calls: that several were refused together says
    nothing of any of them."""
    return ChainUnavailable(str(error)) if len(calls) > 1 else error


def _trouble(error: RpcError) -> Trouble | None:
    limited = error.code == 429 or (error.code in _LIMITED and _LIMITED_WORDS.search(error.message))
    return Trouble.LIMITED if limited else None


def quantity(value: Any) -> int:
    """A hexadecimal quantity as the execution API spells it. Raises `ChainUnavailable` for anything else."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ChainUnavailable("the node answered with something else than a quantity")
    try:
        return int(value, 16)
    except ValueError:
        raise ChainUnavailable("the node answered with something else than a quantity") from None


def octets(value: Any) -> bytes:
    """Hexadecimal data as the execution API spells it. Raises `ChainUnavailable` for anything else."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ChainUnavailable("the node answered with something else than data")
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        raise ChainUnavailable("the node answered with something else than data") from None


def digest(value: Any) -> str:
    """A hash of 32 bytes as the execution API spells it. Raises `ChainUnavailable` for anything else."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ChainUnavailable("the node answered with something else than a hash")
    return value
