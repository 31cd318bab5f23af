"""What an operator sees of transactions on chains, and may do with one that is stuck.

A command only writes down an order: a worker, whose signer holds the keys, carries it out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import typer

from chains import log
from chains.log import OpenTransaction, OrderKind
from chains.protocol import ChainName
from cli.connection import AsJson, print_answer, worker_session

TransactionId = Annotated[str, typer.Argument(metavar="TRANSACTION", help="The id, such as ctx_….")]
Reason = Annotated[str | None, typer.Option(help="Why; kept with the order.")]

app = typer.Typer()
chain = typer.Typer(
    no_args_is_help=True, help="Transactions on chains: what is on its way, and what is stuck."
)
app.add_typer(chain, name="chain")


@chain.command("list")
def list_open(
    chain: Annotated[ChainName | None, typer.Option(help="Only this chain.")] = None,
    org: Annotated[UUID | None, typer.Option(help="Only this organisation.")] = None,
    most: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the transactions that are not final, the oldest first."""

    async def run() -> Sequence[OpenTransaction]:
        async with worker_session() as session:
            return await log.open_transactions(session, chain, org, most)

    found = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps({"transactions": [one.plain() for one in found]}))
        return
    for one in found:
        typer.echo(_line(one))
    if not found:
        typer.echo("nothing is on its way")


@chain.command("cancel")
def cancel(transaction: TransactionId, reason: Reason = None, as_json: AsJson = False) -> None:
    """Use up the nonce of a transaction that is not mined, so that it cannot be.

    Its payments fail, and their money is given back, once the cancellation is final; if the transaction is
    mined first, they are paid. Costs the gas of a transfer.
    """
    _order(OrderKind.CANCEL, transaction, reason, as_json)


@chain.command("release")
def release(transaction: TransactionId, reason: Reason = None, as_json: AsJson = False) -> None:
    """Give up a QUARANTINED transaction, whose nonce a final transaction that is not ours has used.

    Find out first who made that one, and whether it paid. The payments fail, and their money is given back,
    unless the transaction turns out to be mined, or to be possible still.
    """
    _order(OrderKind.RELEASE, transaction, reason, as_json)


def _order(kind: OrderKind, transaction_id: str, reason: str | None, as_json: bool) -> None:
    async def run() -> None:
        async with worker_session() as session:
            await log.order(session, kind, transaction_id, reason)
            await session.commit()

    asyncio.run(run())
    print_answer({"transaction": transaction_id, "ordered": kind.value}, as_json)


def _line(one: OpenTransaction) -> str:
    """Id, state, age, wallet, nonce, what it is, how often it was signed, and what is the matter with it."""
    parts = [
        one.id,
        one.status,
        f"{one.age_seconds}s",
        one.chain,
        one.address,
        *([] if one.nonce is None else [f"nonce {one.nonce}"]),
        f"{one.kind} of {one.payouts}",
        f"{one.attempts} signed",
        *(["being canceled"] if one.canceling else []),
        *(f"ordered to {kind}" for kind in one.orders),
        *([] if one.error is None else [one.error]),
    ]
    return "  ".join(parts)
