"""What start.sh does before it installs anything, run for real in a folder of its own.

Making a whole venv/ is left to whoever runs `./start.sh test`, which needed one to get here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

START_SH = Path(__file__).resolve().parent.parent / "start.sh"
BASH = shutil.which("bash") or "/bin/bash"
COMMANDS = ("native", "setup", "test", "stop", "status", "which-python")


@pytest.fixture
def start_sh(tmp_path: Path) -> Path:
    """A copy in a folder with a space in its name, where nothing is set up."""
    folder = tmp_path / "a repository"
    folder.mkdir()
    return Path(shutil.copy(START_SH, folder))


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder to be the whole PATH: no Python, no pyenv, nothing but what a test puts there."""
    folder = tmp_path / "commands"
    folder.mkdir()
    return folder


def command(folder: Path, name: str, body: str) -> Path:
    """Put a shell script into a folder of commands."""
    path = folder / name
    path.write_text(f"#!{BASH}\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def real_python(folder: Path, name: str) -> Path:
    """Put a Python that works into a folder of commands."""
    return command(folder, name, f'exec "{os.path.realpath(sys.executable)}" "$@"')


def run(
    start_sh: Path, *arguments: str, path: Path | None = None, python: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run start.sh from another folder, as from a shell that knows nothing of this run."""
    environment = {"PATH": str(path) if path else os.environ["PATH"]}
    if python is not None:
        environment["ARC_PYTHON"] = python
    return subprocess.run(
        [BASH, str(start_sh), *arguments],
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def this_python() -> str:
    """The line that which-python prints for the Python behind this environment."""
    version = ".".join(map(str, sys.version_info[:3]))
    return f"{version} {os.path.realpath(sys.executable)}\n"


def test_script_is_valid_bash_and_executable() -> None:
    assert subprocess.run([BASH, "-n", START_SH], check=False).returncode == 0
    assert os.access(START_SH, os.X_OK)


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("help",), ()])
def test_help_lists_every_command(start_sh: Path, arguments: tuple[str, ...]) -> None:
    done = run(start_sh, *arguments)
    assert done.returncode == 0
    assert done.stderr == ""
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert listed >= set(COMMANDS)


def test_unknown_command_is_refused_with_the_help(start_sh: Path) -> None:
    done = run(start_sh, "nativ")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "unknown command 'nativ'" in done.stderr
    assert "Usage: ./start.sh" in done.stderr


@pytest.mark.parametrize("name", ["stop", "status"])
def test_stop_and_status_set_nothing_up(start_sh: Path, name: str) -> None:
    done = run(start_sh, name)
    assert done.returncode == 1
    assert "Run ./start.sh setup first." in done.stderr
    assert not (start_sh.parent / "venv").exists()


def test_stop_is_passed_on_with_its_options(start_sh: Path) -> None:
    folder = start_sh.parent / "venv" / "bin"
    folder.mkdir(parents=True)
    command(folder, "python", 'printf "%s|" "$PWD" "${ARC_PYTHON-unset}" "$@"')
    done = run(start_sh, "stop", "--data-dir", "two words", python="/some/python")
    assert done.stdout == f"{start_sh.parent}|unset|-m|arc|stop|--data-dir|two words|"


def set_up(folder: Path) -> None:
    """Make it look as if all were set up there, with a Python that prints what it is to run."""
    venv, cache = folder / "venv", folder / "ingest" / "kernels" / "__pycache__"
    (venv / "bin").mkdir(parents=True)
    (venv / ".arc").mkdir()
    cache.mkdir(parents=True)
    (cache / "a.nbi").touch()
    for name, content in {"home": venv, "native": "n", "dev": "d", "kernels": "k"}.items():
        (venv / ".arc" / name).write_text(f"{content}\n", encoding="utf-8")
    keys = " ".join(f'"{line}"' for line in (venv, "base", "n", "d", "k"))
    command(
        venv / "bin",
        "python",
        f"""if [ "$1" = -I ]; then printf '%s\\n' {keys}; else echo "$@"; fi""",
    )


def test_all_tests_run_several_at_a_time_and_then_the_audit(start_sh: Path) -> None:
    set_up(start_sh.parent)
    audit = "scripts/perf_audit.py --quick --output build/audit"
    assert run(start_sh, "test").stdout == f"-m pytest -n auto\n{audit}\n"


def test_a_failed_test_fails_the_run_before_the_audit(start_sh: Path) -> None:
    set_up(start_sh.parent)
    python = start_sh.parent / "venv" / "bin" / "python"
    python.write_text(python.read_text().replace('echo "$@"', 'echo "$@"; exit 3'))
    done = run(start_sh, "test")
    assert done.returncode == 3
    assert done.stdout == "-m pytest -n auto\n"


def test_what_options_name_runs_in_one_process_at_once(start_sh: Path) -> None:
    set_up(start_sh.parent)
    done = run(start_sh, "test", "tests/test_buffer.py", "-x")
    assert done.stdout == "-m pytest tests/test_buffer.py -x\n"


def test_python_that_only_fails_is_passed_over(start_sh: Path, commands: Path) -> None:
    command(commands, "python3.13", 'echo "python3.13: command not found" >&2; exit 127')
    command(commands, "python3.12", "echo 31201 not an answer")
    real_python(commands, "python3")
    done = run(start_sh, "which-python", path=commands)
    assert (done.stdout, done.stderr) == (this_python(), "")


def test_newest_python_wins_wherever_it_is(start_sh: Path, commands: Path) -> None:
    newest = command(commands, "newest", 'echo "31399 3.13.99 $0"')
    older = command(commands, "older", 'echo "31101 3.11.1 $0"')
    command(commands, "python3.11", f'exec "{older}" "$@"')
    command(commands, "python3", f'exec "{newest}" "$@"')
    done = run(start_sh, "which-python", path=commands)
    assert done.stdout == f"3.13.99 {newest}\n"


def test_pythons_of_pyenv_are_found_behind_its_stubs(start_sh: Path, commands: Path) -> None:
    command(commands, "python3", "exit 127")
    command(commands, "pyenv", f'[ "$1" = root ] && echo "{commands}/pyenv root"')
    binaries = commands / "pyenv root" / "versions" / "3.12.1" / "bin"
    binaries.mkdir(parents=True)
    real_python(binaries, "python")
    assert run(start_sh, "which-python", path=commands).stdout == this_python()


def test_without_a_python_it_says_what_was_wrong_and_what_to_do(
    start_sh: Path, commands: Path
) -> None:
    broken = command(commands, "python3", 'echo "lacks everything" >&2; exit 1')
    done = run(start_sh, "setup", path=commands)
    assert done.returncode == 1
    assert f"{broken}: lacks everything" in done.stderr
    assert "sudo apt install python3 python3-venv" in done.stderr
    assert not (start_sh.parent / "venv").exists()


def test_named_python_is_the_only_one_asked(start_sh: Path, commands: Path) -> None:
    real_python(commands, "python3")
    other = command(commands, "other", "echo is Python 3.9 >&2; exit 1")
    refused = run(start_sh, "which-python", path=commands, python=str(other))
    assert refused.returncode == 1
    assert "is Python 3.9" in refused.stderr
    found = run(start_sh, "which-python", path=commands, python="python3")
    assert found.stdout == this_python()


def test_folder_that_is_no_venv_is_left_alone(start_sh: Path, commands: Path) -> None:
    precious = start_sh.parent / "venv" / "precious"
    precious.parent.mkdir()
    precious.touch()
    real_python(commands, "python3")
    done = run(start_sh, "setup", path=commands)
    assert done.returncode == 1
    assert "is in the way" in done.stderr
    assert precious.exists()


def test_link_to_the_script_means_the_repository(start_sh: Path, tmp_path: Path) -> None:
    link = tmp_path / "arc-start"
    link.symlink_to("a repository/start.sh")
    folder = start_sh.parent / "venv" / "bin"
    folder.mkdir(parents=True)
    command(folder, "python", 'echo "$PWD"')
    assert run(link, "status").stdout == f"{start_sh.parent}\n"
