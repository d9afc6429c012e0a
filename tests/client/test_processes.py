"""The client and the life of its process: forks, the end of the program, kills with a spill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arc.client import Client
from arc.client.forks import Followers
from tests.client.receiver import Receiver
from tests.support.scripted_server import Request, ScriptedServer, Step, decided

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with ScriptedServer() as server:
        yield Receiver(server)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


IN_CHILD = """
import os, sys
from arc.client import Client
from arc.client.forks import Followers
client = Client(sys.argv[1], linger_s=float(sys.argv[2]))
cpu = client.series("cpu", fields=["usage"])
for value in range(10):
    client.log("cpu", usage=value)
    cpu.log(value + 10)
if sys.argv[3] == "flushed":
    client.flush()
pid = os.fork()
if pid == 0:
    client.log("child", usage=100)
    cpu.log(101)
    assert client.stats().taken_rows == 2, client.stats()
    assert client.close()
    os._exit(0)
_, status = os.waitpid(pid, 0)
client.log("parent", usage=200)
assert client.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("linger", ["0", "3600"])
@pytest.mark.parametrize("state", ["queued", "flushed"])
def test_a_forked_child_sends_its_own_rows_and_none_of_its_parents(
    receiver: Receiver, linger: str, state: str
) -> None:
    done = run(IN_CHILD, receiver.server.url, linger, state)
    assert done.returncode == 0, done.stderr
    assert sorted(row["usage"] for row in receiver.rows("cpu")) == [*range(20), 101]
    assert [row["usage"] for row in receiver.rows("child")] == [100]
    assert [row["usage"] for row in receiver.rows("parent")] == [200]


def test_a_fork_waits_for_imports_of_the_threads() -> None:
    followers = Followers()
    forking = threading.Thread(target=followers.before)
    with followers.importing:
        forking.start()
        forking.join(0.05)
        assert forking.is_alive()
    forking.join()
    assert followers.importing.locked()
    followers.after_in_child()
    assert not followers.importing.locked()


CHILDREN = """
import multiprocessing, sys
from arc.client import Client
from arc.client.forks import Followers

client = None

def produce(url, first):
    global client
    if client is None:
        client = Client(url, linger_s=3600.0)
    for value in range(first, first + 100):
        client.log("cpu", usage=value)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    if sys.argv[2] == "fork":
        client = Client(sys.argv[1], linger_s=3600.0)
    children = [context.Process(target=produce, args=(sys.argv[1], n * 100)) for n in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(max(child.exitcode for child in children))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing_send_what_is_queued_when_they_end(
    receiver: Receiver, tmp_path: Path, method: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(CHILDREN)  # `spawn` imports it again
    done = subprocess.run(
        [sys.executable, str(program), receiver.server.url, method],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(row["usage"] for row in receiver.rows("cpu")) == list(range(300))


AT_EXIT = """
import sys
import threading
from arc.client import Client
from arc.client.forks import Followers
client = Client(sys.argv[1], linger_s=3600.0)
for value in range(100):
    client.log("cpu", usage=value)
if sys.argv[2] == "raise":
    raise SystemExit(7)
"""


@pytest.mark.parametrize(("how", "status"), [("return", 0), ("raise", 7)])
def test_the_end_of_the_program_sends_what_is_queued(
    receiver: Receiver, how: str, status: int
) -> None:
    done = run(AT_EXIT, receiver.server.url, how)
    assert done.returncode == status, done.stderr
    assert done.stderr == ""
    assert len(receiver.rows()) == 100


AWAY = """
import sys
import threading
from arc.client import Client
from arc.client.forks import Followers
client = Client(sys.argv[1], linger_s=0.0, close_timeout_s=0.1)
client.log("cpu", usage=1.5)
"""


def test_the_end_of_the_program_says_what_it_could_not_send() -> None:
    with ScriptedServer() as server:
        server.refuse()
        done = run(AWAY, server.url)
    assert done.returncode == 0
    assert "the client was closed before it was acknowledged" in done.stderr


KILLED = """
import os, signal, sys
from arc.client import Client
from arc.client.forks import Followers
client = Client(sys.argv[1], when_full="spill", spill_dir=sys.argv[2])
for value in range(1000):
    client.log("cpu", usage=value)
