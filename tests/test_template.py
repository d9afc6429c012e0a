"""The template, over its real socket: this process is its supervisor, and the parent of workers.

What it imports is `arc.worker` where the real one matters, and else a fake one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from arc.child import Template, TemplateEndedError, adopt_orphans, reap_orphans
from arc.config import Config
from arc.handshake import MAX_FORK_MESSAGE_BYTES, READY, Forked
from arc.ports import hold_port
from arc.runtime import DataDir
from tests.support.daemon import eventually
from tests.support.running import ROOT, clean_environment

FAKE = "tests.support.fake_worker"
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="module", autouse=True)
def subreaper() -> Iterator[None]:
    """While these tests run, this process is the parent of the workers."""
    adopt_orphans()
    yield
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class Forker:
    """A template and the supervisor's end of its socket.

    Attributes:
        process: The template.
        control: The socket.
        log: What the template and its workers write to standard error.
        inherited_fd: Of a file that it must leave open in workers.
    """

    def __init__(self, folder: Path, arguments: tuple[str, ...]) -> None:
        self.log = folder / "log"
        self.control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its, self.log.open("w") as log, (folder / "lock").open("w") as lock:
            self.inherited_fd = lock.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "arc.template", *arguments],
                cwd=ROOT,
                env=clean_environment(),
                stdin=its.fileno(),
                stderr=log,
                pass_fds=(self.inherited_fd,),
                start_new_session=True,
            )

    def ask(self) -> Forked:
        """Ask for a worker whose standard input ends at once."""
        with self.forked(b"") as worker:
            return worker.answer

    @contextmanager
    def forked(self, stdin: bytes | None = None) -> Iterator[Forkling]:
        """A worker; with None its standard input stays open."""
        its_stdin, stdin_fd = os.pipe()
        ready_fd, its_ready = os.pipe()
        with open(ready_fd, "rb"), open(stdin_fd, "wb", buffering=0) as writer:
            socket.send_fds(self.control, [b"arc-worker-7"], [its_stdin, its_ready])
            os.close(its_stdin)
            os.close(its_ready)
            answer = Forked.from_bytes(self.control.recv(MAX_FORK_MESSAGE_BYTES))
            if stdin is not None:
                writer.write(stdin)
                writer.close()
            yield Forkling(answer.pid, answer)

    def close(self) -> None:
        """End it."""
        self.control.close()
        self.process.kill()
        self.process.wait()


class Forkling(NamedTuple):
    """A forked worker."""

    pid: int
    answer: Forked

    def status(self) -> int:
        """Its exit status, once it has ended; nobody else waits for it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def forking(folder: Path, *arguments: str) -> Iterator[Forker]:
    """A template that is ready to fork."""
    forker = Forker(folder, arguments)
    try:
        assert forker.control.recv(MAX_FORK_MESSAGE_BYTES) == READY
        yield forker
    finally:
        forker.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    """One of the real workers, for the tests that leave it as it is."""
    with forking(tmp_path_factory.mktemp("real"), "arc.worker") as forker:
        yield forker


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Forker]:
    """One of the fake workers."""
    with forking(tmp_path, FAKE) as forker:
        yield forker


def wait_for_end(pid: int) -> None:
    """Wait until a child has ended, and leave its status for others."""
    with os.fdopen(os.pidfd_open(pid)) as descriptor:
        select.select([descriptor], [], [])


