#!/usr/bin/env bash
# make test-gpu: tests/gpu for correctness on one GPU, in at most LIMIT seconds (300), with $PYTHON as it is found.
. tools/gpu/common.sh
ready
START=$SECONDS END=${LIMIT:-300} BAD=0

suite() {  # PROCESSES WORDS...
  local most; most=$(left); [ "$most" -gt 0 ] || most=1
  timeout -k 5 "$most" bash tools/gpu/pytest.sh "$@"
  local code=$?
  [ $code != 124 ] || echo "error: not done after $END s (LIMIT=SECONDS allows more)" >&2
  [ $code = 0 ] || BAD=$code
}

# Captures that are made to fail come last, and in a process of their own: one could spoil what other tests meet.
suite 4 --durations=5 tests/gpu --ignore=tests/gpu/test_failed_captures.py
suite 1 tests/gpu/test_failed_captures.py
exit $BAD
