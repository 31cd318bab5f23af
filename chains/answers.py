"""What a node's answer to signed bytes says of them: sent, surely not sent, or maybe sent.

The words and codes that nodes are known to give stand in `answers.toml`, with their sources. Whatever is not
there, and whatever is no proper answer, is maybe sent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

import msgspec

from chains.protocol import ChainName


class Sending(StrEnum):
    """What one answer to one call says of the bytes that the call carried.

    SENT: the node has, or had, exactly these bytes. NOT_SENT: the node refused them before it took them or
    passed them on, and its words are no sign that they, or others of the same payment, were taken before.
    That is one node's word on one call. Another call, from here or from a process that died, may have sent
    the same bytes, so no money and no nonce is ever released because of it. MAYBE_SENT: everything else.
    """

    SENT = "sent"
    NOT_SENT = "not_sent"
    MAYBE_SENT = "maybe_sent"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`nonce_used`: the node also says that the nonce is used up, perhaps by these bytes."""

    sending: Sending
    nonce_used: bool = False


UNKNOWN: Final = Verdict(Sending.MAYBE_SENT)
_SENT: Final = Verdict(Sending.SENT)


class KnownAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An entry of `answers.toml`, whose head says what the fields mean."""

    chain: ChainName
    node: Literal["geth", "nethermind", "erigon", "besu", "reth", "anvil", "others", "agave", "surfpool"]
    sending: Sending = msgspec.field(name="class")
    texts: tuple[str, ...] = ()
    err: str | None = None
    match: Literal["begins", "contains", "exact"] = "begins"
    codes: tuple[int, ...] = ()
    nonce_used: bool = False
    source: str
    why: str

    def __post_init__(self) -> None:
        if not self.texts and self.err is None:
            raise ValueError(f"an answer of {self.node} with neither a text nor an error")
        if self.sending is Sending.NOT_SENT and (not self.codes or self.match == "contains"):
            raise ValueError(f"{self.node}: what is surely not sent has a code, and is said at the beginning")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    answer: tuple[KnownAnswer, ...]


@cache
def known_answers() -> tuple[KnownAnswer, ...]:
    """All entries. Raises `msgspec.ValidationError` when the file is not what it has to be."""
    content = files("chains").joinpath("answers.toml").read_bytes()
    return msgspec.toml.decode(content, type=_File).answer


def of_result(result: Any, hash: str) -> Verdict:
    """Of a call that had a result, which has to be the hash of the bytes or their first signature: there are
    nodes that answer a hash of nothing for what they refused."""
    return _SENT if result == hash else UNKNOWN


def of_error(chain: ChainName, code: int, message: str, data: Any = None) -> Verdict:
    """Of a call that ended in a JSON-RPC error. Where the message fits entries of several classes, it is
    maybe sent."""
    said = " ".join(message.split())
    err = data.get("err") if isinstance(data, dict) else None
    found = [
        entry
        for entry, pattern in _patterns(chain)
        if (pattern is not None and pattern.search(said)) or (entry.err is not None and entry.err == err)
    ]
    classes = {entry.sending for entry in found}
    if Sending.NOT_SENT in classes and not any(code in entry.codes for entry in found):
        classes = {Sending.MAYBE_SENT}
    sending = classes.pop() if len(classes) == 1 else Sending.MAYBE_SENT
    return Verdict(sending, nonce_used=any(entry.nonce_used for entry in found))


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """Of the same bytes, sent to several endpoints: sent when any has them, and surely not sent only when all
    of them say so."""
    classes = {one.sending for one in verdicts}
    if Sending.SENT in classes:
        sending = Sending.SENT
    else:
        sending = classes.pop() if len(classes) == 1 else Sending.MAYBE_SENT
    return Verdict(sending, nonce_used=any(one.nonce_used for one in verdicts))


@cache
def _patterns(chain: ChainName) -> tuple[tuple[KnownAnswer, re.Pattern[str] | None], ...]:
    return tuple((entry, _pattern(entry)) for entry in known_answers() if entry.chain is chain)


def _pattern(entry: KnownAnswer) -> re.Pattern[str] | None:
    """Words are whole words: FeeTooLow is not the beginning of FeeTooLowToCompete."""
    if not entry.texts:
        return None
    words = "|".join(".+?".join(re.escape(part) for part in text.strip().split("{}")) for text in entry.texts)
    before = r"(?<!\w)" if entry.match == "contains" else r"\A"
    after = r"\Z" if entry.match == "exact" else r"(?:(?<!\w)|(?!\w))"
    return re.compile(f"{before}(?:{words}){after}", re.IGNORECASE)
