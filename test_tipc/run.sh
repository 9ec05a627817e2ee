#!/usr/bin/env bash
# Calls tipc.py in the repository, with the active Python or else the one that make set up.
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python}
[ -n "${PYTHON:-}${VIRTUAL_ENV:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python
exec "$python" test_tipc/tipc.py "$@"
