"""Who may be paid outside: an identifier that can be named in the books and, if it looks like an IBAN, is
one."""

from __future__ import annotations

import re
from typing import Final

from core.errors import ValidationError
from ledger import names
from ledger.errors import InvalidBeneficiary

# Country, check digits and account, as ISO 13616 writes them: an address of a chain never looks like it.
_LIKE_IBAN: Final = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}", re.ASCII)


def check_beneficiary(identifier: str) -> str:
    """The identifier as the books name it; an IBAN loses the spaces it is printed with.

    Raises `InvalidBeneficiary`.
    """
    compact = identifier.replace(" ", "")
    if _LIKE_IBAN.fullmatch(compact):
        if not is_iban(compact):
            raise InvalidBeneficiary("is no IBAN: its check digits are wrong")
        return compact
    try:
        return names.part("beneficiary", identifier)
    except ValidationError as error:
        raise InvalidBeneficiary(error.message) from None


def is_iban(text: str) -> bool:
    """Whether the check digits are right: ISO 7064, mod 97-10, with letters as two digits from 10 on."""
    turned = text[4:] + text[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1
