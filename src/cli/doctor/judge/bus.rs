//! Which way round the bus is: whether what we bind is connected to and what we connect to is bound.

use super::super::Finding;
use super::super::facts::{Bus, Facts, Seen, Served};
use crate::config::Settings;
use crate::config::settings::AdapterKind;
use crate::zmtp::{Direction, Endpoint};
use std::time::Duration;

const CHECK: &str = "bus";
/// A publisher that says nothing for so long deserves a word.
const SILENT: Duration = Duration::from_secs(10);

pub(super) fn judge(settings: &Settings, facts: &Facts) -> Vec<Finding> {
    if facts.bus.is_empty() {
        return vec![match settings.discovery.file.is_some() || settings.discovery.redis.is_some() {
            true => Finding::ok(CHECK, "no endpoint of its own: publishers are found through [discovery]"),
            false => Finding::warning(
                CHECK,
                "neither bus.bind nor bus.connect names an endpoint",
                "no publisher can be heard; native feeds and adapter processes do without",
                "--set bus.bind=tcp://127.0.0.1:5555 if anybody publishes",
            ),
        }];
    }
    let expected = expects_publishers(settings);
    let waiting = facts.server.as_ref().map_or(0.0, |server| server.sum("tickcast_subscriptions_active", ""));
    facts.bus.iter().filter_map(|bus| endpoint(bus, expected, waiting > 0.0)).collect()
}

/// Whether ticks must come over the bus: nothing else serves the brokers.
fn expects_publishers(settings: &Settings) -> bool {
    let of_bus = |kind: AdapterKind| matches!(kind, AdapterKind::Bus | AdapterKind::External);
    of_bus(settings.adapters.default) || settings.brokers.values().any(|broker| of_bus(broker.kind))
}

/// `None`: nothing to say that its port has not said.
fn endpoint(bus: &Bus, expected: bool, waiting: bool) -> Option<Finding> {
    let at = format!("{} {}", bus.setting, bus.endpoint);
    if let Some(Served { peers, silence }) = bus.served
        && peers > 0
    {
        let what = format!("{at}: {peers} publisher{} connected", if peers == 1 { "" } else { "s" });
        return Some(if silence < SILENT {
            Finding::ok(CHECK, format!("{what}, the last message {:.1} s ago", silence.as_secs_f64()))
        } else {
            Finding::warning(
                CHECK,
                format!("{what}, no message for {} s", silence.as_secs()),
                "outside market hours that is as it should be; within them no tick reaches any client",
                "see the publisher's log: is it logged in at the broker, and subscribed?",
            )
        });
    }
    match (&bus.seen, bus.direction) {
        (None, Direction::Bind) if bus.served.is_some() => Some(nobody_connects(&at, &bus.endpoint, expected, waiting)),
        (None, _) => None,
        (Some(seen), Direction::Bind) => Some(bound(&at, &bus.endpoint, seen, expected)),
        (Some(seen), Direction::Connect) => Some(called(&at, bus, seen, waiting)),
    }
}

/// We bind.
fn bound(at: &str, endpoint: &Endpoint, seen: &Seen, expected: bool) -> Finding {
    match seen {
        Seen::Bound { publishers: 0, .. } => nobody_connects(at, endpoint, expected, false),
        Seen::Bound { publishers, messages } => {
            let many = if *publishers == 1 { "" } else { "s" };
            Finding::ok(
                CHECK,
                format!("{at}: {publishers} publisher{many} connected, {messages} messages while looking"),
            )
        }
        Seen::Publisher { .. } => Finding::problem(
            CHECK,
            format!("{at}: a publisher is bound there, so both sides bind"),
            "only one of two ZeroMQ sockets can bind an address; the other must connect",
            format!(
                "connect to the publisher: ZMQ_PUB_PORT={} (or --set bus.bind= --set bus.connect={endpoint}); or make it connect",
                port(endpoint)
            ),
        ),
        Seen::OtherSocket => Finding::problem(
            CHECK,
            format!("{at}: another ZeroMQ receiver is bound there"),
            "publishers deliver to it and not here: a second tickcast, or OpenAlgo's own proxy, still runs",
            "stop it; or a second instance with ports of its own: WEBSOCKET_PORT=8766 ZMQ_PORT=5556",
        ),
        // What is no ZeroMQ socket has been told as a port that is taken.
        Seen::Stranger | Seen::Nobody { .. } | Seen::Unreachable(_) => Finding::problem(
            CHECK,
            format!("{at}: what is bound there does not speak ZeroMQ"),
            "no publisher can be heard here",
            "stop it, or --set bus.bind=tcp://IP:PORT with a port of its own, where publishers must connect then",
        ),
    }
}