assert client.checkpoint(20)
print(client.stats().spilled_rows, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_spilled_outlives_its_process_and_arrives_once(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.server.refuse()
    done = run(KILLED, receiver.server.url, str(tmp_path))
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "1000\n"
    receiver.server.listen()
    with Client(receiver.server.url, when_full="spill", spill_dir=tmp_path) as client:
        assert client.flush(20)
        assert client.stats().recovered_rows == 1000
    assert sorted(row["usage"] for row in receiver.rows()) == list(range(1000))
    with Client(receiver.server.url, when_full="spill", spill_dir=tmp_path) as client:
        client.log("cpu", usage=-1)
    assert len(receiver.rows()) == 1001


def test_a_batch_in_doubt_when_its_process_died_is_sent_again_under_its_key(
    receiver: Receiver, tmp_path: Path
) -> None:
    def take_and_kill(request: Request) -> Step:
        step = receiver.take_and_hang_up(request)
        receiver.server.refuse()
        return step

    receiver.server.will(decided(take_and_kill))
    code = KILLED.replace("assert client.checkpoint(20)", "client.flush(1)")
    run(code, receiver.server.url, str(tmp_path))
    assert len(receiver.keys) == 1
    receiver.server.listen()
    with Client(receiver.server.url, when_full="spill", spill_dir=tmp_path) as client:
        assert client.flush(20)
    assert sorted(row["usage"] for row in receiver.rows()) == list(range(1000))


def test_what_close_could_not_send_waits_in_the_spill(receiver: Receiver, tmp_path: Path) -> None:
    receiver.server.refuse()
    client = Client(receiver.server.url, when_full="spill", spill_dir=tmp_path)
    for value in range(100):
        client.log("cpu", usage=value)
    assert not client.close(0.1)
    receiver.server.listen()
    with Client(receiver.server.url, when_full="spill", spill_dir=tmp_path) as again:
        assert again.flush(20)
    assert len(receiver.rows()) == 100


def test_a_spill_holds_more_than_memory_may(receiver: Receiver, tmp_path: Path) -> None:
    receiver.server.refuse()
    settings: dict[str, Any] = {"max_queued_bytes": 4096, "batch_rows": 100, "connections": 2}
    client = Client(receiver.server.url, when_full="spill", spill_dir=tmp_path, **settings)
    for value in range(20_000):
        client.log("cpu", usage=value)
    assert client.checkpoint(20)
    stats = client.stats()
    assert stats.queued_rows == stats.spilled_rows == 20_000
    assert stats.queued_bytes <= 4096
    receiver.server.listen()
    assert client.flush(30)
    assert client.close()
    assert sorted(row["usage"] for row in receiver.rows()) == list(range(20_000))


def test_spills_of_two_daemons_in_one_directory_are_kept_apart(tmp_path: Path) -> None:
    with ScriptedServer() as one, ScriptedServer() as two:
        first, second = Receiver(one), Receiver(two)
        one.refuse()
        run(KILLED, one.url, str(tmp_path))
        with Client(two.url, when_full="spill", spill_dir=tmp_path) as client:
            client.log("cpu", usage=-1)
        one.listen()
        assert [row["usage"] for row in second.rows()] == [-1]
        with Client(one.url, when_full="spill", spill_dir=tmp_path) as client:
            assert client.flush(20)
        assert len(first.rows()) == 1000


FORKED = """
import os, sys
from arc.client import Client
from arc.client.forks import Followers
client = Client(sys.argv[1], when_full="spill", spill_dir=sys.argv[2])
client.log("cpu", usage=1)
assert client.checkpoint(20)
if os.fork() == 0:
    client.log("cpu", usage=2)
    assert client.checkpoint(20)
    os._exit(0)
os.wait()
client.log("cpu", usage=3)
assert client.checkpoint(20)
os._exit(0)
"""


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_parent_and_child_spill_side_by_side(receiver: Receiver, tmp_path: Path) -> None:
    receiver.server.refuse()
    done = run(FORKED, receiver.server.url, str(tmp_path))
    assert done.returncode == 0, done.stderr
    receiver.server.listen()
    with Client(receiver.server.url, when_full="spill", spill_dir=tmp_path) as client:
        assert client.flush(20)
    assert sorted(row["usage"] for row in receiver.rows()) == [1, 2, 3]


def test_the_spill_directory_is_for_its_owner_only(receiver: Receiver, tmp_path: Path) -> None:
    receiver.server.refuse()
    spill_dir = tmp_path / "spill"
    client = Client(receiver.server.url, when_full="spill", spill_dir=spill_dir)
    client.log("cpu", usage=1)
    assert client.checkpoint(20)
    modes = {path: path.stat().st_mode & 0o777 for path in spill_dir.rglob("*")}
    assert modes
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())
    assert os.stat(spill_dir).st_mode & 0o777 == 0o700
    client.close(0.0)
