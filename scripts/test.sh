#!/usr/bin/env bash
# Everything that must hold, from a clean clone: format, lints, docs, tests, the real-input run with Python, every bench
# once, the models of the locked tables, the release build.
#
#   ./scripts/test.sh
#
# Needs a Rust toolchain, a C compiler, redis-server, nginx, systemd-analyze, Chromium, Python 3.11 or newer with venv, Node.js with npm, and Prometheus with promtool. What is
# missing behind the toolchain is installed with apt where that is there and permitted, but for Prometheus: its package would start a service, so
# it is only unpacked, into target/e2e-prometheus. Python packages go into target/e2e-venv, those of npm into target/e2e-grafana; nothing is
# installed elsewhere.
# A missing tool is a failure, never a skip. Packets captured from brokers' feeds are not part of this repository:
# they are read from ../shared/vectors/broker-feeds/kite or the folder in E2E_CAPTURED_VECTORS, and only when there
# is neither do the tests that send them stay out, which the last line then says.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
start=$SECONDS
times=()

fail() {
  echo "test: $*" >&2
  exit 1
}

# step NAME COMMAND…: says what it runs, and how long it took.
step() {
  local name=$1 begin=$SECONDS
  shift
  echo
  echo "==> $name: $*"
  "$@" || fail "$name failed after $((SECONDS - begin)) s: $*"
  times+=("$name $((SECONDS - begin)) s")
}

apt() {
  command -v apt-get >/dev/null || fail "$1 is missing, and there is no apt-get to install it; please install it"
  local sudo=()
  if [ "$(id -u)" != 0 ]; then
    sudo=(sudo -n)
    "${sudo[@]}" true 2>/dev/null || fail "$1 is missing; please run: sudo apt-get install $1"
  fi
  "${sudo[@]}" apt-get update -qq && "${sudo[@]}" apt-get install -y -qq "$@"
}

tools() {
  command -v cargo >/dev/null || fail "cargo is missing; see https://rustup.rs"
  for part in fmt clippy; do
    cargo "$part" --version >/dev/null 2>&1 || fail "cargo $part is missing; rustup component add rustfmt clippy"
  done
  command -v cc >/dev/null || apt build-essential
  command -v redis-server >/dev/null && command -v redis-cli >/dev/null || apt redis-server
  # The font makes pictures of the console the same everywhere.
  command -v chromium >/dev/null || apt chromium fonts-inter --no-install-recommends
  command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || apt nginx-light
  command -v systemd-analyze >/dev/null || apt systemd
  python3 -c 'import venv, ensurepip' 2>/dev/null || apt python3 python3-venv
  command -v npm >/dev/null && command -v node >/dev/null || apt nodejs npm
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed, this is $(python3 -V)"
}

# The interpreter and packages of the real-input run; made anew when what they are made from changes.
python_parts() {
  local venv=$target/e2e-venv wheel=$target/e2e-sdk2 stamp
  stamp="$(python3 -V) $(cat tests/e2e/requirements.txt tests/e2e/requirements-wheel.txt)"
  if [ "$(cat "$venv/stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "$venv" "$wheel"
    python3 -m venv "$venv"
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check -q)
    "${pip[@]}" install -r tests/e2e/requirements.txt
    "${pip[@]}" download --no-deps --python-version 3.12 --only-binary=:all: -d "$wheel" -r tests/e2e/requirements-wheel.txt
    "$venv/bin/python" -m zipfile -e "$wheel"/openalgo-*.whl "$wheel"
    printf '%s' "$stamp" >"$venv/stamp"
  fi
  export E2E_PYTHON=$venv/bin/python E2E_SDK2=$wheel
  "$E2E_PYTHON" -c 'import kiteconnect, logzero, msgpack, openalgo, playwright, redis, websocket, zmq'
}

# Prometheus and promtool, for dashboards/.
prometheus_parts() {
  local folder=$target/e2e-prometheus
  export E2E_PROMETHEUS=$folder/usr/bin
  if ! { command -v prometheus && command -v promtool; } >/dev/null && [ ! -x "$E2E_PROMETHEUS/promtool" ]; then
    command -v apt-get >/dev/null || fail "prometheus is missing, and there is no apt-get to fetch it; please install it"
    rm -rf "$folder"
    mkdir -p "$folder"
    # Old lists of packages name versions that are gone; renewing them needs root.
    [ "$(id -u)" != 0 ] || apt-get update -qq
    (cd "$folder" && apt-get download -qq prometheus) || fail "prometheus cannot be fetched; try: sudo apt-get update"
    dpkg -x "$folder"/prometheus_*.deb "$folder"
  fi
  PATH=$E2E_PROMETHEUS:$PATH promtool --version
}

# What dashboards are checked against: Grafana's schema and the compiler that reads it.
grafana_parts() {
  local folder=$target/e2e-grafana
  if ! cmp -s tests/e2e/grafana/package.json "$folder/package.json"; then
    rm -rf "$folder"
    mkdir -p "$folder"
    npm install --prefix "$folder" --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error \
      $(node -p 'Object.entries(require("./tests/e2e/grafana/package.json").dependencies).map((d) => d.join("@")).join(" ")')
    cp tests/e2e/grafana/package.json "$folder/package.json"
  fi
  export E2E_GRAFANA=$folder
  node "$folder/node_modules/typescript/bin/tsc" --version
}

captured() {
  [ -e "${E2E_CAPTURED_VECTORS:-../shared/vectors/broker-feeds/kite}/kite_captured.json" ]
}

leave_out=()
without=""
if ! captured; then
  [ -z "${E2E_CAPTURED_VECTORS:-}" ] || fail "no kite_captured.json in $E2E_CAPTURED_VECTORS"
  leave_out=(--skip captured_packet --skip prices_of_captured_zerodha_packets)
  without="; WITHOUT the packets captured from brokers, which are not on this machine"
fi

step tools tools
step python python_parts
step prometheus prometheus_parts
step grafana grafana_parts
step format cargo fmt --all --check
step lints cargo clippy --workspace --all-targets --features tickcast/e2e -- -D warnings
step model-lints cargo clippy --features shuttle --lib --test model -- -D warnings
step docs env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
# The feature adds the test target `e2e` and changes no code: what passes here passes without it.
step tests cargo test --workspace --features tickcast/e2e -- ${leave_out[@]+"${leave_out[@]}"}
# Every bench once, without measuring.
step benches cargo test --features e2e --bench '*'
step models cargo test --features shuttle --test model
# What `cargo run --release` gives: the same program as users start it.
step release cargo build --release
step first-look env SERVER_BINARY="$target/release/tickcast" cargo test --features e2e --test commands

echo
printf -v list '%s, ' "${times[@]}"
echo "test: all passed in $((SECONDS - start)) s (${list%, })$without"
