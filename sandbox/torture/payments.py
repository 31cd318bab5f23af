"""The traffic under torture: payments through the API, alone and in batches, until the time is up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any, Final

from solders.pubkey import Pubkey

from chains.protocol import ChainName
from sandbox.coffer import Coffer
from sandbox.demo.traffic import Client, fresh_address
from sandbox.seed import SeededOrganisation

_KNOWN: Final = 20
_REFUSED: Final = 2
_MOST_CENTS: Final = 50_000
_CANCELED: Final = 0.03
_TO_KNOWN: Final = 0.3
_TO_REFUSED: Final = 0.02
# Payments of one call to `/payment-intents/batch`.
_BATCHES: Final = (5, 20, 60)


@dataclass(slots=True)
class Paid:
    """A payment that was asked for. `payable`: nothing stands in its way but the faults."""

    key: str
    org_id: str
    chain: ChainName
    to: str
    amount: int
    payable: bool
    id: str | None = None


@dataclass(slots=True)
class Traffic:
    """Both organisations pay on both chains: to fresh recipients, to known ones, and to a few whom the token
    refuses."""

    coffer: Coffer
    dice: Random
    payments: list[Paid] = field(default_factory=list)
    unanswered: int = 0
    _known: dict[ChainName, list[str]] = field(default_factory=dict)
    _refused: dict[ChainName, list[str]] = field(default_factory=dict)

    async def prepare(self) -> None:
        """Have recipients that the token refuses."""
        for chain in ChainName:
            self._known[chain] = [fresh_address(chain) for _ in range(_KNOWN)]
            self._refused[chain] = [fresh_address(chain) for _ in range(_REFUSED)]
        for address in self._refused[ChainName.ETHEREUM]:
            await self.coffer.mints.ethereum.blacklist(address)
        for address in self._refused[ChainName.SOLANA]:
            await self.coffer.mints.solana.mint_to(Pubkey.from_string(address), 1)
            await self.coffer.mints.solana.freeze(Pubkey.from_string(address))

    @property
    def before(self) -> dict[str, int]:
        """What recipients had before they were paid anything: a frozen account had to exist."""
        return dict.fromkeys(self._refused.get(ChainName.SOLANA, ()), 1)

    async def run(self, rate: float, until: asyncio.Event) -> None:
        """`rate` payments a second on average."""
        seeded = self.coffer.seeded
        organisations = (seeded.first, seeded.second)
        clients = {one.org_id: Client(self.coffer.api_url, one.org_id, one.api_key) for one in organisations}
        asking: set[asyncio.Task[None]] = set()
        try:
            while not until.is_set():
                organisation = self.dice.choice(organisations)
                count = self.dice.choice(_BATCHES) if self.dice.random() < 0.2 else 1
                made = list(self._made(organisation, count))
                self.payments += made
                asking.add(asyncio.create_task(self._ask(clients[organisation.org_id], made)))
                asking = {task for task in asking if not task.done() or task.exception() is not None}
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(until.wait(), self.dice.expovariate(rate / count))
            await asyncio.gather(*asking)
        finally:
            for task in asking:
                task.cancel()
            for client in clients.values():
                await client.close()

    def _made(self, organisation: SeededOrganisation, count: int) -> Iterator[Paid]:
        chain = self.dice.choice(list(ChainName))
        for _ in range(count):
            drawn, payable = self.dice.random(), True
            if drawn < _TO_REFUSED:
                to, payable = self.dice.choice(self._refused[chain]), False
            elif drawn < _TO_REFUSED + _TO_KNOWN:
                to = self.dice.choice(self._known[chain])
            else:
                to = fresh_address(chain)
            key = f"torture-{len(self.payments)}-{self.dice.getrandbits(48):x}"
            amount = self.dice.randrange(1, _MOST_CENTS) * 10_000
            yield Paid(key, organisation.org_id, chain, to, amount, payable)

    async def _ask(self, client: Client, made: list[Paid]) -> None:
        """Ask until there is an answer, under the same idempotency key."""
        body, path = _body(made[0]), "/payment-intents"
        if len(made) > 1:
            body, path = {"mode": "independent", "items": [_body(one) for one in made]}, f"{path}/batch"
        while True:
            try:
                answer = await client.post(path, body, made[0].key)
            except TimeoutError:
                self.unanswered += 1
                continue
            break
        if answer.status_code not in (200, 201):
            raise AssertionError(f"{path} was answered {answer.status_code}: {answer.text[:500]}")
        content = answer.json(parse_float=Decimal)
        intents = [content] if len(made) == 1 else content["data"]
        for one, intent in zip(made, intents, strict=True):
            one.id = intent["id"]
            if self.dice.random() < _CANCELED:
                # Too late, if it is on its way; then it is paid.
                with contextlib.suppress(TimeoutError):
                    await client.post(f"/payment-intents/{one.id}/cancel", {}, None)


def _body(payment: Paid) -> dict[str, Any]:
    return {
        "chain": payment.chain.value,
        "amount": str(Decimal(payment.amount) / 1_000_000),
        "currency": "USDC",
        "to": payment.to,
        "reference": payment.key,
    }
