//! Every finding both ways: it comes when its fact is there, and does not when all is well.

use super::super::facts::*;
use super::super::{Finding, Level};
use super::judge;
use crate::cli::admin::Metrics;
use crate::config::Settings;
use crate::config::settings::{AdapterKind, KeyStoreSetting};
use crate::zmtp::Direction;
use std::path::PathBuf;
use std::time::Duration;

/// A machine on which nothing is wrong, no server, and a publisher on the bus.
fn well() -> (Settings, Facts) {
    let mut settings = Settings::default();
    settings.auth.store = KeyStoreSetting::Sqlite("keys.db".into());
    settings.adapters.default = AdapterKind::Bus;
    let bus = Bus {
        setting: "bus.bind",
        endpoint: "tcp://127.0.0.1:5555".parse().expect("an endpoint"),
        direction: Direction::Bind,
        served: None,
        seen: Some(Seen::Bound { publishers: 1, messages: 7 }),
    };
    let facts = Facts {
        files: OpenFiles { limit: 1 << 20, server: None },
        kernel: Kernel {
            somaxconn: Some(4096),
            wmem_max: Some(1 << 22),
            rmem_max: Some(1 << 22),
            local_ports: Some((32_768, 60_999)),
            reserved_ports: Vec::new(),
            conntrack_max: Some(1 << 18),
        },
        server: None,
        ports: vec![listen(PortState::Free)],
        bus: vec![bus],
        clock: Clock {
            synchronised: Some(true),
            max_error: Some(Duration::from_millis(20)),
            jump: Duration::ZERO,
            now: 1_800_000_000,
        },
        keys: Keys { opened: Ok(3), mode: Some(0o600) },
        disks: vec![disk(Ok(100 << 30))],
        registries: vec![registry("discovery.file", Ok(Reach::Answers))],
        accounts: vec![account("file:/etc/kite", Ok(Vec::new()))],
        symbols: vec![SymbolFile { broker: "zerodha".into(), path: "i.csv".into(), fault: None }],
        secrets: vec![SecretFile { setting: "auth.pepper".into(), path: ".env".into(), mode: 0o600 }],
    };
    (settings, facts)
}

fn listen(state: PortState) -> Port {
    Port { setting: "server.listen", at: "127.0.0.1:8765".into(), number: Some(8765), state }
}

fn disk(free: Result<u64, String>) -> Disk {
    Disk { what: "the key store", folder: PathBuf::from("/var/lib/tickcast"), free }
}

fn registry(setting: &'static str, state: Result<Reach, String>) -> Registry {
    Registry { setting, place: "somewhere".into(), state }
}

fn account(from: &str, missing: Result<Vec<&'static str>, String>) -> Account {
    Account { broker: "zerodha".into(), user: "asha".into(), from: from.into(), missing }
}

fn running(metrics: &str) -> Server {
    Server {
        version: env!("CARGO_PKG_VERSION").into(),
        state: "ready".into(),
        ready: true,
        listeners: vec!["127.0.0.1:8765".into()],
        stuck: None,
        metrics: Metrics(metrics.into()),
    }
}

/// What is said that was not said when all was well.
fn said(change: impl FnOnce(&mut Settings, &mut Facts)) -> Vec<Finding> {
    let (mut settings, mut facts) = well();
    change(&mut settings, &mut facts);
    judge(&settings, &facts).into_iter().filter(|finding| finding.level != Level::Ok).collect()
}

/// Exactly one finding: its level and kind, with these words in what it says or advises.
#[track_caller]
fn says(level: Level, check: &str, words: &[&str], change: impl FnOnce(&mut Settings, &mut Facts)) {
    let findings = said(change);
    let [finding] = &findings[..] else { panic!("not one finding: {findings:#?}") };
    assert_eq!((finding.level, finding.check), (level, check), "{finding:#?}");
    assert!(!finding.why.is_empty() && !finding.fix.is_empty(), "{finding:#?}");
    let text = format!("{} | {} | {}", finding.what, finding.why, finding.fix);
    for word in words {
        assert!(text.contains(word), "{word} in {text}");
    }
}

use Level::{Problem, Warning};

