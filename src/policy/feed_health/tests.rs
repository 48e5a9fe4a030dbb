//! One feed's states: a day of its life, and whatever proptest makes of it.

use super::*;
use proptest::prelude::*;

const UP: Facts = Facts { connected: true, data: None, heartbeat: None, expected: true };
const DOWN: Facts = Facts { connected: false, ..UP };

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn silent(seconds: u64) -> Facts {
    Facts { data: Some(s(seconds)), ..UP }
}

#[test]
fn a_feeds_day() {
    let start = Instant::now();
    let mut health = FeedHealth::new(SILENT_AFTER);
    let nothing_expected = |facts: Facts| Facts { expected: false, ..facts };
    let beating = |facts: Facts| Facts { heartbeat: Some(s(1)), ..facts };
    for (at, facts, want) in [
        (0, DOWN, FeedState::Down),
        (1, nothing_expected(UP), FeedState::Quiet),
        (500, nothing_expected(UP), FeedState::Quiet),
        // Subscribed now: it may take its time.
        (501, UP, FeedState::Quiet),
        (530, UP, FeedState::Quiet),
        (531, UP, FeedState::Stale),
        (532, silent(0), FeedState::Live),
        (561, silent(29), FeedState::Live),
        (562, silent(30), FeedState::Stale),
        (563, beating(silent(31)), FeedState::Quiet),
        (564, Facts { heartbeat: Some(s(30)), ..silent(32) }, FeedState::Stale),
        (565, nothing_expected(silent(33)), FeedState::Quiet),
        // The market opens: what was silent all night has half a minute.
        (9000, silent(8468), FeedState::Quiet),
        (9030, silent(8498), FeedState::Stale),
        (9031, DOWN, FeedState::Down),
        (9040, silent(8508), FeedState::Recovered),
        (9050, silent(8518), FeedState::Recovered),
        (9051, silent(0), FeedState::Live),
        (9052, DOWN, FeedState::Down),
        (9053, silent(2), FeedState::Recovered),
        (9060, silent(9), FeedState::Recovered),
        // No tick came since: no longer news.
        (9083, silent(32), FeedState::Stale),
        (9084, Facts { connected: false, ..silent(0) }, FeedState::Down),
    ] {
        let now = start + s(at);
        assert_eq!(health.peek(&facts, now), want, "asked at {at} s");
        assert_eq!(health.look(&facts, now), want, "at {at} s");
    }
}

#[test]
fn silence_counts_while_ticks_are_expected_connected_or_not_and_a_heartbeat_ends_it() {
    let start = Instant::now();
    let mut health = FeedHealth::new(SILENT_AFTER);
    let beating = Facts { heartbeat: Some(s(1)), ..silent(90) };
    for (at, facts, want) in [
        (0, Facts { expected: false, ..UP }, 0),
        (100, UP, 0),
        // It never ticked.
        (130, UP, 30),
        (140, silent(3), 3),
        (200, Facts { connected: false, ..silent(63) }, 63),
        (227, beating, 1),
        (300, Facts { expected: false, ..silent(163) }, 0),
        // The market opens: the night does not count.
        (9000, silent(8863), 0),
        (9010, silent(8873), 10),
    ] {
        let now = start + s(at);
        health.look(&facts, now);
        assert_eq!(health.silence(&facts, now), s(want), "at {at} s");
    }
}

#[test]
fn a_first_connection_is_no_recovery() {
    let mut health = FeedHealth::new(SILENT_AFTER);
    let now = Instant::now();
    assert_eq!(health.look(&DOWN, now), FeedState::Down);
    assert_eq!(health.look(&silent(0), now), FeedState::Live);
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let silence = || prop::option::of((0u64..100).prop_map(s));
    (prop::bool::weighted(0.8), silence(), silence(), any::<bool>())
        .prop_map(|(connected, data, heartbeat, expected)| Facts { connected, data, heartbeat, expected })
}

/// How good a state is for whoever waits for ticks.
fn rank(state: FeedState) -> u8 {
    match state {
        FeedState::Down => 0,
        FeedState::Stale => 1,
        FeedState::Quiet => 2,
        FeedState::Recovered => 3,
        FeedState::Live => 4,
    }
}

proptest! {
    #[test]
    fn down_means_not_connected_live_means_ticks_and_recovered_comes_from_down(
        history in prop::collection::vec((any_facts(), 0u64..40), 1..60),
    ) {
        let (mut now, mut health) = (Instant::now(), FeedHealth::new(SILENT_AFTER));
        for (facts, gap) in history {
            now += s(gap);
            let before = health.state();
            let seen = health.peek(&facts, now);
            let state = health.look(&facts, now);
            prop_assert_eq!(state, seen, "whoever asks hears what the next look says");
            prop_assert_eq!(state == FeedState::Down, !facts.connected);
            prop_assert!(state != FeedState::Live || facts.data.is_some_and(|d| d < SILENT_AFTER));
            prop_assert!(state != FeedState::Stale || (facts.expected && facts.data.is_none_or(|d| d >= SILENT_AFTER)));
            prop_assert!(state != FeedState::Recovered || matches!(before, FeedState::Down | FeedState::Recovered));
        }
    }

    #[test]
    fn longer_silence_never_looks_better(
        history in prop::collection::vec((any_facts(), 0u64..40), 1..20),
        facts in any_facts(),
        more in 0u64..100,
    ) {
        let (mut now, mut health) = (Instant::now(), FeedHealth::new(SILENT_AFTER));
        for (facts, gap) in history {
            now += s(gap);
            health.look(&facts, now);
        }
        let longer = |silence: Option<Duration>| silence.map(|silence| silence + s(more));
        let worse = Facts { data: longer(facts.data), heartbeat: longer(facts.heartbeat), ..facts };
        prop_assert!(rank(health.peek(&worse, now)) <= rank(health.peek(&facts, now)));
    }
}
