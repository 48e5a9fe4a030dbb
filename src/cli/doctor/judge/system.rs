//! The machine: open files, the kernel's settings, the clock.

use super::super::Finding;
use super::super::facts::{Clock, Facts, Kernel, OpenFiles, Server};
use crate::bus::endpoints;
use crate::cli::serve::files_needed;
use crate::config::Settings;
use crate::limits;
use std::time::Duration;

/// The clock may move so much against the monotonic one while we look: slewing by a time service.
const JUMP_MAX: Duration = Duration::from_millis(50);
/// A synchronised clock that may be wrong by more is not.
const ERROR_MAX: Duration = Duration::from_secs(1);
/// 2025-01-01, seconds since the UNIX epoch: this program is younger.
const THE_PAST: u64 = 1_735_689_600;

pub(super) fn judge(settings: &Settings, facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![open_files(settings, &facts.files)];
    findings.extend(kernel(settings, facts));
    findings.extend(clock(&facts.clock, facts.server.as_ref()));
    findings
}

fn open_files(settings: &Settings, files: &OpenFiles) -> Finding {
    const CHECK: &str = "descriptors";
    let (sessions, needed) = (settings.limits.sessions, files_needed(settings));
    let limit = if files.limit == u64::MAX { "unlimited".to_owned() } else { files.limit.to_string() };
    let whose = files.server.map_or("here".to_owned(), |pid| format!("for the running server (pid {pid})"));
    let what = format!("open files: {limit} allowed {whose}, {needed} needed for limits.sessions = {sessions}");
    if files.limit >= needed {
        return Finding::ok(CHECK, what);
    }
    Finding::problem(
        CHECK,
        what,
        "each client is an open file; beyond the limit connections are not accepted, and publishers neither",
        format!(
            "systemd: LimitNOFILE={needed}; Docker: --ulimit nofile={needed}; a shell: ulimit -Hn {needed} as root; or --set limits.sessions={}",
            files.limit.saturating_sub(needed - sessions as u64).max(1)
        ),
    )
}

fn kernel(settings: &Settings, facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "sysctl";
    let Kernel { somaxconn, wmem_max, rmem_max, conntrack_max, .. } = facts.kernel;
    let sessions = settings.limits.sessions as u64;
    let mut findings = Vec::new();
    let mut low = |name: &str, is: Option<u64>, wanted: u64, why: &str| {
        if let Some(is) = is.filter(|is| *is < wanted) {
            let fix = format!("sysctl -w {name}={wanted}, and the same line in /etc/sysctl.d/90-tickcast.conf");
            findings.push(Finding::warning(CHECK, format!("{name} is {is}, below {wanted}"), why, fix));
        }
    };
    let backlog = sessions.min(limits::BACKLOG as u64);
    low(
        "net.core.somaxconn",
        somaxconn,
        backlog,
        "when all clients come back at once, connections beyond it are dropped and retried after a second",
    );
    let send = settings.fanout.send_buffer_bytes as u64;
    low(
        "net.core.wmem_max",
        wmem_max,
        send,
        "fanout.send_buffer_bytes is cut to it: slower clients fall behind sooner",
    );
    let receive = endpoints::Config::default().receive_buffer_bytes as u64;
    low(
        "net.core.rmem_max",
        rmem_max,
        receive,
        "the bus's receive buffers are cut to it: a publisher's burst waits in the publisher instead, which drops beyond SNDHWM",
    );
    low(
        "net.netfilter.nf_conntrack_max",
        conntrack_max,
        2 * sessions,
        "the firewall's table must hold every client, and a proxy's connection for each",
    );
    findings.extend(local_ports(settings, facts));
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "the kernel's network settings suit these limits"));
    }
    findings
}

fn local_ports(settings: &Settings, facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "sysctl";
    let Kernel { local_ports: Some((first, last)), reserved_ports, .. } = &facts.kernel else { return Vec::new() };
    let within = |(first, last): (u16, u16), port: u16| (first..=last).contains(&port);
    let at_risk: Vec<String> = facts
        .ports
        .iter()
        .filter_map(|port| port.number)
        .filter(|port| within((*first, *last), *port) && !reserved_ports.iter().any(|range| within(*range, *port)))
        .map(|port| port.to_string())
        .collect();
    let mut findings = Vec::new();
    if !at_risk.is_empty() {
        let ports = at_risk.join(",");
        findings.push(Finding::warning(
            CHECK,
            format!("ports {ports} lie in net.ipv4.ip_local_port_range ({first} to {last})"),
            "an outgoing connection of any program may hold one of them when the server starts (exit code 3)",
            format!("sysctl -w net.ipv4.ip_local_reserved_ports={ports}, and the same line in /etc/sysctl.d/90-tickcast.conf"),
        ));
    }
    let (range, sessions) = (usize::from(last.saturating_sub(*first)) + 1, settings.limits.sessions);
    if sessions > range {
        findings.push(Finding::warning(
            CHECK,
            format!("net.ipv4.ip_local_port_range has {range} ports, limits.sessions is {sessions}"),
            "a proxy on this machine needs one of them for each client",
            "sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\" with the server's own ports in ip_local_reserved_ports; or more addresses to connect to",
        ));
    }
    findings
}

fn clock(clock: &Clock, server: Option<&Server>) -> Vec<Finding> {
    const CHECK: &str = "clock";
    const WHY: &str = "ages of ticks, snapshots' times and leases of registered publishers are told by the wall clock";
    const FIX: &str = "timedatectl set-ntp true, or install chrony";
    let mut findings = Vec::new();
    if clock.now < THE_PAST {
        findings.push(Finding::problem(CHECK, "it stands before 2025", WHY, FIX));
    }
    if clock.jump > JUMP_MAX {
        let what = format!(
            "it moved by {:.3} s against the monotonic clock while the doctor looked",
            clock.jump.as_secs_f64()
        );
        findings.push(Finding::problem(
            CHECK,
            what,
            WHY,
            "let one time service only set it, and slew it rather than step it",
        ));
    }
    let error = clock.max_error.unwrap_or_default();
    match clock.synchronised {
        Some(false) => findings.push(Finding::warning(CHECK, "no time service keeps it in step", WHY, FIX)),
        Some(true) if error > ERROR_MAX => {
            let what = format!("it may be wrong by {:.1} s", error.as_secs_f64());
            findings.push(Finding::warning(
                CHECK,
                what,
                WHY,
                "chronyc tracking, or timedatectl timesync-status, says why",
            ));
        }
        _ => {}
    }
    let ahead = server.map_or(0.0, |server| server.sum("tickcast_clock_skew_total", ""));
    if ahead > 0.0 {
        findings.push(Finding::warning(
            CHECK,
            format!("{ahead} ticks had a time ahead of it"),
            "it is behind the exchange's or the publisher's clock, and tick_age_seconds reads too low",
            "synchronise this machine's clock and the publisher's",
        ));
    }
    if findings.is_empty() {
        let how = if clock.synchronised == Some(true) {
            "in step"
        } else {
            "whether it is in step the kernel does not tell; it does not jump"
        };
        findings.push(Finding::ok(CHECK, how));
    }
    findings
}
