"""The column types that every table shares."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import Column, DateTime, Numeric, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


class Units(TypeDecorator[int]):
    """An amount in the smallest unit of its currency: NUMERIC(38, 0), because wei do not fit 64 bits."""

    impl = Numeric(38, 0)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)

    def process_result_value(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value)


def units(*, nullable: bool = False, zero: bool = False) -> Column[int]:
    """An amount; `zero` makes it start there."""
    return Column(Units(), nullable=nullable, server_default=text("0") if zero else None)


def typeid(*, primary_key: bool = False, nullable: bool = False, index: bool = False) -> Column[str]:
    """A TypeID as text, compared byte by byte so that its order is the order of creation."""
    return Column(Text(collation="C"), primary_key=primary_key, nullable=nullable, index=index)


def instant(*, nullable: bool = False, default_now: bool = False) -> Column[Any]:
    """An instant with its time zone."""
    return Column(
        DateTime(timezone=True), nullable=nullable, server_default=text("now()") if default_now else None
    )


def json_object(name: str | None = None) -> Column[Any]:
    """A JSON object, empty unless told; `name` is the column's where the attribute cannot be called so."""
    return Column(name, JSONB, nullable=False, server_default=text("'{}'::jsonb"))
