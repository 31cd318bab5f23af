"""Statements as files: one stream of lines, written in each format."""

from __future__ import annotations

import csv
import io
import json
import re
import zlib
from base64 import a85decode
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from xml.etree import ElementTree

import pytest

from core.money import CURRENCIES, ETH, EUR, USDC, Currency
from ledger.errors import FormatUnfit
from ledger.models import Kind
from ledger.reading.history import Type
from ledger.reading.instants import Clock
from ledger.statements.formats.choice import WRITERS, Format
from ledger.statements.formats.statement_camt import NAMESPACE
from ledger.statements.formats.statement_pdf import MOST_LINES
from ledger.statements.lines import Line
from ledger.statements.statement import Period, Statement, account_uuid

ORG = UUID("0192aaaa-0000-7000-8000-000000000001")
FIRST = UUID("0192bbbb-0000-7000-8000-000000000001")
SECOND = UUID("0192bbbb-0000-7000-8000-000000000002")
BOOKED = datetime(2026, 1, 15, 10, tzinfo=UTC)
VALUED = datetime(2026, 1, 14, tzinfo=UTC)
HOSTILE = [
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "＝1",
    'quote " and, comma',
    "two\r\nlines",
    "<Ntry>&amp;]]>",
    "\x00\x07\x1b\ufffe\ud800",
    "Łódź 中文 العربية 👩‍👩‍👧",
    "x" * 5000,
    "\u202e reversed",
]


def statement(currency: Currency = EUR, **changes: Any) -> Statement:
    name = "user:cc82fa1d-fc7a-478c-a734-d3bce40464e7"
    figures = Statement(
        account_id=account_uuid(ORG, name, currency),
        account_name=name,
        is_group=False,
        currency=currency,
        period=Period.parse("2026-01-01", "2026-01-31"),
        clock=Clock.RECORDED,
        opening=100_000,
        closing=150_050,
        total_credits=60_050,
        total_debits=10_000,
        credits=1,
        debits=1,
        sequence=7,
        generated_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    )
    return replace(figures, **changes)


def line(**changes: Any) -> Line:
    known = Line(
        at=BOOKED,
        recorded_at=BOOKED,
        effective_at=VALUED,
        account="user:cc82fa1d-fc7a-478c-a734-d3bce40464e7",
        type=Type.CREDIT,
        amount=60_050,
        balance_after=160_050,
        reference="DEPOSIT-001",
        transaction_id=FIRST,
        counterparty="platform:deposits",
        kind=Kind.PAYIN,
        description="January's deposit",
    )
    return replace(known, **changes)


def debit(**changes: Any) -> Line:
    later = datetime(2026, 1, 16, 9, 30, 0, 5, tzinfo=UTC)
    known = line(
        at=later,
        recorded_at=later,
        effective_at=later,
        type=Type.DEBIT,
        amount=10_000,
        balance_after=150_050,
        reference=None,
        transaction_id=SECOND,
        counterparty="ext:DE89370400440532013000",
        kind=Kind.PAYOUT,
        description="payout",
    )
    return replace(known, **changes)


async def streamed(*pages: Sequence[Line]) -> AsyncIterator[Sequence[Line]]:
    for page in pages:
        yield page


async def written(format: Format, figures: Statement, *pages: Sequence[Line]) -> bytes:
    writer = WRITERS[format]
    writer.check(figures)
    return b"".join([chunk async for chunk in writer.write(figures, streamed(*pages))])


async def test_json_is_the_documented_statement_with_amounts_as_strings() -> None:
    content = await written(Format.JSON, statement(), [line()], [debit()])
    assert list(json.loads(content).items()) == [
        ("accountId", str(account_uuid(ORG, "user:cc82fa1d-fc7a-478c-a734-d3bce40464e7", EUR))),
        ("accountName", "user:cc82fa1d-fc7a-478c-a734-d3bce40464e7"),
        ("currency", "EUR"),
        ("periodStart", "2026-01-01"),
        ("periodEnd", "2026-01-31"),
        ("openingBalance", "1000.00"),
        ("closingBalance", "1500.50"),
        ("totalCredits", "600.50"),
        ("totalDebits", "100.00"),
        (
            "transactions",
            [
                {
                    "date": "2026-01-15T10:00:00.000000Z",
                    "credit": "600.50",
                    "balanceAfter": "1600.50",
                    "reference": "DEPOSIT-001",
                    "transactionId": str(FIRST),
                    "counterparty": "platform:deposits",
                    "description": "January's deposit",
                },
                {
                    "date": "2026-01-16T09:30:00.000005Z",
                    "debit": "100.00",
                    "balanceAfter": "1500.50",
                    "reference": None,
                    "transactionId": str(SECOND),
                    "counterparty": "ext:DE89370400440532013000",
                    "description": "payout",
                },
            ],
        ),
        ("clock", "recorded"),
        ("generatedAt", "2026-01-31T12:00:00.000000Z"),
    ]


