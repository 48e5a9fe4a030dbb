//! The law of the verdicts, with figures as kernels give them.

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A healthy connection on a local network.
const HEALTHY: Tcp = Tcp {
    rtt: ms(1),
    rtt_var: Duration::from_micros(300),
    retransmits: 0,
    timeouts: 0,
    lost: 0,
    unacked: 0,
    silence: ms(20),
    segment: 1448,
    delivery_rate: Some(40_000_000),
    notsent: Some(0),
    send_queue: Some(0),
    window: Some(65_536),
};
/// What Linux 6.18 says of a client on loopback that stopped reading four seconds ago.
const STALLED: Tcp = Tcp {
    retransmits: 1,
    silence: ms(504),
    segment: 38_912,
    notsent: Some(38_912),
    send_queue: Some(38_912),
    window: Some(0),
    ..HEALTHY
};
/// And of one that reads 200 kB a second of the megabytes that it is sent.
const SLOW: Tcp = Tcp { retransmits: 10, window: Some(1024), ..STALLED };
/// A path that has gone dark.
const DARK: Tcp = Tcp {
    timeouts: 4,
    lost: 10,
    unacked: 10,
    retransmits: 14,
    silence: ms(9300),
    notsent: Some(17_000),
    send_queue: Some(31_480),
    ..HEALTHY
};
/// A path that takes less than is sent: as much is under way as it carries, well within the client's window.
const NARROW: Tcp = Tcp {
    rtt: ms(350),
    unacked: 10,
    notsent: Some(17_000),
    send_queue: Some(31_480),
    delivery_rate: Some(41_000),
    ..HEALTHY
};

fn verdict(lag: u64, worker_late: u64, tcp: Option<Tcp>) -> Option<Verdict> {
    let found = judge(&Facts { lag: ms(lag), worker_late: ms(worker_late), tcp });
    assert!(!found.why.is_empty());
    found.verdict
}

#[test]
fn who_is_behind_and_why() {
    use Verdict::{Client, Network, Ok, Us};
    for (what, lag, late, tcp, want) in [
        ("all is well", 0, 0, HEALTHY, Ok),
        ("a burst leaves something over for a moment", 249, 0, NARROW, Ok),
        (
            "one timeout or a lost segment while nothing has piled up",
            0,
            0,
            Tcp { timeouts: 1, lost: 1, unacked: 3, ..HEALTHY },
            Ok,
        ),
        ("retransmits of old times", 0, 0, Tcp { retransmits: 900, ..HEALTHY }, Ok),
        ("it does not read", 4000, 0, STALLED, Client),
        ("it does not read, but the kernel still has room", 0, 0, STALLED, Client),
        ("it does not read, and its worker is late as well", 4000, 700, STALLED, Client),
        (
            "it closed its window while segments were under way, which are sent again",
            4000,
            0,
            Tcp { window: Some(0), ..DARK },
            Client,
        ),
        ("it reads slowly", 4000, 0, SLOW, Client),
        ("a window that just takes what is under way", 4000, 0, Tcp { window: Some(14_480), ..NARROW }, Client),
        ("nobody answers", 4000, 0, DARK, Network),
        ("nobody answers, and nothing has piled up yet", 0, 0, DARK, Network),
        ("nobody answers, and the worker is late as well", 4000, 700, DARK, Network),
        ("segments get lost", 4000, 0, Tcp { lost: 2, ..NARROW }, Network),
        ("the path is narrow", 4000, 0, NARROW, Network),
        ("all was sent and is not acknowledged yet", 4000, 0, Tcp { notsent: Some(0), ..NARROW }, Network),
        ("a narrow path is no excuse for a late worker", 4000, 100, NARROW, Us),
        ("the kernel has nothing to do", 4000, 0, HEALTHY, Us),
        ("the worker is late", 0, 100, HEALTHY, Us),
        ("the worker is hardly late", 0, 99, HEALTHY, Ok),
    ] {
        assert_eq!(verdict(lag, late, Some(tcp)), Some(want), "{what}");
    }
}

#[test]
fn a_kernel_that_tells_less_is_read_as_far_as_it_goes() {
    let older = |tcp: Tcp| Some(Tcp { window: None, delivery_rate: None, ..tcp });
    assert_eq!(verdict(4000, 0, older(STALLED)), Some(Verdict::Client), "bytes wait and none is under way");
    assert_eq!(verdict(4000, 0, older(DARK)), Some(Verdict::Network));
    assert_eq!(verdict(4000, 0, older(NARROW)), Some(Verdict::Network));
    assert_eq!(verdict(4000, 0, older(HEALTHY)), Some(Verdict::Us));
    assert_eq!(verdict(0, 0, older(HEALTHY)), Some(Verdict::Ok));
    let ancient = Tcp { window: None, delivery_rate: None, notsent: None, send_queue: None, ..DARK };
    assert_eq!(verdict(4000, 0, Some(ancient)), Some(Verdict::Network));
}

#[test]
fn without_the_kernel_nobody_is_blamed() {
    assert_eq!(verdict(4000, 0, None), None);
    assert_eq!(verdict(0, 0, None), Some(Verdict::Ok));
    assert_eq!(verdict(0, 300, None), Some(Verdict::Us));
}

#[test]
fn the_reason_names_the_fact() {
    let why = |lag, late, tcp| judge(&Facts { lag: ms(lag), worker_late: ms(late), tcp: Some(tcp) }).why;
    for (why, part) in [
        (why(12_340, 0, STALLED), "not been reading for 12.3 s"),
        (why(4000, 0, SLOW), "window is down to 1024 bytes"),
        (why(4000, 0, DARK), "4 timeouts in a row; the last acknowledgement came 9.3 s ago"),
        (why(4000, 0, NARROW), "rtt 0.3 s, 41000 bytes a second arrive"),
        (why(0, 250, HEALTHY), "0.2 s late"),
    ] {
        assert!(why.contains(part), "{part:?} in {why:?}");
    }
}
