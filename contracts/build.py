"""Build the contracts from their sources: `python -m contracts.build [--check] [--test]`.

Everything comes from the lock file: compiler, Foundry's `forge` and OpenZeppelin. The build is reproducible,
as the bytecode holds no metadata: `--check` compares a fresh one with the committed artifacts byte for byte.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from sandbox import node

ROOT = Path(__file__).resolve().parent
CONTRACTS = ("TestUSDC", "USDCProxy", "BatchPayout", "AllowancePayout")
# For chains that do not know the newest instructions. The tests run all contracts as foundry.toml says.
OLDER = {"AllowancePayout": "paris"}


class BuildError(Exception):
    """A tool that the build needs is not there, or did not succeed."""


def main(arguments: list[str] | None = None) -> int:
    """Write the artifacts, or compare them with `--check`. Answers 1 if one differs or a step fails."""
    parser = argparse.ArgumentParser(prog="python -m contracts.build")
    parser.add_argument("--check", action="store_true", help="compare with the committed artifacts only")
    parser.add_argument("--test", action="store_true", help="run the contracts' own tests as well")
    options = parser.parse_args(arguments)
    try:
        node.install(ROOT)
        fresh = build()
        differing = [name for name, text in fresh.items() if committed(name) != text]
        for name in differing:
            if options.check:
                say(f"{artifact(name).relative_to(ROOT.parent)} differs from a fresh build")
            else:
                artifact(name).parent.mkdir(exist_ok=True)
                artifact(name).write_text(fresh[name], encoding="utf-8")
                say(f"wrote {artifact(name).relative_to(ROOT.parent)}")
        if options.test:
            forge("test")
    except (BuildError, node.NodeError) as problem:
        say(str(problem))
        return 1
    return 1 if options.check and differing else 0


def build() -> dict[str, str]:
    """Compile from nothing and return the artifacts' texts by contract name."""
    with tempfile.TemporaryDirectory(prefix="coffer-contracts-") as folder:
        out = compile("src", Path(folder, "newest"))
        outputs = dict.fromkeys(CONTRACTS, out)
        for name, version in OLDER.items():
            outputs[name] = compile(f"src/{name}.sol", Path(folder, name), "--evm-version", version)
        return {name: render(name, out / f"{name}.sol" / f"{name}.json") for name, out in outputs.items()}


def compile(source: str, folder: Path, *arguments: str) -> Path:
    """Compile from nothing into a folder, and return where forge's outputs lie."""
    out = folder / "out"
    forge("build", source, "--force", "--out", str(out), "--cache-path", str(folder / "cache"), *arguments)
    return out


def render(name: str, output: Path) -> str:
    """The committed form of one of forge's outputs: what a caller needs and what a reviewer can diff."""
    built = json.loads(output.read_text(encoding="utf-8"))
    kept = {
        "contractName": name,
        "compiler": built["metadata"]["compiler"]["version"],
        "abi": built["abi"],
        "bytecode": built["bytecode"]["object"],
        "deployedBytecode": built["deployedBytecode"]["object"],
    }
    return json.dumps(kept, indent=2) + "\n"


def committed(name: str) -> str | None:
    """The artifact as it lies in the tree, if it does."""
    path = artifact(name)
    return path.read_text(encoding="utf-8") if path.is_file() else None


def artifact(name: str) -> Path:
    """Where the artifact of a contract is kept."""
    return ROOT / "artifacts" / f"{name}.json"


def forge(command: str, *arguments: str) -> None:
    """Run forge on this project with the pinned compiler. Raises `BuildError` if it fails.

    Its output goes to the terminal. Node.js is put on the path because the compiler runs on it.
    """
    path = os.pathsep.join([str(node.node().parent), os.environ.get("PATH", "")])
    sys.stdout.flush()
    done = subprocess.run(
        [str(forge_binary()), command, "--use", str(ROOT / "solc"), *arguments],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"forge {command} ended with status {done.returncode}")


def forge_binary() -> Path:
    """The forge that npm installed for this machine. Its packages go by Node's systems and Go's chips."""
    chip = "arm64" if platform.machine().lower() in {"arm64", "aarch64"} else "amd64"
    package = f"forge-{sys.platform}-{chip}"
    binary = ROOT / "node_modules" / "@foundry-rs" / package / "bin" / "forge"
    if not binary.is_file():
        raise BuildError(f"npm has no @foundry-rs/{package}: build the contracts on another kind of machine")
    return binary


def say(line: str) -> None:
    """One line to whoever runs the build."""
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
