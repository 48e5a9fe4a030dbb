//! `docs/SETTINGS.md`, made from the table of keys. A test in `tests/config.rs` keeps the file current.

use super::brokers::{BROKER_KEYS, BrokerKey, kinds};
use super::keys::{KEYS, SECTIONS};
use super::openalgo::VARIABLES;
use super::settings::Settings;
use crate::adapter::kinds::KINDS;

const HEAD: &str = "# Settings

<!-- Made from the table in src/config/keys.rs: UPDATE_DOCS=1 cargo test --test config -->

Without any setting tickcast runs on loopback with a simulated market and the key `demo-key`. Later wins:

1. built in
2. OpenAlgo's variables, from `--env-file` and the environment (the environment wins)
3. the TOML file of `--config`
4. `TICKCAST_<SECTION>_<KEY>`, lists separated by commas
5. flags: `--listen`, `--admin`, `--set section.key=value`

`tickcast check` with the same flags prints every effective value with where it came from, or every mistake at once.
Durations are written `\"5ms\"`, `\"10s\"`, `\"1m\"`; sizes `\"64MiB\"`, `\"128KiB\"`, or a number of bytes.
";

const SOURCES: &str = "
An endpoint that belongs to one user's feed is written in the file only, once per endpoint; that user then receives
this feed and no other:

```toml
[[bus.source]]
endpoint = \"tcp://127.0.0.1:5601\"
broker = \"angel\"
user = \"asha\"
```
";

const BROKERS: &str = "
A native feed logs in with the user's own account, and its ticks reach that user only:

```toml
[brokers.zerodha]
kind = \"zerodha\"
users = [\"asha\"]
credentials = \"file:/etc/tickcast/zerodha-{user}\"
symbols = [\"/var/lib/tickcast/instruments.csv\"]
```

| key | variable | type | meaning |
| --- | --- | --- | --- |
";

const SCALE: &str = "
`NSE = 2`, or `TICKCAST_SCALE_NSE=2`. Built in: CDS, BCD, NCO, GLOBAL_INDEX 4; CRYPTO 8; all else 2.
";

/// The whole document.
pub fn settings_markdown() -> String {
    let mut out = HEAD.to_string();
    let defaults = Settings::default();
    for (section, about) in SECTIONS {
        out.push_str(&format!("\n## [{section}]\n\n{about}\n"));
        let keys: Vec<_> = KEYS.iter().filter(|key| key.section == section).collect();
        if !keys.is_empty() {
            out.push_str("\n| key | variable | type | default | meaning |\n| --- | --- | --- | --- | --- |\n");
        }
        for key in keys {
            let range = (key.range)();
            let range = if range.is_empty() { range } else { format!(", {range}") };
            let (name, variable, shape, doc) = (key.name, key.variable(), (key.shape)(), key.doc);
            let default = (key.print)(&defaults);
            out.push_str(&format!("| `{name}` | `{variable}` | {shape}{range} | `{default}` | {doc} |\n"));
        }
        match section {
            "bus" => out.push_str(SOURCES),
            "brokers" => {
                out.push_str(BROKERS);
                for BrokerKey { name, shape, doc, .. } in &BROKER_KEYS {
                    let variable = format!("TICKCAST_BROKERS_<NAME>_{}", name.to_ascii_uppercase());
                    out.push_str(&format!("| `{name}` | `{variable}` | {shape} | {doc} |\n"));
                }
                out.push_str(&format!("\nKinds: {}. What the credentials of a native kind must hold:", kinds()));
                for kind in &KINDS {
                    let limits = (kind.limits)();
                    let (each, all) = (limits.per_connection, limits.connections);
                    let names = kind.credentials.join("`, `");
                    out.push_str(&format!(
                        " {} `{names}` (at most {each} instruments on each of {all} connections)",
                        kind.name
                    ));
                    out.push_str(if kind.name == KINDS[KINDS.len() - 1].name { ".\n" } else { ";" });
                }
            }
            "scale" => out.push_str(SCALE),
            _ => {}
        }
    }
    out.push_str(
        "\n## OpenAlgo's variables\n\nAn empty variable counts as not set. Any of them except a lone `DATABASE_URL` ",
    );
    out.push_str("also makes `adapters.default` `bus`.\n\n| variable | here |\n| --- | --- |\n");
    for (name, does) in VARIABLES {
        out.push_str(&format!("| `{name}` | {does} |\n"));
    }
    out
}