async def test_csv_has_a_header_the_opening_the_lines_and_the_closing() -> None:
    content = await written(Format.CSV, statement(), [line()], [debit()])
    name = "user:cc82fa1d-fc7a-478c-a734-d3bce40464e7"
    assert content.decode() == (
        "row,date,account,transactionId,reference,counterparty,description,debit,credit,balanceAfter,currency"
        "\r\n"
        f"opening,2026-01-01,{name},,,,Opening balance,,,1000.00,EUR\r\n"
        f"line,2026-01-15T10:00:00.000000Z,{name},{FIRST},DEPOSIT-001,platform:deposits,January's deposit,,"
        "600.50,1600.50,EUR\r\n"
        f"line,2026-01-16T09:30:00.000005Z,{name},{SECOND},,ext:DE89370400440532013000,payout,100.00,,"
        "1500.50,EUR\r\n"
        f"closing,2026-01-31,{name},,,,Closing balance,100.00,600.50,1500.50,EUR\r\n"
    )


@pytest.mark.parametrize("text", HOSTILE)
async def test_no_text_of_a_csv_is_taken_for_a_formula(text: str) -> None:
    hostile = line(reference=text, counterparty=text, description=text, account=text)
    content = await written(Format.CSV, statement(account_name=text), [hostile])
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    assert {len(row) for row in rows} == {11}
    for row in rows:
        for field in row:
            assert not field.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    carried = text.encode(errors="replace").decode()
    assert rows[2][4] in (carried, f"'{carried}")


async def test_a_negative_balance_stays_a_number_in_a_csv() -> None:
    content = await written(Format.CSV, statement(opening=-5), [line(balance_after=-1)])
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    assert (rows[1][9], rows[2][9]) == ("-0.05", "-0.01")


