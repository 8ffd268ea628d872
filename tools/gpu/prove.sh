#!/usr/bin/env bash
# Proves one GPU right and then measures it, in at most LIMIT seconds (525). A table comes last; logs under $OUT.
#   LIMIT=440 OUT=/tmp/out bash tools/gpu/prove.sh       (in the repository's root; see README.md beside this file)
. tools/gpu/common.sh
begin prove 525

stage() { limited "$1" "$2" "$PYTHON" tools/gpu/probe.py "$1" --device "$DEVICE"; }  # NAME SECONDS
suite() {  # NAME SECONDS PROCESSES WORDS...
  local name=$1 most=$2 at_once=$3; shift 3
  limited "$name" "$most" bash tools/gpu/pytest.sh "$at_once" "$@"
  grep -E '^(FAILED|ERROR) ' "$LOGS/$name.log" | cut -c1-190 >> "$LOGS/lines"
}

[ "$DEVICE" = cpu ] || nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,memory.used --format=csv,noheader
# 1 Correctness, what is cheap and tells most first. A failure ends its stage only.
stage env 25; stage parity 40; stage tolerance 30; stage cache 40
[ "$DEVICE" = cpu ] || suite t_bits 70 5 tests/gpu --ignore=tests/gpu/test_probes.py \
  --ignore=tests/gpu/test_failed_captures.py -k 'not every_capturable and not a_training_in'
stage graphs 45; stage stream 25; stage ddp 30
[ "$DEVICE" = cpu ] || suite t_failures 60 1 tests/gpu/test_failed_captures.py
# 2 Speed, most wanted first.
stage speed 150; stage micro 60
# 3 What compiles long.
stage resnet50 80; stage speed_fused 130
[ "$DEVICE" = cpu ] || suite t_methods 100 8 tests/gpu/test_graph_gpu.py -k 'every_capturable or a_training_in'
stage fused 150
[ "$DEVICE" = cpu ] || nvidia-smi --query-gpu=clocks.sm,temperature.gpu,power.draw --format=csv,noheader >> "$LOGS/lines"
table
