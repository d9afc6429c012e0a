#!/usr/bin/env bash
# Sets Arc up in venv/ beside this file, and runs it. Without arguments: help.
#
# Needs bash 3.2 or newer and one Python of 3.11 to 3.13; no root, nothing else. What is installed
# is pinned with hashes in requirements/. A second run that finds nothing changed installs nothing.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: ./start.sh COMMAND [OPTIONS]

  native        set up what is missing, then run the daemon here until Ctrl-C or SIGTERM;
                OPTIONS go to `arc serve` (./start.sh native --help lists them)
  setup         set up only: venv/, packages, compiled kernels
  test          set up what is missing, then run all checks and tests, several at a time, and
                the quick performance audit;
                OPTIONS go to pytest, which runs what they name one at a time (or -n auto)
  stop          stop the running daemon; OPTIONS go to `arc stop`
  status        show the running daemon; OPTIONS go to `arc status`
  which-python  print the Python that a fresh set-up would use
  --help, -h    this text

Relative paths in OPTIONS count from the folder of start.sh, whatever the current folder is.
ARC_PYTHON=/path/to/python ./start.sh setup uses that Python (3.11 to 3.13) and no other.
USAGE
}

say() { printf 'start.sh: %s\n' "$*" >&2; }

die() { # die MESSAGE [HINT...]: one line each
    local line
    say "error: $1"
    shift
    for line in "$@"; do printf '          %s\n' "$line" >&2; done
    exit 1
}

script=${BASH_SOURCE[0]}
while [ -L "$script" ]; do # a link in some bin/ still means the repository
    link=$(readlink "$script")
    case $link in
    /*) script=$link ;;
    *) script=${script%/*}/$link ;;
    esac
done
case $script in
*/*) home=$(cd -- "${script%/*}" && pwd -P) ;;
*) home=$(pwd -P) ;;
esac
wanted=${ARC_PYTHON-}
case $wanted in
/* | '') ;;
*/*) wanted=$PWD/$wanted ;;
esac
cd -- "$home"
venv=$home/venv
state=$venv/.arc # our own notes about venv/: what it was made for
unset ARC_PYTHON PYTHONHOME # the first is ours, not the daemon's; the second breaks a venv

# ---------------------------------------------------------------------------- finding a Python

# Prints "31300 3.13.0 /the/real/python" (sortable, readable, behind all links and venvs) or
# fails with the reason. Starts on any Python from 2.7 on, so that an old one can say so.
probe='
import os, sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("is Python %d.%d" % sys.version_info[:2])
import sysconfig
if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit("is not the standard build of CPython")
try:
    import ensurepip, sqlite3, ssl, venv
except ImportError as error:
    sys.exit("lacks a part of the standard library: %s" % error)
major, minor, micro = sys.version_info[:3]
number = major * 10000 + minor * 100 + micro
path = os.path.realpath(sys._base_executable)
print("%d %d.%d.%d %s" % (number, major, minor, micro, path))
'

candidates() { # every command that might be a Python, one a line
    local name root
    for name in python3.13 python3.12 python3.11 python3; do
        type -aP "$name" || true
    done
    if type -P pyenv >/dev/null; then
        root=$(pyenv root 2>/dev/null) || root=${PYENV_ROOT-}
        compgen -G "$root/versions/3.1[123].*/bin/python" || true
    fi
}

# Sets python and python_version to the newest candidate that works. A name on PATH proves
# nothing (pyenv puts stubs there that only fail), so each one is run.
find_python() {
    local candidate answer number version path best=0 refused=()
    while IFS= read -r candidate; do
        if answer=$("$candidate" -I -c "$probe" 2>&1 </dev/null) &&
            read -r number version path <<<"$answer" &&
            [[ $number =~ ^3[0-9]{4}$ && -x $path ]]; then
            if [ "$number" -gt "$best" ]; then
                best=$number python_version=$version python=$path
            fi
        else
            refused+=("$candidate: ${answer%%$'\n'*}")
        fi
    done < <(if [ -n "$wanted" ]; then type -P "$wanted" || echo "$wanted"; else candidates; fi)
    [ "$best" = 0 ] || return 0
    if [ -n "$wanted" ]; then
        die "ARC_PYTHON is set, but cannot be used" ${refused[@]+"${refused[@]}"} \
            "Set it to a working Python 3.11 to 3.13, or unset it."
    fi
    die "found no working Python 3.11 to 3.13" ${refused[@]+"${refused[@]}"} \
        "Install one, for example:  sudo apt install python3 python3-venv" \
        "                           brew install python@3.13" \
        "                           pyenv install 3.13" \
        "or name one that you have: ARC_PYTHON=/path/to/python ./start.sh setup"
}

