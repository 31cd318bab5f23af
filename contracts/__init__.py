"""Coffer's contracts: the ABI and bytecode of what the Foundry project in this folder builds."""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

ARTIFACTS = resources.files(__name__) / "artifacts"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract: its JSON ABI, the code that deploys it, and the code that ends up at its address.

    `runtime` is what an account delegates to under EIP-7702 once it has an address of its own.
    """

    name: str
    abi: list[dict[str, Any]] = field(repr=False)
    bytecode: bytes = field(repr=False)
    runtime: bytes = field(repr=False)


@lru_cache
def load(name: str) -> Artifact:
    """The committed artifact of a contract: `TestUSDC`, `USDCProxy`, `BatchPayout` or `AllowancePayout`.

    The same object comes back each time: leave its ABI as it is. Any other name raises `FileNotFoundError`.
    """
    content = json.loads((ARTIFACTS / f"{name}.json").read_text(encoding="utf-8"))
    return Artifact(
        name=name,
        abi=content["abi"],
        bytecode=bytes.fromhex(content["bytecode"].removeprefix("0x")),
        runtime=bytes.fromhex(content["deployedBytecode"].removeprefix("0x")),
    )
