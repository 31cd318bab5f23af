"""Pages that run: the examples of a page in `docs/`, in their order, on a real database and the real
application.

Two kinds of fenced blocks are run:

- `python`: executed as it stands, with `await` allowed. `database`, `worker` and `owner` are the database as
  the API, the workers and its owner see it, `org` is the organisation. Names live until the end of the page.
- `sh`: each line (a backslash continues it) is a `curl`, sent to the application in this process. `$COFFER`
  is its address, `$ORG` the organisation and `$TOKEN` its API key; other variables are texts that the page's
  Python has named. A JSON body is printed indented. With `-i` the status is printed before it; without, a
  refusal fails the page.

What a block printed stands in the block right behind it, whose info string ends in `output`. Before they are
compared, outputs lose what differs from run to run:

- an identifier that the page does not itself write down becomes `<id 1>`, `<id 2>`, … in the order in which
  the page first shows it, the same one always the same;
- an instant of the run becomes `<now>`, instants that an example sets are left; a cursor, which holds one,
  becomes `<cursor>`.

`python -m tests.documentation.pages --write` writes the outputs as they are now; without it, says what
differs.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import difflib
import inspect
import io
import json
import re
import shlex
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any, Final
from uuid import UUID

import httpx
import msgspec

from api.app import create_app
from core.database import Database
from core.organisations import SCOPES, CredentialKind, Organisation, issue
from core.settings import Settings
from sandbox.folders import Folder
from sandbox.postgres import Postgres
from sandbox.schema import DatabaseUrls, Schema

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGES: Final = ("ledger-system.md", "named-account-ledger.md")

# An API key acts for the client that is the organisation itself, so this is the client's id as well.
ORGANISATION: Final = UUID("cc82fa1d-fc7a-478c-a734-d3bce40464e7")

_BLOCK: Final = re.compile(
    r"^```(?P<language>python|sh)\n(?P<source>.*?)^```\n"
    r"(?:\n```(?:json|text|csv) output\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
_IDENTIFIER: Final = re.compile(
    r"\b(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|[a-z]+_(?:[0-7][0-9a-hjkmnp-tv-z]{25}|[0-9a-f]{24}))\b"
)
_CURSOR: Final = re.compile(r'(?<="cursor": )"[^"]+"')
_INSTANT: Final = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")


@dataclass
class Page:
    """A page while it runs."""

    text: str
    client: httpx.AsyncClient
    variables: dict[str, str]
    names: dict[str, Any]
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    identifiers: dict[str, str] = field(default_factory=dict)

    async def run(self) -> str:
        """The page with the outputs that its blocks have now."""
        parts, end = [], 0
        for block in _BLOCK.finditer(self.text):
            source = block["source"]
            run = self._python if block["language"] == "python" else self._shell
            try:
                printed = await run(source)
            except Exception as error:
                line = self.text.count("\n", 0, block.start()) + 1
                raise RuntimeError(f"the block at line {line} failed: {error!r}") from error
            parts += [self.text[end : block.start()], f"```{block['language']}\n{source}```\n"]
            if printed:
                parts.append(f"\n```{_language(printed)} output\n{self._steady(printed)}```\n")
            end = block.end()
        return "".join([*parts, self.text[end:]])

    async def _python(self, source: str) -> str:
        code = compile(source, "<page>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            outcome = eval(code, self.names)
            if inspect.isawaitable(outcome):
                await outcome
        return printed.getvalue()

    async def _shell(self, source: str) -> str:
        lines = source.replace("\\\n", " ").splitlines()
        return "".join([await self._curl(line) for line in lines if line.strip()])

    async def _curl(self, line: str) -> str:
        texts = {name: value for name, value in self.names.items() if isinstance(value, str)}
        command, *words = shlex.split(Template(line).substitute(texts | self.variables))
        assert command == "curl", f"only curl is run, not {command}"
        method, headers, url, shows_status = "GET", {}, "", False
        rest = iter(words)
        for word in rest:
            if word == "-X":
                method = next(rest)
            elif word == "-H":
                name, _, value = next(rest).partition(": ")
                headers[name] = value
            elif word == "-i":
                shows_status = True
            else:
                url = word
        answer = await self.client.request(method, url, headers=headers)
        assert shows_status or answer.is_success, answer.text
        status = f"HTTP {answer.status_code}\n\n" if shows_status else ""
        if answer.headers["content-type"].startswith("application/json"):
            return f"{status}{msgspec.json.format(answer.content, indent=2).decode()}\n"
        return status + answer.text.rstrip("\n") + "\n"

    def _steady(self, printed: str) -> str:
        def name(found: re.Match[str]) -> str:
            if found[0] in self.text:
                return found[0]
            return self.identifiers.setdefault(found[0], f"<id {len(self.identifiers) + 1}>")

        def moment(found: re.Match[str]) -> str:
            return found[0] if datetime.fromisoformat(found[0]) < self.began else "<now>"

        return _CURSOR.sub('"<cursor>"', _INSTANT.sub(moment, _IDENTIFIER.sub(name, printed)))


def _language(printed: str) -> str:
    try:
        json.loads(printed)
    except ValueError:
        return "text"
    return "json"


async def run_page(text: str, urls: DatabaseUrls) -> str:
    """The page with the outputs of its examples, run on an empty, migrated database."""
    owner, app, worker = (Database.connect(url, 2) for url in (urls.owner, urls.app, urls.worker))
    async with owner.everything() as session:
        session.add(Organisation(id=ORGANISATION, name="Acme", stream_secret=b""))
        await session.flush()
        _, token = await issue(session, ORGANISATION, CredentialKind.API_KEY, SCOPES)
        await session.commit()
    application = create_app(Settings(_env_file=None, database_url=urls.app), lambda _: {})
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    try:
        async with (
            application.router.lifespan_context(application),
            httpx.AsyncClient(transport=transport) as client,
        ):
            page = Page(
                text,
                client,
                {"COFFER": "https://coffer.example", "ORG": str(ORGANISATION), "TOKEN": token},
                {"database": app, "worker": worker, "owner": owner, "org": ORGANISATION},
            )
            return await page.run()
    finally:
        for database in (owner, app, worker):
            await database.close()


async def _rewrite(write: bool) -> bool:
    """Run every page on a PostgreSQL of its own; whether they all say what they do."""
    folder = Folder()
    postgres = Postgres(folder.path / "postgres")
    same = True
    try:
        await postgres.start()
        schema = Schema(postgres, folder)
        await schema.prepare()
        for number, name in enumerate(PAGES):
            path = DOCS / name
            before = path.read_text()
            after = await run_page(before, await schema.create(f"page_{number}"))
            same = same and before == after
            if write:
                path.write_text(after)
            else:
                changes = difflib.unified_diff(before.splitlines(True), after.splitlines(True), name, name)
                sys.stdout.writelines(changes)
    finally:
        postgres.kill()
        folder.release()
    return same


if __name__ == "__main__":
    wants_writing = "--write" in sys.argv[1:]
    sys.exit(0 if asyncio.run(_rewrite(wants_writing)) or wants_writing else 1)