# The part of camt.053.001.08 that is written, element for element as the schema has it: the children in
# their order, each with how often it may come, and the rule of a text.
_TEXT = {
    "35": r"(?s).{1,35}",
    "34": r"(?s).{1,34}",
    "70": r"(?s).{1,70}",
    "140": r"(?s).{1,140}",
    "500": r"(?s).{1,500}",
    "instant": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z",
    "day": r"\d{4}-\d\d-\d\d",
    "amount": r"(?=[\d.]{1,19}$)\d{1,18}(\.\d{1,5})?",
    "count": r"[0-9]{1,15}",
    "number": r"[0-9]{1,18}",
    "direction": "CRDT|DBIT",
    "balance": "OPBD|CLBD",
    "currency": "[A-Z]{3}",
    "iban": r"[A-Z]{2}[0-9]{2}[a-zA-Z0-9]{1,30}",
    "true": "true|false",
    "booked": "BOOK",
}
_ACCOUNT = [("Id", "1", [("IBAN", "?", "iban"), ("Othr", "?", [("Id", "1", "34")])])]
_PARTY = [("Pty", "1", [("Nm", "1", "140")])]
_INSTANT = [("DtTm", "1", "instant")]
_SUMS = [("NbOfNtries", "?", "count"), ("Sum", "?", "amount")]
_MOVED = [("Amt", "1", "amount"), ("CdtDbtInd", "1", "direction")]
_SCHEMA: Any = [
    (
        "BkToCstmrStmt",
        "1",
        [
            ("GrpHdr", "1", [("MsgId", "1", "35"), ("CreDtTm", "1", "instant")]),
            (
                "Stmt",
                "1",
                [
                    ("Id", "1", "35"),
                    ("ElctrncSeqNb", "?", "number"),
                    ("CreDtTm", "?", "instant"),
                    ("FrToDt", "?", [("FrDtTm", "1", "instant"), ("ToDtTm", "1", "instant")]),
                    ("Acct", "1", [*_ACCOUNT, ("Ccy", "?", "currency"), ("Nm", "?", "70")]),
                    (
                        "Bal",
                        "+",
                        [
                            ("Tp", "1", [("CdOrPrtry", "1", [("Cd", "1", "balance")])]),
                            *_MOVED,
                            ("Dt", "1", [("Dt", "1", "day")]),
                        ],
                    ),
                    (
                        "TxsSummry",
                        "?",
                        [
                            ("TtlNtries", "?", [*_SUMS, ("TtlNetNtry", "?", _MOVED)]),
                            ("TtlCdtNtries", "?", _SUMS),
                            ("TtlDbtNtries", "?", _SUMS),
                        ],
                    ),
                    (
                        "Ntry",
                        "*",
                        [
                            ("NtryRef", "?", "35"),
                            *_MOVED,
                            ("RvslInd", "?", "true"),
                            ("Sts", "1", [("Cd", "1", "booked")]),
                            ("BookgDt", "?", _INSTANT),
                            ("ValDt", "?", _INSTANT),
                            ("AcctSvcrRef", "?", "35"),
                            ("BkTxCd", "1", [("Prtry", "?", [("Cd", "1", "35"), ("Issr", "?", "35")])]),
                            (
                                "NtryDtls",
                                "*",
                                [
                                    (
                                        "TxDtls",
                                        "*",
                                        [
                                            (
                                                "Refs",
                                                "?",
                                                [("AcctSvcrRef", "?", "35"), ("EndToEndId", "?", "35")],
                                            ),
                                            *_MOVED,
                                            (
                                                "RltdPties",
                                                "?",
                                                [
                                                    ("Dbtr", "?", _PARTY),
                                                    ("DbtrAcct", "?", _ACCOUNT),
                                                    ("Cdtr", "?", _PARTY),
                                                    ("CdtrAcct", "?", _ACCOUNT),
                                                ],
                                            ),
                                            ("RmtInf", "?", [("Ustrd", "*", "140")]),
                                        ],
                                    )
                                ],
                            ),
                            ("AddtlNtryInf", "?", "500"),
                        ],
                    ),
                    ("AddtlStmtInf", "?", "500"),
                ],
            ),
        ],
    )
]
_OFTEN = {"1": (1, 1), "?": (0, 1), "*": (0, 10**9), "+": (1, 10**9)}


def assert_fits(element: ElementTree.Element, rule: Any) -> None:
    """Hold an element against its rule: a text, or its children, in order and number."""
    tag = element.tag.removeprefix("{" + NAMESPACE + "}")
    assert element.tag == "{" + NAMESPACE + "}" + tag
    if isinstance(rule, str):
        assert not list(element)
        assert re.fullmatch(_TEXT[rule], element.text or ""), (tag, element.text)
        if rule == "amount" and tag == "Amt" and element.attrib:
            assert re.fullmatch(_TEXT["currency"], element.attrib["Ccy"])
        return
    assert not (element.text or "").strip()
    children = list(element)
    for name, often, inner in rule:
        least, most = _OFTEN[often]
        count = 0
        while children and children[0].tag == "{" + NAMESPACE + "}" + name:
            assert_fits(children.pop(0), inner)
            count += 1
        assert least <= count <= most, (tag, name, count)
    assert not children, (tag, children[0].tag)


def parsed(content: bytes) -> ElementTree.Element:
    root = ElementTree.fromstring(content)
    assert_fits(root, _SCHEMA)
    return root


def text_at(root: ElementTree.Element, path: str) -> list[str | None]:
    spaced = "/".join(part if part == "." else "{" + NAMESPACE + "}" + part for part in path.split("/"))
    return [element.text for element in root.findall(spaced)]