#[test]
fn when_all_is_well_every_kind_of_fact_is_said_to_be() {
    let (settings, facts) = well();
    let findings = judge(&settings, &facts);
    assert!(findings.iter().all(|f| f.level == Level::Ok && f.why.is_empty() && f.fix.is_empty()), "{findings:#?}");
    let mut checks: Vec<&str> = findings.iter().map(|f| f.check).collect();
    checks.dedup();
    let all = [
        "settings",
        "server",
        "ports",
        "exposure",
        "bus",
        "descriptors",
        "sysctl",
        "clock",
        "keys",
        "discovery",
        "credentials",
        "disk",
    ];
    assert_eq!(checks, all);
}

#[test]
fn too_few_open_files_are_a_problem_with_the_numbers_for_each_way_of_starting() {
    let words =
        ["1024 allowed here", "10512 needed", "LimitNOFILE=10512", "--ulimit nofile=10512", "limits.sessions=512"];
    says(Problem, "descriptors", &words, |_, facts| facts.files.limit = 1024);
    says(Problem, "descriptors", &["running server (pid 77)"], |_, facts| {
        facts.files = OpenFiles { limit: 1024, server: Some(77) };
    });
    assert!(said(|_, facts| facts.files.limit = 10_512).is_empty(), "exactly enough");
    assert!(said(|_, facts| facts.files.limit = u64::MAX).is_empty(), "unlimited");
}

#[test]
fn kernel_settings_that_are_too_low_are_warned_of_with_the_line_to_set() {
    type Field = fn(&mut Kernel) -> &mut Option<u64>;
    let low: [(&str, Field); 4] = [
        ("sysctl -w net.core.somaxconn=4096", |k| &mut k.somaxconn),
        ("sysctl -w net.core.wmem_max=131072", |k| &mut k.wmem_max),
        ("sysctl -w net.core.rmem_max=4194304", |k| &mut k.rmem_max),
        ("sysctl -w net.netfilter.nf_conntrack_max=20000", |k| &mut k.conntrack_max),
    ];
    for (line, field) in low {
        says(Warning, "sysctl", &[line, "90-tickcast.conf"], |_, facts| *field(&mut facts.kernel) = Some(128));
        assert!(said(|_, facts| *field(&mut facts.kernel) = None).is_empty(), "a kernel that has it not: {line}");
    }
    assert!(
        said(|s, facts| (s.limits.sessions, facts.kernel.somaxconn) = (100, Some(128))).is_empty(),
        "enough for 100"
    );
}

#[test]
fn the_example_for_sysctl_leaves_nothing_to_warn_of() {
    let example = include_str!("../../../../examples/deploy/90-tickcast.conf");
    let value = |name: &str| {
        let line = example.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('=')).expect(name);
        line.split_whitespace().map(|n| n.parse::<u64>().expect("a number")).collect::<Vec<_>>()
    };
    let range = value("net.ipv4.ip_local_port_range");
    let kernel = Kernel {
        somaxconn: Some(value("net.core.somaxconn")[0]),
        wmem_max: Some(value("net.core.wmem_max")[0]),
        rmem_max: Some(value("net.core.rmem_max")[0]),
        local_ports: Some((range[0] as u16, range[1] as u16)),
        ..Kernel::default()
    };
    assert_eq!(said(|settings, facts| (settings.limits.sessions, facts.kernel) = (50_000, kernel)), []);
}

#[test]
fn ports_that_outgoing_connections_may_take_are_warned_of_unless_reserved() {
    let low = |facts: &mut Facts| facts.kernel.local_ports = Some((1024, 65_535));
    says(Warning, "sysctl", &["ports 8765 lie", "ip_local_reserved_ports=8765"], |_, facts| low(facts));
    let reserved = |_: &mut Settings, facts: &mut Facts| {
        low(facts);
        facts.kernel.reserved_ports = vec![(8000, 9000)];
    };
    assert!(said(reserved).is_empty());
    says(Warning, "sysctl", &["has 28232 ports, limits.sessions is 50000"], |s, _| s.limits.sessions = 50_000);
}