fn nobody_connects(at: &str, endpoint: &Endpoint, expected: bool, waiting: bool) -> Finding {
    let what = format!("{at}: no publisher connects");
    let why = "we bind, so a publisher must connect; if it binds too, neither hears the other";
    let fix = format!(
        "start the publisher with connect(\"{endpoint}\"); if it binds elsewhere: ZMQ_PUB_PORT=PORT (or --set bus.bind= --set bus.connect=tcp://HOST:PORT)"
    );
    match (expected, waiting) {
        (false, _) => Finding::ok(CHECK, format!("{what}; the simulated market or native feeds need none")),
        (true, false) => Finding::warning(CHECK, what, why, fix),
        (true, true) => Finding::problem(CHECK, what + " while clients wait for ticks", why, fix),
    }
}

/// We connect.
fn called(at: &str, bus: &Bus, seen: &Seen, waiting: bool) -> Finding {
    let endpoint = &bus.endpoint;
    match seen {
        Seen::Publisher { messages } if bus.served.is_some() => Finding::warning(
            CHECK,
            format!(
                "{at}: a publisher is there ({messages} messages while looking), but the server is not connected to it"
            ),
            "it tries again every 2 s at most; until then no tick comes from there",
            "look again; if it stays, see tickcast_bus_connects_total and tickcast_bus_rejected_total for the cause",
        ),
        Seen::Publisher { messages } => {
            Finding::ok(CHECK, format!("{at}: a publisher is bound there, {messages} messages while looking"))
        }
        Seen::Nobody { connecting: 0 } | Seen::Bound { .. } => {
            let (what, why) = (format!("{at}: nobody is bound there"), "we connect, so the publisher must bind");
            let start = format!("start the publisher with bind(\"{endpoint}\"); if it connects instead: ");
            let level = if waiting { Finding::problem } else { Finding::warning };
            level(CHECK, what, why, start + &bind_instead(endpoint))
        }
        Seen::Nobody { connecting } => Finding::problem(
            CHECK,
            format!(
                "{at}: {connecting} publisher{} connect there, so both sides connect",
                if *connecting == 1 { "" } else { "s" }
            ),
            "one of two ZeroMQ sockets must bind; as it is, neither hears the other",
            bind_instead(endpoint),
        ),
        Seen::OtherSocket => Finding::problem(
            CHECK,
            format!("{at}: a ZeroMQ socket is bound there that is no publisher"),
            "ticks come from PUB sockets only; a receiver there (another tickcast, OpenAlgo's proxy) waits for the same publishers",
            "name the publisher's own address in bus.connect",
        ),
        Seen::Stranger => Finding::problem(
            CHECK,
            format!("{at}: what is bound there does not speak ZeroMQ"),
            "no tick can come from there",
            "name the publisher's own address in bus.connect (ZMQ_PUB_PORT)",
        ),
        Seen::Unreachable(cause) => Finding::problem(
            CHECK,
            format!("{at} cannot be reached: {cause}"),
            "no tick can come from there",
            "check the address, and the firewall between",
        ),
    }
}

fn bind_instead(endpoint: &Endpoint) -> String {
    format!("ZMQ_PORT={} instead of ZMQ_PUB_PORT (or --set bus.connect= --set bus.bind={endpoint})", port(endpoint))
}

fn port(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Tcp { port, .. } => port.to_string(),
        Endpoint::Ipc(_) => "PORT".to_owned(),
    }
}
