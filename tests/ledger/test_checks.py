from core.database import Database
from ledger.checks import check
from tests.ledger.conftest import Wallet


async def test_fresh(wallet: Wallet, worker_database: Database) -> None:
    async with worker_database.everything() as session:
        assert await check(session) == []
    async with worker_database.everything() as session:
        assert await check(session, wallet.org_id, progress=print) == []
