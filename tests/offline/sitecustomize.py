"""No test reaches another machine, nor does a process that one starts: Python's sockets connect to
this machine only.

Python imports a module of this name by itself when its folder is in ``PYTHONPATH``. What C++ opens
(gloo, between the processes of one test) is not seen here; it stays on this machine by itself.
"""

import sys
from typing import Any

LOCAL = ("localhost", "ip6-localhost", "", "0.0.0.0", "::", "::1")


class Offline(RuntimeError):
    """A test wanted to reach another machine."""


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook: connecting, sending and looking up a name are for this machine only."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        # a path, of a Unix socket, is no tuple
        address = arguments[1] if len(arguments) > 1 else None
        host = address[0] if isinstance(address, tuple) else ""
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0] or ""
    else:
        return
    host = host.decode(errors="replace") if isinstance(host, bytes) else host
    if isinstance(host, str) and host not in LOCAL and not host.startswith("127."):
        import socket

        if host != socket.gethostname():
            raise Offline(f"tests reach no other machine: {host} ({event})")


sys.addaudithook(refuse)
