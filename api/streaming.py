"""Answers whose body is written while it is sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Send


class Streamed(StreamingResponse):
    """A body that comes in chunks. If the reader goes away or a chunk cannot be made, what makes them is
    closed at once, and the connection is cut: half an answer must not look like a whole one."""

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().stream_response(send)


async def streamed(
    chunks: AsyncIterator[bytes], media_type: str, headers: Mapping[str, str] | None = None
) -> Streamed:
    """The answer of these chunks, once the first is there: what fails before it is answered as an error."""
    first = await anext(chunks, b"")
    return Streamed(_whole(first, chunks), headers=headers, media_type=media_type)


async def _whole(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest) as following:  # type: ignore[type-var]
        yield first
        async for chunk in following:
            yield chunk
