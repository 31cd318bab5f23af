"""What the demo sends: a hundred payments a chain, and requests that must be refused."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import httpx
from eth_utils.address import to_checksum_address
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from chains.protocol import ChainName
from sandbox.coffer import Coffer

PAYMENTS_A_CHAIN: Final = 100
CONCURRENT: Final = 32
ATTEMPTS: Final = 100
RETRY_SECONDS: Final = 0.2


@dataclass(slots=True)
class Payment:
    """A payment of the demo: what was asked, what should become of it, and how it stands."""

    chain: ChainName
    to: str
    amount: Decimal
    key: str
    fails_as: str | None = None
    intent: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return {
            "chain": self.chain.value,
            "amount": str(self.amount),
            "currency": "USDC",
            "to": self.to,
            "reference": self.key,
        }


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that must be refused, and how it was answered."""

    what: str
    expected: tuple[int, str]
    answered: tuple[int, str]

    @property
    def ok(self) -> bool:
        return self.expected == self.answered


class Client:
    """A caller of the API who repeats a request until it is answered, with the same idempotency key."""

    def __init__(self, api_url: str, org_id: str, api_key: str) -> None:
        self._base = f"/v1/orgs/{org_id}"
        self._places = asyncio.Semaphore(CONCURRENT)
        self._http = httpx.AsyncClient(
            base_url=api_url, timeout=30, headers={"Authorization": f"Bearer {api_key}"}
        )

    async def get(self, path: str, **query: str) -> Any:
        answer = await self._send("GET", path, params=query)
        answer.raise_for_status()
        return answer.json(parse_float=Decimal)

    async def create(self, body: dict[str, Any], key: str) -> httpx.Response:
        return await self.post("/payment-intents", body, key)

    async def post(self, path: str, body: dict[str, Any], key: str | None = None) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self._send("POST", path, json=body, headers=headers)

    async def intents(self) -> dict[str, dict[str, Any]]:
        """Every payment intent of the organisation by id."""
        found: dict[str, dict[str, Any]] = {}
        cursor: dict[str, str] = {}
        while True:
            page = await self.get("/payment-intents", limit="200", **cursor)
            found |= {intent["id"]: intent for intent in page["data"]}
            if not page["pagination"]["hasMore"]:
                return found
            cursor = {"cursor": page["pagination"]["cursor"]}

    async def close(self) -> None:
        await self._http.aclose()

    async def _send(self, method: str, path: str, **rest: Any) -> httpx.Response:
        async with self._places:
            for _ in range(ATTEMPTS):
                try:
                    answer = await self._http.request(method, self._base + path, **rest)
                except httpx.TransportError:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                if answer.status_code >= 500 or "Retry-After" in answer.headers:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                return answer
        raise TimeoutError(f"{method} {path} was not answered")


async def plan(coffer: Coffer, dice: random.Random) -> list[Payment]:
    """The payments, in a random order: to fresh recipients, but for one a chain whom the token refuses."""
    payments: list[Payment] = []
    for chain in ChainName:
        for number in range(PAYMENTS_A_CHAIN):
            cents = Decimal(dice.randrange(1, 100_000_000)) / 1_000_000
            key = f"demo-{chain}-{number}-{secrets.token_hex(4)}"
            payments.append(Payment(chain, fresh_address(chain), cents, key))
    blacklisted, frozen = payments[0], payments[PAYMENTS_A_CHAIN]
    await coffer.mints.ethereum.blacklist(blacklisted.to)
    blacklisted.fails_as = "TransferReverted"
    owner = Pubkey.from_string(frozen.to)
    await coffer.mints.solana.mint_to(owner, 1)
    await coffer.mints.solana.freeze(owner)
    frozen.fails_as = "AccountFrozen"
    dice.shuffle(payments)
    return payments


def fresh_address(chain: ChainName) -> str:
    """An address that nobody has used."""
    if chain is ChainName.ETHEREUM:
        return str(to_checksum_address(secrets.token_bytes(20)))
    return str(Keypair().pubkey())


async def send(client: Client, payments: list[Payment], sent: Callable[[], None]) -> None:
    """Create every payment intent, many at once."""

    async def create(payment: Payment) -> None:
        answer = await client.create(payment.body(), payment.key)
        if answer.status_code != 201:
            raise AssertionError(f"{payment.key} was answered {answer.status_code}: {answer.text}")
        payment.intent = answer.json(parse_float=Decimal)
        sent()

    await asyncio.gather(*(create(payment) for payment in payments))


async def provoke(client: Client, payments: list[Payment]) -> list[Refusal]:
    """Send what must be refused, on both chains."""
    refusals: list[Refusal] = []

    async def refused(
        what: str, expected: tuple[int, str], body: dict[str, Any], key: str | None = None
    ) -> None:
        answer = await client.create(body, key or secrets.token_hex(8))
        error = answer.json().get("error") or {"code": ""}
        refusals.append(Refusal(what, expected, (answer.status_code, error["code"])))

    for chain in ChainName:
        other = ChainName.SOLANA if chain is ChainName.ETHEREUM else ChainName.ETHEREUM
        good = next(payment for payment in payments if payment.chain is chain and not payment.fails_as)
        body = good.body()
        too_much = body | {"amount": "99999999999.00"}
        await refused(f"{chain}: an amount above the balance", (422, "ValidationError"), too_much)
        miswritten = body | {"to": _miswritten(good.to)}
        await refused(f"{chain}: a wrong checksum", (422, "ValidationError"), miswritten)
        foreign = body | {"to": fresh_address(other)}
        await refused(f"{chain}: an address of the other chain", (422, "ValidationError"), foreign)
        too_fine = body | {"amount": "1.0000001"}
        await refused(f"{chain}: seven decimal places", (422, "ValidationError"), too_fine)
        other_body = body | {"amount": "1.00"}
        await refused(f"{chain}: a repeated key with another body", (409, "Conflict"), other_body, good.key)
        repeated = await client.create(body, good.key)
        same = repeated.json(parse_float=Decimal).get("id") == good.intent["id"]
        replayed = same and repeated.headers.get("Idempotent-Replayed") == "true"
        refusals.append(
            Refusal(
                f"{chain}: a repeated key with the same body is replayed",
                (201, "replayed"),
                (repeated.status_code, "replayed" if replayed else "another answer"),
            )
        )
    return refusals


def _miswritten(address: str) -> str:
    """The same address with one letter in the wrong case, which only Ethereum's checksum can tell; Solana's
    addresses have none, so there a character that base58 does not have."""
    if address.startswith("0x"):
        index = next(i for i, letter in enumerate(address) if i > 1 and letter.isalpha())
        return address[:index] + address[index].swapcase() + address[index + 1 :]
    return "0" + address[1:]
