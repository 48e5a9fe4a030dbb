//! What the facts mean: pure functions, one a kind of fact, each finding with why it matters and how to mend it.
//!
//! In: settings and facts. Out: findings, at least one a kind, so that a report also says what was found well.
//! Knows nothing of how facts are gathered. Tests: `tests.rs`.

mod bus;
mod stores;
mod system;
#[cfg(test)]
mod tests;

use super::Finding;
use super::facts::{Facts, Port, PortState, Server};
use crate::config::Settings;

/// Everything that can be said.
pub(super) fn judge(settings: &Settings, facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("settings", "no mistake in them (`tickcast check` prints the effective ones)")];
    findings.extend(server(facts.server.as_ref()));
    findings.extend(facts.ports.iter().map(|port| self::port(port, facts.server.as_ref())));
    findings.extend(exposure(settings));
    findings.extend(bus::judge(settings, facts));
    findings.extend(system::judge(settings, facts));
    findings.extend(stores::judge(settings, facts));
    findings
}

fn server(server: Option<&Server>) -> Vec<Finding> {
    const CHECK: &str = "server";
    let Some(server) = server else {
        return vec![Finding::ok(CHECK, "none runs with these settings; checked is what one would meet")];
    };
    let Server { version, state, .. } = server;
    let clients = server.sum("tickcast_clients_connected", "");
    let what = format!("tickcast {version} runs, state {state}, {clients} clients");
    let mut findings = vec![match (server.ready, state.as_str()) {
        (true, "ready") => Finding::ok(CHECK, what),
        (true, _) => Finding::warning(
            CHECK,
            what,
            "it sheds work because it cannot keep up: ticks merge to a lower rate",
            "see tickcast_overload_level and the log line that names the cause; fewer clients or more cores (docs/OPERATIONS.md, Sizing)",
        ),
        (false, "draining") => {
            Finding::warning(CHECK, what, "it is stopping and takes no clients", "wait, or start it again")
        }
        (false, _) => Finding::problem(
            CHECK,
            what,
            "it takes no new clients",
            "see tickcast_overload_level and the log line that names the cause; fewer clients or more cores (docs/OPERATIONS.md, Sizing)",
        ),
    }];
    if let Some(stuck) = &server.stuck {
        let fix = "restart it, and report the log before it";
        findings.push(Finding::problem(CHECK, stuck.clone(), "a loop that must never stop has stopped", fix));
    }
    if env!("CARGO_PKG_VERSION") != version {
        findings.push(Finding::warning(
            CHECK,
            format!("it is version {version}, this program is {}", env!("CARGO_PKG_VERSION")),
            "an upgrade takes effect when the server is started again",
            "restart it: systemctl restart tickcast",
        ));
    }
    let drift = server.sum("tickcast_subscription_drift", "");
    if drift > 0.0 {
        findings.push(Finding::problem(
            CHECK,
            format!("sessions, registry and adapters disagree on {drift} subscriptions"),
            "somebody may miss ticks, or a broker be asked for what nobody wants",
            "look again in a minute; if it stays, restart the server and report it with /subscriptions?drift=1",
        ));
    }
    let down = server.sum("tickcast_adapters", "state=\"down\"")
        + server.sum("tickcast_adapters", "state=\"reauthenticating\"");
    if down > 0.0 {
        findings.push(Finding::warning(
            CHECK,
            format!("{down} adapters have no connection to their broker"),
            "their users get no ticks",
            "the log names broker, user and reason; /feeds shows each feed",
        ));
    }
    findings
}

