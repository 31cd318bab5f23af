"""Whether the signer signs: what the bytes do, held against its own settings and its own memory.

All of this is decided where the keys are. Whoever asks may be mistaken, or taken over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eth_utils.address import to_checksum_address

from chains.protocol import ChainName, Rejection
from chains.screening import Screening
from chains.signers import SigningRefused, SigningRequest
from chains.signers.intents import Intent, Rules, ethereum, mismatch, solana
from chains.signers.journal import Journal, Line
from core.logs import get_logger
from core.settings import Settings, SignerSettings

logger = get_logger(__name__)

STOPPED: Final = "SigningStopped"
FEE: Final = "SigningFeeTooHigh"
DAY: Final = "SigningDayLimit"
PAYMENT: Final = "SigningLimitExceeded"

# It becomes a word of a line of the journal.
_ID: Final = re.compile(r"[!-~]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that a transaction of a chain may cost, and Ethereum's most for a unit of gas."""

    fee: int
    fee_per_gas: int | None = None


class Policy:
    """The rules of one process that signs. `journal` is None where no limit of a day is set."""

    def __init__(
        self,
        settings: SignerSettings,
        rules: dict[ChainName, Rules],
        bounds: dict[ChainName, Bounds],
        screening: Screening,
        journal: Journal | None = None,
    ) -> None:
        """Raises `ValueError` for a day's limit without a journal."""
        if settings.max_day is not None and journal is None:
            raise ValueError("COFFER_SIGNER__MAX_DAY is kept by `coffer signer` alone")
        self._settings = settings
        self._rules = rules
        self._bounds = bounds
        self._screening = screening
        self._journal = journal

    @classmethod
    def from_settings(
        cls, settings: Settings, holds: Callable[[str], bool], journal: Journal | None = None
    ) -> Policy:
        """The chains, tokens and contracts are those of the signer's own environment."""
        rules: dict[ChainName, Rules] = {}
        bounds: dict[ChainName, Bounds] = {}
        if settings.ethereum is not None:
            given = settings.ethereum
            rules[ChainName.ETHEREUM] = Rules(
                holds,
                frozenset({given.chain_id}),
                _addresses(given.usdc),
                _addresses(given.batch_payout),
                _addresses(given.allowance_payout),
                given.allowance_limit or None,
            )
            bounds[ChainName.ETHEREUM] = Bounds(settings.signer.max_fee_wei, given.max_fee_wei)
        if settings.solana is not None:
            rules[ChainName.SOLANA] = Rules(holds, tokens=frozenset({settings.solana.usdc}))
            bounds[ChainName.SOLANA] = Bounds(settings.signer.max_fee_lamports)
        return cls(settings.signer, rules, bounds, Screening.from_settings(settings.policy), journal)

    def check(
        self, requests: Sequence[SigningRequest], tables: solana.Tables | None = None
    ) -> Sequence[Line]:
        """What to write to the journal, if all may be signed; raises `SigningRefused` if not.

        All requests are of one key."""
        if self._settings.stop_file is not None and _is_there(self._settings.stop_file):
            raise SigningRefused(STOPPED, "signing is stopped by the signer's operator")
        intents = [self._read(request, tables) for request in requests]
        self._screen(requests, intents)
        lines = [
            Line(
                request.chain.value,
                request.address,
                intent.slot,
                sum(payout.amount for payout in intent.pays),
                request.purpose.id,
            )
            for request, intent in zip(requests, intents, strict=True)
        ]
        self._within_the_day(lines)
        return lines

    def record(self, lines: Sequence[Line]) -> None:
        """Remember what is about to be signed."""
        if self._journal is not None:
            self._journal.write(lines)

    def _read(self, request: SigningRequest, tables: solana.Tables | None) -> Intent:
        if not _ID.fullmatch(request.purpose.id):
            raise mismatch("an id is of up to 64 visible characters of ASCII")
        rules = self._rules.get(request.chain)
        if rules is None:
            raise SigningRefused("SigningNotAllowed", f"the signer is not set up for {request.chain}")
        if request.chain is ChainName.ETHEREUM:
            intent = ethereum.read(request, rules)
        else:
            intent = solana.read(request, rules, tables)
        bounds = self._bounds[request.chain]
        if intent.fee > bounds.fee:
            raise SigningRefused(FEE, f"a fee of up to {intent.fee}, at most {bounds.fee} is allowed")
        if bounds.fee_per_gas is not None and intent.fee_per_gas > bounds.fee_per_gas:
            raise SigningRefused(
                FEE, f"{intent.fee_per_gas} wei for gas, at most {bounds.fee_per_gas} is allowed"
            )
        return intent

    def _screen(self, requests: Sequence[SigningRequest], intents: Sequence[Intent]) -> None:
        """Every payout that is refused for itself, in one refusal: the others can then be asked for again."""
        lists = self._screening.current()
        most = self._settings.max_payment
        rejected: list[Rejection] = []
        for request, intent in zip(requests, intents, strict=True):
            for payout in intent.pays:
                verdict = lists.verdict(request.chain, payout.to)
                if verdict is not None:
                    message = "the signer's list of recipients forbids it"
                    rejected.append(Rejection(payout.reference, verdict.value, message))
                elif most is not None and payout.amount > most:
                    message = f"the signer signs at most {most} smallest units for one payment"
                    rejected.append(Rejection(payout.reference, PAYMENT, message))
        if rejected:
            raise SigningRefused(rejected[0].code, rejected[0].message, rejected)

    def _within_the_day(self, lines: Sequence[Line]) -> None:
        most = self._settings.max_day
        if most is None or self._journal is None or not any(line.amount for line in lines):
            return
        paid = self._journal.paid(lines[0].chain, lines[0].address, lines)
        if paid > most:
            raise SigningRefused(DAY, f"{lines[0].address} would pay {paid} today, at most {most} is allowed")


def _is_there(path: Path) -> bool:
    """Also a link to nothing. Raises `OSError` where that cannot be told: nothing is signed then."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _addresses(*given: str | None) -> frozenset[str]:
    return frozenset(str(to_checksum_address(one)) for one in given if one is not None)
