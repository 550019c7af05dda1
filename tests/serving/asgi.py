"""Requests to an application in this process, by its protocol (https://asgi.readthedocs.io), without a network."""

import asyncio
import json
from typing import Any

from fastapi import FastAPI


def ask(app: FastAPI, method: str, path: str, content: Any = None) -> tuple[int, Any]:
    """The status and the JSON of an answer; `content` is sent as it is where it is bytes, else as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    content_sent = b"".join(message.get("body", b"") for message in sent)
    try:
        return sent[0]["status"], json.loads(content_sent)
    except ValueError:
        return sent[0]["status"], content_sent.decode()
