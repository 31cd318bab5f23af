"""Every code that a payment fails with stands on its page, and nothing else does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "failure-codes.md"
CODE = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+")
# What makes a failure of a payout, and which of its arguments is the code.
MAKERS = {"Rejection": 1, "PayoutResult": 5}


def strings(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    """The texts that an expression may be: itself, by a name of the module, or either arm of a choice."""
    match node:
        case ast.Constant(value=str(value)):
            yield value
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in names:
            yield names[name]
        case ast.IfExp(body=body, orelse=orelse):
            yield from strings(body, names)
            yield from strings(orelse, names)


def raised(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    names = {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        found: list[ast.AST] = []
        if isinstance(node, ast.Call):
            maker = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            found += [word.value for word in node.keywords if word.arg == "code"]
            if maker in MAKERS and len(node.args) > MAKERS[maker]:
                found.append(node.args[MAKERS[maker]])
        # A function that answers `(code, message)`, as Solana's look at accounts does.
        elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
            found.append(node.elts[0])
        # A refusal of the treasury's that is also a failure code.
        elif isinstance(node, ast.Assign) and [t.id for t in node.targets if isinstance(t, ast.Name)] == [
            "code"
        ]:
            found.append(node.value)
        for expression in found:
            yield from (text for text in strings(expression, names) if CODE.fullmatch(text))


def every_code() -> set[str]:
    paths = [path for package in ("chains", "treasury") for path in (ROOT / package).rglob("*.py")]
    return {code for path in paths for code in raised(path)}


def documented() -> set[str]:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {code for row in rows for code in re.findall(r"^\| `(\w+)`", row)}


def test_codes_are_found_in_every_way_that_they_are_written() -> None:
    assert {
        "AccountFrozen",
        "InsufficientTokenBalance",
        "RecipientIsToken",
        "SimulationFailed",
        "TransferReverted",
        "PolicyRecipientDenied",
    } <= every_code()


def test_every_code_of_the_source_is_on_the_page() -> None:
    assert every_code() - documented() == set()


def test_every_code_of_the_page_is_in_the_source() -> None:
    source = "\n".join(
        path.read_text() for package in ("chains", "treasury") for path in (ROOT / package).rglob("*.py")
    )
    assert {code for code in documented() if f'"{code}"' not in source} == set()
