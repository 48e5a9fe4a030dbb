#!/usr/bin/env bash
# Fuzzes every decoder for a while; a finding stays in fuzz/artifacts and should become a named test.
#
#   ./scripts/fuzz.sh [SECONDS_PER_TARGET] [TARGET…]      default 60, and all of them
#
# Installs cargo-fuzz with cargo when it is missing. libFuzzer's flags are unstable, so a stable toolchain is told to take them.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-60}"
targets=("${@:2}")
((${#targets[@]})) || targets=(zmtp bus_frames payload client_frames command msgpack_reader control kite angel noren broker_texts)
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
export RUSTC_BOOTSTRAP=1
for target in "${targets[@]}"; do
  echo "==> $target for $seconds s"
  cargo fuzz run --sanitizer none "$target" -- -max_total_time="$seconds" -max_len=65536 -rss_limit_mb=2048 -print_final_stats=1
done
