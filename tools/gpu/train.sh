#!/usr/bin/env bash
# A real training on one GPU, in at most LIMIT seconds (300): CIFAR-100's teacher, its cache, students cached and live.
#   LIMIT=280 OUT=/tmp/out bash tools/gpu/train.sh       (after prove.sh; class sheets in .gpu/a and .gpu/b: prepare.sh)
. tools/gpu/common.sh
begin train 300
SHEETS=${SHEETS:-.gpu/a .gpu/b}
for folder in $SHEETS; do [ -d "$folder/train" ] || die "no class sheets in $folder: tools/gpu/prepare.sh SHEETS"; done
SCRATCH=${SCRATCH:-/dev/shm/gpu_train}; rm -rf "$SCRATCH"; mkdir -p "$SCRATCH"  # memory: no disk is waited for
DATA=$SCRATCH/data RUNS=$SCRATCH/runs CACHE=$SCRATCH/cache
TEACHER=${TEACHER:-resnet32x4} STUDENT=${STUDENT:-resnet8x4} EPOCHS=${EPOCHS:-240} COMPILE=${COMPILE:-graph}
BASE="dataset=cifar100 data.root=$DATA run.dir=$RUNS runtime.device=$DEVICE runtime.compile=$COMPILE
  runtime.amp=${AMP:-bf16} log.tensorboard=false run.log_every=200"
KD="teacher.model=$TEACHER student.model=$STUDENT method=kd teacher.checkpoint=$RUNS/teacher"

run() {  # NAME SECONDS WORDS...
  local name=$1 most=$2; shift 2
  limited "$name" "$most" "$PYTHON" pipeline/train.py $BASE run.name="$name" "$@"
  local code=$? found=$RUNS/$name/metrics.jsonl
  if [ -f "$found" ]; then cp "$found" "$LOGS/$name.jsonl"; echo "$name | last epoch | $(tail -n 1 "$found")" >> "$LOGS/lines"; fi
  return $code
}

finish() { table; exit 1; }

# shellcheck disable=SC2086
limited unpack 60 "$PYTHON" tools/gpu/unpack.py "$DATA" $SHEETS || finish
run teacher 90 method=vanilla model="$TEACHER" optim.epochs="${TEACHER_EPOCHS:-40}" optim.schedule=cosine run.eval_every=10 || finish
# shellcheck disable=SC2086
limited cache 60 "$PYTHON" data_prep/cache_teacher.py $BASE $KD cache.out="$CACHE" cache.views="${VIEWS:-24}" cache.dtype=fp16 \
  && run cached 150 $KD teacher.source=cached teacher.cache="$CACHE" optim.epochs="$EPOCHS" run.eval_every=5
run live 60 $KD optim.epochs="$EPOCHS" run.limit_steps="${LIVE_STEPS:-30000}" run.eval_every=20
table
