//! The judge of overload on made-up looks: single ones, floods, closed loops, and whatever proptest finds.

use super::*;
use proptest::prelude::*;

const CALM: Facts = Facts { delay: Duration::ZERO, loop_lag: Duration::ZERO, merged: 0.0, outboxes: 0.0, sources: 0.0 };

fn delayed(ms: u64) -> Facts {
    Facts { delay: Duration::from_millis(ms), ..CALM }
}

/// The levels after each of `looks` looks at the same facts.
fn repeat(overload: &mut Overload, facts: Facts, looks: u32) -> Vec<Level> {
    (0..looks)
        .map(|_| {
            overload.look(&facts);
            overload.level()
        })
        .collect()
}

fn raised_to(level: Level) -> Overload {
    let mut overload = Overload::default();
    while overload.level() < level {
        overload.look(&Facts { merged: 1.0, ..CALM });
    }
    overload
}

#[test]
fn each_fact_asks_for_its_levels_by_its_own_thresholds() {
    let with = |cause: Cause, value: f64| match cause {
        Cause::Delay => Facts { delay: Duration::from_secs_f64(value), ..CALM },
        Cause::LoopLag => Facts { loop_lag: Duration::from_secs_f64(value), ..CALM },
        Cause::Merged => Facts { merged: value, ..CALM },
        Cause::Outboxes => Facts { outboxes: value, ..CALM },
        Cause::Sources => Facts { sources: value, ..CALM },
    };
    for cause in Cause::ALL {
        for (n, from) in cause.thresholds().into_iter().enumerate() {
            let (level, loudest) = asked(&with(cause, from), 1.0);
            assert!(level >= Level::ALL[n + 1] && loudest == cause, "{cause:?} {from}: {level:?} for {loudest:?}");
            assert!(asked(&with(cause, from * 0.99), 1.0).0 <= Level::ALL[n], "{cause:?} below {from}");
        }
    }
    assert_eq!(asked(&CALM, 1.0).0, Level::Normal);
}

#[test]
fn one_level_a_second_upwards_and_one_each_five_seconds_back() {
    let mut overload = Overload::default();
    let levels = repeat(&mut overload, delayed(2000), 5 * RISE_LOOKS);
    for (look, level) in levels.iter().enumerate() {
        assert_eq!(usize::from(level.number()), ((look + 1) / RISE_LOOKS as usize).min(4), "look {look}");
    }
    let levels = repeat(&mut overload, CALM, 5 * FALL_LOOKS);
    for (look, level) in levels.iter().enumerate() {
        assert_eq!(usize::from(level.number()), 4 - ((look + 1) / FALL_LOOKS as usize).min(4), "look {look}");
    }
}

#[test]
fn a_hiccup_however_large_raises_nothing() {
    let mut overload = Overload::default();
    for _ in 0..100 {
        repeat(&mut overload, delayed(60_000), RISE_LOOKS - 1);
        repeat(&mut overload, CALM, 1);
    }
    assert_eq!(overload.level(), Level::Normal);
}

#[test]
fn a_level_stays_while_its_fact_is_above_half_the_threshold_and_says_what_raised_it() {
    let mut overload = Overload::default();
    let change = (0..RISE_LOOKS).filter_map(|_| overload.look(&delayed(120))).next().expect("it rises");
    assert_eq!((change.from, change.to), (Level::Normal, Level::Paced));
    assert_eq!(change.cause, (Cause::Delay, 0.12));
    repeat(&mut overload, delayed(60), 100 * FALL_LOOKS);
    assert_eq!(overload.level(), Level::Paced, "neither up nor down between the two");
    repeat(&mut overload, delayed(49), FALL_LOOKS);
    assert_eq!(overload.level(), Level::Normal);
}

#[test]
fn a_measure_that_works_is_not_taken_back_and_forth() {
    // Each level from `relief` on clears the trouble up; below it the trouble is back at once. Ten minutes of that.
    for relief in &Level::ALL[1..] {
        let mut overload = Overload::default();
        let mut changes = 0;
        for _ in 0..10 * 60 * 4 {
            let facts = if overload.level() >= *relief { CALM } else { delayed(5000) };
            changes += usize::from(overload.look(&facts).is_some());
        }
        assert!((5..40).contains(&changes), "{relief:?}: {changes} changes in ten minutes");
        assert!(overload.level() >= relief.down(), "{relief:?}");
    }
}

#[test]
fn patience_is_forgotten_after_a_long_calm() {
    let mut overload = Overload::default();
    for _ in 0..5 {
        repeat(&mut overload, delayed(150), RISE_LOOKS);
        while overload.level() > Level::Normal {
            overload.look(&CALM);
        }
    }
    repeat(&mut overload, delayed(150), RISE_LOOKS);
    repeat(&mut overload, CALM, FALL_LOOKS);
    assert_eq!(overload.level(), Level::Paced, "after relapses it waits longer");
    repeat(&mut overload, CALM, FALL_LOOKS_MAX + FALL_LOOKS_MAX);
    repeat(&mut overload, delayed(150), RISE_LOOKS);
    repeat(&mut overload, CALM, FALL_LOOKS);
    assert_eq!(overload.level(), Level::Normal, "and no longer so");
}

