#!/usr/bin/env bash
# Tests and times the CUDA core on the GPU of this machine: correctness first, and no timing without it. Needs nvcc,
# CMake, Ninja and g++, and nothing else; ends within eight minutes.
#   bench/cuda.sh [RESULTS.json]
# prints tables with the device's name, and writes all figures to RESULTS.json (build/cuda-gpu/results.json). Where
# `npm run pack:cuda-demo` has been run, and its folder carried here, or the package is built and Node is there, the
# embedded model must also write on the GPU what it writes on the CPU (bench/cuda-demo.mjs).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=build/cuda-gpu
results=${1:-$folder/results.json}
deadline=$((SECONDS + 470))

for tool in nvcc cmake ninja g++; do
  command -v "$tool" >/dev/null || { echo "cuda.sh: $tool is not on the PATH" >&2; exit 1; }
done

# Runs a command in what is left of the eight minutes.
within() {
  local left=$((deadline - SECONDS))
  [ "$left" -gt 0 ] || { echo "cuda.sh: no time left for $1" >&2; return 124; }
  timeout "$left" "$@"
}

mkdir -p "$folder" "$(dirname "$results")"
build() { # SOURCE FOLDER TARGET ...
  local source=$1 target=$2
  shift 2
  within cmake -S "$source" -B "$target" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CUDA_ARCHITECTURES=native
  within cmake --build "$target" --target "$@"
}
{
  build cuda/test "$folder/kernels" flrc_cuda_test flrc_cuda_bench
  build cuda "$folder/engine" flrc_cuda flrc_cuda_engine
} >"$folder/build.log" 2>&1 || { tail -n 40 "$folder/build.log" >&2; exit 1; }
echo "built in $SECONDS s"

within "$folder/kernels/flrc_cuda_test" | tee "$folder/test.txt"

within "$folder/kernels/flrc_cuda_bench" "$folder/kernels.json" | tee "$folder/kernels.txt"
# It goes on without steps in one launch where these give something else, and says so.
failed=0
within "$folder/engine/flrc_cuda_engine" "$folder/engine.json" | tee "$folder/engine.txt" || failed=1
{
  printf '{\n"nvcc": "%s",\n"kernels": ' "$(nvcc --version | sed -n 's/.*release \([^,]*\).*/\1/p')"
  cat "$folder/kernels.json"
  printf ',\n"engine": '
  cat "$folder/engine.json"
  printf '}\n'
} >"$results"
echo "wrote $results"

# Last of what must be right, for all figures are there by now whatever comes of it.
demo=
if [ -x build/cuda-demo/run.sh ]; then
  demo=build/cuda-demo/run.sh
elif command -v node >/dev/null && [ -f dist/index.js ] && [ -f build/Release/flrc.node ]; then
  demo='node bench/cuda-demo.mjs'
fi
if [ -n "$demo" ]; then
  plugin=$(find "$PWD/$folder/engine" -name flrc_cuda.so | head -n 1)
  # shellcheck disable=SC2086
  FLRC_BACKEND_PATH=$plugin within $demo | tee "$folder/demo.txt" || failed=1
fi

# What time is left goes to NVIDIA's own checks, where the machine has them.
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    status=0
    within compute-sanitizer --tool "$tool" --error-exitcode 99 "$folder/kernels/flrc_cuda_test" \
      >"$folder/$tool.txt" 2>&1 || status=$?
    case $status in
      0) echo "$tool: clean" ;;
      124) echo "$tool: not finished in the time that was left" ;;
      *) echo "$tool: exit status $status, see $folder/$tool.txt" ;;
    esac
  done
fi
exit "$failed"
