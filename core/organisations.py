"""Organisations and their credentials.

A credential is kept as a SHA-256 digest: the secret itself is 256 random bits, shown once and never stored.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from uuid import UUID

from sqlalchemy import Column, Index, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from core.columns import instant, typeid

SCOPES = ("read:treasury", "write:treasury", "read:fees", "write:fees")


class Organisation(SQLModel, table=True):
    """A tenant. `stream_secret` signs its live stream and is encrypted at rest."""

    __tablename__ = "organisation"

    id: UUID = Field(primary_key=True)
    name: str
    stream_secret: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = Field(sa_column=instant(default_now=True))


class Credential(SQLModel, table=True):
    """Something that proves a caller: an API key, an OAuth2 client, or an access token of one."""

    __tablename__ = "credential"
    __table_args__ = (Index("ix_credential_org", "org_id"),)

    id: str = Field(sa_column=typeid(primary_key=True))
    org_id: UUID = Field(foreign_key="organisation.id")
    kind: str
    digest: bytes = Field(sa_column=Column(LargeBinary, nullable=False, unique=True))
    scopes: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    created_at: datetime = Field(sa_column=instant(default_now=True))
    expires_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    revoked_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))


def new_secret(prefix: str) -> str:
    """256 random bits behind a prefix that tells a scanner of leaked secrets what it found."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def digest(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()
