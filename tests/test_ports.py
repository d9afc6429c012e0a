"""Who has the port."""

from __future__ import annotations

import socket

import pytest

from arc.ports import PortTakenError, hold_port, listen, url_of


def port_of(held: socket.socket) -> int:
    port: int = held.getsockname()[1]
    return port


def leave_in_time_wait(listener: socket.socket) -> None:
    """Accept a connection and close it from the server's side."""
    listener.setblocking(True)
    with socket.create_connection(listener.getsockname()) as client:
        listener.accept()[0].close()
        assert client.recv(1) == b""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_workers_listen_together_on_the_port_that_is_held(host: str) -> None:
    with hold_port(host, 0) as held:
        port = port_of(held)
        with listen(host, port), listen(host, port), socket.create_connection((host, port)):
            pass


def test_a_held_port_takes_no_connections_itself() -> None:
    with hold_port("127.0.0.1", 0) as held, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port_of(held)))


def test_two_daemons_cannot_hold_one_port() -> None:
    with hold_port("127.0.0.1", 0) as held:
        port = port_of(held)
        with pytest.raises(PortTakenError, match=f"port {port} on 127.0.0.1 is taken"):
            hold_port("127.0.0.1", port)
        with listen("127.0.0.1", port), pytest.raises(PortTakenError):
            hold_port("127.0.0.1", port)


def test_another_program_can_neither_be_displaced_nor_displace() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(PortTakenError):
        hold_port("127.0.0.1", port_of(other))
    with hold_port("127.0.0.1", 0) as held, pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", port_of(held)))


def test_a_port_can_be_held_again_right_after_a_daemon_that_served_on_it() -> None:
    with hold_port("127.0.0.1", 0) as held:
        port = port_of(held)
        with listen("127.0.0.1", port) as worker:
            leave_in_time_wait(worker)
    hold_port("127.0.0.1", port).close()


def test_a_port_can_be_held_right_after_another_program_that_served_on_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = port_of(other)
        leave_in_time_wait(other)
    hold_port("127.0.0.1", port).close()


def test_an_address_of_another_machine_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="assign"):
        hold_port("192.0.2.1", 0)


def test_urls_put_ipv6_addresses_in_brackets() -> None:
    assert url_of("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert url_of("::1", 80) == "http://[::1]:80"
