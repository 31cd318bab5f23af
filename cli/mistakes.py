"""Which exceptions an operator can mend, and the line that says how."""

from __future__ import annotations

import asyncpg
import httpx
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from chains.protocol import ChainUnavailable
from chains.signers import UnknownKey
from chains.signers.keystore import WrongPassphrase
from core.errors import CofferError

_MISTAKES = (
    CofferError,
    ValueError,
    OSError,
    SQLAlchemyError,
    asyncpg.PostgresError,
    httpx.HTTPError,
    ChainUnavailable,
    UnknownKey,
    WrongPassphrase,
)


def explained(error: Exception) -> str | None:
    """What to print; None for an error that is Coffer's own. The values of settings are never in it."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"COFFER_{'__'.join(str(part) for part in wrong['loc']).upper()}: {wrong['msg']}"
            for wrong in error.errors(include_url=False, include_input=False)
        )
    if isinstance(error, CofferError) and error.details and error.details[0].message == error.message:
        return f"{error.details[0].field} {error.message}"
    if isinstance(error, UnknownKey):
        return f"there is no key for {error}"
    if isinstance(error, WrongPassphrase):
        return f"COFFER_KEYSTORE_PASSPHRASE does not open the key of {error}"
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig if isinstance(error.orig, Exception) else error
        return str(error.__cause__ or error)
    # Every exception of the sandbox's own says what could not be started, with the tail of its log.
    if isinstance(error, _MISTAKES) or type(error).__module__.startswith("sandbox."):
        return str(error) or type(error).__name__
    return None
