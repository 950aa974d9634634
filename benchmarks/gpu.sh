#!/bin/sh
# Everything that has to be seen on a GPU, in eight minutes: benchmarks/gpu.sh [FOLDER]
#
# Each part is a process of its own with a limit of its own; what it found is in FOLDER (by default $OUT, or runs/gpu/)
# as soon as it is done, and one that fails stops no other. SMALL=1: tiny sizes, to see that all runs.
cd "$(dirname "$0")/.." || exit 1
out=${1:-${OUT:-runs/gpu}}
python=${PYTHON:-python3}
small=${SMALL:+--small}
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$out"
out=$(cd "$out" && pwd)
began=$(date +%s)

part() { # seconds, name, options: a part of benchmarks/gpu.py
  limit=${small:+600} name=$2
  limit=${limit:-$1}
  shift 2
  timeout "$limit" "$python" -m benchmarks.gpu "$name" --out "$out" $small "$@" > "$out/$name.log" 2>&1
  code=$?
  echo "$(($(date +%s) - began)) s: $name, code $code" | tee -a "$out/parts.txt"
}

bench() { # seconds, group: rows of `make bench`, kept as they are measured
  timeout "$1" "$python" -m benchmarks.run --only "$2" > "$out/bench_$2.log" 2>&1
  code=$?
  cp benchmarks/results.json "$out/"
  echo "$(($(date +%s) - began)) s: make bench, $2, code $code" | tee -a "$out/parts.txt"
}

# what must be right
part 40 projections
part 40 occlusion
part 30 scans
part 40 resume
part 30 ddp
# how fast it is
part 40 project
part 60 rates
if [ -z "$small" ]; then
  bench 45 scan_overhead
  bench 45 occlusion
  bench 60 occlude_branched
  bench 45 train_step
fi
# CIFAR-10 at 224 pixels, for what is left; testing and loading take a minute of it
left=$((480 - $(date +%s) + began))
[ "$left" -gt 100 ] && part "$left" cifar --minutes $(((left - 70) / 60))
exit 0
