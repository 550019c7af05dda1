"""Where a server listens."""

import socket

import pytest

from trilab.errors import UserError
from trilab.serving.server import _listen


def test_answers_do_not_wait_to_be_confirmed():
    # asyncio sets TCP_NODELAY on connections of a socket that says it is TCP's, and on no other.
    with _listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
        assert listener.getsockname()[0] == "127.0.0.1"
        assert listener.getsockname()[1] > 0


def test_what_cannot_be_listened_on_is_said():
    with _listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port} is taken on 127.0.0.1"):
            _listen("127.0.0.1", port)
    with pytest.raises(UserError, match="there is no such address"):
        _listen("no.such.host.invalid", 0)
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1"):  # of nobody: RFC 5737
        _listen("192.0.2.1", 0)
