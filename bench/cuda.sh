#!/usr/bin/env bash
# Tests and times the CUDA core on the GPU of this machine. Needs nvcc, CMake, Ninja and g++, and nothing else; ends
# within eight minutes.
#   bench/cuda.sh [RESULTS.json]
# Correctness comes first: a part is timed only where the tests of all that it times have passed. Every test and every
# part has a process and a time limit of its own, so that one which faults or hangs takes no other with it. Prints
# tables, then what has failed, and writes all to RESULTS.json (build/cuda-gpu/results.json) whatever has failed; the
# exit status is 1 where anything has. Where `npm run pack:cuda-demo` has been run, and its folder carried here, or the
# package is built and Node is there, the embedded model must also write on the GPU what it writes on the CPU
# (bench/cuda-demo.mjs).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=build/cuda-gpu
results=${1:-$folder/results.json}
tests=$folder/kernels/flrc_cuda_test bench=$folder/kernels/flrc_cuda_bench
engine=$folder/engine/flrc_cuda_engine plugin=$folder/engine/flrc_cuda.so

for tool in nvcc cmake ninja g++; do
  command -v "$tool" >/dev/null || { echo "cuda.sh: $tool is not on the PATH" >&2; exit 1; }
done
# Nothing of an earlier run is to be taken for what this one could not build.
rm -rf "$folder"/logs "$folder"/*.lines "$tests" "$bench" "$engine" "$plugin"
mkdir -p "$folder/logs" "$(dirname "$results")"

# Seconds after which no test, no timing of kernels or of models, and nothing at all goes on, so that what hangs leaves
# time for what comes after it.
tests_end=240 kernels_end=340 engine_end=440 end=470
# Kernels that wait for each other in vain give up after 30 seconds themselves. Who does not end when told to is killed
# a little later.
test_limit=25 part_limit=60 mercy=5
failures=()

# Runs a command for so many seconds at most, and until the time `deadline`. Sets `outcome`: passed, failed, faulted (it
# crashed, or CUDA reported an error), timed out, or that there was no time, or not enough of it; and `took`, seconds.
attempt() { # LIMIT LOG COMMAND ...
  local limit=$1 log=$2 left=$((deadline - SECONDS)) begin=$SECONDS status=0 late='timed out'
  shift 2
  [ "$left" -ge "$limit" ] || limit=$left late='no time left'
  took=0
  if [ "$limit" -le 0 ]; then
    outcome='no time left'
    : >"$log"
    return
  fi
  timeout -k "$mercy" "$limit" "$@" >"$log" 2>&1 </dev/null || status=$?
  took=$((SECONDS - begin))
  if [ "$status" -eq 0 ]; then
    outcome=passed
  elif [ "$status" -eq 124 ] || { [ "$status" -eq 137 ] && [ "$took" -ge "$limit" ]; }; then
    outcome=$late
  elif [ "$status" -gt 128 ] || grep -q 'CUDA: ' "$log"; then
    outcome=faulted
  else
    outcome=failed
  fi
}

json() { # TEXT
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

# What has failed is said at the end once more, and makes the exit status.
fails() { # WHAT LOG
  failures+=("$1")
  tail -n 12 "$2" | sed 's/^/    /'
}

# The log's name of a test or part.
log_of() { # NAME
  echo "$folder/logs/${1//[^a-zA-Z0-9]/-}.txt"
}

build() { # NAME SOURCE FOLDER TARGET ...
  local log
  log=$(log_of "build $1")
  attempt 200 "$log" bash -c 'cmake -S "$0" -B "$1" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CUDA_ARCHITECTURES=native &&
    cmake --build "$1" --target "${@:2}"' "${@:2}"
  echo "build of $1: $outcome, $took s"
  builds+="${builds:+, }$(json "$1"): $(json "$outcome")"
  [ "$outcome" = passed ] || fails "build of $1: $outcome" "$log"
}

# What each suite's tests came to: passed, or how many of them what. A suite is what test names have before the colon.
declare -A suites=()
run_tests() {
  local names name suite log order=() json_of=()
  declare -A count=() hung=() listed=()
  mapfile -t names < <("$tests" --names)
  for name in "${names[@]}"; do
    suite=${name%%: *}
    [ -n "${listed[$suite]:-}" ] || order+=("$suite")
    log=$(log_of "test $name")
    # Where one hangs, others of its suite are likely to, and there is no time for that.
    if [ -n "${hung[$suite]:-}" ]; then
      outcome='not run' took=0
    else
      attempt "$test_limit" "$log" "$tests" "$name"
    fi
    [ "$outcome" != 'timed out' ] || hung[$suite]=1
    count[$suite,$outcome]=$((${count[$suite,$outcome]:-0} + 1))
    listed[$suite]+="${listed[$suite]:+,}
   {\"name\": $(json "$name"), \"outcome\": $(json "$outcome"), \"seconds\": $took}"
    case $outcome in
      passed | 'not run') ;;
      *)
        echo "$name: $outcome"
        fails "test \"$name\": $outcome" "$log"
        ;;
    esac
  done
  for suite in "${order[@]}"; do
    local summary=''
    for outcome in passed failed faulted 'timed out' 'no time left' 'not run'; do
      [ -z "${count[$suite,$outcome]:-}" ] || summary+="${summary:+, }${count[$suite,$outcome]} $outcome"
    done
    [[ $summary =~ ^[0-9]+\ passed$ ]] && suites[$suite]=passed || suites[$suite]=$summary
    printf '%-32s %s\n' "$suite" "$summary"
    json_of+=("
  {\"suite\": $(json "$suite"), \"outcome\": $(json "$summary"), \"tests\": [${listed[$suite]}]}")
  done
  local IFS=,
  suites_json=${json_of[*]}
}

# Why a part is not timed: the first of its suites that has not passed.
obstacle() { # SUITES
  local suite needs
  IFS=, read -ra needs <<<"$1"
  for suite in "${needs[@]}"; do
    case ${suites[$suite]:-} in
      passed) ;;
      '') echo "$suite has not been tested" && return ;;
      *) echo "its tests failed ($suite: ${suites[$suite]})" && return ;;
    esac
  done
}

# Times the parts of a program. Sets `parts_json`; rows go to NAME.lines.
run_parts() { # NAME PROGRAM
  local part needs reason log
  parts_json=
  : >"$folder/$1.lines"
  [ -x "$2" ] || return 0
  while IFS=$'\t' read -r part needs; do
    log=$(log_of "$1 $part")
    reason=$(obstacle "$needs")
    if [ -n "$reason" ]; then
      outcome="not timed: $reason"
      echo "$part: $outcome"
    else
      attempt "$part_limit" "$log" "$2" "$part" "$folder/$1.lines"
      cat "$log"
      if [ "$outcome" = passed ]; then
        outcome=timed
      else
        echo "$part: $outcome"
        fails "$1, $part: $outcome" "$log" >/dev/null
      fi
    fi
    parts_json+="${parts_json:+,}
   {\"part\": $(json "$part"), \"outcome\": $(json "$outcome")}"
  done < <("$2")
}

rows_of() { # NAME
  [ ! -f "$folder/$1.lines" ] || sed 's/^/   /; $!s/$/,/' "$folder/$1.lines"
}

# After each step: whoever stops this has what there is.
builds='' suites_json='' kernels_json='' engine_json='' demo_outcome='not run' checks=''
write_results() {
  cat >"$results.new" <<END
{
 "nvcc": $(json "$(nvcc --version | sed -n 's/.*release \([^,]*\).*/\1/p')"),
 "builds": {$builds},
 "suites": [$suites_json],
 "kernels": {"parts": [$kernels_json],
  "rows": [
$(rows_of kernels)
 ]},
 "engine": {"parts": [$engine_json],
  "rows": [
$(rows_of engine)
 ]},
 "demo": $(json "$demo_outcome"),
 "checks": {$checks}
}
END
  mv "$results.new" "$results"
}

