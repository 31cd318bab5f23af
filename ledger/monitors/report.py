"""Suspicious-activity reports: the facts for a filing, collected, kept, and shown to be unchanged.

A neutral export, not a filing: its members follow what FinCEN's report of suspicious activity asks for
(subjects with their accounts, the dates and amounts of the activity, its classification, a narrative). The
content is kept as canonical JSON with its SHA-256, and the database refuses every change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from core.clock import iso
from core.driver import fetch
from core.errors import FieldError, ValidationError
from core.identifiers import is_id, new_id
from core.json import canonical, decode
from core.money import CURRENCIES, parse_units, to_decimal
from ledger.accounts import get_account
from ledger.models import Account, AccountType
from ledger.monitors.alerts import get_alert
from ledger.monitors.errors import ReportTooLarge, UnknownReport
from ledger.monitors.models import ActivityReport
from ledger.monitors.schemas import alert_facts
from ledger.statements.formats.statement_csv import encode_rows, plain

MOST_TRANSACTIONS: Final = 10_000

# What moved money on the accounts in the period, and the block that each is sealed in.
_TRANSACTIONS: Final = """
    SELECT moved.*, counterparty.name AS counterparty, block.number AS block, block.hash AS block_hash,
           block.root AS block_root
    FROM (
        SELECT side.*
        FROM unnest($2::bigint[]) AS subject (id)
            CROSS JOIN LATERAL (
                SELECT ledger_sequence_before(subject.id, $3) AS after,
                       ledger_sequence_before(subject.id, $4) AS through
                OFFSET 0
            ) AS span
            CROSS JOIN LATERAL (
                SELECT id, chain_id, kind, phase, debit_account_id AS account_id, true AS debited,
                       credit_account_id AS counterparty_id, amount::text, debit_balance::text AS balance,
                       debit_sequence AS sequence, cause, recorded_at, effective_at, batch
                FROM ledger_transfer
                WHERE debit_account_id = subject.id AND debit_sequence > after AND debit_sequence <= through
                UNION ALL
                SELECT id, chain_id, kind, phase, credit_account_id, false, debit_account_id, amount::text,
                       credit_balance::text, credit_sequence, cause, recorded_at, effective_at, batch
                FROM ledger_transfer
                WHERE credit_account_id = subject.id AND credit_sequence > after
                  AND credit_sequence <= through
            ) AS side
        WHERE side.phase IN ('posted', 'post')
        LIMIT $5
    ) AS moved
        JOIN ledger_account AS counterparty ON counterparty.id = moved.counterparty_id
        LEFT JOIN LATERAL (
            SELECT number, hash, root, first_batch FROM ledger_block
            WHERE org_id = $1 AND last_batch >= moved.batch ORDER BY last_batch LIMIT 1
        ) AS block ON block.first_batch <= moved.batch
    ORDER BY moved.recorded_at, moved.batch, moved.id, moved.account_id
"""

_COLUMNS: Final = (
    "transactionId", "account", "type", "amount", "currency", "counterparty", "kind", "recordedAt",
    "effectiveAt", "reference", "transferGroup", "balanceAfter", "block", "blockHash",
)  # fmt: skip
# Written by a caller, or made of what a caller wrote.
_TEXTS: Final = frozenset({"account", "counterparty", "reference"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a report is to be about: accounts by name and currency beside those of the alerts, and the period
    from one instant on until before another."""

    start: datetime
    end: datetime
    alert_ids: Sequence[str] = ()
    accounts: Sequence[tuple[str, str]] = ()
    prepared_by: str | None = None
    narrative: str | None = None


async def make(session: AsyncSession, org_id: UUID, wanted: Wanted) -> ActivityReport:
    """Collect the facts as they are now and keep them.

    Raises `ValidationError` where the period ends before it starts or there is nothing to be about,
    `UnknownAlert`, `NoSuchAccount` and `ReportTooLarge`.
    """
    if wanted.start >= wanted.end:
        raise ValidationError.at("to", "must be after from")
    if not wanted.alert_ids and not wanted.accounts:
        raise ValidationError(
            "A report is about alerts or accounts",
            FieldError("alertIds", "and accounts are both empty"),
        )
    alerts = [await get_alert(session, org_id, alert_id) for alert_id in sorted(set(wanted.alert_ids))]
    named = {(alert.account, alert.currency) for alert in alerts} | set(wanted.accounts)
    accounts = [await get_account(session, org_id, *each) for each in sorted(named)]
    by_id = {account.id: account for account in accounts}
    rows = await fetch(
        session, _TRANSACTIONS, org_id, list(by_id), wanted.start, wanted.end, MOST_TRANSACTIONS + 1
    )
    if len(rows) > MOST_TRANSACTIONS:
        raise ReportTooLarge(MOST_TRANSACTIONS)
    alerted: dict[UUID, list[str]] = {}
    for alert in alerts:
        for id in dict.fromkeys(alert.transfers):
            alerted.setdefault(id, []).append(alert.id)
    transactions = [_transaction(by_id[row["account_id"]], row, alerted.get(row["id"], [])) for row in rows]
    now = await session.scalar(select(func.now()))
    assert now is not None
    report_id = new_id("sar")
    content = canonical(
        {
            "reportId": report_id,
            "organisationId": str(org_id),
            "generatedAt": iso(now),
            "preparedBy": wanted.prepared_by,
            "narrative": wanted.narrative,
            "suspiciousActivity": {
                "from": iso(wanted.start),
                "to": iso(wanted.end),
                "classifications": sorted({str(alert.type) for alert in alerts}),
                "totals": _totals(accounts, transactions),
            },
            "subjects": [_subject(account, transactions) for account in accounts],
            "alerts": [alert_facts(alert) for alert in alerts],
            "transactions": transactions,
        }
    )
    report = ActivityReport(
        id=report_id,
        org_id=org_id,
        period_from=wanted.start,
        period_to=wanted.end,
        digest=hashlib.sha256(content).digest(),
        content=content.decode(),
        created_at=now,
    )
    session.add(report)
    await session.flush()
    return report


