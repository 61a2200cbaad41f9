#!/bin/sh
# Makes a virtual environment for the Makefile. Needs Python 3.11 or newer with venv, and a network.
#
#   scripts/venv.sh DIRECTORY [GROUP …]            the project, and groups of pyproject.toml: `test` and `lint` unless given
#   scripts/venv.sh DIRECTORY --no-groups          the project and what it needs to serve, with pip's progress
#   scripts/venv.sh DIRECTORY --packages NAME …    these packages alone, without the project
#
# PYTHON in the environment names the interpreter; else the first good one is taken.
set -eu

venv=${1:?usage: scripts/venv.sh DIRECTORY [GROUP … | --no-groups | --packages NAME …]}
shift
[ $# -gt 0 ] || set -- test lint
cd "$(dirname "$0")/.."

usable() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for each in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if usable "$each"; then
            echo "$each"
            return
        fi
    done
    {
        echo "Python 3.11 or newer, with venv, is needed and was not found${PYTHON:+ as $PYTHON}."
        echo "Debian, Ubuntu: apt install python3 python3-venv. Elsewhere: make PYTHON=/path/to/python3.11"
    } >&2
    return 1
}

pip() {
    # setuptools warns of editable installs, which is what a clone wants
    PYTHONWARNINGS=ignore "$venv/bin/python" -m pip --disable-pip-version-check "$@"
}

if [ ! -e "$venv/.installed" ]; then # made now, or made again when an earlier attempt was cut short
    python=$(find_python)
    echo "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi

case $1 in
--no-groups)
    echo "installing realtime-cluster and the packages that it needs into $venv, once"
    pip install --editable . # not --quiet: each package is named while it comes
    ;;
--packages)
    shift
    echo "installing $* into $venv"
    pip --quiet install "$@"
    ;;
*)
    echo "installing realtime-cluster and what is in $* into $venv"
    # pip 25.1 is the first that reads [dependency-groups]. Where it cannot be had, they are read here.
    pip --quiet install --upgrade 'pip>=25.1' || echo "pip stays as it is" >&2
    if "$venv/bin/python" -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (25, 1))'; then
        pip --quiet install --editable . $(printf -- '--group %s ' "$@")
    else
        "$venv/bin/python" -c 'import sys, tomllib
groups = tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]
for name in sys.argv[1:]:
    print(*groups[name], sep="\n")' "$@" >"$venv/tools.txt"
        pip --quiet install --editable . --requirement "$venv/tools.txt"
    fi
    ;;
esac
touch "$venv/.installed"