async def test_camt_053_holds_balances_totals_and_entries_as_the_schema_orders_them() -> None:
    root = parsed(await written(Format.CAMT, statement(), [line()], [debit()]))
    at = "BkToCstmrStmt/Stmt/"
    assert text_at(root, at + "Bal/Tp/CdOrPrtry/Cd") == ["OPBD", "CLBD"]
    assert text_at(root, at + "Bal/Amt") == ["1000.00", "1500.50"]
    assert text_at(root, at + "Bal/CdtDbtInd") == ["CRDT", "CRDT"]
    assert text_at(root, at + "Bal/Dt/Dt") == ["2026-01-01", "2026-01-31"]
    assert text_at(root, at + "FrToDt/FrDtTm") == ["2026-01-01T00:00:00.000000Z"]
    assert text_at(root, at + "FrToDt/ToDtTm") == ["2026-01-31T23:59:59.999999Z"]
    assert text_at(root, at + "ElctrncSeqNb") == ["7"]
    assert text_at(root, at + "TxsSummry/TtlNtries/Sum") == ["700.50"]
    assert text_at(root, at + "TxsSummry/TtlNtries/TtlNetNtry/Amt") == ["500.50"]
    assert text_at(root, at + "TxsSummry/TtlCdtNtries/Sum") == ["600.50"]
    assert text_at(root, at + "TxsSummry/TtlDbtNtries/NbOfNtries") == ["1"]
    assert text_at(root, at + "Ntry/NtryRef") == ["1", "2"]
    assert text_at(root, at + "Ntry/Amt") == ["600.50", "100.00"]
    assert text_at(root, at + "Ntry/CdtDbtInd") == ["CRDT", "DBIT"]
    assert text_at(root, at + "Ntry/BookgDt/DtTm") == [
        "2026-01-15T10:00:00.000000Z",
        "2026-01-16T09:30:00.000005Z",
    ]
    assert text_at(root, at + "Ntry/ValDt/DtTm")[0] == "2026-01-14T00:00:00.000000Z"
    assert text_at(root, at + "Ntry/AcctSvcrRef") == [FIRST.hex, SECOND.hex]
    assert text_at(root, at + "Ntry/BkTxCd/Prtry/Cd") == ["payin", "payout"]
    details = at + "Ntry/NtryDtls/TxDtls/"
    assert text_at(root, details + "Refs/EndToEndId") == ["DEPOSIT-001"]
    assert text_at(root, details + "RltdPties/Dbtr/Pty/Nm") == ["platform:deposits"]
    assert text_at(root, details + "RltdPties/Cdtr/Pty/Nm") == ["ext:DE89370400440532013000"]
    assert text_at(root, details + "RltdPties/CdtrAcct/Id/IBAN") == ["DE89370400440532013000"]
    assert text_at(root, at + "Ntry/AddtlNtryInf") == ["January's deposit", "payout"]


@pytest.mark.parametrize("text", HOSTILE)
async def test_no_text_spoils_a_camt_053(text: str) -> None:
    hostile = line(reference=text, counterparty=text, description=text)
    root = parsed(await written(Format.CAMT, statement(account_name=text), [hostile]))
    carried = re.sub("[\x00-\x1f\ufffe\ud800]", "\ufffd", text)
    at = "BkToCstmrStmt/Stmt/Ntry/"
    assert text_at(root, at + "AddtlNtryInf") == [carried[:500]]
    whole = text_at(root, at + "NtryDtls/TxDtls/Refs/EndToEndId") + text_at(
        root, at + "NtryDtls/TxDtls/RmtInf/Ustrd"
    )
    assert "".join(part or "" for part in whole) == carried


async def test_a_reversal_and_an_overdrawn_account_are_told_as_such_in_camt_053() -> None:
    overdrawn = statement(opening=-1, total_credits=0, total_debits=10_000, closing=-10_001)
    root = parsed(await written(Format.CAMT, overdrawn, [debit(kind=Kind.REVERSAL)]))
    at = "BkToCstmrStmt/Stmt/"
    assert text_at(root, at + "Bal/CdtDbtInd") == ["DBIT", "DBIT"]
    assert text_at(root, at + "Bal/Amt") == ["0.01", "100.01"]
    assert text_at(root, at + "TxsSummry/TtlNtries/TtlNetNtry/CdtDbtInd") == ["DBIT"]
    assert text_at(root, at + "Ntry/RvslInd") == ["true"]


@pytest.mark.parametrize("currency", sorted({"USDC", "ETH", "SOL"}))
async def test_camt_053_refuses_what_has_no_iso_currency_code(currency: str) -> None:
    with pytest.raises(FormatUnfit) as refused:
        await written(Format.CAMT, statement(CURRENCIES[currency]))
    assert refused.value.details[0].field == "format"


