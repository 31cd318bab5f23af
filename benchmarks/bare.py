"""What the API is measured against: the same body on the same server, and nothing behind it."""

from __future__ import annotations

from fastapi import FastAPI

from treasury.schemas import PaymentIntentCreate


def application() -> FastAPI:
    """A bare FastAPI endpoint that validates the body of a payment intent."""
    app = FastAPI()

    @app.post("/payment-intents", status_code=201)
    async def create(body: PaymentIntentCreate) -> dict[str, str]:
        return {"id": "pi_00000000000000000000000000", "to": body.to}

    return app
