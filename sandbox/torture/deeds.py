"""What is done to a running system. Each deed takes its time and leaves the thing it broke mended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import httpx
from redis.asyncio import Redis

from chains.protocol import ChainName
from core.faults import Point
from sandbox import jsonrpc
from sandbox.torture.proxy import SENDING, Fault
from sandbox.torture.world import BLOCK_SECONDS, World

Deed = Callable[[World], Awaitable[None]]
DEEPEST_REORGANISATION: Final = 10


async def kill_worker(world: World) -> None:
    world.dice.choice(world.workers).kill()


async def kill_scheduler(world: World) -> None:
    world.coffer.scheduler.kill()


async def kill_api(world: World) -> None:
    world.coffer.api.kill()


async def ask_worker_to_end(world: World) -> None:
    await world.dice.choice(world.workers).stop(within=30)


async def pause_worker(world: World) -> None:
    """The other takes its work; then it wakes."""
    world.pause(world.dice.choice(world.workers))
    await asyncio.sleep(world.dice.uniform(1, 12))
    world.wake()


def _point(world: World) -> Point:
    """Any, but mostly one of those that every payment comes to."""
    every = [point for point in Point if point.startswith(("dispatch.", "build.", "send.", "follow."))]
    return world.dice.choice(every if world.dice.random() < 0.75 else list(Point))


async def die_at_a_point(world: World) -> None:
    point, count = _point(world), world.dice.choice((1, 1, 1, 2, 3, 5))
    await world.restart_with(world.dice.choice(world.workers), f"{point}:{count}")


async def stand_still_at_a_point(world: World) -> None:
    point, count = _point(world), world.dice.choice((1, 1, 2, 3))
    await world.restart_with(world.dice.choice(world.workers), f"{point}:{count}:pause")
    await asyncio.sleep(world.dice.uniform(4, 20))
    world.wake()


async def flush_valkey(world: World) -> None:
    async with Redis.from_url(world.coffer.infrastructure.redis_url) as client:
        await client.flushall()


async def restart_postgres(world: World) -> None:
    postgres = world.coffer.infrastructure.postgres
    if world.dice.random() < 0.5:
        postgres.kill()
    else:
        await postgres.stop()
    await postgres.start()


async def reorganise(world: World) -> None:
    """One to ten blocks are replaced, our transactions being in the new ones, or some of them, or none."""
    depth = world.dice.randint(1, DEEPEST_REORGANISATION)
    head = int(await jsonrpc.call(world.ethereum, "eth_blockNumber"), 16)
    hashes: list[str] = []
    for number in range(head - depth + 1, head + 1):
        block = await jsonrpc.call(world.ethereum, "eth_getBlockByNumber", hex(number), False)
        hashes += block["transactions"] if block else []
    kept = world.dice.choice((0.0, 0.5, 1.0))
    again = [hash for hash in hashes if world.dice.random() < kept]
    signed = await world.bytes_of(again)
    blocks = sorted(world.dice.randrange(depth) for _ in signed)
    pairs = [[raw, block] for raw, block in zip(signed, blocks, strict=True)]
    # A transaction whose nonce does not follow makes anvil refuse the whole.
    with contextlib.suppress(jsonrpc.RpcError):
        await jsonrpc.call(world.ethereum, "anvil_reorg", depth, pairs)
        return
    await jsonrpc.call(world.ethereum, "anvil_reorg", depth, [])


async def drop_pending(world: World) -> None:
    await jsonrpc.call(world.ethereum, "anvil_dropAllTransactions")


async def raise_base_fee(world: World) -> None:
    """Tenfold; from there it falls by an eighth a block."""
    block = await jsonrpc.call(world.ethereum, "eth_getBlockByNumber", "latest", False)
    wei = min(10 * max(int(block["baseFeePerGas"], 16), 10**9), 200 * 10**9)
    await jsonrpc.call(world.ethereum, "anvil_setNextBlockBaseFeePerGas", hex(wei))


async def stop_blocks(world: World) -> None:
    await jsonrpc.call(world.ethereum, "evm_setIntervalMining", 0)
    try:
        await asyncio.sleep(world.dice.choice((5, 10, 10, 20, 60)))
    finally:
        await jsonrpc.call(world.ethereum, "evm_setIntervalMining", BLOCK_SECONDS)


async def freeze_node(world: World) -> None:
    infrastructure = world.coffer.infrastructure
    node = world.dice.choice((infrastructure.anvil.process, infrastructure.surfpool.process))
    os.kill(node.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(world.dice.uniform(1, 6))
    finally:
        os.kill(node.pid, signal.SIGCONT)


async def bad_endpoints(world: World) -> None:
    """Both endpoints of a chain fail in every way for a while."""
    proxies = world.proxies[world.dice.choice(list(ChainName))]
    for proxy in proxies:
        proxy.chance = world.dice.uniform(0.05, 0.35)
    await asyncio.sleep(world.dice.uniform(3, 12))
    for proxy in proxies:
        proxy.chance = 0.01


async def forgetful_endpoint(world: World) -> None:
    """One endpoint has no memory of any transaction; the other has."""
    proxy = world.proxies[world.dice.choice(list(ChainName))][0]
    proxy.forgets = True
    await asyncio.sleep(world.dice.uniform(3, 20))
    proxy.forgets = False


async def lagging_endpoint(world: World) -> None:
    proxies = world.proxies[world.dice.choice(list(ChainName))]
    behind = proxies if world.dice.random() < 0.3 else proxies[:1]
    for proxy in behind:
        await proxy.lag()
    await asyncio.sleep(world.dice.uniform(2, 12))
    for proxy in behind:
        proxy.catch_up()


async def swallow_what_is_sent(world: World) -> None:
    """Long enough, on Solana, for block hashes to expire: what was sent has to be signed anew."""
    for proxy in world.proxies[world.dice.choice(list(ChainName))]:
        proxy.plan(Fault.SWALLOWED, *SENDING, times=200)
    await asyncio.sleep(world.dice.uniform(8, 16))
    for proxies in world.proxies.values():
        for proxy in proxies:
            proxy.unplan(Fault.SWALLOWED)


async def lie_about_sending(world: World) -> None:
    for proxies in world.proxies.values():
        for proxy in proxies:
            for fault in world.dice.sample(LIES, 3):
                proxy.plan(fault, *SENDING, times=world.dice.randint(1, 4))
            proxy.plan(Fault.TIMEOUT, *SENDING, times=world.dice.randint(1, 2))


LIES: Final = (
    Fault.NONCE_TOO_LOW,
    Fault.SENT_AND_NONCE_TOO_LOW,
    Fault.ALREADY_KNOWN,
    Fault.SENT_AND_ALREADY_KNOWN,
    Fault.UNDERPRICED,
    Fault.SENT_AND_UNDERPRICED,
    Fault.BLOCKHASH_NOT_FOUND,
    Fault.SENT_AND_BLOCKHASH_NOT_FOUND,
    Fault.INTERNAL_ERROR,
)
# How often each is drawn beside the others.
DEEDS: Final[dict[Deed, int]] = {
    kill_worker: 4,
    kill_scheduler: 2,
    kill_api: 1,
    ask_worker_to_end: 2,
    pause_worker: 4,
    die_at_a_point: 12,
    stand_still_at_a_point: 5,
    flush_valkey: 2,
    restart_postgres: 2,
    reorganise: 6,
    drop_pending: 4,
    raise_base_fee: 3,
    stop_blocks: 2,
    freeze_node: 2,
    bad_endpoints: 5,
    forgetful_endpoint: 3,
    lagging_endpoint: 3,
    swallow_what_is_sent: 3,
    lie_about_sending: 4,
}
# Deeds that meet on one thing would only undo one another.
_ALONE: Final = frozenset({restart_postgres, stop_blocks, freeze_node})


async def keep_doing(
    world: World, until: asyncio.Event, mean_seconds: float, deeds: Mapping[Deed, int] = DEEDS
) -> None:
    """Deeds at random, drawn by their weights, several at a time, until `until`."""
    going: set[asyncio.Task[None]] = set()
    busy: set[Deed] = set()

    async def do(deed: Deed) -> None:
        busy.add(deed)
        try:
            await deed(world)
        except (httpx.HTTPError, jsonrpc.RpcError, TimeoutError, OSError) as error:
            # A node that is frozen or a server that is away cannot be asked to misbehave as well.
            world.deeds[f"{deed.__name__} failed: {type(error).__name__}"] += 1
        finally:
            busy.discard(deed)

    while not until.is_set():
        deed = world.dice.choices(list(deeds), list(deeds.values()))[0]
        if deed not in busy and not (deed in _ALONE and busy & _ALONE):
            world.deeds[deed.__name__] += 1
            going.add(asyncio.create_task(do(deed)))
        going = {task for task in going if not task.done() or task.exception() is not None}
        for task in going:
            if task.done():
                task.result()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(until.wait(), world.dice.expovariate(1 / mean_seconds))
    await asyncio.gather(*going)
