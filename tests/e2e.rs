//! Real input: the OpenAlgo SDK as PyPI ships it, pyzmq publishers, the example scripts, against the program itself.
//!
//! Runs with `--features e2e` and the Python that `scripts/test.sh` prepares; without it these tests fail, they do not
//! skip. Every Python process is driven line by line and ended by its handle. Zerodha packets captured from their feed are
//! read from `../shared/vectors` or the folder in `E2E_CAPTURED_VECTORS`; the synthetic ones are ours.

#[path = "kite/mod.rs"]
mod kite_vectors;
mod process;
mod publishers;
mod standin;
mod support;

#[path = "e2e/angel.rs"]
mod angel;
#[path = "e2e/bridge.rs"]
mod bridge;
#[path = "e2e/bus.rs"]
mod bus;
#[path = "e2e/console.rs"]
mod console;
#[path = "e2e/dashboards.rs"]
mod dashboards;
#[path = "e2e/deploy.rs"]
mod deploy;
#[path = "e2e/discovery.rs"]
mod discovery;
#[path = "e2e/kite.rs"]
mod kite;
#[path = "e2e/logins.rs"]
mod logins;
#[path = "e2e/msgpack.rs"]
mod msgpack;
#[path = "e2e/noren.rs"]
mod noren;
#[path = "e2e/python.rs"]
mod python;
#[path = "e2e/sdk.rs"]
mod sdk;
#[path = "e2e/zerodha.rs"]
mod zerodha;