def ignored_signals(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^SigIgn:\s*([0-9a-f]+)$", status, re.MULTILINE)
    assert found is not None
    return int(found[1], 16)


def test_a_worker_has_only_the_descriptors_that_it_needs(real: Forker) -> None:
    with real.forked() as worker:
        eventually_named(worker.pid)
        folder = Path(f"/proc/{worker.pid}/fd")
        held = {int(entry.name): os.readlink(entry).split(":")[0] for entry in folder.iterdir()}
        os.kill(worker.pid, signal.SIGKILL)
        assert worker.status() == -signal.SIGKILL
    assert set(held) == {0, 1, 2, real.inherited_fd, worker.answer.ready_fd}
    assert (held[0], held[worker.answer.ready_fd]) == ("pipe", "pipe")


def test_the_template_keeps_no_descriptor_of_a_worker(real: Forker) -> None:
    folder = Path(f"/proc/{real.process.pid}/fd")
    before = sorted(entry.name for entry in folder.iterdir())
    with real.forked(b"") as worker:
        assert sorted(entry.name for entry in folder.iterdir()) == before
        assert worker.status() == 0


def test_a_worker_shares_nearly_all_of_its_memory(real: Forker) -> None:
    with real.forked() as worker:
        eventually_named(worker.pid)
        private_bytes = psutil.Process(worker.pid).memory_full_info().uss
        shared_bytes = psutil.Process(real.process.pid).memory_info().rss
        os.kill(worker.pid, signal.SIGKILL)
        worker.status()
    assert private_bytes < shared_bytes / 10


def test_the_only_other_threads_of_the_template_are_those_of_jemalloc(real: Forker) -> None:
    names = [path.read_text() for path in Path(f"/proc/{real.process.pid}/task").glob("*/comm")]
    assert set(names) - {"jemalloc_bg_thd\n"} == {"arc-template\n"}
    assert names.count("arc-template\n") == 1


def test_nothing_is_said_about_a_fork_in_order(real: Forker) -> None:
    with real.forked(b"") as worker:
        assert worker.status() == 0
    assert real.log.read_text() == ""


def test_a_worker_is_a_child_of_the_supervisor_in_a_session_of_its_own(fake: Forker) -> None:
    with fake.forked() as worker:
        eventually_named(worker.pid)
        process = psutil.Process(worker.pid)
        assert (process.ppid(), process.name()) == (os.getpid(), "arc-worker-7")
        assert os.getsid(worker.pid) == worker.pid
        process.kill()
        assert worker.status() == -signal.SIGKILL


def eventually_named(pid: int) -> None:
    """Wait until a worker waits for its first line: then it has set itself up."""
    status = psutil.STATUS_SLEEPING
    eventually(lambda: os.getsid(pid) == pid, "it has a session of its own")
    eventually(lambda: psutil.Process(pid).status() == status, "it reads")


def test_ctrl_c_is_nothing_to_the_template_and_as_before_to_a_worker(fake: Forker) -> None:
    fake.process.send_signal(signal.SIGINT)
    with fake.forked() as worker:
        eventually_named(worker.pid)
        interrupt = 1 << (signal.SIGINT - 1)
        assert ignored_signals(fake.process.pid) & interrupt
        assert not ignored_signals(worker.pid) & interrupt
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.status() == -signal.SIGTERM


def test_a_worker_that_gets_no_line_ends_with_its_standard_input(fake: Forker) -> None:
    with fake.forked(b"") as worker:
        assert worker.status() == 0


def test_the_exit_status_is_what_main_returns(tmp_path: Path) -> None:
    with forking(tmp_path, FAKE, "fail") as fake, fake.forked() as worker:
        assert worker.status() == 7


def test_an_exception_of_main_ends_the_worker_as_it_ends_any_program(fake: Forker) -> None:
    with fake.forked(b"{}\n") as worker:
        assert worker.status() == 1
    assert "msgspec.ValidationError" in fake.log.read_text()
    assert fake.ask().pid > 0  # the template is as it was
    assert os.wait()[1] == 0


def test_a_worker_outlives_the_template(fake: Forker) -> None:
    with fake.forked() as worker:
        fake.process.kill()
        fake.process.wait()
        eventually_named(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)
        assert worker.status() == -signal.SIGKILL


def test_the_template_ends_when_its_socket_is_closed(fake: Forker) -> None:
    fake.control.close()
    assert fake.process.wait() == 0


def test_an_answer_that_nobody_reads_is_no_error(fake: Forker) -> None:
    its_stdin, stdin = os.pipe()
    socket.send_fds(fake.control, [b"arc-worker-0"], [its_stdin, its_stdin])
    fake.control.close()
    for fd in (its_stdin, stdin):
        os.close(fd)
    assert fake.process.wait() == 0
    assert fake.log.read_text() == ""
    with contextlib.suppress(ChildProcessError):  # whether it was forked or not
        os.wait()


@pytest.mark.parametrize("free", [0, 1, 2, 3])
def test_a_fork_that_the_system_refuses_is_told_and_not_the_end(fake: Forker, free: int) -> None:
    pid = fake.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    held = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    unused = [number for number in range(100) if number not in held]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (unused[free], limits[1]))
    assert fake.ask() == Forked(error="cannot fork: Too many open files")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    with fake.forked(b"") as worker:
        assert worker.status() == 0


