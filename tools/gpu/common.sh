# Sourced by the scripts beside it, in the repository's root: wheels, a GPU, time that is left, logs, the table at the end.
# PATIENCE: factor of each stage's limit, for slow machines. PYTHON: interpreter (python3). DEVICE: cuda, or cpu to try out.
# OUT: where lines-NAME and logs-NAME.tgz go.
PYTHON=${PYTHON:-python3} DEVICE=${DEVICE:-cuda} OUT=${OUT:-/tmp/gpu_out}
WHEELS=${WHEELS:-.whl}
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
# Compiled code in memory, and kept from stage to stage.
CODE=/dev/shm; [ -d $CODE ] || CODE=/tmp
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$CODE/inductor} TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$CODE/triton}

die() { echo "error: $1" >&2; exit 2; }

# What the interpreter lacks, from WHEELS (.whl: prepare.sh); then whether all is there that the project needs, and a GPU.
ready() {
  [ -f tools/gpu/probe.py ] || die 'start it in the root of the repository'
  command -v "$PYTHON" > /dev/null || die "there is no $PYTHON"
  if ls "$WHEELS"/*.whl > /dev/null 2>&1 && ! "$PYTHON" tools/gpu/check.py --device cpu 2> /dev/null; then
    # Of this interpreter and these wheels: the next script finds it.
    local site; site=${TMPDIR:-/tmp}/gpu_site-$("$PYTHON" -V | tr -cd 0-9.)-$(ls "$WHEELS" | cksum | cut -d ' ' -f 1)
    if [ ! -d "$site" ]; then
      rm -rf "$site.part"
      "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site.part" "$WHEELS"/*.whl \
        && mv "$site.part" "$site" || die "the wheels in $WHEELS cannot be installed"
    fi
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
  fi
  "$PYTHON" tools/gpu/check.py --device "$DEVICE" || exit 2
}

# begin NAME SECONDS: LIMIT seconds from here, SECONDS where that is not given.
begin() {
  NAME=$1 START=$SECONDS END=${LIMIT:-$2} BAD=0
  LOGS=${LOGS:-/tmp/gpu_logs}/$NAME
  rm -rf "$LOGS"; mkdir -p "$LOGS" "$OUT"; : > "$LOGS/lines"
  ready
}

left() { echo $((END - (SECONDS - START))); }

# At most eight files come back from some machines: all logs go into one archive, after each stage.
keep() { cp "$LOGS/lines" "$OUT/lines-$NAME"; tar czf "$OUT/logs-$NAME.tgz" -C "$LOGS" .; }

say() { echo "$1" | tee -a "$LOGS/lines"; }

# limited NAME SECONDS COMMAND...: output to a log; a line with its code and time; the code. Its own limit, or what is left.
limited() {
  local name=$1 most=$(($2 * ${PATIENCE:-1})) began=$SECONDS code=0 word=ok; shift 2
  [ "$(left)" -ge "$most" ] || most=$(left)
  if [ "$most" -lt "${LEAST:-5}" ]; then say "$name | left out, no time"; keep; return 0; fi
  OUT=$LOGS timeout -k 5 "$most" "$@" > "$LOGS/$name.log" 2>&1 || code=$?
  case $code in 0) ;; 124|137) word="FAILED, ended after $most s" ;; *) word=FAILED ;; esac
  [ "$code" = 0 ] || BAD=$((BAD + 1))
  [ "$code" = 0 ] || word="$word: $(tail -n 1 "$LOGS/$name.log" | cut -c1-100)"
  say "$name | the whole | code $code, $((SECONDS - began)) s | $word"
  keep; return "$code"
}

# What FAILED first, then all; the exit code says whether anything did.
table() {
  echo; echo "== $NAME: $((SECONDS - START)) s =="
  grep -E 'FAILED|ERROR' "$LOGS/lines" | cut -c1-200
  echo '--'; cut -c1-200 "$LOGS/lines"; keep
  if [ $BAD -gt 0 ]; then exit 1; fi
}
