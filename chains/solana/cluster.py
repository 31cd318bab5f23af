"""What a cluster asks and takes just now: its newest block hash, what others pay, what an account costs, and
which format of transactions it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from solders.hash import Hash
from solders.instruction import Instruction
from solders.pubkey import Pubkey

from chains.log import clean
from chains.protocol import ChainUnavailable, Urgency
from chains.solana import formats
from chains.solana.formats import Budget, Format
from chains.solana.rpc import Rpc, RpcError, contents
from chains.solana.simulation import simulation
from chains.solana.tokens import Tokens
from chains.solana.transactions import MEMO_PROGRAM
from core.logs import get_logger
from core.settings import SolanaSettings

# Blocks. A block hash is good for 150, and two nodes behind one address may be some apart.
_LONGEST_LIFE: Final = 300
# Seconds that a cluster's word on v1 is believed: it begins to take it once, at an epoch's end.
_FORMAT_SECONDS: Final = 600
_PROBE_UNITS: Final = 100_000

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Blockhash:
    """The newest block hash, the slot at which it was read, and the block height it is good to."""

    hash: Hash
    slot: int
    last_valid_height: int


class Cluster:
    """One cluster, asked through its endpoints."""

    def __init__(self, settings: SolanaSettings, rpc: Rpc, tokens: Tokens) -> None:
        self._settings = settings
        self._rpc = rpc
        self._tokens = tokens
        self._takes_v1 = False
        self._asked_at: float | None = None

    async def latest_blockhash(self) -> Blockhash:
        """The newest block hash that is confirmed.

        Raises `ChainUnavailable` also for one that has expired or is said to be good for longer than any is:
        an expiry that never comes would keep a payment from being signed anew.
        """
        confirmed = {"commitment": "confirmed"}
        result, now = await self._rpc.results(
            [("getLatestBlockhash", [confirmed]), ("getBlockHeight", [confirmed])]
        )
        value = contents(result)
        try:
            hash, height = Hash.from_string(value["blockhash"]), int(value["lastValidBlockHeight"])
        except (KeyError, TypeError, ValueError):
            raise ChainUnavailable("getLatestBlockhash: no block hash") from None
        if not isinstance(now, int) or not now <= height <= now + _LONGEST_LIFE:
            at = clean(str(now))
            raise ChainUnavailable(f"getLatestBlockhash: at height {at} a block hash is good to {height}")
        return Blockhash(hash, int(result["context"]["slot"]), height)

    async def prices(self, address: str) -> Mapping[Urgency, int]:
        """Micro-lamports for a compute unit of a transaction that pays from `address`: of what recent blocks
        took for writing to its token account, the settings' percentiles, within the settings' bounds."""
        account = str((await self._tokens.known()).account_of(address))
        recent = await self._rpc.call("getRecentPrioritizationFees", [account])
        try:
            fees = sorted(int(one["prioritizationFee"]) for one in recent)
        except (KeyError, TypeError, ValueError):
            raise ChainUnavailable("getRecentPrioritizationFees: no fees") from None
        return {
            urgency: self._bounded(fees, percentile)
            for urgency, percentile in zip(Urgency, self._settings.fee_percentiles, strict=True)
        }

    async def rent(self, size: int) -> int:
        """Lamports that opening an account of `size` bytes takes."""
        rent = await self._rpc.call("getMinimumBalanceForRentExemption", size)
        if not isinstance(rent, int):
            raise ChainUnavailable("getMinimumBalanceForRentExemption: not a number")
        return rent

    async def format(self, address: str) -> Format:
        """The format to use for transactions that `address`, which has to have lamports, pays for.

        v1 only where the cluster takes it, which a simulation tells, and v0 elsewhere.
        """
        wanted = self._settings.transaction_format
        if wanted in ("legacy", "v0"):
            return Format(wanted)
        return Format.V1 if await self._v1(address) else Format.V0

    async def _v1(self, address: str) -> bool:
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at < _FORMAT_SECONDS:
            return self._takes_v1
        probe = formats.compiled(
            Format.V1,
            Pubkey.from_string(address),
            [Instruction(MEMO_PROGRAM, b"v1", [])],
            Hash.default(),
            Budget(_PROBE_UNITS, 0),
        )
        try:
            method, params = simulation(probe)
            error: Any = contents(await self._rpc.call(method, *params))["err"]
        except RpcError as refused:
            error = str(refused)
        except (KeyError, TypeError):
            raise ChainUnavailable("simulateTransaction: no verdict") from None
        # A wallet without lamports fails before anything is said of the format.
        if error == "AccountNotFound":
            return False
        taken = error is None
        if self._asked_at is None or self._takes_v1 != taken:
            logger.info("cluster_takes_v1", taken=taken, error=None if taken else clean(str(error)))
        self._takes_v1, self._asked_at = taken, now
        return self._takes_v1

    def _bounded(self, fees: list[int], percentile: float) -> int:
        paid = fees[min(int(len(fees) * percentile / 100), len(fees) - 1)] if fees else 0
        return min(max(paid, self._settings.compute_unit_price), self._settings.max_compute_unit_price)