#[test]
fn a_port_says_who_has_it_and_how_to_choose_another() {
    let holder = |name: &str| Some(Holder { pid: 4711, name: name.into() });
    let port = |state: PortState| move |_: &mut Settings, facts: &mut Facts| facts.ports = vec![listen(state)];
    let words = ["server.listen 127.0.0.1:8765", "nginx (pid 4711)", "kill 4711", "--listen", "exit code 3"];
    says(Problem, "ports", &words, port(PortState::Taken(holder("nginx"))));
    says(Problem, "ports", &["same flags"], port(PortState::Taken(holder("tickcast"))));
    says(Problem, "ports", &["may not look into", "ss -ltnp sport = :8765"], port(PortState::Taken(None)));
    says(Problem, "ports", &["CAP_NET_BIND_SERVICE"], port(PortState::Denied));
    says(Problem, "ports", &["does not have", "ip -brief address"], port(PortState::NoAddress));
    says(Problem, "ports", &["no such device"], port(PortState::Failed("no such device".into())));
    assert!(said(port(PortState::Ours)).is_empty());
    for (setting, fix) in [
        ("admin.listen", "--admin"),
        ("admin.scrape_listen", "admin.scrape_listen="),
        ("bus.bind", "bus.bind="),
        ("adapters.control_bind", "adapters.control_bind="),
    ] {
        says(Problem, "ports", &[fix], |_, facts| facts.ports[0] = Port { setting, ..listen(PortState::Taken(None)) });
    }
}

#[test]
fn listeners_that_the_network_reaches_are_named() {
    says(Warning, "exposure", &["server.listen 0.0.0.0:8765", "TLS"], |s, _| {
        s.server.listen = "0.0.0.0:8765".parse().expect("an address");
    });
    says(Warning, "exposure", &["admin.listen 10.0.0.5:9464", "scrape_listen"], |s, _| {
        s.admin.listen = "10.0.0.5:9464".parse().expect("an address");
    });
    says(Warning, "exposure", &["bus.bind tcp://10.0.0.5:5555", "publish prices"], |s, _| {
        s.bus.bind = vec!["tcp://10.0.0.5:5555".into()];
    });
    says(Warning, "exposure", &["control_bind tcp://10.0.0.5:5655", "in the clear"], |s, _| {
        s.adapters.control_bind = "tcp://10.0.0.5:5655".into();
    });
    assert!(said(|s, _| s.bus.bind = vec!["ipc:///run/bus".into()]).is_empty());
    let scrape =
        |s: &mut Settings, _: &mut Facts| s.admin.scrape_listen = Some("10.0.0.5:9465".parse().expect("an address"));
    assert!(said(scrape).is_empty(), "metrics and health are meant for the network");
}

fn seen(seen: Seen) -> impl FnOnce(&mut Settings, &mut Facts) {
    move |_, facts| facts.bus[0].seen = Some(seen)
}

fn connecting(seen: Seen) -> impl FnOnce(&mut Settings, &mut Facts) {
    move |_, facts| {
        (facts.bus[0].setting, facts.bus[0].direction) = ("bus.connect", Direction::Connect);
        facts.bus[0].seen = Some(seen);
    }
}

#[test]
fn a_bus_that_we_bind_is_judged_by_who_is_there() {
    says(
        Problem,
        "bus",
        &["both sides bind", "ZMQ_PUB_PORT=5555", "bus.connect=tcp://127.0.0.1:5555"],
        seen(Seen::Publisher { messages: 0 }),
    );
    says(Problem, "bus", &["another ZeroMQ receiver", "OpenAlgo's own proxy"], seen(Seen::OtherSocket));
    says(Problem, "bus", &["does not speak ZeroMQ"], seen(Seen::Stranger));
    let nobody = Seen::Bound { publishers: 0, messages: 0 };
    says(
        Warning,
        "bus",
        &["no publisher connects", "connect(\"tcp://127.0.0.1:5555\")", "ZMQ_PUB_PORT"],
        seen(nobody.clone()),
    );
    let simulated = |s: &mut Settings, facts: &mut Facts| {
        s.adapters.default = AdapterKind::Sim;
        facts.bus[0].seen = Some(nobody);
    };
    assert!(said(simulated).is_empty(), "the simulated market needs no publisher");
    assert!(said(|_, facts| facts.bus[0].seen = None).is_empty(), "its port has said what there is to say");
    says(Warning, "bus", &["neither bus.bind nor bus.connect"], |_, facts| facts.bus.clear());
    let found_by_registry = |s: &mut Settings, facts: &mut Facts| {
        facts.bus.clear();
        s.discovery.file = Some("publishers.db".into());
    };
    assert!(said(found_by_registry).is_empty());
}

