"""PostgreSQL is killed while callers post: whoever asks again under the same reference is served once.

A run prints its seed; LEDGER_SEED repeats it, as far as the moments of the kills go.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy.exc import SQLAlchemyError

from core.database import Database, listen_url
from ledger.accounts import UNLIMITED, AccountSpec, open_accounts
from ledger.books import Books
from ledger.commands import Hold, Mode, Move, Posted, PostHold, Reverse, Step, VoidHold
from ledger.expiry import expire_holds
from ledger.models import AccountType, Kind, Phase
from ledger.sealing.sealer import seal
from sandbox.folders import Folder
from sandbox.postgres import Postgres
from sandbox.schema import DatabaseUrls, Schema
from tests.ledger.comparing import (
    Unit,
    assert_same,
    assert_sealed,
    assert_sound,
    expired,
    named_by,
    places,
    serialise,
)
from tests.ledger.model import Model

KILLS: Final = 4
SINGLES: Final = 12
# More than one statement writes.
COMMANDS_A_BATCH: Final = 2_100
PATIENCE: Final = 120

SPECS: Final = [
    AccountSpec("platform:source", "USDC", AccountType.EQUITY, UNLIMITED),
    AccountSpec("platform:hot", "USDC", AccountType.ASSET, UNLIMITED),
    AccountSpec("user:one", "USDC", AccountType.LIABILITY, UNLIMITED),
    AccountSpec("user:two", "USDC", AccountType.LIABILITY, UNLIMITED),
]
PASSED: Final = datetime(2026, 2, 1, tzinfo=UTC)

# What a caller sees of a server that dies: whether it happened, nobody can tell from it.
GONE: Final = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)

T = TypeVar("T")


class Wire:
    """What lies between the callers and PostgreSQL, and can lose the answer to a COMMIT."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._pumps: set[asyncio.Task[None]] = set()
        self._lost: asyncio.Future[None] | None = None

    async def open(self) -> int:
        """The port to connect to."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def lose_a_commit(self) -> None:
        """Wait for the answer to a COMMIT, and let neither that nor any later answer through."""
        self._lost = asyncio.get_running_loop().create_future()
        await self._lost

    def mend(self) -> None:
        self._lost = None

    async def close(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, asks: asyncio.StreamReader, hears: asyncio.StreamWriter) -> None:
        try:
            answers, takes = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            hears.close()
            return
        for pump in (self._pump(asks, takes), self._pump(answers, hears, is_answer=True)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool = False
    ) -> None:
        try:
            while data := await reader.read(2**16):
                if is_answer and self._loses(data):
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def _loses(self, data: bytes) -> bool:
        if self._lost is None:
            return False
        if not self._lost.done() and b"COMMIT\0" in data:
            self._lost.set_result(None)
        return self._lost.done()


@dataclass
class Server:
    """A durable PostgreSQL that is killed and started again."""

    postgres: Postgres
    wire: Wire
    urls: DatabaseUrls
    is_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def kill(self) -> None:
        self.is_up.clear()
        self.postgres.kill()
        self.wire.mend()
        await self.postgres.start()
        self.is_up.set()

    async def analyze(self) -> None:
        """What autovacuum does within a minute: the planner knows nothing of tables that grew just now."""
        owner = await asyncpg.connect(listen_url(self.urls.owner))
        await owner.execute("ANALYZE")
        await owner.close()

    async def until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer, asking again whenever the server went before it gave one."""
        while True:
            await self.is_up.wait()
            try:
                return await ask()
            except GONE:
                # Lets whoever starts the server notice before the next attempt.
                await asyncio.sleep(0)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    folder = Folder()
    # Durable; but what a kill left is made so with one call instead of one for each of thousands of files.
    postgres = Postgres(folder.path / "postgres", settings={"recovery_init_sync_method": "syncfs"})
    await postgres.start()
    schema = Schema(postgres, folder)
    await schema.prepare()
    urls = await schema.create("crash")
    wire = Wire(postgres.port)
    port = await wire.open()
    app = urls.app.replace(f":{postgres.port}/", f":{port}/")
    server = Server(postgres, wire, replace(urls, app=app))
    server.is_up.set()
    yield server
    await wire.close()
    postgres.kill()
    folder.release()


