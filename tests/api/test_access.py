"""Who may do what: credentials, scopes, and the walls between organisations."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from core.clock import now
from core.database import Database
from core.organisations import SCOPES, CredentialKind, issue
from tests.api.conftest import Answered, Caller, Seed, wish

ROUTES = [
    ("POST", "payment-intents"),
    ("POST", "payment-intents/batch"),
    ("GET", "payment-intents"),
    ("GET", "payment-intents/{intent}"),
    ("POST", "payment-intents/{intent}/cancel"),
    ("GET", "treasury/wallets"),
    ("GET", "treasury/position"),
    ("GET", "treasury/policy"),
    ("PUT", "treasury/policy"),
    ("GET", "treasury/policy/recipients"),
    ("POST", "treasury/policy/recipients"),
    ("DELETE", "treasury/policy/recipients/deny/ethereum/0x"),
    ("POST", "treasury/wallets/wal_1/stop"),
    ("POST", "treasury/wallets/wal_1/resume"),
    ("POST", "payment-intents/{intent}/approve"),
    ("POST", "payment-intents/{intent}/reject"),
    ("GET", "payments"),
    ("GET", "payments/pay_1"),
    ("POST", "payments/pay_1/assign"),
    ("GET", "treasury/deposit-addresses"),
    ("POST", "treasury/deposit-addresses"),
    ("GET", "treasury/known-senders"),
    ("POST", "treasury/known-senders"),
    ("GET", "ledger/entries"),
    ("GET", "ledger/balances"),
    ("GET", "ledger/balances/EUR"),
    ("GET", "ledger/transactions"),
    ("GET", "ledger/transactions/{intent}"),
    ("GET", "ledger/accounts"),
    ("POST", "ledger/accounts"),
    ("GET", "ledger/accounts/platform:opening?currency=USDC"),
    ("PATCH", "ledger/accounts/platform:opening?currency=USDC"),
    ("GET", "ledger/periods"),
    ("POST", "ledger/periods/close"),
    ("POST", "ledger/periods/reopen"),
    ("POST", "ledger/periods/seal"),
]
OF_POLICY = {
    ("PUT", "treasury/policy"),
    ("POST", "treasury/policy/recipients"),
    ("DELETE", "treasury/policy/recipients/deny/ethereum/0x"),
    ("POST", "treasury/wallets/wal_1/resume"),
}


NO_INTENT = "pi_00000000000000000000000000"


async def ask(
    caller: Caller, method: str, path: str, intent: str = "pi_00000000000000000000000000"
) -> Answered:
    body = b'{"mode":"atomic","items":[]}' if path.endswith("batch") else b"{}"
    return await caller.ask(
        method,
        path.format(intent=intent),
        content=body if method != "GET" and not path.endswith("cancel") else None,
        key="key-1",
    )


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_credential_there_is_nothing(
    caller: Caller, stranger: Caller, method: str, path: str
) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer unknown"},
        {"Authorization": f"Basic {caller.token}"},
        {"Authorization": f"Bearer {caller.token} x"},
        {"Authorization": "Bearer " + "x" * 5000},
    ):
        nobody = Caller(caller.client, caller.org_id, None, headers)
        answered = await ask(nobody, method, path)
        assert (answered.status, answered.error["code"]) == (401, "Unauthorized")
        assert answered.headers["www-authenticate"].startswith('Bearer realm="coffer"')


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_another_organisation_looks_like_none(
    caller: Caller, stranger: Caller, method: str, path: str
) -> None:
    intent = (await caller.created())["id"]
    theirs = await ask(Caller(caller.client, caller.org_id, stranger.token), method, path, intent)
    nobodys = await ask(Caller(caller.client, str(uuid4()), stranger.token), method, path, intent)
    assert theirs.status == nobodys.status == 404
    same = ("code", "message", "details")
    assert [theirs.error[name] for name in same] == [nobodys.error[name] for name in same]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_an_organisation_is_named_by_its_uuid(caller: Caller, method: str, path: str) -> None:
    for wrong in ("1", "acme", caller.org_id.replace("-", ""), caller.org_id + "0", "{" + caller.org_id):
        answered = await ask(Caller(caller.client, wrong, caller.token), method, path)
        assert (answered.status, answered.error["code"], answered.fields) == (400, "BadRequest", ["orgId"])
    upper = Caller(caller.client, caller.org_id.upper(), caller.token)
    assert (await upper.get("payment-intents")).status == 200


async def test_another_organisations_intent_is_no_intent(caller: Caller, stranger: Caller) -> None:
    intent = (await caller.created())["id"]
    for method, path in (("GET", "payment-intents/{intent}"), ("POST", "payment-intents/{intent}/cancel")):
        theirs = await ask(stranger, method, path, intent)
        nobodys = await ask(stranger, method, path)
        assert theirs.status == nobodys.status == 404
        assert theirs.error["message"] == nobodys.error["message"]
    assert (await stranger.get("ledger/entries", paymentIntentId=intent)).json["data"] == []
    assert (await stranger.create(wish(**{"from": (await caller.created())["walletId"]}))).status == 404


async def test_the_database_holds_the_wall_by_itself(
    caller: Caller, app_database: Database, seed: Seed
) -> None:
    await caller.created()
    tables = (
        "payment_intent", "wallet", "fund", "escrow", "ledger_account", "ledger_transfer", "event",
        "idempotency_key", "credential", "organisation",
    )  # fmt: skip
    for table in tables:
        count = text(f"SELECT count(*) FROM {table}")
        column = "id" if table == "organisation" else "org_id"
        theirs = text(f"SELECT count(*) FROM {table} WHERE {column} = :org")
        async with app_database.organisation(UUID(seed.other_org_id)) as session:
            assert await session.scalar(theirs, {"org": seed.org_id}) == 0
        async with app_database.everything() as session:
            assert await session.scalar(count) == 0


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_scope_is_needed(caller: Caller, owner: Database, method: str, path: str) -> None:
    needed = "read:treasury" if method == "GET" else "write:treasury"
    if (method, path) in OF_POLICY:
        needed = "write:policy"
    async with owner.everything() as session:
        others = [scope for scope in SCOPES if scope != needed]
        _, token = await issue(session, UUID(caller.org_id), CredentialKind.API_KEY, others)
        await session.commit()
    answered = await ask(Caller(caller.client, caller.org_id, token), method, path)
    assert (answered.status, answered.error["code"]) == (403, "Forbidden")
    assert needed in answered.error["message"]


async def test_an_expired_or_revoked_key_is_worth_nothing(caller: Caller, owner: Database) -> None:
    org_id = UUID(caller.org_id)
    async with owner.everything() as session:
        _, expired = await issue(
            session, org_id, CredentialKind.API_KEY, SCOPES, now() - timedelta(seconds=1)
        )
        credential, revoked = await issue(session, org_id, CredentialKind.API_KEY, SCOPES)
        _, secret = await issue(session, org_id, CredentialKind.CLIENT, SCOPES)
        await session.commit()
    assert (await Caller(caller.client, caller.org_id, revoked).get("payment-intents")).status == 200
    async with owner.everything() as session:
        await session.execute(
            text("UPDATE credential SET revoked_at = now() WHERE id = :id"), {"id": credential.id}
        )
        await session.commit()
    for token in (expired, revoked, secret):
        answered = await Caller(caller.client, caller.org_id, token).get("payment-intents")
        assert (answered.status, answered.error["code"]) == (401, "Unauthorized")


class Client:
    """An OAuth2 client of the first organisation."""

    def __init__(self, http: httpx.AsyncClient, id: str, secret: str) -> None:
        self.http = http
        self.id = id
        self.secret = secret

    async def token(self, headers: dict[str, str] | None = None, **form: str) -> httpx.Response:
        return await self.http.post("/v1/oauth/token", data=form, headers=headers)

    @property
    def basic(self) -> dict[str, str]:
        return {"Authorization": "Basic " + b64encode(f"{self.id}:{self.secret}".encode()).decode()}

    @property
    def posted(self) -> dict[str, Any]:
        return {"client_id": self.id, "client_secret": self.secret}


@pytest.fixture
async def oauth(caller: Caller, owner: Database) -> Client:
    async with owner.everything() as session:
        credential, secret = await issue(
            session, UUID(caller.org_id), CredentialKind.CLIENT, ["read:treasury", "write:treasury"]
        )
        await session.commit()
    return Client(caller.client, credential.id, secret)


GRANT: dict[str, Any] = {"grant_type": "client_credentials"}


async def test_a_client_gets_a_token_in_either_way(caller: Caller, oauth: Client) -> None:
    for answer in (await oauth.token(oauth.basic, **GRANT), await oauth.token(**GRANT, **oauth.posted)):
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        body = answer.json()
        assert (body["token_type"], body["expires_in"]) == ("Bearer", 3600)
        assert body["scope"] == "read:treasury write:treasury"
        bearer = Caller(caller.client, caller.org_id, body["access_token"])
        assert (await bearer.create(wish())).status == 201


async def test_a_token_may_have_less_than_its_client(caller: Caller, oauth: Client) -> None:
    answer = await oauth.token(oauth.basic, **GRANT, scope="read:treasury")
    assert answer.json()["scope"] == "read:treasury"
    bearer = Caller(caller.client, caller.org_id, answer.json()["access_token"])
    assert (await bearer.get("payment-intents")).status == 200
    assert (await bearer.create(wish())).status == 403


async def test_a_token_ends(caller: Caller, oauth: Client, owner: Database) -> None:
    token = (await oauth.token(oauth.basic, **GRANT)).json()["access_token"]
    async with owner.everything() as session:
        await session.execute(
            text("UPDATE credential SET expires_at = now() - interval '1 s' WHERE kind = 'access_token'")
        )
        await session.commit()
    assert (await Caller(caller.client, caller.org_id, token).get("payment-intents")).status == 401


async def test_a_client_is_refused_in_the_words_of_the_standard(oauth: Client, seed: Seed) -> None:
    async def refused(headers: dict[str, str] | None = None, **form: str) -> tuple[int, str]:
        answer = await oauth.token(headers, **form)
        assert set(answer.json()) == {"error", "error_description"}
        if answer.status_code == 401:
            assert answer.headers["www-authenticate"].startswith("Basic")
        return answer.status_code, answer.json()["error"]

    assert await refused(**GRANT) == (401, "invalid_client")
    assert await refused(**GRANT, client_id=oauth.id, client_secret="wrong") == (401, "invalid_client")
    assert await refused(**GRANT, client_id="client_x", client_secret=oauth.secret) == (401, "invalid_client")
    assert await refused(**GRANT, client_id=oauth.id, client_secret=seed.api_key) == (401, "invalid_client")
    assert await refused({"Authorization": "Basic ?"}, **GRANT) == (401, "invalid_client")
    assert await refused(oauth.basic) == (400, "invalid_request")
    assert await refused(oauth.basic, **GRANT, client_secret=oauth.secret) == (400, "invalid_request")
    assert await refused(oauth.basic, grant_type="password") == (400, "unsupported_grant_type")
    assert await refused(oauth.basic, **GRANT, scope="write:fees") == (400, "invalid_scope")
    json = await oauth.http.post("/v1/oauth/token", json=GRANT, headers=oauth.basic)
    assert (json.status_code, json.json()["error"]) == (400, "invalid_request")
