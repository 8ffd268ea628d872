#!/usr/bin/env bash
# Lays out, in the repository's root, what a bare GPU machine (torch and its companions, no network) lacks; git ignores it:
#   .whl/   wheels of the project's other requirements, for CPython 3.12 (TARGET=3.11 for another) on x86-64 Linux
#   .gpu/   prove.sh, train.sh, probe.py, unpack.py, which call tools/gpu, and CIFAR-100's class sheets in halves a/ and b/
#   bash tools/gpu/prepare.sh [SHEETS]        SHEETS (or the variable): a folder with train/CLASS.webp and test/CLASS.webp
set -euo pipefail
PYTHON=${PYTHON:-python3} TARGET=${TARGET:-3.12} SHEETS=${1:-${SHEETS:-}}
[ -z "$SHEETS" ] || SHEETS=$(realpath -m "$SHEETS")
cd "$(dirname "$0")/../.."
mkdir -p .gpu .whl

for name in prove train; do
  printf '#!/usr/bin/env bash\nexec bash tools/gpu/%s.sh "$@"\n' $name > .gpu/$name.sh
done
for name in probe unpack; do
  printf 'import runpy\n\nrunpy.run_path("tools/gpu/%s.py", run_name="__main__")\n' $name > .gpu/$name.py
done

if [ -d "$SHEETS/train" ] && [ -d "$SHEETS/test" ]; then
  names=("$SHEETS"/train/*.webp); names=("${names[@]##*/}")
  rm -rf .gpu/a .gpu/b
  for split in train test; do
    mkdir -p .gpu/a/$split .gpu/b/$split
    (here=$PWD; cd "$SHEETS/$split"; cp "${names[@]:0:50}" "$here/.gpu/a/$split"; cp "${names[@]:50}" "$here/.gpu/b/$split")
  done
else
  echo "left out: the real training (train.sh), for which no class sheets are given${SHEETS:+ in $SHEETS}"
fi

if [ -n "${SKIP_WHEELS:-}" ]; then exit; fi
rm -rf .whl; mkdir .whl
"$PYTHON" tools/gpu/wheels.py > .whl/wanted.txt
"$PYTHON" -m pip download -q --only-binary=:all: --python-version "$TARGET" --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
  -d .whl -r .whl/wanted.txt
rm -f .whl/numpy-*  # what some of them ask for, and torch brings
du -sh .gpu .whl
