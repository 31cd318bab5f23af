"""A statement as PDF, for people: A4, the header and the columns repeated on every page.

The whole file is made before its first byte is sent, so the number of lines is bounded: 20,000 lines are some
470 pages, and take about 3 seconds and 25 MB. The font is Helvetica, which every reader has: what its Latin
letters cannot show is written as an escape such as `\\u4e2d`. The other formats have every text as it is.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from typing import Final

from reportlab.lib.pagesizes import A4, landscape
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas

from core.clock import iso
from ledger.errors import FormatUnfit
from ledger.reading.history import Type
from ledger.statements.formats.writer import Lines, Writer, amount, dated_by
from ledger.statements.lines import Line
from ledger.statements.statement import Statement

MOST_LINES: Final = 20_000

_FONT: Final = "Helvetica"
_BOLD: Final = "Helvetica-Bold"
_SIZE: Final = 7.0
_SMALLEST: Final = 4.0
_WIDTH, _HEIGHT = landscape(A4)
_MARGIN: Final = 34.0
_LEADING: Final = 10.5
_TOP: Final = _HEIGHT - 96.0
_LINES_A_PAGE: Final = 43
_BYTES_A_STEP: Final = 64 * 1024

# Title, left edge, right edge, and whether it holds amounts, which end at the right edge.
_COLUMNS: Final = (
    ("Date (UTC)", _MARGIN, 118.0, False),
    ("Transaction", 122.0, 258.0, False),
    ("Counterparty", 262.0, 384.0, False),
    ("Reference / description", 388.0, 508.0, False),
    ("Debit", 512.0, 606.0, True),
    ("Credit", 610.0, 704.0, True),
    ("Balance", 708.0, _WIDTH - _MARGIN, True),
)


def check(statement: Statement) -> None:
    """Raises `FormatUnfit` for more lines than a PDF is made of."""
    if statement.count > MOST_LINES:
        raise FormatUnfit(
            f"a PDF has at most {MOST_LINES} lines and this statement {statement.count}: choose csv"
        )


async def write(statement: Statement, lines: Lines) -> AsyncIterator[bytes]:
    """The bytes of the file. Drawing happens beside the event loop."""
    sheet = _Sheet(statement)
    async for some in lines:
        await asyncio.to_thread(sheet.draw, some)
    file = await asyncio.to_thread(sheet.finish)
    while chunk := file.read(_BYTES_A_STEP):
        yield chunk


class _Sheet:
    """The pages of one statement while they are drawn."""

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._pages = max(1, -(-(statement.count + 2) // _LINES_A_PAGE))
        self._page = 0
        self._drawn = 0
        self._file = io.BytesIO()
        self._canvas = Canvas(self._file, pagesize=(_WIDTH, _HEIGHT), pageCompression=1)
        self._canvas.setTitle(f"Account statement {_shown(statement.account_name)}")
        self._canvas.setCreator("Coffer")
        opening = amount(statement.opening, statement.currency)
        self._row((statement.period.start, "", "", "Opening balance", "", "", opening), _BOLD)

    def draw(self, lines: Sequence[Line]) -> None:
        statement = self._statement
        for line in lines:
            moved = amount(line.amount, statement.currency)
            incoming = line.type is Type.CREDIT
            about = " ".join(filter(None, (line.reference, line.description)))
            counterparty = (
                f"{line.account} / {line.counterparty}" if statement.is_group else line.counterparty
            )
            self._row(
                (
                    iso(line.at)[:19].replace("T", " "),
                    str(line.transaction_id),
                    counterparty,
                    about,
                    "" if incoming else moved,
                    moved if incoming else "",
                    amount(line.balance_after, statement.currency),
                )
            )

    def finish(self) -> io.BytesIO:
        statement, currency = self._statement, self._statement.currency
        closing = (
            statement.period.end,
            "",
            "",
            "Closing balance",
            amount(statement.total_debits, currency),
            amount(statement.total_credits, currency),
            amount(statement.closing, currency),
        )
        self._row(closing, _BOLD)
        self._canvas.showPage()
        self._canvas.save()
        self._file.seek(0)
        return self._file

    def _row(self, fields: Sequence[str], font: str = _FONT) -> None:
        place = self._drawn % _LINES_A_PAGE
        if place == 0:
            self._new_page()
        self._drawn += 1
        height = _TOP - (place + 1) * _LEADING
        for (_, left, right, is_amount), field in zip(_COLUMNS, fields, strict=True):
            if is_amount:
                self._amount(field, font, left, right, height)
            else:
                self._text(field, font, left, right, height)

    def _text(self, text: str, font: str, left: float, right: float, height: float) -> None:
        """As much of a text as the column has room for, the rest told by an ellipsis."""
        # No more characters than that fit, whatever they are: a text of thousands is not measured whole.
        shown = _shown(text[:200])
        if stringWidth(shown, font, _SIZE) > right - left:
            while shown and stringWidth(shown + "…", font, _SIZE) > right - left:
                shown = shown[:-1]
            shown += "…"
        self._canvas.setFont(font, _SIZE)
        self._canvas.drawString(left, height, shown)

    def _amount(self, text: str, font: str, left: float, right: float, height: float) -> None:
        """The whole of an amount, in smaller digits if the column is too narrow: it must not be cut."""
        width = stringWidth(text, font, _SIZE)
        size = _SIZE if width <= right - left else max(_SMALLEST, _SIZE * (right - left) / width)
        self._canvas.setFont(font, size)
        self._canvas.drawRightString(right, height, text)

    def _new_page(self) -> None:
        if self._page:
            self._canvas.showPage()
        self._page += 1
        statement, canvas = self._statement, self._canvas
        canvas.setFont(_BOLD, 13)
        canvas.drawString(_MARGIN, _HEIGHT - 42, "Account statement")
        canvas.setFont(_FONT, 9)
        period = (
            f"{statement.period.start} to {statement.period.end} (UTC), dated by {dated_by(statement.clock)}"
        )
        self._text(f"{statement.account_name} · {statement.currency.code}", _BOLD, _MARGIN, 560, _HEIGHT - 56)
        self._text(period, _FONT, _MARGIN, 560, _HEIGHT - 67)
        canvas.setFont(_FONT, _SIZE)
        canvas.drawRightString(_WIDTH - _MARGIN, _HEIGHT - 42, f"Page {self._page} of {self._pages}")
        canvas.drawRightString(_WIDTH - _MARGIN, _HEIGHT - 56, f"Generated {iso(statement.generated_at)}")
        canvas.drawRightString(_WIDTH - _MARGIN, _HEIGHT - 67, str(statement.account_id))
        canvas.setFont(_BOLD, _SIZE)
        for title, left, right, is_amount in _COLUMNS:
            if is_amount:
                canvas.drawRightString(right, _TOP + 3, title)
            else:
                canvas.drawString(left, _TOP + 3, title)
        canvas.line(_MARGIN, _TOP, _WIDTH - _MARGIN, _TOP)


def _shown(text: str) -> str:
    """A text in the letters that the font has; others as escapes, which say what they were."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text.encode("cp1252", "backslashreplace").decode("cp1252")
    )


PDF = Writer("application/pdf", "pdf", write, check)
