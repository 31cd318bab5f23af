from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from sandbox import folders, jsonrpc
from sandbox.folders import Folder, FolderInUseError
from sandbox.processes import Process, ProcessError
from sandbox.stack import Infrastructure


async def test_all_four_services_answer() -> None:
    async with Infrastructure() as stack:
        connection = await asyncpg.connect(stack.database_url())
        async with Redis.from_url(stack.redis_url) as client:
            answers = [
                await connection.fetchval("SELECT 1"),
                await client.ping(),
                int(await jsonrpc.call(stack.ethereum_rpc_url, "eth_chainId"), 16),
                await jsonrpc.call(stack.solana_rpc_url, "getHealth"),
            ]
        await connection.close()
    assert answers == [1, True, stack.ethereum_chain_id, "ok"]


async def test_a_stopped_stack_leaves_no_folder_behind() -> None:
    async with Infrastructure() as stack:
        pass
    assert not stack.folder.path.exists()


async def test_a_second_stack_runs_beside_the_first() -> None:
    async with Infrastructure() as first, Infrastructure() as second:
        pairs = [
            (first.database_url(), second.database_url()),
            (first.redis_url, second.redis_url),
            (first.ethereum_rpc_url, second.ethereum_rpc_url),
            (first.solana_rpc_url, second.solana_rpc_url),
            (first.solana_ws_url, second.solana_ws_url),
        ]
    assert all(one != other for one, other in pairs)


async def test_a_start_that_fails_half_way_leaves_nothing_and_says_why() -> None:
    stack = Infrastructure(postgres_settings={"shared_buffers": "plenty"})
    with pytest.raises(ProcessError, match="invalid value for parameter"):
        await stack.start()
    assert not stack.folder.path.exists()


@pytest.mark.parametrize("seconds", [0.05, 0.3])
async def test_a_start_that_is_interrupted_leaves_nothing(seconds: float) -> None:
    stack = Infrastructure()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await stack.start()
    assert not stack.folder.path.exists()


@pytest.fixture
def kept(folder: Path) -> Path:
    return folder / "kept"


async def test_a_kept_stack_starts_again_with_its_data(kept: Path) -> None:
    if os.geteuid() == 0:
        kept.parent.chmod(0o711)
    async with Infrastructure(kept) as first:
        connection = await asyncpg.connect(first.database_url())
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        await connection.close()
        await jsonrpc.call(first.ethereum_rpc_url, "anvil_mine", "0x10")
        secret = first.folder.secret("deployer")
    async with Infrastructure(kept) as second:
        connection = await asyncpg.connect(second.database_url())
        answer = await connection.fetchval("SELECT answer FROM kept")
        await connection.close()
        height = int(await jsonrpc.call(second.ethereum_rpc_url, "eth_blockNumber"), 16)
        same = second.folder.secret("deployer") == secret
    assert (answer, height >= 16, same) == (42, True, True)


def test_a_kept_folder_belongs_to_one_stack_at_a_time(kept: Path) -> None:
    with Folder(kept), pytest.raises(FolderInUseError):
        Folder(kept)
    with Folder(kept):
        pass


def test_the_permissions_of_a_folder_that_was_there_are_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    with Folder(tmp_path):
        assert tmp_path.stat().st_mode & 0o777 == 0o750


# Whoever runs the tests in the background may have Ctrl-C ignored, and children inherit that.
STACK = """
import asyncio, signal
from sandbox.stack import Infrastructure

signal.signal(signal.SIGINT, signal.default_int_handler)

async def run():
    async with Infrastructure() as stack:
        services = (stack.postgres, stack.valkey, stack.anvil, stack.surfpool)
        print(*(service.process.pid for service in services), stack.folder.path, flush=True)
        await asyncio.Event().wait()

asyncio.run(run())
"""


async def stack_in_another_process(folder: Path) -> tuple[Process, list[int], Path]:
    root = str(Path(__file__).parents[2])
    process = Process(
        "stack", [sys.executable, "-c", STACK], env=os.environ | {"PYTHONPATH": root}, folder=folder
    )
    process.start()

    async def says_where() -> bool:
        return folders.PREFIX in process.tail()

    await process.wait_ready(says_where, 20)
    *pids, path = process.tail().split()
    return process, [int(pid) for pid in pids], Path(path)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_ctrl_c_stops_the_stack_and_removes_its_folder(tmp_path: Path) -> None:
    process, pids, path = await stack_in_another_process(tmp_path)
    psutil.Process(process.pid).send_signal(2)
    await process.wait(10)
    assert (all(gone(pid) for pid in pids), path.exists()) == (True, False)
    process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
async def test_a_killed_stack_takes_its_services_along_and_the_next_removes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, pids, path = await stack_in_another_process(tmp_path)
    psutil.Process(process.pid).kill()
    deadline = time.monotonic() + 5
    while not all(gone(pid) for pid in pids) and time.monotonic() < deadline:
        pass
    assert (all(gone(pid) for pid in pids), path.exists()) == (True, True)
    monkeypatch.setattr(folders, "FORGOTTEN_SECONDS", -1)
    with Folder():
        assert not path.exists()
    process.kill()
