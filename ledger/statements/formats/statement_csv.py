"""A statement as comma-separated values (RFC 4180) in UTF-8: a header, a row for the opening balance, a row a
line, and a row for the closing balance with the totals.

Texts come from callers, and a spreadsheet takes one that begins with `=` for a formula: such a text gets an
apostrophe before it. Amounts are numbers, and keep their sign.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

from core.clock import iso
from ledger.reading.history import Type
from ledger.statements.formats.writer import Lines, Writer, amount, holds_all
from ledger.statements.lines import Line
from ledger.statements.statement import Statement

COLUMNS: Final = (
    "row",
    "date",
    "account",
    "transactionId",
    "reference",
    "counterparty",
    "description",
    "debit",
    "credit",
    "balanceAfter",
    "currency",
)
# What a spreadsheet may take for the beginning of a formula, the wide forms as well.
_FORMULA: Final = tuple("=+-@\t\r\n＝＋－＠")


def encode_rows(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as RFC 4180 has them, each ended by CR and LF."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    # Half of a surrogate pair is no text; it must not end the stream.
    return text.getvalue().encode(errors="replace")


def plain(text: str | None) -> str:
    """A caller's text as a field that no spreadsheet takes for a formula."""
    if text is None:
        return ""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


async def write(statement: Statement, lines: Lines) -> AsyncIterator[bytes]:
    """The bytes of the file as the lines come."""
    currency = statement.currency
    name = plain(statement.account_name)
    opening = amount(statement.opening, currency)
    period = statement.period
    yield encode_rows(
        [
            COLUMNS,
            ("opening", period.start, name, "", "", "", "Opening balance", "", "", opening, currency.code),
        ]
    )
    async for some in lines:
        yield encode_rows(_row(statement, line) for line in some)
    yield encode_rows(
        [
            (
                "closing",
                period.end,
                name,
                "",
                "",
                "",
                "Closing balance",
                amount(statement.total_debits, currency),
                amount(statement.total_credits, currency),
                amount(statement.closing, currency),
                currency.code,
            )
        ]
    )


def _row(statement: Statement, line: Line) -> Sequence[object]:
    moved = amount(line.amount, statement.currency)
    incoming = line.type is Type.CREDIT
    return (
        "line",
        iso(line.at),
        plain(line.account),
        line.transaction_id,
        plain(line.reference),
        plain(line.counterparty),
        plain(line.description),
        "" if incoming else moved,
        moved if incoming else "",
        amount(line.balance_after, statement.currency),
        statement.currency.code,
    )


CSV = Writer("text/csv; charset=utf-8", "csv", write, holds_all)
