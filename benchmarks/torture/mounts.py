"""File systems to break: made in a file or in memory, mounted, cut off, and taken away again.

In: sizes and mount options. Out: context managers that leave no mount, no loop device and no
image behind, also after an exception or Ctrl-C. Only what was made here is ever unmounted,
detached or removed; no other file system of the machine is touched.

Power is cut with ext4's own shutdown (ioctl EXT4_IOC_SHUTDOWN without a flush of the journal,
ext4(5); xfstests call it "godown"): from that moment nothing more is written to the loop device.
What the device had received is what a copy of the image holds; what only the page cache of the
mounted file system held is lost. The loop device plays a disk without a volatile cache of its
own: a missing cache flush (as opposed to a missing fsync) is not found this way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

MIB = 1 << 20
#: Options under which ext4 helps least a program that forgets an fsync.
HARSH_OPTIONS = "noauto_da_alloc,data=writeback,commit=600"
#: A killed process gives its files back when its last system call returns.
UNMOUNT_TIMEOUT_S = 20.0
_POLL_S = 0.05
_TOOLS = {"losetup": "util-linux", "mkfs.ext4": "e2fsprogs", "mount": "mount", "umount": "mount"}
#: _IOR('X', 125, __u32) and its argument, from fs/ext4/ext4.h.
_EXT4_IOC_SHUTDOWN = 0x8004587D
_SHUTDOWN_WITHOUT_FLUSH = 2
_COPY_BYTES = 4 * MIB


class MountError(RuntimeError):
    """A file system could not be made, mounted or taken away. The message has the tool's own."""


def tmpfs_requirement() -> str | None:
    """Why no tmpfs can be mounted here; None when it can. Tries it."""
    return _missing("mount", "umount") or _attempt(tmpfs, MIB)


def ext4_requirement() -> str | None:
    """Why no ext4 image can be mounted here; None when it can. Tries it."""
    return _missing(*_TOOLS) or _attempt(ext4, 8 * MIB)


def _missing(*tools: str) -> str | None:
    if os.geteuid() != 0:
        return "needs root, to mount file systems"
    for tool in tools:
        if shutil.which(tool) is None:
            return f"needs {tool} (package {_TOOLS[tool]})"
    return None


def _attempt(make: Callable[[Path, int], AbstractContextManager[Path]], size: int) -> str | None:
    with tempfile.TemporaryDirectory(prefix="arc-mount-") as folder:
        try:
            with make(Path(folder), size):
                return None
        except (MountError, OSError) as error:
            return f"needs the right to mount: {error}"


def run(*command: str) -> str:
    """Run a tool; its output.

    Raises:
        MountError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MountError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


@contextmanager
def tmpfs(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system in memory.

    Args:
        folder: An existing one, in which the mount point is made.
        size_bytes: Of its content, at the most.
    """
    with mounted("tmpfs", folder / "tmpfs", f"size={size_bytes}", "tmpfs") as where:
        yield where


@contextmanager
def ext4(folder: Path, size_bytes: int, options: str = "defaults") -> Iterator[Path]:
    """A new ext4 in an image file, which is removed at the end.

    Args:
        folder: An existing one, in which the image and the mount point are made.
        size_bytes: Of the image, which is sparse.
        options: Of the mount.
    """
    with (
        new_image(folder / "ext4.img", size_bytes) as image,
        loop_device(image) as device,
        mounted(device, folder / "ext4", options, "ext4") as where,
    ):
        yield where


def make_image(path: Path, size_bytes: int) -> None:
    """Make a sparse file with an empty ext4 in it.

    Everything that mkfs would leave to the kernel's first mount is written at once, so that no
    background task of the file system writes while a test watches.
    """
    with path.open("xb") as file:
        file.truncate(size_bytes)
    run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(path))


@contextmanager
def new_image(path: Path, size_bytes: int) -> Iterator[Path]:
    """An image as `make_image` makes it, removed at the end."""
    try:
        make_image(path, size_bytes)
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """A block device over an image file, detached at the end; its path."""
    device = run("losetup", "--find", "--show", str(image))
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextmanager
def mounted(source: str, where: Path, options: str, kind: str) -> Iterator[Path]:
    """A mounted file system, unmounted at the end, and its mount point removed.

    Args:
        source: What to mount.
        where: The mount point, which is made.
        options: As for mount(8).
        kind: Type of the file system.
    """
    where.mkdir()
    try:
        run("mount", "-t", kind, "-o", options, source, str(where))
        try:
            yield where
        finally:
            unmount(where)
    finally:
        where.rmdir()


@contextmanager
def shown_read_only(where: Path) -> Iterator[None]:
    """Let a directory look like one of a read-only file system to whoever opens a path in it.

    A file system with files open for writing cannot be made read-only and writable again: the
    kernel refuses a remount as busy. So the directory is mounted once more over itself, read-only
    from the first moment, as a copy of a mount that nobody uses. What is open stays writable; each
    new file, name or directory is refused with EROFS.
    """
    aside = where.with_name(f"{where.name}-read-only")
    aside.mkdir()
    try:
        run("mount", "--bind", str(where), str(aside))
        try:
            run("mount", "-o", "remount,bind,ro", str(aside))
            run("mount", "--bind", str(aside), str(where))
        finally:
            unmount(aside)
        try:
            yield
        finally:
            unmount(where)
    finally:
        aside.rmdir()


def unmount(where: Path) -> None:
    """Take the topmost mount of a mount point away.

    Raises:
        MountError: it was still in use after `UNMOUNT_TIMEOUT_S`; it goes with its last user.
    """
    deadline_s = time.monotonic() + UNMOUNT_TIMEOUT_S
    while True:
        try:
            run("umount", str(where))
            return
        except MountError:
            if time.monotonic() > deadline_s:
                run("umount", "--lazy", str(where))
                raise
        time.sleep(_POLL_S)


def cut_power(where: Path) -> None:
    """Let a mounted ext4 write nothing more, as if the power had failed; see the module."""
    descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = struct.pack("I", _SHUTDOWN_WITHOUT_FLUSH)
        fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, flags)
    finally:
        os.close(descriptor)


def fail_file_system(device: str) -> None:
    """Let an ext4 mounted with errors=remount-ro find an error; only a new mount makes it well.

    Args:
        device: The loop device that it is on.
    """
    Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("torture")


def copy_image(source: Path, target: Path) -> None:
    """Copy a sparse file without its holes, through the page cache: as its device received it."""
    size_bytes = source.stat().st_size
    with source.open("rb") as old, target.open("xb") as new:
        new.truncate(size_bytes)
        for start, end in _extents(old.fileno()):
            _copy_range(old.fileno(), new.fileno(), start, end)


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Where a file has data: first byte, and the one after the last."""
    end = 0
    while True:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        data = os.pread(source, min(_COPY_BYTES, end - start), start)
        if data.count(0) != len(data):
            os.pwrite(target, data, start)
        start += len(data)
