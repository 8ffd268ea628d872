#!/bin/sh
# Builds and installs FFCV: setup/ffcv.sh PYTHON (the interpreter of the environment to install into).
#
# FFCV is published as source only and asks for the whole of OpenCV (libopencv-dev takes 93 s and 687 MB on Debian 12),
# but needs two of its libraries (7 s). Two hand-written files, there for the time of the build, tell it so.
# Missing system packages are installed by apt-get as root; otherwise they are listed and nothing is done.
# Its requirement opencv-python needs a display's libraries: opencv-python-headless, the same without, takes its place.
set -eu
python=$1
constraints=$(dirname "$0")/../constraints.txt
export DEBIAN_FRONTEND=noninteractive

installed() {
    "$python" -c '
import ctypes, importlib.util, pathlib
folder = pathlib.Path(importlib.util.find_spec("ffcv").origin).parent
ctypes.CDLL(str(next(folder.glob("_libffcv*.so"))))' 2>/dev/null
}

opencv_headers() { pkg-config --cflags opencv4 2>/dev/null || echo -I/usr/include/opencv4; }

has_header() { echo "#include <$1>" | g++ -x c++ -E $(opencv_headers) - >/dev/null 2>&1; }

missing() {
    command -v g++ >/dev/null || echo g++
    command -v pkg-config >/dev/null || echo pkg-config
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    [ -f "$include/Python.h" ] || echo python3-dev
    has_header turbojpeg.h || echo libturbojpeg0-dev
    has_header opencv2/core.hpp || echo libopencv-core-dev
    has_header opencv2/imgproc.hpp || echo libopencv-imgproc-dev
}

get_packages() {
    # One line; the names hold no blanks.
    wanted=$(missing | tr '\n' ' ')
    [ -n "$wanted" ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "error: FFCV cannot be built without these system packages (names of Debian): $wanted" >&2
        echo "as root: apt-get install --no-install-recommends $wanted" >&2
        exit 2
    fi
    echo "apt-get install $wanted"
    {
        apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted
    } </dev/null >"$build/apt.log" 2>&1 || { cat "$build/apt.log" >&2; exit 1; }
    still=$(missing | tr '\n' ' ')
    [ -z "$still" ] || { echo "error: $still installed, but not found by the compiler" >&2; exit 1; }
}

describe_opencv() {
    pkg-config --exists opencv4 && return 0
    mkdir -p "$build/include/opencv2"
    printf '#include "opencv2/core.hpp"\n#include "opencv2/imgproc.hpp"\n' >"$build/include/opencv2/opencv.hpp"
    cat >"$build/opencv4.pc" <<END
Name: OpenCV
Description: core and imgproc
Version: 4
Libs: -lopencv_imgproc -lopencv_core
Cflags: -I$build/include $(opencv_headers)
END
    export PKG_CONFIG_PATH="$build${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
}

# The versions of constraints.txt, but the torch that is there: another one would replace a build for its CUDA.
pinned() {
    there=$("$python" -m pip freeze --disable-pip-version-check | grep -E '^torch(vision)?==') || return 0
    { grep -vE '^torch(vision)?==' "$constraints"; echo "$there"; } >"$build/constraints.txt"
    constraints=$build/constraints.txt
}

run_pip() {
    action=$1
    shift
    "$python" -m pip "$action" --quiet --disable-pip-version-check --constraint "$constraints" "$@" </dev/null
}

installed && exit 0
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
get_packages
describe_opencv
pinned
run_pip download --no-deps --no-binary ffcv --dest "$build" ffcv
tar -xzf "$build"/ffcv-*.tar.gz -C "$build"
sed -i "s/'opencv-python'/'opencv-python-headless'/" "$build"/ffcv-*/setup.py
run_pip install "$build"/ffcv-*/
installed || { echo "error: FFCV was installed, but its library cannot be loaded" >&2; exit 1; }
