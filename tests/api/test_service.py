"""The service around the routes: health, request ids, failures of ours, and the description."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from api.app import create_app
from chains.protocol import ChainName, ChainUnavailable, Head
from core.settings import Settings
from tests.api.conftest import Caller, OfflineEthereum, offline_chains, wish
from treasury.chains import NoSigners


async def test_it_is_ready_when_everything_answers(caller: Caller) -> None:
    assert (await caller.get("/health/live")).json == {"status": "ok"}
    ready = await caller.get("/health/ready")
    assert (ready.status, ready.json["status"]) == (200, "ok")
    assert set(ready.json["checks"]) == {"database", "valkey", "ethereum", "solana"}


class Unreachable(OfflineEthereum):
    async def head(self) -> Head:
        raise ChainUnavailable("http://user:password@node")


async def test_without_a_node_intents_are_still_taken(caller: Caller, app: FastAPI) -> None:
    serving = app.state.services
    assert serving.settings.ethereum is not None
    serving.chains[ChainName.ETHEREUM] = Unreachable(serving.settings.ethereum, NoSigners())
    ready = await caller.get("/health/ready")
    assert (ready.status, ready.json["status"]) == (200, "degraded")
    assert ready.json["checks"]["ethereum"] == {"status": "failed", "detail": "ChainUnavailable"}
    assert (await caller.create(wish())).status == 201


async def test_without_a_database_it_says_when_to_come_back(settings: Settings) -> None:
    gone = settings.model_copy(update={"database_url": "postgresql+asyncpg://nobody@127.0.0.1:1/none"})
    app = create_app(gone, offline_chains)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://coffer"
        ) as client,
    ):
        caller = Caller(client, "0192f1d0-0000-7000-8000-000000000000", "key")
        for answered in (await caller.create(wish()), await caller.get("treasury/wallets")):
            assert (answered.status, answered.error["code"]) == (503, "ServiceUnavailable")
            assert answered.headers["retry-after"] == "1"
        ready = await caller.get("/health/ready")
        assert (ready.status, ready.json["status"]) == (503, "unavailable")
        assert (await caller.get("/health/live")).status == 200


async def test_a_fault_of_ours_tells_nothing_of_the_inside(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr("api.routes.treasury.list_wallets", broken)
    answered = await caller.get("treasury/wallets")
    assert (answered.status, answered.error["code"]) == (500, "InternalError")
    assert b"secret" not in answered.content


async def test_a_sane_request_id_is_kept(caller: Caller) -> None:
    for given in ("abc-123", "x" * 64):
        answered = await caller.ask("GET", "payment-intents", headers={"X-Request-Id": given})
        assert answered.headers["x-request-id"] == given
    for given in ("", "a b", "x" * 65, "<script>"):
        answered = await caller.ask("GET", "nothing", headers={"X-Request-Id": given})
        assert answered.error["requestId"].startswith("req_")
    assert answered.headers["x-content-type-options"] == "nosniff"


async def test_the_description_is_whole_and_its_examples_work(caller: Caller) -> None:
    spec: dict[str, Any] = (await caller.get("/v1/../openapi.json")).json
    assert spec["openapi"].startswith("3.1")
    tried = 0
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], path
            if path.startswith("/v1/orgs"):
                assert operation["security"]
                assert {"401", "403", "404", "400", "503"} <= set(operation["responses"])
                assert operation["parameters"][0]["name"] == "orgId"
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                example = content.get("example")
                if example is None:
                    name = content["schema"]["$ref"].rsplit("/", 1)[1]
                    example = spec["components"]["schemas"][name]["example"]
                if media != "application/json" or path.count("{") > 1:
                    continue
                answered = await caller.ask(
                    method.upper(), path.format(orgId=caller.org_id), content=json.dumps(example).encode(),
                    key=f"example-{path}",
                )  # fmt: skip
                # A well-formed example may name what is not there, or ask for what has happened already; no
                # worker is here to make deposit addresses.
                fine = (503,) if path.endswith("/deposit-addresses") else (200, 201, 404, 409)
                assert answered.status in fine, answered.content
                tried += 1
    assert tried >= 6
    assert "HTTPValidationError" not in json.dumps(spec, default=str)


async def test_what_is_answered_is_what_is_described(caller: Caller) -> None:
    spec = json.loads((await caller.get("/v1/../openapi.json")).content)
    intent = await caller.created(metadata={"rate": 0.5})
    root = "/v1/orgs/{orgId}"
    for template, path in (
        (f"{root}/treasury/wallets", "treasury/wallets"),
        (f"{root}/treasury/position", "treasury/position"),
        (f"{root}/ledger/accounts", "ledger/accounts"),
        (f"{root}/ledger/accounts/{{name}}", "ledger/accounts/platform:opening?currency=USDC"),
        (f"{root}/ledger/periods", "ledger/periods"),
        (f"{root}/ledger/entries", "ledger/entries"),
        (f"{root}/payment-intents", "payment-intents"),
        (f"{root}/payment-intents/{{intentId}}", f"payment-intents/{intent['id']}"),
    ):
        answered = await caller.ask("GET", path)
        assert answered.status == 200
        assert not re.search(rb"[0-9]E[+-]", answered.content)
        response = spec["paths"][template]["get"]["responses"]["200"]
        schema = response["content"]["application/json"]["schema"]
        whole = {**schema, "components": spec["components"]}
        Draft202012Validator(whole).validate(json.loads(answered.content))


async def test_a_batch_is_described_by_its_items(caller: Caller) -> None:
    schemas = json.loads((await caller.get("/v1/../openapi.json")).content)["components"]["schemas"]
    reference = schemas["PaymentIntentBatch"]["properties"]["items"]["items"]
    assert reference == {"$ref": "#/components/schemas/PaymentIntentCreate"}
    assert "PaymentIntentCreate" in schemas


async def test_the_documentation_asks_nobody_else(caller: Caller) -> None:
    page = await caller.client.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    assert "http://" not in page.text
