#!/usr/bin/env bash
# Line coverage of the tests: a table per file, and target/coverage/html when asked for.
#
#   scripts/coverage.sh            the table
#   scripts/coverage.sh --html     also an HTML report
#   scripts/coverage.sh --min 80   fails when fewer than 80 % of the lines are covered
#
# Uses cargo-llvm-cov, which it installs when it is missing. That needs LLVM's own tools in rustc's version: from
# rustup, from PATH (llvm-cov-NN), or named by LLVM_COV and LLVM_PROFDATA. Without them it says so and exits with 3.
set -euo pipefail
cd "$(dirname "$0")/.."

html=0
min=()
while (($#)); do
  case "$1" in
    --html) html=1 ;;
    --min)
      [[ "${2:-}" =~ ^[0-9]+$ ]] || { echo "coverage: --min needs a whole number of percent" >&2; exit 2; }
      min=(--fail-under-lines "$2")
      shift
      ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done

major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
sysroot_tools=$(dirname "$(rustc --print target-libdir)")/bin

# An older llvm-profdata cannot read what a newer compiler writes, so the version must be the same.
has_version() { "$1" --version 2>/dev/null | grep -q "LLVM version $major\."; }

find_tools() {
  if [[ -n "${LLVM_COV:-}" && -n "${LLVM_PROFDATA:-}" ]]; then return 0; fi
  if [[ -x "$sysroot_tools/llvm-cov" && -x "$sysroot_tools/llvm-profdata" ]]; then return 0; fi
  local suffix
  for suffix in "-$major" ""; do
    if has_version "llvm-cov$suffix" && has_version "llvm-profdata$suffix"; then
      LLVM_COV=$(command -v "llvm-cov$suffix")
      LLVM_PROFDATA=$(command -v "llvm-profdata$suffix")
      export LLVM_COV LLVM_PROFDATA
      return 0
    fi
  done
  return 1
}

if ! find_tools; then
  # Bounded: where the download is not to be had, it may hang instead of failing.
  timeout "${RUSTUP_TIMEOUT:-120}" rustup component add llvm-tools >&2 || true
  if ! find_tools; then
    echo "coverage: llvm-cov and llvm-profdata of LLVM $major are missing (rustc needs its own version)." >&2
    echo "coverage: try 'rustup component add llvm-tools', or set LLVM_COV and LLVM_PROFDATA." >&2
    exit 3
  fi
fi
cargo llvm-cov --version >/dev/null 2>&1 || cargo install cargo-llvm-cov --locked

ignore=(--ignore-filename-regex '(/tests\.rs|^tests/|/loadtest/)')
cargo llvm-cov --package tickcast --no-report
cargo llvm-cov report "${ignore[@]}" "${min[@]}"
if ((html)); then
  cargo llvm-cov report "${ignore[@]}" --html --output-dir target/coverage
  echo "coverage: target/coverage/html/index.html"
fi
