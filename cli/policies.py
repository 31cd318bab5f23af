"""The commands for policies of payments: `coffer policy …`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
from pydantic import BaseModel, ValidationError

from chains.protocol import ChainName
from cli.connection import AsJson, print_answer, worker_session
from cli.switches import operator
from core.settings import get_settings
from treasury.chains import NoSigners, build_chains
from treasury.policies import keeping
from treasury.policies.models import PolicyRecipient
from treasury.policies.schemas import PolicyRead, PolicySet, RecipientAdd, RecipientListName

app = typer.Typer()
policies = typer.Typer(no_args_is_help=True, help="What restricts an organisation's payments.")
app.add_typer(policies, name="policy")

Amount = Annotated[str | None, typer.Option(help="USDC; without it there is no such limit.")]
OnChain = Annotated[ChainName | None, typer.Option(help="On this chain alone.")]

_MOST_SHOWN = 10_000

Wanted = TypeVar("Wanted", bound=BaseModel)


@policies.command()
def show(org_id: UUID, as_json: AsJson = False) -> None:
    """The policies of an organisation and its lists of recipients."""

    async def read() -> dict[str, Any]:
        async with worker_session() as session:
            found = await keeping.list_policies(session, org_id)
            recipients, _ = await keeping.list_recipients(session, org_id, _MOST_SHOWN)
            return {
                "policies": [_plain(PolicyRead.of(policy)) for policy in found],
                "recipients": [_recipient(row) for row in recipients],
            }

    print_answer(asyncio.run(read()), as_json)


@policies.command("set")
def set_one(
    org_id: UUID,
    wallet: Annotated[str | None, typer.Option(help="For this wallet alone.")] = None,
    chain: OnChain = None,
    allow_list_only: Annotated[
        bool, typer.Option("--allow-list-only", help="Pay only who is on the allow-list.")
    ] = False,
    max_per_payment: Amount = None,
    max_per_day: Amount = None,
    max_per_recipient_per_day: Amount = None,
    approval_above: Annotated[
        str | None, typer.Option(help="USDC; a payment of more waits for approvals.")
    ] = None,
    approvals: Annotated[int, typer.Option(min=1, max=5, help="How many have to approve it.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Make a policy what is given, as a whole: what is left out restricts nothing any more."""
    wanted = _checked(
        PolicySet,
        {
            "walletId": wallet,
            "chain": chain,
            "allowListOnly": allow_list_only,
            "maxPerPayment": max_per_payment,
            "maxPerDay": max_per_day,
            "maxPerRecipientPerDay": max_per_recipient_per_day,
            "approvalAbove": approval_above,
            "approvals": approvals,
        },
    )

    async def write() -> PolicyRead:
        async with worker_session() as session:
            policy = await keeping.set_policy(session, org_id, wanted, operator())
            await session.commit()
            return PolicyRead.of(policy)

    print_answer(_plain(asyncio.run(write())), as_json)


@policies.command()
def add(
    org_id: UUID,
    list_name: Annotated[RecipientListName, typer.Argument(metavar="LIST", help="allow or deny.")],
    chain: ChainName,
    address: str,
    note: Annotated[str | None, typer.Option(help="Who that is.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put an address on a list."""
    wanted = _checked(RecipientAdd, {"list": list_name, "chain": chain, "address": address, "note": note})

    async def write() -> dict[str, Any]:
        chains = build_chains(get_settings(), NoSigners())
        try:
            async with worker_session() as session:
                row = await keeping.add_recipient(session, org_id, chains, wanted, operator())
                await session.commit()
                return _recipient(row)
        finally:
            for one in chains.values():
                await one.close()

    print_answer(asyncio.run(write()), as_json)


@policies.command()
def remove(
    org_id: UUID,
    list_name: Annotated[RecipientListName, typer.Argument(metavar="LIST", help="allow or deny.")],
    chain: ChainName,
    address: str,
    as_json: AsJson = False,
) -> None:
    """Take an address off a list."""

    async def write() -> None:
        chains = build_chains(get_settings(), NoSigners())
        try:
            async with worker_session() as session:
                await keeping.remove_recipient(session, org_id, chains, list_name, chain, address, operator())
                await session.commit()
        finally:
            for one in chains.values():
                await one.close()

    asyncio.run(write())
    print_answer({"removed": True}, as_json)


def _checked(shape: type[Wanted], given: dict[str, Any]) -> Wanted:
    """What was given, in the shape that the API takes."""
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        raise typer.BadParameter(f"{wrong['loc'][0]} {wrong['msg']}") from None


def _plain(policy: PolicyRead) -> dict[str, Any]:
    return {
        name: value if value is None or isinstance(value, bool | int) else str(value)
        for name, value in policy.model_dump(by_alias=True).items()
    }


def _recipient(row: PolicyRecipient) -> dict[str, Any]:
    return {"list": row.list, "chain": row.chain, "address": row.address, "note": row.note}
