"""The proxy that cuts: what passes, where it cuts, and what each side then sees."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import psutil
import pytest

from benchmarks.torture.cut_proxy import Cut, CutProxy

TIMEOUT_S = 10.0


class Echo:
    """A server that answers every 100 bytes with 50, and keeps what it got.

    Attributes:
        address: Where it listens.
        got: What each connection brought, in order of their end.
        ended: Released once for each connection that ended.
    """

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.ended = threading.Semaphore(0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            link.settimeout(TIMEOUT_S)
            self._threads.append(threading.Thread(target=self._serve, args=(link,)))
            self._threads[-1].start()

    def _serve(self, link: socket.socket) -> None:
        got = b""
        with link:
            try:
                while data := link.recv(65536):
                    link.sendall(b"a" * 50 * ((len(got) + len(data)) // 100 - len(got) // 100))
                    got += data
            except OSError:
                pass
        self.got.append(got)
        self.ended.release()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[CutProxy]:
    with CutProxy(echo.address) as proxy:
        yield proxy


def connect(proxy: CutProxy) -> socket.socket:
    return socket.create_connection(proxy.address, TIMEOUT_S)


def receive(link: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer when the connection ends in order before."""
    out = b""
    while len(out) < count and (data := link.recv(count - len(out))):
        out += data
    return out


def asked(link: socket.socket) -> bytes:
    """The answer to one request."""
    link.sendall(b"r" * 100)
    return receive(link, 50)


def test_bytes_pass_both_ways_and_ends_are_passed_on(proxy: CutProxy, echo: Echo) -> None:
    with connect(proxy) as link:
        assert asked(link) == b"a" * 50
        assert asked(link) == b"a" * 50
        link.shutdown(socket.SHUT_WR)
        assert receive(link, 1) == b""
    assert echo.ended.acquire(timeout=TIMEOUT_S)
    assert echo.got == [b"r" * 200]


def test_several_connections_are_kept_apart(proxy: CutProxy) -> None:
    with connect(proxy) as one, connect(proxy) as other:
        one.sendall(b"r" * 100)
        other.sendall(b"r" * 200)
        assert receive(other, 100) == b"a" * 100
        assert receive(one, 50) == b"a" * 50


def test_a_request_is_cut_after_the_byte_that_was_asked_for(proxy: CutProxy, echo: Echo) -> None:
    with connect(proxy) as link:
        asked(link)
        proxy.arm(Cut.REQUEST, 30)
        link.sendall(b"r" * 100)
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    assert proxy.wait_for_cut(TIMEOUT_S)
    assert echo.ended.acquire(timeout=TIMEOUT_S)
    assert len(echo.got[0]) <= 130  # the abrupt end may overtake the last bytes
    assert proxy.cuts["request"] == 1


@pytest.mark.parametrize("passed", [0, 20])
def test_an_answer_is_cut_though_the_request_has_arrived(
    proxy: CutProxy, echo: Echo, passed: int
) -> None:
    with connect(proxy) as link:
        proxy.arm(Cut.ANSWER, passed)
        link.sendall(b"r" * 100)
        with pytest.raises(ConnectionResetError):
            receive(link, 51)
    assert proxy.wait_for_cut(TIMEOUT_S)
    assert echo.ended.acquire(timeout=TIMEOUT_S)
    assert echo.got == [b"r" * 100]
    with connect(proxy) as link:  # one cut for one order
        assert asked(link) == b"a" * 50


def test_a_cut_that_does_not_fall_is_disarmed(proxy: CutProxy) -> None:
    proxy.arm(Cut.REQUEST, 10)
    assert not proxy.wait_for_cut(0.01)
    with connect(proxy) as link:
        assert asked(link) == b"a" * 50
    assert proxy.cuts["request"] == 0


def test_connections_are_reset_and_new_ones_work(proxy: CutProxy) -> None:
    with connect(proxy) as link:
        asked(link)
        assert proxy.reset_connections() == 1
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    with connect(proxy) as link:
        assert asked(link) == b"a" * 50


def test_silence_holds_back_what_arrives_after_the_client_has_given_up(
    proxy: CutProxy, echo: Echo
) -> None:
    proxy.black_hole()
    with connect(proxy) as link:
        link.sendall(b"r" * 100)
        link.settimeout(0.05)
        with pytest.raises(TimeoutError):
            link.recv(1)
    assert not echo.ended.acquire(blocking=False)
    proxy.heal()
    assert echo.ended.acquire(timeout=TIMEOUT_S)
    assert echo.got == [b"r" * 100]


def test_a_mute_proxy_passes_requests_and_holds_answers_back(proxy: CutProxy, echo: Echo) -> None:
    proxy.mute()
    with connect(proxy) as link:
        link.sendall(b"r" * 100)
        link.settimeout(0.05)
        with pytest.raises(TimeoutError):
            link.recv(1)
        link.settimeout(TIMEOUT_S)
        proxy.heal()
        assert receive(link, 50) == b"a" * 50


def test_a_mute_proxy_can_lose_the_answers(proxy: CutProxy, echo: Echo) -> None:
    proxy.mute()
    with connect(proxy) as link:
        link.sendall(b"r" * 100)
        link.shutdown(socket.SHUT_WR)
        assert echo.ended.acquire(timeout=TIMEOUT_S)
        proxy.reset_connections()
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    assert echo.got == [b"r" * 100]


def test_a_refused_port_opens_again_under_its_number(proxy: CutProxy) -> None:
    with connect(proxy) as link:
        asked(link)
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.heal()
    with connect(proxy) as link:
        assert asked(link) == b"a" * 50


def test_a_server_that_is_away_is_an_abrupt_end_for_the_client(proxy: CutProxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        proxy.upstream = gone.getsockname()
    with pytest.raises(ConnectionResetError), connect(proxy) as link:
        link.recv(1)


def test_keys_are_blanked_for_a_control(echo: Echo) -> None:
    head = b"POST / HTTP/1.1\r\nIdempotency-Key: k\r\nidempotency-key: k\r\n\r\n"
    with CutProxy(echo.address, blank_keys=True) as proxy, connect(proxy) as link:
        link.sendall(head.ljust(100, b"."))
        receive(link, 50)
        link.shutdown(socket.SHUT_WR)
        receive(link, 1)
    assert echo.ended.acquire(timeout=TIMEOUT_S)
    assert len(echo.got[0]) == 100
    assert b"dempotency" not in echo.got[0]


def test_nothing_is_left_open(echo: Echo) -> None:
    this = psutil.Process()
    before = this.num_fds()
    with CutProxy(echo.address) as proxy, connect(proxy) as link:
        asked(link)
        proxy.refuse()
    assert echo.ended.acquire(timeout=TIMEOUT_S)
    assert this.num_fds() == before