#[test]
fn each_level_includes_what_the_milder_ones_do() {
    for (milder, harsher) in Level::ALL.iter().zip(&Level::ALL[1..]) {
        assert!(pacing_factor(*harsher) >= pacing_factor(*milder));
        assert!(evictions(*harsher, 15) >= evictions(*milder, 15));
        for class in [Class::High, Class::Normal, Class::Low] {
            assert!(conflation(*harsher, class) >= conflation(*milder, class));
            assert!(takes_subscriptions(*milder, class) || !takes_subscriptions(*harsher, class));
        }
        assert!(takes_sessions(*milder) || !takes_sessions(*harsher));
    }
    for level in Level::ALL {
        let of = |class| conflation(level, class);
        assert!(of(Class::High) <= of(Class::Normal) && of(Class::Normal) <= of(Class::Low), "{level:?}");
        assert_eq!(of(Class::Normal).is_some(), level >= Level::Conflated);
    }
    assert!(takes_subscriptions(Level::Refusing, Class::Normal), "only class low is held");
    assert!(!takes_subscriptions(Level::Held, Class::Low) && !takes_sessions(Level::Refusing));
    assert_eq!(
        (evictions(Level::Refusing, 0), evictions(Level::Refusing, 1), evictions(Level::Refusing, 95)),
        (0, 1, 10)
    );
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let calm = Just(CALM);
    let some = (0u64..3000, 0u64..3000, 0.0f64..=1.0, 0.0f64..=1.0, 0.0f64..=1.0).prop_map(|(d, l, m, o, s)| Facts {
        delay: Duration::from_millis(d),
        loop_lag: Duration::from_millis(l),
        merged: m,
        outboxes: o,
        sources: s,
    });
    prop_oneof![2 => calm, 3 => some]
}

fn worse_by(facts: &Facts, more: &Facts) -> Facts {
    Facts {
        delay: facts.delay + more.delay,
        loop_lag: facts.loop_lag + more.loop_lag,
        merged: (facts.merged + more.merged).min(1.0),
        outboxes: facts.outboxes + more.outboxes,
        sources: facts.sources + more.sources,
    }
}

/// The same facts for some looks, as real trouble has it.
fn any_history() -> impl Strategy<Value = Vec<(Facts, u32)>> {
    prop::collection::vec((any_facts(), 1u32..60), 1..30)
}

proptest! {
    #[test]
    fn worse_facts_never_ask_for_less(facts in any_facts(), more in any_facts(), factor in prop::sample::select(vec![1.0, EXIT])) {
        prop_assert!(asked(&worse_by(&facts, &more), factor).0 >= asked(&facts, factor).0);
    }

    #[test]
    fn trouble_that_only_grows_never_lowers_the_level_and_that_only_shrinks_never_raises_it_for_good(steps in any_history()) {
        let mut overload = Overload::default();
        let mut facts = CALM;
        for (more, looks) in steps {
            facts = worse_by(&facts, &more);
            let before = overload.level();
            prop_assert!(repeat(&mut overload, facts, looks).iter().is_sorted());
            prop_assert!(overload.level() >= before);
        }
        let wanted = asked(&facts, 1.0).0;
        repeat(&mut overload, facts, 5 * RISE_LOOKS);
        prop_assert_eq!(overload.level(), wanted, "it arrives where the facts ask for it to be");
    }

    #[test]
    fn the_level_moves_one_step_at_a_time_never_above_what_was_asked_and_not_before_its_looks(history in any_history()) {
        let mut overload = Overload::default();
        let (mut since, mut loudest) = (u32::MAX, Level::Normal);
        for (facts, looks) in history {
            loudest = loudest.max(asked(&facts, 1.0).0);
            for _ in 0..looks {
                since = since.saturating_add(1);
                if let Some(change) = overload.look(&facts) {
                    let up = change.to > change.from;
                    prop_assert_eq!(change.to.number().abs_diff(change.from.number()), 1);
                    prop_assert!(since >= if up { RISE_LOOKS } else { FALL_LOOKS }, "{since} looks after the last");
                    prop_assert!(!up || asked(&facts, 1.0).0 >= change.to, "it rises only to what is asked for");
                    since = 0;
                }
                prop_assert!(overload.level() <= loudest);
            }
        }
    }

    #[test]
    fn from_everywhere_calm_leads_back_to_normal_and_stays_there(history in any_history(), from in prop::sample::select(Level::ALL.to_vec())) {
        let mut overload = raised_to(from);
        for (facts, looks) in history {
            repeat(&mut overload, facts, looks);
        }
        repeat(&mut overload, CALM, 4 * FALL_LOOKS_MAX);
        prop_assert_eq!(overload.level(), Level::Normal);
        prop_assert!(repeat(&mut overload, CALM, 1000).iter().all(|l| *l == Level::Normal));
    }
}