async def test_camt_053_refuses_amounts_that_its_18_digits_cannot_hold() -> None:
    most = 10**18 - 1
    parsed(await written(Format.CAMT, statement(opening=most, closing=most)))
    with pytest.raises(FormatUnfit):
        await written(Format.CAMT, statement(opening=most + 1))


def pages_of(pdf: bytes) -> list[str]:
    """The texts that each page shows, in the order in which they are drawn."""
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    pages = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        drawn = zlib.decompress(
            a85decode(stream.strip(), adobe=False) if b"~>" not in stream else _a85(stream)
        )
        texts = re.findall(rb"\((.*?)(?<!\\)\) Tj", drawn, re.DOTALL)
        pages.append("\n".join(_unescaped(text) for text in texts))
    return pages


def _a85(stream: bytes) -> bytes:
    return a85decode(b"<~" + stream.strip(), adobe=True)


def _unescaped(text: bytes) -> str:
    octal = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text)
    return re.sub(rb"\\(.)", rb"\1", octal).decode("cp1252")


async def test_a_pdf_repeats_its_header_and_numbers_its_pages() -> None:
    lines = [debit(reference=f"R-{number}") for number in range(100)]
    pdf = await written(Format.PDF, statement(debits=100, credits=0), lines[:60], lines[60:])
    pages = pages_of(pdf)
    assert len(pages) == 3
    for number, page in enumerate(pages, 1):
        assert f"Page {number} of 3" in page
        assert "Account statement" in page
        assert "Counterparty" in page
        assert "2026-01-01 to 2026-01-31 (UTC), dated by recording" in page
        assert str(SECOND) in page
    whole = "\n".join(pages)
    assert whole.index("Opening balance") < whole.index("R-0 payout") < whole.index("R-99 payout")
    assert whole.index("R-99 payout") < whole.index("Closing balance") < whole.rindex("1500.50")


@pytest.mark.parametrize("text", HOSTILE)
async def test_no_text_spoils_a_pdf(text: str) -> None:
    hostile = line(reference=text, counterparty=text, description=text)
    (page,) = pages_of(await written(Format.PDF, statement(account_name=text), [hostile]))
    assert "1600.50" in page


async def test_a_pdf_escapes_letters_that_its_font_has_not() -> None:
    (page,) = pages_of(await written(Format.PDF, statement(), [line(counterparty="ext:Zoë 中文")]))
    assert "ext:Zoë \\u4e2d\\u6587" in page


async def test_a_pdf_never_cuts_an_amount() -> None:
    large = 10**38 - 1
    figures = statement(ETH, opening=large, closing=large)
    (page,) = pages_of(await written(Format.PDF, figures, [line(amount=large, balance_after=large)]))
    assert page.count("99999999999999999999.999999999999999999") == 4


async def test_a_pdf_of_too_many_lines_is_refused_and_csv_named() -> None:
    WRITERS[Format.PDF].check(statement(credits=MOST_LINES, debits=0))
    with pytest.raises(FormatUnfit) as refused:
        WRITERS[Format.PDF].check(statement(credits=MOST_LINES, debits=1))
    assert "csv" in refused.value.details[0].message


@pytest.mark.parametrize("format", [Format.JSON, Format.CSV, Format.PDF])
async def test_18_decimal_places_keep_every_digit(format: Format) -> None:
    content = await written(format, statement(ETH), [line(amount=1)])
    shown = pages_of(content)[0] if format is Format.PDF else content.decode()
    assert "0.000000000000000001" in shown


@pytest.mark.parametrize("format", list(Format))
async def test_a_statement_without_lines_is_whole(format: Format) -> None:
    empty = statement(opening=0, closing=0, total_credits=0, total_debits=0, credits=0, debits=0)
    content = await written(format, empty)
    if format is Format.JSON:
        assert json.loads(content)["transactions"] == []
    elif format is Format.CAMT:
        assert text_at(parsed(content), "BkToCstmrStmt/Stmt/Ntry") == []
    elif format is Format.CSV:
        assert len(content.splitlines()) == 3
    else:
        assert "Page 1 of 1" in pages_of(content)[0]


async def test_usdc_has_six_places() -> None:
    content = await written(Format.JSON, statement(USDC), [])
    assert json.loads(content)["openingBalance"] == "0.100000"
