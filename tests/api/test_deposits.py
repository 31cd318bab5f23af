"""Money that comes in, as callers see it: deposit addresses, payments, suspense, known senders."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import coincurve
import pytest
from eth_utils.address import to_checksum_address

from chains.protocol import ChainName, Head, Inbound, Transfer
from core.database import Database
from tests.api.conftest import PAYEE, TREASURY, Caller, Seed, encoded
from treasury.deposits import addresses, watching

SENDER = PAYEE["ethereum"]
USDC = 10**6


def some_address(index: int) -> str:
    point = coincurve.PrivateKey((index + 1).to_bytes(32)).public_key.format(compressed=False)
    return str(to_checksum_address(point[-20:]))


@dataclass
class Node:
    """An Ethereum that tells of what a test wants."""

    workers: Database
    name: ChainName = ChainName.ETHEREUM
    news: list[Inbound] = field(default_factory=list)

    def address(self, text: str) -> str:
        return text

    async def head(self) -> Head:
        return Head(10, 8)

    async def deposit_address(self, index: int) -> str:
        return some_address(index)

    async def inbound(self, session: Any, pending: Sequence[Transfer]) -> Inbound:
        return self.news.pop(0)

    async def ready(self, pool: int = 3) -> None:
        await addresses.fill(self.workers, self, pool)  # type: ignore[arg-type]

    async def tells(self, news: Inbound) -> None:
        self.news.append(news)
        await watching.watch(self.workers, self, 10_000)  # type: ignore[arg-type]

    async def arrived(self, to: str, amount: int = 5 * USDC, hash: str = "0xaa") -> None:
        one = transfer(to, amount, hash)
        await self.tells(Inbound((one,), final=frozenset({one.key})))


def transfer(to: str, amount: int = 5 * USDC, hash: str = "0xaa") -> Transfer:
    return Transfer(hash, 0, 9, "0xb9", SENDER, to, amount, final=False)


@pytest.fixture
def node(worker_database: Database, seed: Seed) -> Node:
    return Node(worker_database)


async def address_of(caller: Caller, customer: str = "c-1", **more: Any) -> Any:
    body = {"chain": "ethereum", "customerId": customer} | more
    return await caller.ask("POST", "treasury/deposit-addresses", content=encoded(body))


async def post(caller: Caller, path: str, body: Any) -> Any:
    return await caller.ask("POST", path, content=encoded(body))


WALLET = TREASURY[ChainName.ETHEREUM]


async def test_a_customer_gets_one_address_of_a_chain_and_gets_it_again(caller: Caller, node: Node) -> None:
    await node.ready()
    first = await address_of(caller, reference="signup")
    assert first.status == 201
    assert re.fullmatch(r"dep_[0-7][0-9a-z]{25}", first.json["id"])
    assert {k: first.json[k] for k in ("orgId", "chain", "customerId", "reference")} == {
        "orgId": caller.org_id, "chain": "ethereum", "customerId": "c-1", "reference": "signup",
    }  # fmt: skip
    again = await address_of(caller)
    assert (again.status, again.json) == (200, first.json)
    other = await address_of(caller, "c-2")
    assert other.json["address"] != first.json["address"]
    page = await caller.get("treasury/deposit-addresses", limit=1)
    assert [one["customerId"] for one in page.json["data"]] == ["c-2"]
    assert page.json["pagination"]["hasMore"]
    rest = await caller.get("treasury/deposit-addresses", cursor=page.json["pagination"]["cursor"])
    assert [one["customerId"] for one in rest.json["data"]] == ["c-1"]
    filtered = await caller.get("treasury/deposit-addresses", customerId="c-1", chain="ethereum")
    assert len(filtered.json["data"]) == 1


async def test_without_an_address_that_is_ready_the_request_may_be_sent_again(
    caller: Caller, node: Node
) -> None:
    refused = await address_of(caller)
    assert (refused.status, refused.error["code"]) == (503, "ServiceUnavailable")
    assert refused.headers["retry-after"] == "5"
    await node.ready()
    assert (await address_of(caller)).status == 201


async def test_concurrent_requests_for_one_customer_answer_one_address(caller: Caller, node: Node) -> None:
    await node.ready(5)
    answered = await asyncio.gather(*(address_of(caller) for _ in range(4)))
    assert len({one.json["address"] for one in answered}) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"chain": "bitcoin", "customerId": "c-1"}, "chain"),
        ({"chain": "ethereum"}, "customerId"),
        ({"chain": "ethereum", "customerId": "a:b"}, "clientId"),
        ({"chain": "ethereum", "customerId": "c-1", "more": 1}, "more"),
    ],
)
async def test_a_request_that_is_wrong_is_refused(
    caller: Caller, node: Node, body: dict[str, Any], field: str
) -> None:
    await node.ready()
    refused = await post(caller, "treasury/deposit-addresses", body)
    assert (refused.status, refused.error["code"]) == (422, "ValidationError")
    assert refused.fields == [field]


async def test_a_deposit_is_a_payment_that_is_inbound(caller: Caller, stranger: Caller, node: Node) -> None:
    await node.ready()
    address = (await address_of(caller)).json
    one = transfer(address["address"], 5_250_000)
    await node.tells(Inbound((one,)))
    (pending,) = (await caller.get("payments", direction="INBOUND", status="PENDING")).json["data"]
    assert pending["amount"] == Decimal("5.25")
    assert {k: v for k, v in pending.items() if k not in ("id", "amount", "createdAt")} == {
        "orgId": caller.org_id, "direction": "INBOUND", "method": "CRYPTO", "currency": "USDC",
        "status": "PENDING", "from": SENDER, "to": address["id"], "toAddress": address["address"],
        "chain": "ethereum", "transactionHash": "0xaa", "customerId": "c-1", "suspended": False,
        "assignedTo": None, "assignedBy": None, "valueDate": None, "completedAt": None,
    }  # fmt: skip
    await node.tells(Inbound(final=frozenset({one.key})))
    completed = (await caller.get(f"payments/{pending['id']}")).json
    assert completed["status"] == "COMPLETED"
    assert completed["valueDate"]
    assert completed["completedAt"]
    assert (await caller.get("payments", status="PENDING")).json["data"] == []
    balance = await caller.get("ledger/accounts/user:c-1", currency="USDC")
    assert balance.json["balance"] == Decimal("5.25")
    assert (await stranger.get(f"payments/{pending['id']}")).status == 404
    assert (await stranger.get("payments")).json["data"] == []
    assert (await caller.get("payments/pay_nonsense")).status == 404


async def test_a_dropped_deposit_is_shown_as_dropped(caller: Caller, node: Node) -> None:
    one = transfer(WALLET)
    await node.tells(Inbound((one,)))
    await node.tells(Inbound(dropped=frozenset({one.key})))
    assert [p["status"] for p in (await caller.get("payments")).json["data"]] == ["DROPPED"]


async def test_payments_come_in_pages(caller: Caller, node: Node) -> None:
    for number in range(5):
        await node.arrived(WALLET, (number + 1) * USDC, f"0x{number}")
    seen: list[Decimal] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await caller.get("payments", limit=2, **cursor)).json
        seen += [one["amount"] for one in page["data"]]
        if not page["pagination"]["hasMore"]:
            break
        cursor = {"cursor": page["pagination"]["cursor"]}
    assert seen == [5, 4, 3, 2, 1]


async def test_an_unknown_sender_waits_until_somebody_says_whose_the_money_is(
    caller: Caller, stranger: Caller, node: Node
) -> None:
    await node.arrived(WALLET)
    (payment,) = (await caller.get("payments", suspended="true")).json["data"]
    assert payment["status"] == "COMPLETED"
    path = f"payments/{payment['id']}/assign"
    assert (await post(stranger, path, {"customerId": "c-9"})).status == 404
    assigned = await post(caller, path, {"customerId": "c-9", "rememberSender": True})
    assert assigned.status == 200
    assert (assigned.json["assignedTo"], assigned.json["suspended"]) == ("user:c-9", False)
    assert assigned.json["assignedBy"]
    again = await post(caller, path, {"customerId": "c-8"})
    assert (again.status, again.error["code"]) == (409, "Conflict")
    assert (await caller.get("payments", suspended="true")).json["data"] == []
    await node.arrived(WALLET, hash="0xbb")
    newest = (await caller.get("payments")).json["data"][0]
    assert (newest["status"], newest["suspended"]) == ("COMPLETED", False)


async def test_concurrent_assignments_happen_once(caller: Caller, node: Node) -> None:
    await node.arrived(WALLET)
    (payment,) = (await caller.get("payments")).json["data"]
    answers = await asyncio.gather(
        *(post(caller, f"payments/{payment['id']}/assign", {"customerId": f"c-{n}"}) for n in range(4))
    )
    assert sorted(one.status for one in answers) == [200, 409, 409, 409]


async def test_a_known_sender_needs_nobodys_look(caller: Caller, node: Node) -> None:
    body = {"chain": "ethereum", "address": SENDER.lower(), "name": "Circle Mint"}
    registered = await post(caller, "treasury/known-senders", body)
    assert (registered.status, registered.json["address"]) == (201, SENDER)
    assert [one["name"] for one in (await caller.get("treasury/known-senders")).json["data"]] == [
        "Circle Mint"
    ]
    await node.arrived(WALLET)
    (payment,) = (await caller.get("payments")).json["data"]
    assert (payment["status"], payment["suspended"]) == ("COMPLETED", False)
    refused = await post(caller, "treasury/known-senders", body | {"address": "0x12"})
    assert refused.status == 422
