//! What the kernel says: limits, settings, clock.

use super::super::facts::{Clock, Kernel, OpenFiles};
use crate::net::sys;
use std::fs;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The limit of the server with this pid if there is one, else our own.
pub(super) fn open_files(server: Option<u32>) -> OpenFiles {
    let of = |who: &str| hard_limit(&fs::read_to_string(format!("/proc/{who}/limits")).ok()?);
    match server.and_then(|pid| Some((pid, of(&pid.to_string())?))) {
        Some((pid, limit)) => OpenFiles { limit, server: Some(pid) },
        None => OpenFiles { limit: of("self").unwrap_or(u64::MAX), server: None },
    }
}

/// The hard limit of open files in the text of `/proc/PID/limits`.
fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Reads what matters under `/proc/sys/net`.
pub(super) fn kernel() -> Kernel {
    let text = |name: &str| fs::read_to_string(format!("/proc/sys/net/{name}")).ok();
    let number = |name: &str| text(name)?.trim().parse().ok();
    let range = |text: String| {
        let mut ends = text.split_whitespace().map(|end| end.parse().ok());
        Some((ends.next()??, ends.next()??))
    };
    Kernel {
        somaxconn: number("core/somaxconn"),
        wmem_max: number("core/wmem_max"),
        rmem_max: number("core/rmem_max"),
        local_ports: text("ipv4/ip_local_port_range").and_then(range),
        reserved_ports: text("ipv4/ip_local_reserved_ports").map(|text| ranges(&text)).unwrap_or_default(),
        conntrack_max: number("netfilter/nf_conntrack_max"),
    }
}

/// `1-3,7` as ranges.
fn ranges(text: &str) -> Vec<(u16, u16)> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.trim().split(',').filter_map(part).collect()
}

/// Both clocks at one moment. A thread that is put aside between two readings would look like a jump, so the closest pair
/// of a few is taken.
pub(super) fn both_clocks() -> (Instant, SystemTime) {
    let pair = |_| {
        let (before, wall) = (Instant::now(), SystemTime::now());
        (before.elapsed(), (before, wall))
    };
    (0..8).map(pair).min_by_key(|(apart, _)| *apart).expect("eight pairs").1
}

/// The clock now, against how both clocks stood when the doctor began.
pub(super) fn clock((mono, wall): (Instant, SystemTime)) -> Clock {
    let (mono_now, now) = both_clocks();
    let passed = mono_now - mono;
    let shown = now.duration_since(wall).unwrap_or_default();
    let state = sys::clock_state();
    Clock {
        synchronised: state.map(|state| state.synchronised),
        max_error: state.map(|state| state.max_error),
        jump: passed.abs_diff(shown),
        now: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_kernels_texts_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(hard_limit(limits), Some(524_288));
        assert_eq!(hard_limit("Max open files            1024     unlimited  files"), Some(u64::MAX));
        assert_eq!(hard_limit("Max processes 1 2"), None);
        assert_eq!(ranges("5555,8765-8767\n"), [(5555, 5555), (8765, 8767)]);
        assert!(ranges("\n").is_empty());
    }

    #[test]
    fn this_machine_answers_and_its_clock_stands_still_meanwhile() {
        assert!(open_files(None).limit > 0 && open_files(None).server.is_none());
        assert_eq!(open_files(Some(std::process::id())).server, Some(std::process::id()));
        assert!(kernel().somaxconn.is_some());
        let clock = clock(both_clocks());
        assert!(clock.jump < Duration::from_millis(50), "{clock:?}");
        let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
        assert!(super::clock((Instant::now(), an_hour_ago)).jump > Duration::from_secs(3599));
    }
}
