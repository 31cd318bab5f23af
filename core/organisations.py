"""Organisations and their credentials: API keys, OAuth2 clients and the access tokens of these.

A credential is kept as a SHA-256 digest: the secret itself is 256 random bits, shown once and never stored.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Column, Index, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel, col, select
from uuid_utils.compat import uuid7

from core.clock import now
from core.columns import instant, typeid
from core.identifiers import new_id
from core.secrets import FieldVault

# `write:policy` is apart from `write:treasury`, so that who pays need not be who says what may be paid. The
# last opens what belongs to the client itself, `/v1/ledger`, and nothing else of its organisation.
SCOPES = ("read:treasury", "write:treasury", "write:policy", "read:fees", "write:fees", "read:ledger")


class CredentialKind(StrEnum):
    """What a credential is. API keys and access tokens are bearers; a client exchanges its secret for
    access tokens, its row's id is its public client id."""

    API_KEY = "api_key"
    CLIENT = "client"
    ACCESS_TOKEN = "access_token"  # noqa: S105


_PREFIXES = {
    CredentialKind.API_KEY: ("key", "ck"),
    CredentialKind.CLIENT: ("client", "cc"),
    CredentialKind.ACCESS_TOKEN: ("token", "ct"),
}


class Organisation(SQLModel, table=True):
    """A tenant. `stream_secret` signs its live stream and is encrypted at rest."""

    __tablename__ = "organisation"

    id: UUID = Field(primary_key=True)
    name: str
    stream_secret: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))


class Credential(SQLModel, table=True):
    """Something that proves a caller: an API key, an OAuth2 client, or an access token of `client_id`."""

    __tablename__ = "credential"
    __table_args__ = (Index("ix_credential_org", "org_id"),)

    id: str = Field(sa_column=typeid(primary_key=True))
    org_id: UUID = Field(foreign_key="organisation.id")
    kind: str
    digest: bytes = Field(sa_column=Column(LargeBinary, nullable=False, unique=True))
    client_id: str | None = Field(default=None, sa_column=typeid(nullable=True))
    scopes: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))
    expires_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    revoked_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))


def new_secret(prefix: str) -> str:
    """256 random bits behind a prefix that tells a scanner of leaked secrets what it found."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def digest(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


async def create_organisation(
    session: AsyncSession, vault: FieldVault, name: str
) -> tuple[Organisation, str]:
    """A new organisation and, in clear for this once, the secret that will sign its stream."""
    stream_secret = new_secret("cs")
    org_id = uuid7()
    sealed = vault.seal(stream_secret.encode(), f"organisation:{org_id}")
    organisation = Organisation(id=org_id, name=name, stream_secret=sealed)
    session.add(organisation)
    await session.flush()
    return organisation, stream_secret


async def issue(
    session: AsyncSession,
    org_id: UUID,
    kind: CredentialKind,
    scopes: Sequence[str],
    expires_at: datetime | None = None,
    client_id: str | None = None,
) -> tuple[Credential, str]:
    """A new credential and, in clear for this once, its secret; `client_id` is whose access token it is."""
    unknown = set(scopes) - set(SCOPES)
    if unknown:
        raise ValueError(f"unknown scopes: {', '.join(sorted(unknown))}")
    prefix, secret_prefix = _PREFIXES[kind]
    secret = new_secret(secret_prefix)
    credential = Credential(
        id=new_id(prefix),
        org_id=org_id,
        kind=kind.value,
        digest=digest(secret),
        client_id=client_id,
        scopes=list(scopes),
        expires_at=expires_at,
    )
    session.add(credential)
    await session.flush()
    return credential, secret


_PRESENT = text("SELECT set_config('coffer.credential', :digest, true)")


async def find_presented(session: AsyncSession, presented: bytes) -> Credential | None:
    """The credential with this digest, of whatever organisation. The transaction need have named none."""
    await session.execute(_PRESENT, {"digest": presented.hex()})
    found: Credential | None = await session.scalar(
        select(Credential).where(col(Credential.digest) == presented)
    )
    return found


async def issue_access_token(
    session: AsyncSession, org_id: UUID, client_id: str, scopes: Sequence[str], seconds: int
) -> str:
    """A new access token of a client that expires after `seconds`; only its digest is kept."""
    expires_at = now() + timedelta(seconds=seconds)
    _, token = await issue(session, org_id, CredentialKind.ACCESS_TOKEN, scopes, expires_at, client_id)
    return token
