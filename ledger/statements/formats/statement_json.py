"""A statement as JSON: one document, with amounts as strings, whose lines come after its totals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

from core.clock import iso
from core.json import encode
from core.shapes import Shape
from ledger.reading.history import Type
from ledger.reading.instants import Clock
from ledger.statements.formats.writer import Lines, Writer, amount, holds_all
from ledger.statements.lines import Line
from ledger.statements.statement import Statement


class StatementLineRead(Shape):
    """One line: `credit` or `debit`, whichever it is. `account` is there in the statement of several."""

    date: datetime
    account: str | None = None
    credit: str | None = None
    debit: str | None = None
    balance_after: str
    reference: str | None
    transaction_id: UUID
    counterparty: str
    description: str


class StatementRead(Shape):
    """A statement: `openingBalance` + `totalCredits` − `totalDebits` = `closingBalance`."""

    account_id: UUID
    account_name: str
    currency: str
    period_start: str
    period_end: str
    opening_balance: str
    closing_balance: str
    total_credits: str
    total_debits: str
    transactions: list[StatementLineRead]
    clock: Clock
    generated_at: datetime


async def write(statement: Statement, lines: Lines) -> AsyncIterator[bytes]:
    """The bytes of the document as the lines come."""
    head = {
        "accountId": statement.account_id,
        "accountName": statement.account_name,
        "currency": statement.currency.code,
        "periodStart": statement.period.start,
        "periodEnd": statement.period.end,
        "openingBalance": amount(statement.opening, statement.currency),
        "closingBalance": amount(statement.closing, statement.currency),
        "totalCredits": amount(statement.total_credits, statement.currency),
        "totalDebits": amount(statement.total_debits, statement.currency),
    }
    yield encode(head)[:-1] + b',"transactions":['
    separator = b""
    async for some in lines:
        yield separator + b",".join(encode(_line(statement, line)) for line in some)
        separator = b","
    tail = {"clock": statement.clock, "generatedAt": iso(statement.generated_at)}
    yield b"]," + encode(tail)[1:]


def _line(statement: Statement, line: Line) -> dict[str, Any]:
    return {
        "date": iso(line.at),
        **({"account": line.account} if statement.is_group else {}),
        "credit" if line.type is Type.CREDIT else "debit": amount(line.amount, statement.currency),
        "balanceAfter": amount(line.balance_after, statement.currency),
        "reference": line.reference,
        "transactionId": line.transaction_id,
        "counterparty": line.counterparty,
        "description": line.description,
    }


JSON = Writer("application/json", "json", write, holds_all)
