#!/usr/bin/env bash
# bash tools/gpu/pytest.sh PROCESSES WORDS...: the tests of a GPU that say right or wrong, side by side where pytest-xdist is.
at_once=$1; shift
PYTHON=${PYTHON:-python3}
side=(); [ "$at_once" -gt 1 ] && "$PYTHON" -c 'import xdist' 2>/dev/null && side=(-n "$at_once" --dist load)
marks='gpu and not slow'
"$PYTHON" -c 'import nvidia.dali' 2>/dev/null || { marks="$marks and not dali"; echo 'left out: the tests marked dali (no DALI here)'; }
CUBLAS_WORKSPACE_CONFIG=:4096:8 exec "$PYTHON" -m pytest -m "$marks" "${side[@]}" --no-header --tb=short "$@"
