"""What a node wrote is cleaned before it is stored."""

from __future__ import annotations

from chains.log import clean
from chains.solana.errors import describe
from chains.solana.rpc import RpcError


def test_what_postgresql_refuses_or_a_terminal_obeys_is_gone() -> None:
    assert clean("bad\x00text\x1b[2J\r\nnext\u202eline \ud800!") == "bad text [2J next line !"


def test_it_is_cut_and_nothing_stays_nothing() -> None:
    assert clean("é" * 10_000) == "é" * 500
    assert clean(None) is None
    assert clean("") == ""


def test_an_error_of_the_node_is_cleaned_where_it_enters() -> None:
    error = RpcError(-32000, "bad\x00text")
    assert (str(error), error.message) == ("bad text (-32000)", "bad text")
    assert describe("Bad\x00Error") == "Bad Error"
