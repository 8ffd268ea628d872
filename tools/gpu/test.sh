#!/usr/bin/env bash
# make test-gpu: tests/gpu for correctness on one GPU, in at most LIMIT seconds (300), with $PYTHON as it is found.
. tools/gpu/common.sh
ready
timeout -k 5 "${LIMIT:-300}" bash tools/gpu/pytest.sh 4 --durations=5
code=$?
[ $code != 124 ] || echo "error: not done after ${LIMIT:-300} s (LIMIT=SECONDS allows more)" >&2
exit $code