def test_a_template_that_is_started_by_hand_says_what_starts_it() -> None:
    command = [sys.executable, "-m", "arc.template", FAKE]
    ended = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == ("arc.template: standard input is no socket; `arc serve` starts this\n")


def test_orphans_that_have_ended_are_waited_for_and_others_left_alone(fake: Forker) -> None:
    with fake.forked(b"") as followed, fake.forked(b"") as orphan:
        wait_for_end(followed.pid)
        wait_for_end(orphan.pid)
        reap_orphans({followed.pid, orphan.pid})
        assert psutil.pid_exists(orphan.pid)
        assert followed.status() == 0
        reap_orphans({followed.pid})
        assert not psutil.pid_exists(orphan.pid)
    reap_orphans(set())


# ------------------------------------------------------------------------ as the supervisor has it


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """Of a data directory and a port that are held."""
    DataDir(tmp_path).prepare()
    with hold_port("127.0.0.1", 0) as port:
        yield Config(port=port.getsockname()[1], data_dir=str(tmp_path))


@asynccontextmanager
async def a_template(*arguments: str) -> AsyncIterator[Template]:
    """One that is followed, and ended."""
    template = Template.spawn([sys.executable, "-m", "arc.template", *arguments], 2)
    try:
        yield template
    finally:
        template.kill()
        await template.wait()
        await template.close()


async def test_workers_that_are_asked_for_at_once_are_each_told_what_they_are(
    config: Config, tmp_path: Path
) -> None:
    async with a_template(FAKE) as template:
        asked = [template.fork(config, n, others_serving=bool(n)) for n in range(3)]
        children = await asyncio.gather(*asked)
        assert await asyncio.gather(*(child.ready for child in children)) == [True] * 3
        told = [(tmp_path / f"started-{n}").read_text() for n in range(3)]
        assert told == ["no others", "others serve", "others serve"]
        for child in children:
            child.terminate()
        assert await asyncio.gather(*(child.wait() for child in children)) == [0, 0, 0]
        children[0].kill()  # nobody, now
        assert [child.shard for child in children] == [0, 1, 2]


async def test_a_worker_that_cannot_get_ready_is_known_by_its_status(config: Config) -> None:
    async with a_template(FAKE, "fail") as template:
        child = await template.fork(config, 0, others_serving=False)
        assert await child.ready is False
        assert await child.wait() == 7


async def test_nothing_is_forked_from_a_template_that_has_ended(config: Config) -> None:
    async with a_template(FAKE, "unprepared") as template:
        with pytest.raises(TemplateEndedError):
            await template.fork(config, 0, others_serving=False)
        assert template.has_ended
        assert await template.wait() == 1
        with pytest.raises(TemplateEndedError):
            await template.fork(config, 0, others_serving=False)


async def test_a_refusal_of_the_system_comes_out_as_such(config: Config) -> None:
    async with a_template(FAKE) as template:
        child = await template.fork(config, 0, others_serving=False)
        child.kill()
        assert await child.wait() == -signal.SIGKILL
        hard = resource.prlimit(template.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(template.pid, resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(OSError, match="cannot fork: Too many open files"):
            await template.fork(config, 0, others_serving=False)


async def test_a_template_that_is_ready_ends_in_order_when_it_is_told_to(config: Config) -> None:
    async with a_template(FAKE) as template:
        child = await template.fork(config, 0, others_serving=False)
        template.stop()
        assert await template.wait() == 0
        assert await child.ready
        child.terminate()
        assert await child.wait() == 0


async def test_a_template_that_gets_ready_ends_at_once_when_it_is_told_to(config: Config) -> None:
    async with a_template(FAKE, "slow") as template:
        asked = asyncio.ensure_future(template.fork(config, 0, others_serving=False))
        await asyncio.sleep(0)
        template.stop()
        with pytest.raises(TemplateEndedError):
            await asked
        assert await template.wait() == -signal.SIGTERM


async def test_a_template_that_cannot_be_started_leaves_nothing_open() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        Template.spawn(["/does/not/exist"], 2)
    assert os.listdir("/proc/self/fd") == before
