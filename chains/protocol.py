"""What every chain can do, in words that are the same for all of them.

A chain takes payouts and makes transactions of them. It stores what it signed before anything is sent,
follows its own transactions block by block, and reports what became of them. It knows no payment and posts
nothing: `Payout.reference` is the caller's business.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from core.errors import FieldError, ValidationError
from core.money import Currency


class ChainName(StrEnum):
    """A chain as the API names it."""

    ETHEREUM = "ethereum"
    SOLANA = "solana"


class InvalidAddress(ValidationError):
    """The text is no address that this chain could pay to."""


def invalid_address(message: str, field: str = "to") -> InvalidAddress:
    """The refusal of an address, its message naming what is wrong with it."""
    return InvalidAddress(message, FieldError(field, message))


class ChainUnavailable(Exception):
    """The node did not answer, or not in a way that can be relied on. Nothing is known of what it did."""


class Urgency(StrEnum):
    """How much a transaction offers to be mined soon."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Payout:
    """One payment to make: `amount` in the smallest unit of the token, to a checked address."""

    reference: str
    to: str
    amount: int
    urgency: Urgency = Urgency.NORMAL


@dataclass(frozen=True, slots=True)
class Rejection:
    """A payout that would fail, found before anything was signed for it: it is surely not sent."""

    reference: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """Signed bytes that are ready to be stored, and only then sent.

    `hash` is the transaction hash or the first signature. `nonce` is Ethereum's. `expires_at` is Solana's
    last valid block height. One that `cancels` only uses up the nonce.
    """

    id: str
    kind: TransactionKind
    payouts: tuple[Payout, ...]
    raw: bytes
    hash: str
    nonce: int | None = None
    expires_at: int | None = None
    cancels: bool = False


class TransactionKind(StrEnum):
    """What a transaction is for.

    TRANSFER pays one, BATCH several. DELEGATION and APPROVAL ready a wallet for batches. SWEEP brings a
    deposit to the treasury, MOVE the treasury's money to another of its addresses. FILL pays nothing: it uses
    up a nonce that was given out and whose bytes are lost.
    """

    TRANSFER = "transfer"
    BATCH = "batch"
    DELEGATION = "delegation"
    APPROVAL = "approval"
    SWEEP = "sweep"
    MOVE = "move"
    FILL = "fill"


@dataclass(frozen=True, slots=True)
class Built:
    """What became of the payouts that were handed over: in transactions, rejected, or, when neither, left
    for later because the wallet has as many transactions in flight as it may."""

    transactions: list[SignedTransaction] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


class TransactionStatus(StrEnum):
    """Where a transaction is; docs/transaction-states.md has the ways from one to the next.

    SIGNED: stored, and so perhaps sent. BROADCAST: a node took it. INCLUDED: in a block. CONFIRMED: the block
    is deep enough to be told of. FINALIZED: for good. EXPIRED: none of its bytes can ever be mined, which is
    proven. QUARANTINED: its nonce was used by a final transaction that is not ours; a person has to look.
    """

    SIGNED = "SIGNED"
    BROADCAST = "BROADCAST"
    INCLUDED = "INCLUDED"
    CONFIRMED = "CONFIRMED"
    FINALIZED = "FINALIZED"
    EXPIRED = "EXPIRED"
    QUARANTINED = "QUARANTINED"


