#!/bin/sh
# Software GPU drivers for the tests, on Debian 12 or later: no GPU is needed to check the shaders.
#
#   tests/drivers.sh                      install what is missing, then run the tests of the runtime on every driver
#   tests/drivers.sh install              install or unpack what is missing (root for the Mesa packages)
#   tests/drivers.sh list                 the names of the drivers
#   tests/drivers.sh env DRIVER           print the `export` lines that select DRIVER: eval "$(tests/drivers.sh env swiftshader)"
#   tests/drivers.sh DRIVER COMMAND...    run COMMAND with nothing but DRIVER
#
# DRIVER             from                                              selected by
# lavapipe-vulkan    mesa-vulkan-drivers, libvulkan1                   VK_DRIVER_FILES = Mesa's lvp_icd.*.json, no EGL vendor
# lavapipe-gl        libegl1, libegl-mesa0, libgl1-mesa-dri            VK_DRIVER_FILES = nothing, LIBGL_ALWAYS_SOFTWARE, surfaceless EGL
# swiftshader        chromium-common (unpacked, not installed),        VK_DRIVER_FILES = an ICD file with an absolute path, no EGL
#                    libvulkan1                                        vendor
#
# What is unpacked goes to $IDARTS_CACHE/drivers (default ~/.cache/idarts-compile/drivers).
set -eu

cache="${IDARTS_CACHE:-$HOME/.cache/idarts-compile}/drivers"
packages="mesa-vulkan-drivers libvulkan1 libegl1 libegl-mesa0 libgl1-mesa-dri"

fail() {
    echo "drivers.sh: $*" >&2
    exit 1
}

lavapipe_icd() {
    for file in /usr/share/vulkan/icd.d/lvp_icd*.json; do
        [ -e "$file" ] && echo "$file" && return
    done
    fail "lavapipe is missing; run tests/drivers.sh install"
}

installed() {
    for package in $packages; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || return 1
    done
}

unpack_swiftshader() {
    [ -e "$cache/swiftshader/icd.json" ] && return
    work="$cache/unpack.$$"
    rm -rf "$work"
    mkdir -p "$work"
    (cd "$work" && apt-get -o APT::Sandbox::User=root download -qq chromium-common >/dev/null) || fail "chromium-common cannot be downloaded"
    (cd "$work" && dpkg-deb --fsys-tarfile chromium-common_*.deb | tar -x ./usr/lib/chromium/libvk_swiftshader.so) ||
        fail "chromium-common holds no libvk_swiftshader.so"
    mkdir -p "$cache/swiftshader"
    mv "$work/usr/lib/chromium/libvk_swiftshader.so" "$cache/swiftshader/"
    printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.1.0"}}\n' \
        "$cache/swiftshader/libvk_swiftshader.so" >"$cache/swiftshader/icd.json"
    rm -rf "$work"
}

install() {
    if ! installed || [ ! -e "$cache/swiftshader/icd.json" ]; then
        apt-get update -qq
    fi
    # shellcheck disable=SC2086 # a list of words
    installed || apt-get install -y -qq --no-install-recommends $packages >/dev/null
    unpack_swiftshader
}

# EGL and Wayland complain without a private folder for sockets.
runtime_dir() {
    mkdir -p "$cache/run"
    chmod 700 "$cache/run"
    echo "export XDG_RUNTIME_DIR='$cache/run'"
}

# VK_ICD_FILENAMES is what Vulkan loaders before 1.3.207 read.
vulkan_only() {
    echo "export VK_DRIVER_FILES='$1' VK_ICD_FILENAMES='$1'"
    echo "export __EGL_VENDOR_LIBRARY_FILENAMES=/dev/null"
}

print_env() {
    runtime_dir
    case "$1" in
    lavapipe-vulkan)
        icd=$(lavapipe_icd)
        vulkan_only "$icd"
        ;;
    lavapipe-gl)
        vendor=/usr/share/glvnd/egl_vendor.d/50_mesa.json
        [ -e "$vendor" ] || fail "Mesa's EGL is missing; run tests/drivers.sh install"
        echo "export VK_DRIVER_FILES=/dev/null VK_ICD_FILENAMES=/dev/null"
        echo "export __EGL_VENDOR_LIBRARY_FILENAMES='$vendor' EGL_PLATFORM=surfaceless LIBGL_ALWAYS_SOFTWARE=1"
        ;;
    swiftshader)
        [ -e "$cache/swiftshader/icd.json" ] || fail "SwiftShader is missing; run tests/drivers.sh install"
        vulkan_only "$cache/swiftshader/icd.json"
        ;;
    *) fail "unknown driver '$1'; known are: $(list | tr '\n' ' ')" ;;
    esac
}

list() {
    printf '%s\n' lavapipe-vulkan lavapipe-gl swiftshader
}

# Runs "$@" with nothing but driver $1. A subshell, so that the next driver starts from the same environment.
with_driver() (
    lines=$(print_env "$1")
    eval "$lines"
    shift
    exec "$@"
)

test_all() {
    install
    failed=''
    for driver in $(list); do
        echo "== $driver"
        # Nothing may be skipped: the driver is there.
        with_driver "$driver" env IDARTS_REQUIRE_ALL=1 cargo test --locked --lib runtime:: || failed="$failed $driver"
        if [ -n "${IDARTS_ONNX_CASES:-}" ]; then
            with_driver "$driver" cargo test --locked --test conformance -- --nocapture || failed="$failed $driver"
        fi
    done
    [ -z "$failed" ] || fail "tests failed on:$failed"
}

case "${1:-}" in
'') test_all ;;
install) install ;;
list) list ;;
env)
    [ $# -eq 2 ] || fail "usage: tests/drivers.sh env DRIVER"
    print_env "$2"
    ;;
*)
    [ $# -ge 2 ] || fail "usage: tests/drivers.sh [install | list | env DRIVER | DRIVER COMMAND...]"
    with_driver "$@"
    ;;
esac
