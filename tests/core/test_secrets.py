from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from core.secrets import CannotOpen, FieldVault

OLD, NEW = b"o" * 32, b"n" * 32
CONTEXT = "organisation:1"


@given(value=st.binary(max_size=200), context=st.text(st.characters(codec="utf-8"), max_size=20))
def test_what_was_sealed_opens_for_its_context(value: bytes, context: str) -> None:
    vault = FieldVault({"2026": OLD})
    assert vault.open(vault.seal(value, context), context) == value


def test_two_seals_of_one_value_differ_and_neither_shows_it() -> None:
    vault = FieldVault({"2026": OLD})
    first, second = (
        vault.seal(b"DE89370400440532013000", CONTEXT),
        vault.seal(b"DE89370400440532013000", CONTEXT),
    )
    assert first != second
    assert b"DE8937" not in first + second


def test_after_a_rotation_old_values_open_and_new_ones_are_sealed_by_the_new_key() -> None:
    before = FieldVault({"2026": OLD}).seal(b"secret", CONTEXT)
    rotated = FieldVault({"2026": OLD, "2027": NEW})
    assert rotated.open(before, CONTEXT) == b"secret"
    assert FieldVault({"2027": NEW}).open(rotated.seal(b"secret", CONTEXT), CONTEXT) == b"secret"


def test_a_key_that_was_retired_opens_nothing() -> None:
    sealed = FieldVault({"2026": OLD}).seal(b"secret", CONTEXT)
    with pytest.raises(CannotOpen, match="unknown key"):
        FieldVault({"2027": NEW}).open(sealed, CONTEXT)


def test_another_key_of_the_same_name_opens_nothing() -> None:
    sealed = FieldVault({"2026": OLD}).seal(b"secret", CONTEXT)
    with pytest.raises(CannotOpen):
        FieldVault({"2026": NEW}).open(sealed, CONTEXT)


def test_a_value_that_was_copied_to_another_row_does_not_open() -> None:
    vault = FieldVault({"2026": OLD})
    with pytest.raises(CannotOpen):
        vault.open(vault.seal(b"secret", CONTEXT), "organisation:2")


def test_no_byte_of_a_sealed_value_can_be_changed() -> None:
    vault = FieldVault({"2026": OLD, "2027": NEW})
    sealed = vault.seal(b"secret", CONTEXT)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(CannotOpen):
            vault.open(bytes(changed), CONTEXT)


def test_no_part_of_a_sealed_value_opens() -> None:
    vault = FieldVault({"2026": OLD})
    sealed = vault.seal(b"secret", CONTEXT)
    for length in range(len(sealed)):
        with pytest.raises(CannotOpen):
            vault.open(sealed[:length], CONTEXT)


@given(noise=st.binary(max_size=60))
def test_noise_does_not_open(noise: bytes) -> None:
    with pytest.raises(CannotOpen):
        FieldVault({"": OLD, "2026": NEW}).open(noise, CONTEXT)


@pytest.mark.parametrize(
    "keys", [{}, {"a": b""}, {"a": b"k" * 16}, {"a": OLD, "b": b"k" * 33}, {"a" * 256: OLD}]
)
def test_a_vault_without_sound_keys_is_not_made(keys: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="key"):
        FieldVault(keys)


def test_keys_come_from_the_settings_as_base64() -> None:
    settings = {"2026": SecretStr(base64.b64encode(OLD).decode())}
    assert FieldVault({"2026": OLD}).open(FieldVault.from_settings(settings).seal(b"s", "c"), "c") == b"s"
