"""A statement as JSON: one document, with amounts as strings, whose lines come after its totals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from core.clock import iso
from core.json import encode
from ledger.formats.writer import Lines, Writer, amount, holds_all
from ledger.history import Type
from ledger.statement_lines import Line
from ledger.statements import Statement


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
