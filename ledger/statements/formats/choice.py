"""Which formats there are, and which one a reader wants."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from ledger.statements.formats.statement_camt import CAMT
from ledger.statements.formats.statement_csv import CSV
from ledger.statements.formats.statement_json import JSON
from ledger.statements.formats.statement_pdf import PDF
from ledger.statements.formats.writer import Writer


class Format(StrEnum):
    """The formats of a statement."""

    JSON = "json"
    CSV = "csv"
    PDF = "pdf"
    CAMT = "camt.053"


WRITERS: Final[Mapping[Format, Writer]] = {
    Format.JSON: JSON,
    Format.CSV: CSV,
    Format.PDF: PDF,
    Format.CAMT: CAMT,
}