# ------------------------------------------------------------------------- what is already there

# Run by the Python of venv/. Prints four lines: the folder that venv/ works in now; the Python
# behind it; a key of what `native` needs installed; one of what `test` needs; one of the kernels.
# A key changes with everything that it depends on. Time of change counts for the kernels, since
# Numba looks at it.
keys='
import hashlib, os, pathlib, platform, sys
def key(*parts):
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
def text(path):
    return pathlib.Path(path).read_text(encoding="utf-8")
def cpu():
    try:
        lines = text("/proc/cpuinfo").splitlines()
    except OSError:
        return platform.processor()
    return [line for line in dict.fromkeys(lines) if line.startswith(("model name", "flags"))]
base = os.path.realpath(sys._base_executable)
native = key(base, sys.version, text("pyproject.toml"), *(
    text("requirements/%s.txt" % name) for name in ("uv", "native")))
sources = sorted(pathlib.Path("ingest").glob("kernels/*.py"))
kernels = key(native, cpu(), *(
    (path, path.stat().st_mtime_ns, text(path)) for path in sources))
print(sys.prefix, base, native, key(native, *(
    text("requirements/%s.txt" % name) for name in ("dev", "pandas2"))), kernels, sep="\n")
'

# Reads the state of venv/. Fails when it is missing, was moved, or does not run.
read_venv() {
    local answer prefix
    [ -f "$state/home" ] && [ "$(<"$state/home")" = "$venv" ] || return 1
    answer=$("$venv/bin/python" -I -c "$keys" 2>/dev/null) || return 1
    { read -r prefix && read -r venv_python && read -r native_key && read -r dev_key &&
        read -r kernels_key; } <<<"$answer" || return 1
    [ "$prefix" = "$venv" ]
}

has() { # has NAME KEY: was step NAME done, for the same KEY?
    [ -f "$state/$1" ] && [ "$(<"$state/$1")" = "$2" ]
}

has_kernels() {
    has kernels "$kernels_key" && compgen -G 'ingest/kernels/__pycache__/*.nbi' >/dev/null
}

is_ready() { # is_ready native|dev
    read_venv || return 1
    case $1 in
    native) has native "$native_key" ;;
    dev) has dev "$dev_key" ;;
    esac && has_kernels
}

# --------------------------------------------------------------------------------------- set-up

step() { # step WHAT COMMAND...: silent unless it fails
    local what=$1 began=$SECONDS output
    shift
    printf '  %s ... ' "$what"
    if ! output=$("$@" 2>&1 </dev/null); then
        printf 'failed\n'
        printf '%s\n' "$output" | tail -n 25 >&2
        return 1
    fi
    printf 'done (%d s)\n' $((SECONDS - began))
}

# One set-up at a time. The lock is on this file, goes with the descriptor however we end, and
# needs no flock command (macOS has none).
lock_code='
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("  waiting for another start.sh to finish its set-up", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
'

make_venv() {
    if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
        die "$venv is in the way: it is not a virtual environment" "Move it away and run again."
    fi
    if [ -e "$venv" ]; then
        say "venv/ is of another Python, was moved, or is damaged: making it anew"
    fi
    step "making venv/ with Python $python_version" \
        "$python" -m venv --clear --prompt arc "$venv" ||
        die "could not make $venv" "Look at the lines above; is the disk full or read-only?"
    mkdir -p "$state"
    printf '%s\n' "$venv" >"$state/home"
    read_venv || die "$venv was made, but its Python does not run"
}

install() { # install native|dev
    local list=requirements/$1.txt
    rm -f "$state/native" "$state/dev" # an interrupted install is no install
    # pip's own index setting serves uv too; uv does not read it by itself.
    if [ -n "${PIP_INDEX_URL-}" ]; then
        export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX-$PIP_INDEX_URL}"
    fi
    step "installing uv" env PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 \
        "$venv/bin/python" -m pip install --require-hashes --only-binary :all: \
        --retries 2 -r requirements/uv.txt || die_of_network
    step "installing the packages of $list" \
        "$venv/bin/uv" pip install --python "$venv/bin/python" --require-hashes -r "$list" ||
        die_of_network
    step "installing arc" "$venv/bin/uv" pip install --python "$venv/bin/python" \
        --no-deps --no-build-isolation --reinstall-package arc --editable . ||
        die "could not install the project itself" "Look at the lines above."
    if [ "$1" = dev ]; then
        step "installing pandas 2 beside pandas 3" \
            "$venv/bin/uv" pip install --python "$venv/bin/python" --target "$venv/pandas2" \
            --no-deps --require-hashes -r requirements/pandas2.txt || die_of_network
    fi
    printf '%s\n' "$native_key" >"$state/native" # dev.txt holds all of native.txt
    if [ "$1" = dev ]; then printf '%s\n' "$dev_key" >"$state/dev"; fi
}