deadline=$tests_end
build tests cuda/test "$folder/kernels" flrc_cuda_test
build kernels cuda/test "$folder/kernels" flrc_cuda_bench
build engine cuda "$folder/engine" flrc_cuda flrc_cuda_engine
[ ! -x "$tests" ] || run_tests
write_results

deadline=$kernels_end
run_parts kernels "$bench"
kernels_json=$parts_json
write_results

deadline=$engine_end
run_parts engine "$engine"
engine_json=$parts_json
write_results

deadline=$end
demo=()
if [ -x build/cuda-demo/run.sh ]; then
  demo=(build/cuda-demo/run.sh)
elif command -v node >/dev/null && [ -f dist/index.js ] && [ -f build/Release/flrc.node ]; then
  demo=(node bench/cuda-demo.mjs)
fi
if [ "${#demo[@]}" -gt 0 ]; then
  log=$(log_of demo)
  [ ! -f "$plugin" ] || demo=(env "FLRC_BACKEND_PATH=$PWD/$plugin" "${demo[@]}")
  attempt 120 "$log" "${demo[@]}"
  demo_outcome=$outcome
  cat "$log"
  [ "$outcome" = passed ] || fails "demo: $outcome" "$log" >/dev/null
fi

# What time is left goes to NVIDIA's own checks, where the machine has them: of what has failed before the rest.
if command -v compute-sanitizer >/dev/null; then
  bad=() good=()
  for suite in "${!suites[@]}"; do
    if [ "${suites[$suite]}" = passed ]; then good+=("$suite"); else bad+=("$suite"); fi
  done
  for tool in memcheck racecheck; do
    for suite in "${bad[@]}" "${good[@]}"; do
      log=$(log_of "$tool $suite")
      attempt 60 "$log" compute-sanitizer --tool "$tool" --error-exitcode 99 "$tests" "$suite: "
      checks+="${checks:+, }$(json "$tool, $suite"): $(json "$outcome")"
      [ "$outcome" = 'no time left' ] || echo "$tool, $suite: $outcome"
    done
  done
fi
write_results
echo "wrote $results"

if [ "${#failures[@]}" -gt 0 ]; then
  printf '\n%d failed (logs are in %s):\n' "${#failures[@]}" "$folder/logs"
  printf '  %s\n' "${failures[@]}"
  exit 1
fi
