from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.chains.endpoints import pools


@pytest.fixture(autouse=True)
async def pools_are_closed() -> AsyncIterator[None]:
    yield
    while pools.opened:
        await pools.opened.pop().close()
