"""What a node wrote is cleaned before it is stored."""

from __future__ import annotations

from chains.log import clean


def test_what_postgresql_refuses_or_a_terminal_obeys_is_gone() -> None:
    assert clean("bad\x00text\x1b[2J\r\nnext\u202eline \ud800!") == "bad text [2J next line !"


def test_it_is_cut_and_nothing_stays_nothing() -> None:
    assert clean("é" * 10_000) == "é" * 500
    assert clean(None) is None
    assert clean("") == ""
