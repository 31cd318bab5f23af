"""Posting for callers who bring no transaction of their own: concurrent commands share one commit."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from core.database import Database
from core.errors import CofferError
from core.group_commit import GroupCommit
from ledger.posting import Command, Posted, post

_MOST_COMMANDS_A_FLUSH = 8000


class Books:
    """The books of every organisation that `database`'s role may write."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._group: GroupCommit[Command, Posted] = GroupCommit(self._flush, limit=_MOST_COMMANDS_A_FLUSH)

    async def post(self, org_id: UUID, command: Command) -> Posted:
        """Carry out one command durably. Raises what refused it (see `ledger.errors`)."""
        return await self._group.submit(org_id, command)

    async def _flush(self, org_id: UUID, commands: Sequence[Command]) -> list[Posted | CofferError]:
        async with self._database.organisation(org_id) as session:
            outcomes = await post(session, org_id, commands)
            await session.commit()
            return outcomes