#[test]
fn a_bus_that_we_connect_to_is_judged_by_who_is_there() {
    assert!(said(connecting(Seen::Publisher { messages: 3 })).is_empty());
    says(Warning, "bus", &["nobody is bound", "ZMQ_PORT=5555"], connecting(Seen::Nobody { connecting: 0 }));
    says(
        Problem,
        "bus",
        &["both sides connect", "2 publishers", "ZMQ_PORT=5555", "bus.bind=tcp://127.0.0.1:5555"],
        connecting(Seen::Nobody { connecting: 2 }),
    );
    says(Problem, "bus", &["no publisher", "bus.connect"], connecting(Seen::OtherSocket));
    says(Problem, "bus", &["does not speak ZeroMQ"], connecting(Seen::Stranger));
    says(Problem, "bus", &["no route", "firewall"], connecting(Seen::Unreachable("no route".into())));
}

#[test]
fn a_running_servers_word_about_its_bus_goes_first() {
    let served = |peers, seconds, metrics: &'static str| {
        move |_: &mut Settings, facts: &mut Facts| {
            facts.server = Some(running(metrics));
            facts.bus[0].served = Some(Served { peers, silence: Duration::from_secs(seconds) });
            facts.bus[0].seen = None;
        }
    };
    assert!(said(served(2, 1, "")).is_empty());
    says(Warning, "bus", &["2 publishers connected, no message for 60 s"], served(2, 60, ""));
    says(Warning, "bus", &["no publisher connects"], served(0, 60, ""));
    says(
        Problem,
        "bus",
        &["no publisher connects while clients wait"],
        served(0, 60, "tickcast_subscriptions_active 5\n"),
    );
    let waits = |seen: Seen| {
        move |settings: &mut Settings, facts: &mut Facts| {
            connecting(seen)(settings, facts);
            facts.server = Some(running("tickcast_subscriptions_active 5\n"));
            facts.bus[0].served = Some(Served { peers: 0, silence: Duration::ZERO });
        }
    };
    says(Problem, "bus", &["nobody is bound"], waits(Seen::Nobody { connecting: 0 }));
    says(Warning, "bus", &["not connected to it"], waits(Seen::Publisher { messages: 9 }));
}

#[test]
fn a_clock_that_is_off_or_jumps_is_said_to_be() {
    says(Warning, "clock", &["no time service", "timedatectl set-ntp true"], |_, f| f.clock.synchronised = Some(false));
    says(Warning, "clock", &["wrong by 5.0 s"], |_, f| f.clock.max_error = Some(Duration::from_secs(5)));
    says(Problem, "clock", &["moved by 2.000 s"], |_, f| f.clock.jump = Duration::from_secs(2));
    says(Problem, "clock", &["before 2025"], |_, f| f.clock.now = 1_000_000);
    says(Warning, "clock", &["9 ticks had a time ahead"], |_, f| {
        f.server = Some(running("tickcast_clock_skew_total 9\n"))
    });
    assert!(said(|_, f| f.clock.synchronised = None).is_empty(), "a kernel that does not tell");
}