async def get_report(session: AsyncSession, org_id: UUID, report_id: str) -> ActivityReport:
    """One report. Raises `UnknownReport`."""
    found = None
    if is_id("sar", report_id):
        found = await session.scalar(
            select(ActivityReport).where(
                col(ActivityReport.org_id) == org_id, col(ActivityReport.id) == report_id
            )
        )
    if found is None:
        raise UnknownReport
    return found


async def list_reports(
    session: AsyncSession, org_id: UUID, *, before: str | None = None, limit: int
) -> Sequence[ActivityReport]:
    """The reports, the newest first, from before an id."""
    query = (
        select(ActivityReport)
        .where(col(ActivityReport.org_id) == org_id)
        .order_by(col(ActivityReport.id).desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(col(ActivityReport.id) < before)
    return (await session.scalars(query)).all()


def transactions_csv(report: ActivityReport) -> bytes:
    """The transactions of a report as RFC 4180 has them: a header and a row each."""
    rows: list[Sequence[object]] = [_COLUMNS]
    for transaction in decode(report.content)["transactions"]:
        seal = transaction["seal"] or {"block": None, "blockHash": None}
        flat = transaction | seal
        rows.append([plain(flat[name]) if name in _TEXTS else flat[name] for name in _COLUMNS])
    return encode_rows(rows)


def _transaction(account: Account, row: asyncpg.Record, alert_ids: Sequence[str]) -> dict[str, Any]:
    """A movement from the account's perspective."""
    currency = CURRENCIES[account.currency]
    incoming = row["debited"] == AccountType(account.type).grows_by_debit
    sealed = row["block"] is not None
    return {
        "transactionId": str(row["id"]),
        "account": account.name,
        "type": "credit" if incoming else "debit",
        "amount": to_decimal(int(row["amount"]), currency),
        "currency": account.currency,
        "counterparty": row["counterparty"],
        "kind": row["kind"],
        "recordedAt": iso(row["recorded_at"]),
        "effectiveAt": None if row["effective_at"] is None else iso(row["effective_at"]),
        "reference": row["cause"],
        "transferGroup": None if row["chain_id"] is None else str(row["chain_id"]),
        "balanceAfter": to_decimal(int(row["balance"]), currency),
        "alertIds": alert_ids,
        "seal": {
            "block": row["block"],
            "blockHash": row["block_hash"].hex(),
            "merkleRoot": row["block_root"].hex(),
            "proof": f"/v1/orgs/{account.org_id}/ledger/transfers/{row['id']}/proof",
        }
        if sealed
        else None,
    }


def _subject(account: Account, transactions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    theirs = [
        each
        for each in transactions
        if each["account"] == account.name and each["currency"] == account.currency
    ]
    return {
        "account": account.name,
        "currency": account.currency,
        "accountType": str(account.type),
        "accountClosed": not account.active,
        "openedAt": iso(account.created_at),
        "lastTransactionAt": None
        if account.last_transaction_at is None
        else iso(account.last_transaction_at),
        "metadata": account.details,
        "balance": to_decimal(account.balance, CURRENCIES[account.currency]),
        **_sums(account.currency, theirs),
    }


def _totals(accounts: Sequence[Account], transactions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What moved in all, by currency; a transfer between two subjects went out of one and into the other."""
    return [
        {
            "currency": currency,
            **_sums(currency, [each for each in transactions if each["currency"] == currency]),
        }
        for currency in sorted({account.currency for account in accounts})
    ]


def _sums(currency: str, transactions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    sums = {"credit": 0, "debit": 0}
    for each in transactions:
        sums[each["type"]] += parse_units(each["amount"], CURRENCIES[currency])
    return {
        "totalIn": to_decimal(sums["credit"], CURRENCIES[currency]),
        "totalOut": to_decimal(sums["debit"], CURRENCIES[currency]),
        "transactions": len(transactions),
    }
