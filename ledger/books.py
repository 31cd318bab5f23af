"""Posting for callers who bring no transaction of their own: concurrent commands share one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from core.database import Database
from core.errors import CofferError
from core.group_commit import GroupCommit
from ledger.commands import Command, Mode, Posted
from ledger.posting import post, post_alone

_MOST_COMMANDS_A_FLUSH = 8000


class Books:
    """The books of every organisation that `database`'s role may write."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._group: GroupCommit[tuple[Command, str | None], Posted] = GroupCommit(
            self._flush, limit=_MOST_COMMANDS_A_FLUSH
        )

    async def post(self, org_id: UUID, command: Command, reference: str | None = None) -> Posted:
        """Carry out one command durably, and under the same `reference` only once.

        Raises what refused it (see `ledger.errors`).
        """
        return await self._group.submit(org_id, (command, reference))

    async def post_batch(
        self,
        org_id: UUID,
        commands: Sequence[Command],
        *,
        mode: Mode = Mode.INDEPENDENT,
        named: Mapping[int, str] | None = None,
        dry_run: bool = False,
    ) -> list[Posted | CofferError]:
        """Carry out many commands durably in one transaction; see `ledger.posting.post`."""
        async with self._database.organisation(org_id) as session:
            outcomes = await post(session, org_id, commands, named=named, mode=mode, dry_run=dry_run)
            await session.commit()
            return outcomes

    async def _flush(
        self, org_id: UUID, items: Sequence[tuple[Command, str | None]]
    ) -> list[Posted | CofferError]:
        if len(items) == 1:
            command, reference = items[0]
            if reference is None and (posted := await post_alone(self._database, org_id, command)):
                return [posted]
        named = {place: reference for place, (_, reference) in enumerate(items) if reference is not None}
        return await self.post_batch(org_id, [command for command, _ in items], named=named)