@dataclass(frozen=True, slots=True)
class PayoutResult:
    """What the chain did with one payout of a mined transaction.

    `code` (docs/failure-codes.md) and `error` say why it was not paid. `retry`: not through a fault of its
    own that is known, and once the transaction is FINALIZED it never will be by it: the caller may hand it
    over again.
    """

    reference: str
    paid: bool
    error: str | None = None
    retry: bool = False
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """A transaction that moved on, and what it cost.

    `status` is CONFIRMED, FINALIZED, or BROADCAST for one that a reorganisation took back out of the chain;
    then results and costs are void. EXPIRED paid nothing and cost nothing, and never will. `fee` is what the
    chain charged in the smallest unit of its native asset; `rent` what it took to open recipients' accounts.
    A result that says failed is final only when the status is FINALIZED or EXPIRED.
    """

    transaction_id: str
    org_id: UUID
    address: str
    status: TransactionStatus
    hash: str
    fee: int = 0
    rent: int = 0
    results: tuple[PayoutResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer of the token from or to a watched address, as a block that is not dropped tells of it.

    `position` is its log's place within the transaction, on Solana the place of the token account among the
    transaction's accounts; with the hash it names the transfer for good. `block` is a number, on Solana the
    slot. `amount` is what arrived, or what left. `made` is set where the transaction is one of ours.
    """

    hash: str
    position: int
    block: int
    block_hash: str
    sender: str
    recipient: str
    amount: int
    final: bool
    made: TransactionKind | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What names the transfer on its chain."""
        return self.hash, self.position


@dataclass(frozen=True, slots=True)
class Inbound:
    """What is new of the transfers of watched addresses: those that were found, again or for the first time;
    the keys of those that were pending and are in no block any more, and of those that are final now."""

    transfers: tuple[Transfer, ...] = ()
    dropped: frozenset[tuple[str, int]] = frozenset()
    final: frozenset[tuple[str, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Holding:
    """A deposit to bring home: `amount` smallest units from the address `source`, whose key is the one that
    was derived at the index `derivation` or, without one, a key of its own."""

    reference: str
    source: str
    derivation: int | None
    amount: int


@dataclass(frozen=True, slots=True)
class Opening:
    """What an address had at the end of one block, or slot, in smallest units."""

    block: int
    token: int
    native: int


@dataclass(frozen=True, slots=True)
class Head:
    """The newest block, or slot, that the node knows and the newest that is final."""

    number: int
    finalized: int


@dataclass(frozen=True, slots=True)
class Gathering:
    """`size` payouts share a transaction, and fewer wait up to `seconds` for others; 0: none waits."""

    size: int
    seconds: float


class Chain(Protocol):
    """One chain as the treasury sees it. Calls to the node raise `ChainUnavailable`."""

    @property
    def name(self) -> ChainName: ...

    @property
    def native(self) -> Currency:
        """The asset that the chain charges its fees in."""

    @property
    def gathering(self) -> Gathering:
        """When payouts are to be handed to `build`."""

    def address(self, text: str) -> str:
        """`text` in the chain's canonical spelling, if USDC could be paid there. Asks no node.

        Raises `InvalidAddress`: malformed, of another chain, with a failing checksum, the zero address, the
        token itself.
        """

    async def head(self) -> Head: ...

    async def token_balance(self, address: str) -> int:
        """USDC of `address` in its smallest unit, at the newest block."""

    async def native_balance(self, address: str) -> int:
        """Native asset of `address` in its smallest unit, at the newest block."""

    async def build(
        self, session: AsyncSession, org_id: UUID, address: str, payouts: Sequence[Payout]
    ) -> Built:
        """Simulate, build and sign transactions for as many of `payouts` as may be in flight, and write
        them to the log (`chain_transaction`, status SIGNED) in the caller's transaction.

        The caller holds the wallet's lock, commits, and only then calls `broadcast`.
        """

    async def move(self, session: AsyncSession, org_id: UUID, address: str, to: str, reference: str) -> Built:
        """As `build`, one transaction of kind MOVE: all of the token that `address` has goes to `to`, another
        address of ours. The caller has seen to it that nothing else of `address` is in flight."""

    async def move_native(
        self, session: AsyncSession, org_id: UUID, address: str, to: str, reference: str
    ) -> Built:
        """As `move`, of the chain's native asset: as much of it as the transaction's own fee leaves. Nothing
        is built where that is nothing."""

    async def broadcast(self, session: AsyncSession, transaction_ids: Sequence[str]) -> None:
        """Send the stored bytes of these transactions and note those that the node took as BROADCAST.

        Sending again is harmless: the bytes are the same. No answer of the node is an error here; what was
        not taken is sent again by `rebroadcast`.
        """

    async def rebroadcast(self, session: AsyncSession, stopped: Collection[str] = ()) -> list[Progress]:
        """Send again what is stored and has not been seen on chain for a while. On a chain whose
        transactions expire, sign anew what can never be mined any more; and tell of those that are EXPIRED
        because the signer refuses that, which the caller settles in the same transaction.

        For the addresses that are `stopped` nothing is signed, but for cancellations, and bytes that no node
        has answered for yet stay here; what a node may have goes out again as ever.
        """

    async def follow(self, session: AsyncSession) -> list[Progress]:
        """Read what is new on the chain since the last call, move the log on, and tell what moved.

        The position is kept in the caller's transaction, so that a step is taken once or not at all. The
        caller holds the chain's follow lock.
        """

    async def opening(self, address: str) -> Opening:
        """Both balances of `address` as of one and the same block, the newest."""

    async def deposit_address(self, index: int) -> str:
        """The address of the deposit key at `index`, always the same. Raises `UnknownKey` where this process
        may not ask for one (`chains.signers`)."""

    async def sweep(
        self, session: AsyncSession, org_id: UUID, address: str, holdings: Sequence[Holding]
    ) -> list[SignedTransaction]:
        """Sign transactions of kind SWEEP that bring `holdings` to the treasury wallet `address`, which
        pays for them, as many as may be in flight, and write them to the log. What is left comes again.

        The caller holds the wallet's lock, commits, and only then calls `broadcast`.
        """

    async def inbound(self, session: AsyncSession, pending: Sequence[Transfer]) -> Inbound:
        """Read on for the watched addresses (`chains.watching`) and tell what moved; `pending` are the
        transfers that were told of and neither dropped nor final since.

        The position is kept in the caller's transaction, so that a step is taken once or not at all. The
        caller holds the chain's lock for this.
        """

    async def owners(self, addresses: Collection[str]) -> dict[str, str]:
        """Whose they are, of those of `addresses` that are a part of somebody's wallet and not a wallet, and
        that `build` would pay: who is paid there has another address than the one that is asked for."""

    async def prepare(self, session: AsyncSession, org_id: UUID, address: str) -> list[str]:
        """Whatever a wallet needs before it can pay in batches; ids of transactions to broadcast."""

    async def close(self) -> None: ...