#[test]
fn keys_are_counted_and_their_file_kept_from_others() {
    says(Warning, "keys", &["demo", "tickcast keys add"], |s, f| {
        (s.auth.store, f.keys.mode) = (KeyStoreSetting::Demo, None);
    });
    says(Problem, "keys", &["cannot use", "exit code 4", "tickcast keys add --store keys.db"], |_, f| {
        f.keys = Keys { opened: Err("cannot use keys.db".into()), mode: None };
    });
    says(Problem, "keys", &["cannot use", "owns openalgo.db"], |s, f| {
        s.auth.store = KeyStoreSetting::OpenAlgo("openalgo.db".into());
        f.keys = Keys { opened: Err("cannot use it".into()), mode: None };
    });
    says(Warning, "keys", &["holds no key", "tickcast keys add"], |_, f| f.keys.opened = Ok(0));
    says(Warning, "keys", &["holds no key", "in OpenAlgo"], |s, f| {
        s.auth.store = KeyStoreSetting::OpenAlgo("openalgo.db".into());
        f.keys.opened = Ok(0);
    });
    says(Problem, "keys", &["written by others (mode 620)", "chmod go-rwx keys.db"], |_, f| f.keys.mode = Some(0o620));
    says(Warning, "keys", &["read by everybody (mode 644)"], |_, f| f.keys.mode = Some(0o644));
    assert!(said(|_, f| f.keys.mode = Some(0o640)).is_empty(), "a group of the operator's own");
    says(Warning, "secrets", &[".env holds auth.pepper", "mode 644", "chmod 600 .env"], |_, f| {
        f.secrets[0].mode = 0o644
    });
}

#[test]
fn registries_credentials_and_instruments_that_cannot_be_used_are_named() {
    let state = |setting, state: Result<Reach, String>| {
        move |_: &mut Settings, facts: &mut Facts| facts.registries = vec![registry(setting, state)]
    };
    says(Problem, "discovery", &["refused", "redis-cli"], state("discovery.redis", Err("refused".into())));
    says(Problem, "discovery", &["locked", "discovery.file=FILE"], state("discovery.file", Err("locked".into())));
    assert!(said(state("discovery.file", Ok(Reach::NotMadeYet))).is_empty());
    let of = |account: Account| move |_: &mut Settings, facts: &mut Facts| facts.accounts = vec![account];
    let lacks = vec!["api_key", "access_token"];
    says(
        Problem,
        "credentials",
        &["zerodha, user asha", "lacks api_key, access_token", "a line name=value", "/etc/kite"],
        of(account("file:/etc/kite", Ok(lacks))),
    );
    says(Problem, "credentials", &["chmod 600"], of(account("file:/etc/kite", Err("read by others".into()))));
    says(Problem, "symbols", &["i.csv cannot be read: gone", "brokers.zerodha.symbols"], |_, f| {
        f.symbols[0].fault = Some("gone".into())
    });
}

#[test]
fn a_disk_that_fills_up_is_warned_of_and_one_that_is_full_a_problem() {
    let room = |free| move |_: &mut Settings, facts: &mut Facts| facts.disks = vec![disk(free)];
    says(Warning, "disk", &["/var/lib/tickcast (the key store): 500 MiB free"], room(Ok(500 << 20)));
    says(Problem, "disk", &["3 MiB free"], room(Ok(3 << 20)));
    says(Problem, "disk", &["no such folder", "make the folder"], room(Err("no such folder".into())));
    assert!(said(|_, facts| facts.disks.clear()).is_empty());
}

#[test]
fn a_running_server_that_is_not_well_is_said_to_be() {
    let server = |change: fn(&mut Server)| {
        move |_: &mut Settings, facts: &mut Facts| {
            let mut server = running("");
            change(&mut server);
            facts.server = Some(server);
        }
    };
    assert!(said(server(|_| {})).is_empty());
    says(Warning, "server", &["state degraded"], server(|s| s.state = "degraded".into()));
    says(Problem, "server", &["takes no new clients"], server(|s| (s.state, s.ready) = ("degraded".into(), false)));
    says(Warning, "server", &["stopping"], server(|s| (s.state, s.ready) = ("draining".into(), false)));
    says(Problem, "server", &["worker-1", "restart"], server(|s| s.stuck = Some("stuck: worker-1".into())));
    says(Warning, "server", &["version 0.0.1", "systemctl restart"], server(|s| s.version = "0.0.1".into()));
    let drift = "tickcast_subscription_drift{between=\"registry_session\"} 2\n";
    says(Problem, "server", &["disagree on 2"], |_, f| f.server = Some(running(drift)));
    let down =
        "tickcast_adapters{broker=\"angel\",state=\"live\"} 4\ntickcast_adapters{broker=\"angel\",state=\"down\"} 1\n";
    says(Warning, "server", &["1 adapters have no connection", "/feeds"], |_, f| f.server = Some(running(down)));
}
