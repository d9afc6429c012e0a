"""The daemon's TCP port: chosen and held by the supervisor, listened on by each worker.

Workers share the port by SO_REUSEPORT, so that the kernel spreads connections over them. Under
one user id that option would also let two daemons share a port without either noticing;
`hold_port` looks first, and then keeps the port for as long as its socket is open, also while
no worker listens.
"""

from __future__ import annotations

import errno
import socket

#: Connections that wait for a worker to accept them; the kernel cuts it to its own limit.
BACKLOG = 1_024


class PortTakenError(Exception):
    """Another program has the port."""


def hold_port(host: str, port: int) -> socket.socket:
    """Take a port without listening on it.

    Args:
        host: Numeric address.
        port: 0 takes any free one.

    Returns:
        A bound socket. Close it to let the port go.

    Raises:
        PortTakenError: another program has the port.
        OSError: the address is not of this machine, or the port needs more rights.
    """
    try:
        if port:
            # With SO_REUSEADDR only sockets in use are found, not those left in TIME_WAIT.
            _bound(host, port, reuse_address=True, reuse_port=False).close()
        return _held(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(f"port {port} on {host} is taken by another program") from error
        raise


def _held(host: str, port: int) -> socket.socket:
    try:
        return _bound(host, port, reuse_address=False, reuse_port=True)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not port:
            raise
        # TIME_WAIT of a program without SO_REUSEPORT, since nothing in use was found.
        return _bound(host, port, reuse_address=True, reuse_port=True)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket of one worker, on the port that the supervisor holds.

    SO_REUSEADDR as well, which accepted connections inherit: otherwise those left in TIME_WAIT
    would make the next daemon's `hold_port` find the port taken.
    """
    listener = _bound(host, port, reuse_address=True, reuse_port=True)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def url_of(host: str, port: int) -> str:
    """The base of the daemon's URLs."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bound(host: str, port: int, *, reuse_address: bool, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    new = socket.socket(family, socket.SOCK_STREAM)
    try:
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse_address)
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        new.bind((host, port))
    except OSError:
        new.close()
        raise
    return new
