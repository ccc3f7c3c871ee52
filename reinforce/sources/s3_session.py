"""S3 session: the connections of S3's client, which reads the answers that are no object only up to a bound.

The client itself reads a list of names, or an error, to its end and keeps it: one that has no end fills the memory.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import HTTPClientError

from reinforce.sources.retry import RefusedError

MAX_ANSWER = 16 << 20
"""Bytes of an answer; a list of 1000 names has at most two million."""


class BoundedSession(AIOHTTPSession):  # type: ignore[misc]
    """aiobotocore's session. Objects are left to whoever asked for them, who reads no more than was asked for."""

    async def send(self, request: Any) -> Any:
        is_object, request.stream_output = request.stream_output, True  # do not read yet
        answer = await super().send(request)
        if not is_object or answer.status_code >= 300:
            answer._content = await _bounded(answer.raw)
        return answer


async def _bounded(raw: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    try:
        while piece := await raw.content.readany():
            content += piece
            if len(content) > MAX_ANSWER:
                raw.close()
                raise RefusedError(f"the server sends more than {MAX_ANSWER} bytes that are no object")
    except (TimeoutError, aiohttp.ClientError) as error:
        raise HTTPClientError(error=error) from error  # the client tries this again
    return bytes(content)
