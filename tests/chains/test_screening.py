"""Lists of recipients from files: what is read, what keeps the last good list, what is found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from chains.protocol import ChainName
from chains.screening import ListBroken, Lists, Screening, Verdict, parse
from core.settings import PolicySettings

BAD = "0x8589427373D6D84E98730D7795D8f6f8731FDA16"
WORSE = "0x722122dF12D4e14e13Ac3b6895a86e84145b6967"
SOLANA = "GoPZuk3FwTE93qU6Tp6QrhHMMn4fcqQD1yN5obB6cXfW"
ETHEREUM = ChainName.ETHEREUM


class Clock:
    """Each look is late enough to be one."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        self.at += 1.0
        return self.at


@pytest.fixture
def deny(tmp_path: Path) -> Path:
    path = tmp_path / "deny.txt"
    path.write_text(f"# bad people\n\n{BAD}  # mixer\n{SOLANA}\n")
    return path


def watched(path: Path) -> Callable[[], Lists]:
    return Screening(path, clock=Clock()).current


def test_an_address_is_found_however_it_is_spelt(deny: Path) -> None:
    lists = watched(deny)()
    for spelt in (BAD, BAD.lower(), "0x" + BAD[2:].upper()):
        assert lists.verdict(ETHEREUM, spelt) is Verdict.DENIED
    assert lists.verdict(ChainName.SOLANA, SOLANA) is Verdict.DENIED
    assert lists.verdict(ETHEREUM, WORSE) is None
    assert lists.verdict(ChainName.SOLANA, SOLANA.swapcase()) is None


def test_an_allow_list_names_the_only_ones(deny: Path, tmp_path: Path) -> None:
    allow = tmp_path / "allow.txt"
    allow.write_text(f"{WORSE}\n{BAD.lower()}\n")
    lists = Screening.from_settings(PolicySettings(deny_list_file=deny, allow_list_file=allow)).current()
    assert lists.verdict(ETHEREUM, WORSE) is None
    assert lists.verdict(ETHEREUM, BAD) is Verdict.DENIED
    assert (
        lists.verdict(ChainName.SOLANA, "9WzDXwBbmkg8ZTbNMqUxvQRAyrZzDsGYdLVL9zYtAWWM") is Verdict.NOT_ALLOWED
    )


def test_without_files_everybody_may_be_paid() -> None:
    assert Screening.from_settings(PolicySettings()).current().verdict(ETHEREUM, BAD) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"{BAD}\nbc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq\n", "line 2 is no address"),
        (f"{BAD[:-1]}\n", "line 1 is no address"),
        (f"{BAD.replace('D', 'd', 1)}\n", "line 1: the checksum"),
        (f"{SOLANA}1\n", "line 1 is no address"),
        ("<html>502 Bad Gateway</html>\n", "line 1 is no address"),
    ],
)
def test_a_line_that_is_no_address_makes_it_no_list(text: str, complaint: str) -> None:
    with pytest.raises(ListBroken, match=complaint):
        parse(text)


def test_the_sdn_list_as_csv_and_as_xml() -> None:
    csv = (
        '36,"X","individual","CYBER2",-0- ,-0- ,"DOB 1990; Digital Currency Address - XBT '
        f"12QtD5BFwRsdNsAZY76UVE1xyCGNTojH9h; alt. Digital Currency Address - ETH {BAD}; "
        f'Digital Currency Address - USDC {WORSE.lower()}; Digital Currency Address - SOL {SOLANA}."\n'
    )
    xml = (
        "<id><uid>1</uid><idType>Digital Currency Address - ETH</idType>\n<idNumber>"
        f"{BAD}</idNumber></id><id><idType>Digital Currency Address - XMR</idType>"
        f"<idNumber>{'4' * 95}</idNumber></id>"
    )
    assert parse(csv) == {BAD.lower(), WORSE.lower(), SOLANA}
    assert parse(xml) == {BAD.lower()}


def test_a_list_that_speaks_of_the_sdn_list_loses_none_of_its_own() -> None:
    quoted = f"Digital Currency Address - ETH {BAD}"
    assert parse(f"{WORSE}\r\n# was {quoted};\r\n{SOLANA}\r\n") == {WORSE.lower(), SOLANA}
    assert parse(f'36,"X","{quoted};"\n{WORSE}  # ours\n') == {BAD.lower(), WORSE.lower()}
    with pytest.raises(ListBroken, match="line 1"):
        parse(f"{WORSE[:-1]}\n# {quoted}\n")


def test_a_file_is_not_believed_while_it_is_written(deny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current = watched(deny)
    whole = deny.read_text() + f"{WORSE}\n"
    fstat = os.fstat

    def growing(file: int) -> os.stat_result:
        with deny.open("a") as more:
            more.write("#")
        return fstat(file)

    deny.write_text(f"{WORSE}\n")
    with monkeypatch.context() as patched, structlog.testing.capture_logs() as logs:
        patched.setattr(os, "fstat", growing)
        assert current().verdict(ETHEREUM, BAD) is Verdict.DENIED
    assert [entry["log_level"] for entry in logs] == ["critical"]
    deny.write_text(whole)
    assert all(current().verdict(ETHEREUM, one) is Verdict.DENIED for one in (BAD, WORSE))


def test_a_change_counts_at_the_next_look_however_the_file_is_replaced(deny: Path) -> None:
    current = watched(deny)
    fresh = deny.with_suffix(".new")
    fresh.write_text(f"{WORSE}\n")
    fresh.replace(deny)
    assert current().verdict(ETHEREUM, WORSE) is Verdict.DENIED
    assert current().verdict(ETHEREUM, BAD) is None
    with deny.open("a") as file:
        file.write(BAD)
    assert current().verdict(ETHEREUM, BAD) is Verdict.DENIED
    # Of the same size and time, but another file.
    status = deny.stat()
    fresh.write_text(f"{WORSE}\n{WORSE}")
    assert fresh.stat().st_size == status.st_size
    os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns))
    fresh.replace(deny)
    assert current().verdict(ETHEREUM, BAD) is None


@pytest.mark.parametrize("harm", ["gone", "broken", "empty", "a folder"])
def test_a_file_that_is_broken_or_gone_keeps_the_last_good_list_and_shouts(deny: Path, harm: str) -> None:
    current = watched(deny)
    good = deny.read_text()
    if harm == "broken":
        deny.write_text(good + "not an address\n")
    elif harm == "empty":
        deny.write_text("")
    else:
        deny.unlink()
        if harm == "a folder":
            deny.mkdir()
    with structlog.testing.capture_logs() as logs:
        assert current().verdict(ETHEREUM, BAD) is Verdict.DENIED
        assert current().verdict(ETHEREUM, BAD) is Verdict.DENIED
    assert [entry["log_level"] for entry in logs] == ["critical", "critical"]
    if harm == "a folder":
        deny.rmdir()
    deny.write_text(f"{good}{WORSE}\n")
    assert current().verdict(ETHEREUM, WORSE) is Verdict.DENIED


def test_a_file_that_is_missing_or_broken_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Screening(tmp_path / "none")
    (tmp_path / "broken").write_text("hello")
    with pytest.raises(ListBroken):
        Screening(allow=tmp_path / "broken")


def test_files_are_not_looked_at_for_every_payment(deny: Path) -> None:
    at = [0.0]
    screening = Screening(deny, clock=lambda: at[0])
    deny.write_text(f"{WORSE}\n")
    assert screening.current().verdict(ETHEREUM, WORSE) is None
    at[0] = 1.0
    assert screening.current().verdict(ETHEREUM, WORSE) is Verdict.DENIED
