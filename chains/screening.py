"""Lists of recipients from files: who must not be paid, and who alone may be.

A file is read again when it changes. One that is broken or gone keeps the last good list in force, and that
is logged as critical at every look until it is mended.

Two formats are read, told apart by their content:

- an address a line, of any chain; `#` begins a comment, empty lines count for nothing; such lines may be
  added to the other format too;
- the SDN list of the Office of Foreign Assets Control, as `sdn.csv` or `sdn.xml`: every
  `Digital Currency Address - <symbol>` in it whose address has the form of one of our chains
  (https://ofac.treasury.gov/specially-designated-nationals-list-data-formats-data-schemas).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from chains.protocol import ChainName
from core.logs import get_logger
from core.settings import PolicySettings

log = get_logger(__name__)

# How long a list may be in force after its file has changed.
LOOK_SECONDS: Final = 1.0

_OFAC: Final = re.compile(
    r"Digital Currency Address - [A-Z0-9]+(?:</idType>\s*<idNumber>|\s+)([A-Za-z0-9]+)", re.ASCII
)
_ETHEREUM: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_SOLANA: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,44}", re.ASCII)
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class ListBroken(ValueError):
    """The file is no list: which line of it is wrong, and how."""


class Verdict(StrEnum):
    """Why a recipient may not be paid, as the code that the payment fails with."""

    DENIED = "PolicyRecipientDenied"
    NOT_ALLOWED = "PolicyNotAllowed"


@dataclass(frozen=True, slots=True)
class Lists:
    """What the files say at one moment. `allowed` is None where no list limits who may be paid."""

    denied: frozenset[str] = frozenset()
    allowed: frozenset[str] | None = None

    def verdict(self, chain: ChainName, address: str) -> Verdict | None:
        """Why an address of `chain`, however it is spelt, may not be paid; None if it may."""
        spelt = _spelling(chain, address)
        if spelt in self.denied:
            return Verdict.DENIED
        if self.allowed is not None and spelt not in self.allowed:
            return Verdict.NOT_ALLOWED
        return None


class Screening:
    """The lists of an installation, kept as their files are. For any process that pays or signs."""

    def __init__(
        self,
        deny: Path | None = None,
        allow: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `OSError` for a file that cannot be read, `ListBroken` for one that is no list."""
        self._deny = None if deny is None else _File(deny)
        self._allow = None if allow is None else _File(allow)
        self._clock = clock
        self._looked = clock()
        self._lists = self._read()

    @classmethod
    def from_settings(cls, settings: PolicySettings) -> Screening:
        """The lists that are configured. Raises as the constructor does."""
        return cls(settings.deny_list_file, settings.allow_list_file)

    def current(self) -> Lists:
        """The lists in force. Looks at the files at most every `LOOK_SECONDS`, and never raises."""
        if self._clock() - self._looked >= LOOK_SECONDS:
            self._looked = self._clock()
            # Both, whatever the first one says.
            changed = [file.refresh() for file in (self._deny, self._allow) if file is not None]
            if any(changed):
                self._lists = self._read()
        return self._lists

    def _read(self) -> Lists:
        return Lists(
            frozenset() if self._deny is None else self._deny.addresses,
            None if self._allow is None else self._allow.addresses,
        )


NOBODY_LISTED: Final = Screening()


class _File:
    """A file and the list that it last was."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.addresses, self._mark = _load(path)

    def refresh(self) -> bool:
        """Read the file if it is another one than before; whether the list changed."""
        try:
            if _mark(self._path.stat()) == self._mark:
                return False
            addresses, mark = _load(self._path)
            if self.addresses and not addresses:
                raise ListBroken("the file holds no address any more")
        except (OSError, ValueError) as error:
            log.critical(
                "list of recipients not read; the last good one stays in force",
                file=str(self._path),
                addresses=len(self.addresses),
                reason=str(error),
            )
            return False
        self.addresses, self._mark = addresses, mark
        log.info("list of recipients read", file=str(self._path), addresses=len(addresses))
        return True


def parse(text: str) -> frozenset[str]:
    """The addresses of a list, spelt so that they can be compared. Raises `ListBroken`.

    An address that is alone on its line counts in a list of the SDN's format too. What a comment quotes of
    that list makes no list of its format."""
    lines = text.splitlines()
    published = _OFAC.findall("\n".join(line for line in lines if not line.lstrip().startswith("#")))
    addresses = {spelt for one in published if (spelt := _of_any_chain(one)) is not None}
    for number, line in enumerate(lines, 1):
        address = line.partition("#")[0].strip()
        if not address:
            continue
        spelt = _of_any_chain(address)
        if spelt is None:
            if published:
                continue
            raise ListBroken(f"line {number} is no address of Ethereum or Solana")
        if spelt != address and not _checksum_holds(address):
            raise ListBroken(f"line {number}: the checksum fails (EIP-55): a character is mistyped")
        addresses.add(spelt)
    return frozenset(addresses)


def _load(path: Path) -> tuple[frozenset[str], tuple[int, int, int]]:
    """The list, and the mark of the very file that it was read from."""
    with path.open("rb") as file:
        mark = _mark(os.fstat(file.fileno()))
        content = file.read()
        if _mark(os.fstat(file.fileno())) != mark:
            raise ListBroken("the file is being written")
    return parse(content.decode("utf-8-sig")), mark


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _spelling(chain: ChainName, address: str) -> str:
    """One spelling for all that mean the same: Ethereum's letter case is a checksum, Solana's counts."""
    return address.lower() if chain is ChainName.ETHEREUM else address


def _of_any_chain(text: str) -> str | None:
    if _ETHEREUM.fullmatch(text):
        return text.lower()
    if _SOLANA.fullmatch(text) and _base58_length(text) == 32:
        return text
    return None


def _base58_length(text: str) -> int:
    """How many bytes base58 text stands for: a leading `1` is a byte that is zero."""
    number = 0
    for character in text:
        number = number * 58 + _BASE58.index(character)
    return len(text) - len(text.lstrip("1")) + (number.bit_length() + 7) // 8


def _checksum_holds(address: str) -> bool:
    """Whether mixed case checks (EIP-55). All upper case says nothing."""
    # Imported where it is used: it brings a large library.
    from eth_utils.address import is_checksum_address

    return address[2:].isupper() or is_checksum_address(address)