class Callers:
    """Those who ask, each until it is answered, and everything that they asked for."""

    def __init__(self, server: Server, chance: random.Random) -> None:
        self.server = server
        self.app = Database.connect(server.urls.app, 4)
        self.worker = Database.connect(server.urls.worker, 2)
        self.books = [Books(self.app), Books(self.app)]
        self.org_id = uuid4()
        self.chance = chance
        self.asked: list[Unit] = []
        self.is_over = False
        self.enough = asyncio.Event()
        self.wanted = 0

    async def open(self) -> dict[int, AccountSpec]:
        async with self.app.organisation(self.org_id) as session:
            opened = await open_accounts(session, self.org_id, SPECS)
            await session.commit()
        accounts = {opened[spec.name, spec.currency]: spec for spec in SPECS}
        self.ids = list(accounts)
        return accounts

    async def answers(self, count: int) -> None:
        """Wait for so many more units to be answered."""
        self.wanted = count
        self.enough.clear()
        await self.enough.wait()

    def _count(self) -> None:
        self.wanted -= 1
        if self.wanted <= 0:
            self.enough.set()

    async def one(self, lane: int, *steps: Step) -> tuple[UUID, ...]:
        """Ask for one command through `Books`, and answer its transfers."""
        unit = Unit(lane, [list(steps)], {0: f"one-{len(self.asked)}"})
        self.asked.append(unit)
        books = self.books[lane % 2]
        posted = await self.server.until_answered(
            lambda: books.post(self.org_id, unit.commands[0], unit.named[0])
        )
        unit.outcomes = [posted]
        self._count()
        return posted.transfers

    def _amounts(self) -> tuple[Kind, int, int, int]:
        debit, credit = self.chance.sample(self.ids, 2)
        return Kind.ALLOCATION, debit, credit, self.chance.randint(1, 10 ** self.chance.choice([3, 20]))

    async def single(self, lane: int) -> None:
        """Moves, chains, holds, their resolutions and reversals, one after the other."""
        while not self.is_over:
            what = self.chance.randrange(4)
            if what == 0:
                (moved,) = await self.one(lane, Move(*self._amounts(), metadata={"lane": lane}))
                await self.one(lane, Reverse(moved))
            elif what == 1:
                await self.one(lane, *(Move(*self._amounts()) for _ in range(3)))
            elif what == 2:
                (held,) = await self.one(lane, Hold(*self._amounts()))
                ends: list[Step] = [PostHold(held), PostHold(held, 1), VoidHold(held, Phase.FAIL)]
                await self.one(lane, self.chance.choice(ends))
            else:
                await self.one(lane, Hold(*self._amounts(), expires_at=PASSED))

    async def batch(self, lane: int, mode: Mode) -> None:
        """Thousands of commands in one transaction."""
        while not self.is_over:
            commands: list[list[Step]] = [[Move(*self._amounts())] for _ in range(COMMANDS_A_BATCH)]
            named = {place: f"batch-{len(self.asked)}-{place}" for place in range(COMMANDS_A_BATCH)}
            unit = Unit(lane, commands, named)
            self.asked.append(unit)
            unit.outcomes = await self.server.until_answered(
                lambda unit=unit: self.books[0].post_batch(  # type: ignore[misc]
                    self.org_id, unit.commands, named=unit.named, mode=mode
                )
            )
            self._count()

    async def sweep(self) -> None:
        """Expire and seal, over and over, as the workers do."""
        while not self.is_over:
            await self.server.until_answered(lambda: expire_holds(self.worker))
            await self.server.until_answered(lambda: seal(self.worker))

    def answered(self) -> Iterator[Posted]:
        """What the books said that they had posted."""
        outcomes = (outcome for unit in self.asked for outcome in unit.outcomes)
        return (outcome for outcome in outcomes if isinstance(outcome, Posted))

    async def ask_everything_again(self) -> None:
        """Whoever asks once more is told of the same transfers."""
        for unit in self.asked:
            again = await self.books[0].post_batch(self.org_id, unit.commands, named=unit.named)
            assert again == [Posted(ids, replayed=True) for ids in named_by(unit.outcomes)]

    async def close(self) -> None:
        await self.app.close()
        await self.worker.close()


async def test_what_was_asked_for_while_postgres_was_killed_has_happened_exactly_once(
    server: Server, number: int
) -> None:
    chance = random.Random(number)
    callers = Callers(server, chance)
    model = Model({PASSED})
    for id, spec in (await callers.open()).items():
        model.open(id, spec.name, spec.currency, spec.type, spec.overdraft_limit)

    async def killer() -> None:
        for kill in range(KILLS):
            await callers.answers(chance.randint(1, 60))
            if kill % 2 == 0:
                # It has happened, and who asked will never hear of it.
                await server.wire.lose_a_commit()
            for _ in range(chance.randint(0, 100)):
                await asyncio.sleep(0)
            await server.kill()
        callers.is_over = True

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as everybody:
        for lane in range(SINGLES):
            everybody.create_task(callers.single(lane))
        everybody.create_task(callers.batch(100, Mode.INDEPENDENT))
        everybody.create_task(callers.batch(101, Mode.ATOMIC))
        everybody.create_task(callers.sweep())
        everybody.create_task(killer())

    assert any(answer.replayed for answer in callers.answered()), "an answer was lost, and asked for again"
    await server.analyze()
    await expire_holds(callers.worker)
    await assert_sound(callers.worker)
    await assert_sealed(callers.worker)
    await callers.ask_everything_again()
    await assert_as_if_done_once(callers, model)
    await callers.close()


async def assert_as_if_done_once(callers: Callers, model: Model) -> None:
    """To do what was asked for, each thing once and in the order in which the books recorded it, makes every
    row that there is and no other."""
    assert len(list(callers.answered())) == sum(len(unit.commands) for unit in callers.asked)
    for unit in callers.asked:
        unit.outcomes = [Posted(ids) for ids in named_by(unit.outcomes)]
    async with callers.app.organisation(callers.org_id) as session:
        ran_out = [
            Unit(1_000 + lane, [[VoidHold(hold, Phase.EXPIRE)]], {}, [Posted((id,))])
            for lane, (hold, id) in enumerate(await expired(session))
        ]
        units = [*callers.asked, *ran_out]
        serialise(model, units, await places(session, [id for unit in units for id in unit.written]))
        await assert_same(session, model)