fn port(port: &Port, server: Option<&Server>) -> Finding {
    const CHECK: &str = "ports";
    const WHY: &str = "serve ends with exit code 3";
    let Port { setting, at, .. } = port;
    let elsewhere = match *setting {
        "server.listen" => "--listen IP:PORT",
        "admin.listen" => "--admin IP:PORT",
        "bus.bind" => "--set bus.bind=tcp://IP:PORT, where publishers must connect then",
        "adapters.control_bind" => {
            "--set adapters.control_bind=tcp://IP:PORT, where adapter processes must connect then"
        }
        _ => "--set admin.scrape_listen=IP:PORT",
    };
    let is = |what: &str| format!("{setting} {at} {what}");
    match &port.state {
        PortState::Free if port.number.is_none() && at.ends_with(":0") => {
            Finding::ok(CHECK, is("is picked at the start"))
        }
        PortState::Free => Finding::ok(CHECK, is("is free")),
        PortState::Ours => Finding::ok(CHECK, is("is the running server's")),
        PortState::Taken(holder) => {
            let who = match holder {
                Some(holder) => format!("is taken by {} (pid {})", holder.name, holder.pid),
                None => "is taken by a process that this user may not look into".to_owned(),
            };
            let find = match (holder, port.number) {
                (Some(holder), _) if holder.name.starts_with("tickcast") && server.is_none() => {
                    "it is a tickcast with other settings: give the doctor the same flags, or choose another port with"
                        .to_owned()
                }
                (Some(holder), _) => format!("stop it (kill {}), or choose another with", holder.pid),
                (None, Some(number)) => {
                    format!("see who it is (sudo ss -ltnp sport = :{number}) and stop it, or choose another with")
                }
                (None, None) => "stop it, or choose another with".to_owned(),
            };
            Finding::problem(CHECK, is(&who), WHY, format!("{find} {elsewhere}"))
        }
        PortState::Denied => Finding::problem(
            CHECK,
            is("may not be bound by this user"),
            WHY,
            format!(
                "a port above 1023 with {elsewhere}; or in the systemd unit AmbientCapabilities=CAP_NET_BIND_SERVICE"
            ),
        ),
        PortState::NoAddress => Finding::problem(
            CHECK,
            is("names an address that this machine does not have"),
            WHY,
            format!("one of `ip -brief address`, with {elsewhere}"),
        ),
        PortState::Failed(cause) => Finding::problem(CHECK, is(&format!("cannot be bound: {cause}")), WHY, elsewhere),
    }
}

/// Listeners that others than this machine reach.
fn exposure(settings: &Settings) -> Vec<Finding> {
    const CHECK: &str = "exposure";
    let mut findings = Vec::new();
    let listen = settings.server.listen;
    if !listen.ip().is_loopback() {
        findings.push(Finding::warning(
            CHECK,
            format!("server.listen {listen} is reached from the network, without TLS"),
            "API keys and prices cross it in the clear",
            "--listen 127.0.0.1:8765, and a TLS proxy before it (docs/OPERATIONS.md, Behind a TLS proxy)",
        ));
    }
    let admin = settings.admin.listen;
    if !admin.ip().is_loopback() {
        findings.push(Finding::warning(
            CHECK,
            format!("admin.listen {admin} is reached from the network"),
            "it asks for no password, and shows users' names and feeds",
            "--admin 127.0.0.1:9464, and --set admin.scrape_listen=IP:PORT for Prometheus, which shows metrics and health only",
        ));
    }
    for endpoint in settings.bus.bind.iter().filter(|text| reachable(text)) {
        findings.push(Finding::warning(
            CHECK,
            format!("bus.bind {endpoint} is reached from the network"),
            "whoever reaches it can publish prices",
            "a loopback address or ipc://, or a firewall that lets publishers in only",
        ));
    }
    let control = &settings.adapters.control_bind;
    if reachable(control) {
        findings.push(Finding::warning(
            CHECK,
            format!("adapters.control_bind {control} is reached from the network"),
            "adapters.secret travels over it in the clear",
            "a loopback address, and a tunnel for adapter processes on other machines",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "clients, admin, bus and control listen for this machine only"));
    }
    findings
}

fn reachable(text: &str) -> bool {
    text.parse::<crate::zmtp::Endpoint>().is_ok_and(|endpoint| !endpoint.is_local())
}
