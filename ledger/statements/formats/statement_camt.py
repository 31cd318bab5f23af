"""A statement as camt.053.001.08, the bank-to-customer statement of ISO 20022.

What does not fit is refused before the first byte: a currency that is none of ISO 4217, and amounts of more
than 18 digits. Names and references are cut to the lengths of the schema only where the whole stands
elsewhere in the same entry.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final
from uuid import uuid5
from xml.sax.saxutils import escape

from core.clock import iso
from core.money import EUR, USD, Currency
from ledger.errors import FormatUnfit
from ledger.models import Kind
from ledger.reading.history import Type
from ledger.statements.formats.writer import Lines, Writer, amount, dated_by
from ledger.statements.lines import Line
from ledger.statements.statement import Statement

NAMESPACE: Final = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"
# Of our currencies, those of ISO 4217. A token on a chain has no code there, whatever it is worth.
ISO_4217: Final = frozenset({EUR, USD})
_MOST_DIGITS: Final = 18
_ISSUER: Final = "Coffer"

# What XML 1.0 cannot hold, escaped or not (section 2.2), and the few control characters that it can.
_FORBIDDEN: Final = re.compile("[^\u0020-\u007e\u00a0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT: Final = "\ufffd"
_IBAN: Final = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}", re.ASCII)


def check(statement: Statement) -> None:
    """Raises `FormatUnfit` for a currency or an amount that the schema has no room for."""
    if statement.currency not in ISO_4217:
        raise FormatUnfit(f"camt.053 has no code for {statement.currency.code}: choose json or csv")
    largest = max(
        abs(statement.opening),
        abs(statement.closing),
        statement.total_credits + statement.total_debits,
    )
    if largest >= 10**_MOST_DIGITS:
        raise FormatUnfit(f"camt.053 has room for {_MOST_DIGITS} digits: choose json or csv")


async def write(statement: Statement, lines: Lines) -> AsyncIterator[bytes]:
    """The bytes of the document as the lines come."""
    yield _head(statement).encode()
    number = 0
    async for some in lines:
        entries = []
        for line in some:
            number += 1
            entries.append(_entry(statement.currency, line, number))
        yield "".join(entries).encode()
    whole = f"{statement.account_name}; dated by {dated_by(statement.clock)}"
    yield f"{_text('AddtlStmtInf', whole, 500)}</Stmt></BkToCstmrStmt></Document>\n".encode()


def _head(statement: Statement) -> str:
    currency, period = statement.currency, statement.period
    # The same statement has the same id whenever it is asked for; the message that carries it is another.
    identity = uuid5(statement.account_id, f"{period.start}/{period.end}/{statement.clock}")
    message = uuid5(identity, iso(statement.generated_at))
    created = f"<CreDtTm>{iso(statement.generated_at)}</CreDtTm>"
    net = statement.total_credits - statement.total_debits
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Document xmlns="{NAMESPACE}"><BkToCstmrStmt>'
        f"<GrpHdr><MsgId>{message.hex}</MsgId>{created}</GrpHdr>"
        f"<Stmt><Id>{identity.hex}</Id><ElctrncSeqNb>{statement.sequence}</ElctrncSeqNb>{created}"
        f"<FrToDt><FrDtTm>{iso(period.since)}</FrDtTm><ToDtTm>{iso(period.last)}</ToDtTm></FrToDt>"
        f"<Acct><Id><Othr><Id>{statement.account_id.hex}</Id></Othr></Id><Ccy>{currency.code}</Ccy>"
        f"{_text('Nm', statement.account_name, 70)}</Acct>"
        + _balance("OPBD", statement.opening, currency, period.since)
        + _balance("CLBD", statement.closing, currency, period.last)
        + "<TxsSummry>"
        f"<TtlNtries><NbOfNtries>{statement.count}</NbOfNtries>"
        f"<Sum>{amount(statement.total_credits + statement.total_debits, currency)}</Sum>"
        f"<TtlNetNtry><Amt>{amount(abs(net), currency)}</Amt>{_direction(net >= 0)}</TtlNetNtry></TtlNtries>"
        f"<TtlCdtNtries><NbOfNtries>{statement.credits}</NbOfNtries>"
        f"<Sum>{amount(statement.total_credits, currency)}</Sum></TtlCdtNtries>"
        f"<TtlDbtNtries><NbOfNtries>{statement.debits}</NbOfNtries>"
        f"<Sum>{amount(statement.total_debits, currency)}</Sum></TtlDbtNtries>"
        "</TxsSummry>"
    )


def _balance(code: str, units: int, currency: Currency, at: datetime) -> str:
    return (
        f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp>"
        f"{_amount(abs(units), currency)}{_direction(units >= 0)}"
        f"<Dt><Dt>{at.date().isoformat()}</Dt></Dt></Bal>"
    )


def _entry(currency: Currency, line: Line, number: int) -> str:
    incoming = line.type is Type.CREDIT
    moved = _amount(line.amount, currency) + _direction(incoming)
    servicer = f"<AcctSvcrRef>{line.transaction_id.hex}</AcctSvcrRef>"
    reference = line.reference or ""
    fits = 0 < len(reference) <= 35
    party = "Dbtr" if incoming else "Cdtr"
    return (
        f"<Ntry><NtryRef>{number}</NtryRef>{moved}"
        + ("<RvslInd>true</RvslInd>" if line.kind is Kind.REVERSAL else "")
        + "<Sts><Cd>BOOK</Cd></Sts>"
        f"<BookgDt><DtTm>{iso(line.recorded_at)}</DtTm></BookgDt>"
        f"<ValDt><DtTm>{iso(line.effective_at)}</DtTm></ValDt>{servicer}"
        f"<BkTxCd><Prtry><Cd>{line.kind}</Cd><Issr>{_ISSUER}</Issr></Prtry></BkTxCd>"
        f"<NtryDtls><TxDtls><Refs>{servicer}"
        + (_text("EndToEndId", reference, 35) if fits else "")
        + f"</Refs>{moved}<RltdPties><{party}><Pty>{_text('Nm', line.counterparty, 140)}</Pty></{party}>"
        + _party_account(party, line.counterparty)
        + "</RltdPties>"
        + ("" if fits or not reference else _remittance(reference))
        + f"</TxDtls></NtryDtls>{_text('AddtlNtryInf', line.description, 500)}</Ntry>"
    )


def _party_account(party: str, counterparty: str) -> str:
    """The counterparty's account, by its IBAN where its name ends in one."""
    identifier = counterparty.rpartition(":")[2]
    if _is_iban(identifier):
        identified = f"<IBAN>{identifier}</IBAN>"
    elif len(counterparty) <= 34 and not _FORBIDDEN.search(counterparty):
        identified = f"<Othr>{_text('Id', counterparty, 34)}</Othr>"
    else:
        return ""
    return f"<{party}Acct><Id>{identified}</Id></{party}Acct>"


def _is_iban(text: str) -> bool:
    """Whether the text is an IBAN whose check digits are right (ISO 13616)."""
    if not _IBAN.fullmatch(text):
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


def _remittance(reference: str) -> str:
    pieces = [reference[start : start + 140] for start in range(0, len(reference), 140)]
    return f"<RmtInf>{''.join(_text('Ustrd', piece, 140) for piece in pieces)}</RmtInf>"


def _amount(units: int, currency: Currency) -> str:
    return f'<Amt Ccy="{currency.code}">{amount(units, currency)}</Amt>'


def _direction(incoming: bool) -> str:
    return f"<CdtDbtInd>{'CRDT' if incoming else 'DBIT'}</CdtDbtInd>"


def _text(element: str, text: str, most: int) -> str:
    """An element with at most `most` characters; U+FFFD stands for what XML cannot hold."""
    return f"<{element}>{escape(_FORBIDDEN.sub(_REPLACEMENT, text)[:most])}</{element}>"


CAMT = Writer("application/xml", "xml", write, check)
