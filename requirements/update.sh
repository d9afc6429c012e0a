#!/usr/bin/env bash
# Writes the hash-pinned lists of packages anew from pyproject.toml and the .in files here.
# Pins are kept where they still fit; pass --upgrade, or --upgrade-package NAME, to move them.
# In: venv/ with uv in it (./start.sh setup). Out: uv.txt, dev.txt, native.txt, pandas2.txt.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

compile() { # compile OUTPUT ARGUMENT...
    local output=$1
    shift
    "${ARC_UV:-venv/bin/uv}" pip compile --quiet --universal --python-version 3.11 \
        --generate-hashes --no-emit-index-url --no-emit-find-links \
        --custom-compile-command requirements/update.sh \
        --output-file "requirements/$output" "$@"
}

compile uv.txt requirements/uv.in "$@"
compile pandas2.txt requirements/pandas2.in --no-deps "$@"
compile dev.txt pyproject.toml requirements/build.in --extra dev "$@"
# A subset of dev.txt: the same pins, so that one venv/ serves both.
compile native.txt pyproject.toml requirements/build.in \
    --extra bench --extra examples --extra profile \
    --constraint requirements/dev.txt "$@"

if grep -n '://' requirements/*.txt; then
    echo "requirements/update.sh: an address got into a list (see above); remove it" >&2
    exit 1
fi
