from __future__ import annotations

from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from core.identifiers import is_id, new_id, to_id


def test_an_identifier_is_well_formed_and_of_its_kind_alone() -> None:
    identifier = new_id("pi")
    assert is_id("pi", identifier)
    assert not is_id("pb", identifier)


def test_identifiers_sort_byte_by_byte_in_the_order_of_their_creation() -> None:
    identifiers = [new_id("pi") for _ in range(10_000)]
    assert identifiers == sorted(identifiers)
    assert len(set(identifiers)) == len(identifiers)


def test_the_identifier_of_a_stored_uuid_is_always_the_same() -> None:
    uuid = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    assert to_id("prefix", str(uuid)) == "prefix_01h455vb4pex5vsknk084sn02q"
    assert to_id("le", str(uuid7())) != to_id("le", str(uuid7()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pi",
        "pi_",
        "_",
        "pi_01h455vb4pex5vsknk084sn02",
        "pi_01h455vb4pex5vsknk084sn02qq",
        "pi_81h455vb4pex5vsknk084sn02q",
        "pi_01H455VB4PEX5VSKNK084SN02Q",
        "pi_01h455vb4pex5vsknk084sn02u",
        "pi_01h455vb4pex5vsknk084sn02l",
        "PI_01h455vb4pex5vsknk084sn02q",
        "01h455vb4pex5vsknk084sn02q",
        "pi_01h455vb4pex5vsknk084sn02q\n",
        " pi_01h455vb4pex5vsknk084sn02q",
        "x_pi_01h455vb4pex5vsknk084sn02q",
        "pi_٠1h455vb4pex5vsknk084sn02q",
    ],
)
def test_what_is_not_exactly_an_identifier_is_none(text: str) -> None:
    assert not is_id("pi", text)
