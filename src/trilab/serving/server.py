"""Runs the application until it is told to stop."""

import errno
import socket

import uvicorn
from fastapi import FastAPI

from trilab.errors import UserError
from trilab.signals import Interrupted


def serve(app: FastAPI, host: str, port: int, what: str) -> int:
    """Serves until Ctrl-C; says where it listens.

    Args:
        app: the application.
        host: to listen on.
        port: likewise; 0 for any that is free.
        what: is served, for a person.

    Raises:
        UserError: the address is taken, or is none of this machine's.
    """
    listener = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    said = f"{what}\n  {address}/predict   schema and trial: {address}/docs\nCtrl-C stops it."
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    try:
        _Announced(config, said).run(sockets=[listener])
    except Interrupted as stopped:  # uvicorn raises the signal again when it has shut down
        if stopped.exit_code != 130:
            raise
    finally:
        listener.close()
    print("\nstopped")
    return 0


class _Announced(uvicorn.Server):
    """Says where it listens once it does: from then on signals are its own."""

    def __init__(self, config: uvicorn.Config, said: str) -> None:
        super().__init__(config)
        self._said = said

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._said, flush=True)


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        # With its protocol named, for asyncio sets TCP_NODELAY on no other: an answer would wait 40 ms to be confirmed.
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise UserError(f"--host {host}: there is no such address.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port {port} is taken on {host}. --port 0 takes one that is free.") from None
        raise UserError(f"--host {host} --port {port}: {error.strerror or error}.") from None
    return listener