die_of_network() {
    die "could not install; the reason is in the lines above" \
        "If they speak of connections, DNS or certificates: the packages are neither in the local" \
        "cache nor to be had from the network. Check the connection and proxy (HTTPS_PROXY); for a" \
        "mirror set PIP_INDEX_URL; for certificates of your own set SSL_CERT_FILE. Then run again:" \
        "what is already there is kept."
}

# Compiles what Numba compiles, and imports what the daemon imports, so that bytecode is written
# here once, also where PYTHONDONTWRITEBYTECODE is set: 1.3 s an import becomes 0.5 s.
warm_up() {
    unset PYTHONDONTWRITEBYTECODE
    "$venv/bin/python" -m ingest.kernels &&
        "$venv/bin/python" -c 'import arc.cli, arc.template, arc.worker'
}

compile_kernels() {
    # Numba looks at the file of a kernel alone, and not at those that it takes helpers from.
    rm -f ingest/kernels/__pycache__/*.nb[ci]
    step "compiling the kernels (one or two minutes the first time)" warm_up ||
        die "could not compile the kernels of ingest/kernels" "Look at the lines above."
    printf '%s\n' "$kernels_key" >"$state/kernels"
}

# Leaves descriptor 9, the lock, open: the caller closes it.
set_up_locked() { # set_up_locked native|dev
    exec 9<"$home/start.sh"
    "$python" -I -c "$lock_code" || say "cannot lock (no locks on this disk?); going on without"
    if ! read_venv || { [ -n "$wanted" ] && [ "$venv_python" != "$python" ]; }; then
        make_venv
    fi
    case $1 in
    native) has native "$native_key" || install native ;;
    dev) has dev "$dev_key" || install dev ;;
    esac
    has_kernels || compile_kernels
}

set_up() { # set_up native|dev
    if [ -z "$wanted" ] && is_ready "$1"; then return; fi
    if [ -n "$wanted" ] || ! read_venv; then
        find_python
    else
        python=$venv/bin/python
    fi
    if [ -n "$wanted" ] && is_ready "$1" && [ "$venv_python" = "$python" ]; then return; fi
    echo "Setting up Arc in $home"
    set_up_locked "$1"
    exec 9<&-
    echo "Set up in $SECONDS s."
}

run_venv() { # run_venv ARGUMENT...: becomes the Python of venv/, so that signals reach it
    [ -x "$venv/bin/python" ] || die "not set up yet" "Run ./start.sh setup first."
    exec "$venv/bin/python" "$@"
}

# ------------------------------------------------------------------------------------- commands

command=${1-}
[ $# -eq 0 ] || shift
case $command in
native)
    set_up native
    run_venv -m arc serve "$@"
    ;;
setup)
    [ $# -eq 0 ] || die "setup takes no options, got: $*"
    set_up native
    echo "Ready. Run the daemon with: ./start.sh native"
    ;;
test)
    set_up dev
    # A process of its own takes seconds to begin, so that they pay for a whole run alone.
    if [ $# -eq 0 ]; then
        "$venv/bin/python" -m pytest -n auto
        # Fails when rows that it reads back are wrong, never for what it measures.
        say "a quick performance audit, to build/audit/findings.json"
        run_venv scripts/perf_audit.py --quick --output build/audit
    fi
    run_venv -m pytest "$@"
    ;;
stop | status)
    run_venv -m arc "$command" "$@"
    ;;
which-python)
    find_python
    printf '%s %s\n' "$python_version" "$python"
    ;;
'' | help | -h | --help)
    usage
    ;;
*)
    say "error: unknown command '$command'"
    usage >&2
    exit 2
    ;;
esac
