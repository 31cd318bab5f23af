"""The whole history as a file: a transfer a line, as JSON (`jsonl`) or as comma-separated values.

Each line ends with the cursor after which an export goes on. Amounts are numbers with every digit.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from core.clock import iso
from core.json import encode
from core.money import CURRENCIES, to_decimal
from ledger.statements.export import Exported
from ledger.statements.formats.statement_csv import encode_rows, plain

COLUMNS: Final = (
    "id",
    "transferGroup",
    "kind",
    "phase",
    "debitAccount",
    "creditAccount",
    "amount",
    "held",
    "currency",
    "resolves",
    "reverses",
    "reference",
    "cause",
    "debitSequence",
    "creditSequence",
    "debitBalance",
    "creditBalance",
    "recordedAt",
    "effectiveAt",
    "expiresAt",
    "metadata",
    "cursor",
)
# Those that hold what callers wrote.
_TEXTS: Final = frozenset({"debitAccount", "creditAccount", "reference", "cause"})

Pages = AsyncIterable[Sequence[Exported]]


class ExportFormat(StrEnum):
    """The formats of an export."""

    JSONL = "jsonl"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class ExportWriter:
    """A format of an export: `write` gives its bytes as the transfers come."""

    media_type: str
    write: Callable[[Pages], AsyncIterator[bytes]]


async def write_jsonl(pages: Pages) -> AsyncIterator[bytes]:
    """A JSON object a line."""
    async for page in pages:
        yield b"".join(encode(_facts(exported)) + b"\n" for exported in page)


async def write_csv(pages: Pages) -> AsyncIterator[bytes]:
    """A header, and a row for each transfer."""
    yield encode_rows([COLUMNS])
    async for page in pages:
        yield encode_rows([_field(name, value) for name, value in _facts(each).items()] for each in page)


EXPORT_WRITERS: Final[Mapping[ExportFormat, ExportWriter]] = {
    ExportFormat.JSONL: ExportWriter("application/x-ndjson", write_jsonl),
    ExportFormat.CSV: ExportWriter("text/csv; charset=utf-8", write_csv),
}


def _facts(exported: Exported) -> dict[str, Any]:
    """The values of the columns, in their order."""
    currency = CURRENCIES[exported.currency]

    def exact(units: int | None) -> Any:
        return None if units is None else to_decimal(units, currency)

    def told(instant: datetime | None) -> str | None:
        return None if instant is None else iso(instant)

    values = (
        exported.id,
        exported.chain_id,
        exported.kind,
        exported.phase,
        exported.debit_account,
        exported.credit_account,
        exact(exported.amount),
        exact(exported.held),
        exported.currency,
        exported.resolves,
        exported.reverses,
        exported.reference,
        exported.cause,
        exported.debit_sequence,
        exported.credit_sequence,
        exact(exported.debit_balance),
        exact(exported.credit_balance),
        told(exported.recorded_at),
        told(exported.effective_at),
        told(exported.expires_at),
        exported.metadata,
        str(exported.place),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _field(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "metadata":
        return encode(value).decode()
    if name in _TEXTS:
        return plain(value)
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
