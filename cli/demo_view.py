"""How the demo looks: counts that move while payments do, then tables of what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from chains.protocol import ChainName
from sandbox.demo.checks import Report
from sandbox.demo.run import STATUSES, Progress

Counts = dict[ChainName, Counter[str]]

# Columns of a log or a file, where no terminal says how many there are: the longest account and two amounts.
_PAGE: Final = 150


@contextmanager
def progress_shown() -> Iterator[Progress]:
    """A table that is redrawn on a terminal; elsewhere a line whenever something moved. On stderr."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=8, transient=False) as live:
            yield lambda counts: live.update(_progress_table(counts))
        return
    last: list[str] = []

    def line(counts: Counts) -> None:
        text = "   ".join(
            f"{chain}: " + " ".join(f"{status.lower()} {count[status]}" for status in STATUSES)
            for chain, count in counts.items()
        )
        if last != [text]:
            last[:] = [text]
            console.print(text, soft_wrap=True, highlight=False)

    yield line


def print_report(report: Report) -> None:
    """Payments by status, every account, fees and balances beside the chains', and every check."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PAGE)
    payments = Table("status", "payments", title="Payments")
    for status, count in sorted(report.payments.items()):
        payments.add_row(status, str(count))
    console.print(payments)

    accounts = Table("account", "currency", "debits", "credits", title="Accounts")
    for account in report.accounts:
        amounts = (f"{account['debits']:f}", f"{account['credits']:f}")
        accounts.add_row(account["name"], account["currency"], *amounts)
    accounts.add_section()
    for currency, total in report.totals.items():
        amounts = (f"{total['debits']:f}", f"{total['credits']:f}")
        accounts.add_row("total", currency, *amounts, style="bold")
    console.print(accounts)

    beside = Table("", "books", "chain", title="Books beside the chains")
    for chain in ChainName:
        fees, balances = report.fees[chain], report.balances[chain]
        beside.add_row(
            f"{chain}: fees of {fees['transactions']} transactions",
            f"{fees['books']:f}",
            f"{fees['chain']:f}",
        )
        beside.add_row(f"{chain}: gas left", f"{fees['gas_books']:f}", f"{fees['gas_chain']:f}")
        beside.add_row(f"{chain}: USDC", f"{balances['books']:f}", f"{balances['chain']:f}")
    console.print(beside)

    checks = Table("", "check", "found", title="Checks")
    for check in report.checks:
        checks.add_row("✓" if check.ok else "✗", check.name, check.detail, style=None if check.ok else "red")
    console.print(checks)


def _progress_table(counts: Counts) -> Table:
    table = Table("chain", *(status.lower() for status in STATUSES))
    for chain, count in counts.items():
        table.add_row(chain.value, *(str(count[status]) for status in STATUSES))
    return table
