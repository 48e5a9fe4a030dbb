//! Each rule of the machine, with a clock that is an argument.

use super::*;
use crate::policy::backoff::QUICK;
use Action::{Barred, Beat, Close, Connect, Down, Probe, Read, Up};

const LIMITS: Limits = Limits {
    per_connection: 10,
    connections: 1,
    per_message: 10,
    message_gap: Duration::ZERO,
    heartbeat: None,
    silence: Duration::from_secs(10),
    login: None,
    refusals: 3,
    same_again: false,
};
const OLD: Fingerprint = Fingerprint(1);
const NEW: Fingerprint = Fingerprint(2);

/// A link and its clock.
struct World {
    link: Link,
    now: Instant,
}

impl World {
    fn new(limits: Limits) -> Self {
        World { link: Link::new(limits, None), now: Instant::now() }
    }

    fn on(&mut self, input: Input) -> Vec<Action> {
        self.link.on(input, self.now, 0.5)
    }

    /// Waits until the link wants something beyond pings; how long that was.
    fn sleep(&mut self) -> (Duration, Vec<Action>) {
        let began = self.now;
        loop {
            self.now = self.link.wake_at().expect("it waits for something");
            let woken = self.on(Input::Timer);
            if !woken.is_empty() && woken != [Probe] {
                return (self.now - began, woken);
            }
        }
    }

    fn live(&mut self) {
        assert_eq!(self.on(Input::Start), [Read]);
        assert_eq!(self.on(Input::Credentials(OLD)), [Connect]);
        assert_eq!(self.on(Input::Opened), [Up, Probe]);
    }

    fn heard_until_steady(&mut self) {
        self.now += STEADY;
        assert_eq!(self.on(Input::Heard), []);
    }
}

fn lost() -> Input {
    Input::Lost("cut".into())
}

fn refused() -> Input {
    Input::Refused("403".into())
}

fn down(reason: &str) -> Action {
    Down(reason.to_owned())
}

#[test]
fn credentials_are_read_before_every_connect_and_waits_double_to_two_seconds() {
    let mut world = World::new(LIMITS);
    world.live();
    world.heard_until_steady();
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert_eq!(world.on(lost()), [Close, down("cut")]);
        let (slept, woken) = world.sleep();
        assert_eq!(woken, [Read]);
        waits.push(slept.as_millis());
        assert_eq!(world.on(Input::Credentials(NEW)), [Connect], "whatever was read last is used");
    }
    assert_eq!(waits, [250, 500, 1000, 2000, 2000, 2000]);
}

#[test]
fn after_two_minutes_the_waits_grow_to_a_minute_and_start_over_once_it_stood() {
    let mut world = World::new(LIMITS);
    assert_eq!(world.on(Input::Start), [Read]);
    let began = world.now;
    let mut waits = Vec::new();
    while waits.last() != Some(&60) {
        world.on(Input::Credentials(OLD));
        world.on(lost());
        let quick = world.now - began < QUICK;
        let (slept, _) = world.sleep();
        assert!(!quick || slept <= Duration::from_secs(2), "{slept:?}");
        waits.push(slept.as_secs());
    }
    assert_eq!(waits[waits.len() - 5..], [4, 8, 16, 32, 60]);
    world.on(Input::Credentials(OLD));
    assert_eq!(world.on(Input::Opened), [Up, Probe]);
    world.heard_until_steady();
    world.on(lost());
    assert_eq!(world.sleep().0.as_millis(), 250);
}

#[test]
fn a_connection_that_is_closed_soon_after_it_opened_counts_as_one_more_failure() {
    let mut world = World::new(LIMITS);
    assert_eq!(world.on(Input::Start), [Read]);
    let mut waits = Vec::new();
    for _ in 0..4 {
        world.on(Input::Credentials(OLD));
        assert_eq!(world.on(Input::Opened), [Up, Probe]);
        world.now += STEADY / 2;
        assert_eq!(world.on(lost()), [Close, down("cut")]);
        waits.push(world.sleep().0.as_millis());
    }
    assert_eq!(waits, [250, 500, 1000, 2000]);
}

#[test]
fn silence_is_death_and_anything_heard_is_life() {
    let mut world = World::new(LIMITS);
    world.live();
    for _ in 0..5 {
        world.now += Duration::from_secs(9);
        assert_eq!(world.on(Input::Heard), []);
        assert_eq!(world.on(Input::Timer), []);
    }
    let (slept, woken) = world.sleep();
    assert_eq!((slept.as_secs(), woken), (10, vec![Close, down("nothing heard for 10 s")]));
}

#[test]
fn a_broker_that_answers_pings_is_dead_five_seconds_after_its_last_word_when_it_answers_no_more() {
    let mut world = World::new(LIMITS);
    world.live();
    assert_eq!(world.on(Input::Pong), []);
    world.now += Duration::from_secs(1);
    assert_eq!(world.on(Input::Heard), []);
    for _ in 0..2 {
        assert_eq!(world.link.wake_at(), Some(world.now + PROBE));
        world.now += PROBE;
        assert_eq!(world.on(Input::Timer), [Probe]);
        world.now += ANSWER / 2;
        assert_eq!(world.on(Input::Pong), []);
    }
    assert_eq!(world.on(Input::Heard), []);
    assert_eq!(world.sleep(), (PROBE + ANSWER, vec![Close, down("no answer to a ping")]));
}

#[test]
fn who_was_stalled_itself_takes_nobody_for_dead_before_it_has_asked_again() {
    let mut world = World::new(LIMITS);
    world.live();
    assert_eq!(world.on(Input::Pong), []);
    world.now += Duration::from_secs(60);
    assert_eq!(world.on(Input::Timer), [Probe]);
    assert_eq!(world.on(Input::Pong), []);
    assert_eq!(world.on(Input::Heard), []);
    world.now += Duration::from_secs(60);
    assert_eq!(world.on(Input::Timer), [Probe]);
    let (slept, woken) = world.sleep();
    assert_eq!((slept, &woken[0]), (ANSWER, &Close));
}

#[test]
fn pongs_alone_keep_no_feed_alive() {
    let mut world = World::new(LIMITS);
    world.live();
    let began = world.now;
    loop {
        assert_eq!(world.on(Input::Pong), []);
        world.now = world.link.wake_at().expect("it waits");
        match &world.on(Input::Timer)[..] {
            [Probe] => {}
            ended => {
                assert_eq!(ended, [Close, down("nothing heard for 10 s")]);
                break;
            }
        }
    }
    assert_eq!(world.now - began, LIMITS.silence);
}

#[test]
fn the_same_refused_credentials_are_never_sent_twice_and_new_ones_at_once() {
    let mut world = World::new(LIMITS);
    assert_eq!(world.on(Input::Start), [Read]);
    assert_eq!(world.on(Input::Credentials(OLD)), [Connect]);
    assert_eq!(world.on(refused()), [Close, down("403")]);
    assert_eq!(world.sleep().1, [Read]);
    assert!(matches!(world.on(Input::Credentials(OLD))[..], [Barred(_)]));
    assert!(world.link.is_barred() && world.link.refused() == Some(OLD));
    for _ in 0..3 {
        assert_eq!(world.sleep(), (LOOK, vec![Read]));
        assert_eq!(world.on(Input::Credentials(OLD)), [], "said once");
    }
    assert_eq!(world.on(Input::Changed), [Read], "told that they have changed, it looks at once");
    assert_eq!(world.on(Input::Credentials(NEW)), [Connect]);
    assert_eq!(world.on(Input::Opened), [Up, Probe]);
    assert_eq!(world.link.refused(), None);
}

#[test]
fn after_so_many_refusals_even_new_credentials_are_tried_once_a_minute() {
    let mut world = World::new(LIMITS);
    assert_eq!(world.on(Input::Start), [Read]);
    for n in 0..2 {
        assert_eq!(world.on(Input::Credentials(Fingerprint(n))), [Connect]);
        assert_eq!(world.on(refused()), [Close, down("403")]);
        assert_eq!(world.sleep().1, [Read]);
    }
    assert_eq!(world.on(Input::Credentials(Fingerprint(3))), [Connect]);
    assert!(matches!(&world.on(refused())[..], [Close, Down(_), Barred(_)]));
    assert_eq!(world.sleep(), (LOOK_SELDOM, vec![Read]));
    assert_eq!(world.on(Input::Credentials(Fingerprint(4))), [Connect]);
}

#[test]
fn a_broker_that_refuses_good_credentials_for_a_while_is_asked_again_with_the_same() {
    let mut world = World::new(Limits { same_again: true, ..LIMITS });
    assert_eq!(world.on(Input::Start), [Read]);
    for _ in 0..2 {
        assert_eq!(world.on(Input::Credentials(OLD)), [Connect]);
        assert_eq!(world.on(refused()), [Close, down("403")]);
        assert_eq!(world.sleep().1, [Read]);
    }
    assert_eq!(world.on(Input::Credentials(OLD)), [Connect]);
    assert!(matches!(&world.on(refused())[..], [Close, Down(_), Barred(_)]));
}

#[test]
fn credentials_known_to_be_refused_are_not_tried_at_all() {
    let mut world = World { link: Link::new(LIMITS, Some(OLD)), now: Instant::now() };
    assert_eq!(world.on(Input::Start), [Read]);
    assert!(matches!(world.on(Input::Credentials(OLD))[..], [Barred(_)]));
}

#[test]
fn missing_credentials_are_a_failure_like_any_other() {
    let mut world = World::new(LIMITS);
    assert_eq!(world.on(Input::Start), [Read]);
    assert_eq!(world.on(Input::NoCredentials("no file".into())), [down("no file")]);
    assert_eq!(world.sleep().1, [Read]);
}

#[test]
fn a_login_is_answered_or_given_up_and_heartbeats_go_out_only_after_it() {
    let login = Some(Duration::from_secs(12));
    let mut world = World::new(Limits { login, heartbeat: Some(Duration::from_secs(3)), ..LIMITS });
    assert_eq!(world.on(Input::Start), [Read]);
    assert_eq!(world.on(Input::Credentials(OLD)), [Connect]);
    assert_eq!(world.on(Input::Opened), []);
    assert_eq!(world.sleep(), (Duration::from_secs(12), vec![Close, down("no answer to the login")]));
    assert_eq!(world.sleep().1, [Read]);
    world.on(Input::Credentials(OLD));
    world.on(Input::Opened);
    assert_eq!(world.on(Input::LoggedIn), [Up, Probe]);
    for _ in 0..3 {
        assert_eq!(world.sleep(), (Duration::from_secs(3), vec![Beat]));
    }
    assert_eq!(
        world.sleep(),
        (Duration::from_secs(1), vec![Close, down("nothing heard for 10 s")]),
        "our own beats are not heard"
    );
}

#[test]
fn an_open_that_hangs_is_given_up_and_late_words_of_it_are_ignored() {
    let mut world = World::new(LIMITS);
    assert_eq!(world.on(Input::Start), [Read]);
    world.on(Input::Credentials(OLD));
    assert_eq!(world.sleep(), (OPEN, vec![Close, down("no answer to the connect")]));
    for late in [Input::Opened, Input::Heard, Input::Pong, refused(), lost(), Input::LoggedIn] {
        assert_eq!(world.on(late), []);
    }
    assert_eq!(world.sleep().1, [Read]);
}

#[test]
fn what_is_not_wanted_any_more_is_closed_once_and_can_be_wanted_again() {
    let mut world = World::new(LIMITS);
    world.live();
    assert_eq!(world.on(Input::Stop), [Close]);
    assert_eq!(world.on(Input::Stop), []);
    assert_eq!((world.on(Input::Timer), world.link.wake_at()), (vec![], None));
    world.live();
    assert!(world.link.is_up());
}

proptest::proptest! {
    #[test]
    fn whatever_happens_credentials_are_read_anew_for_each_connect_and_refused_ones_are_not_sent_again(
        steps in proptest::collection::vec((0u8..13, 0u64..4, 0u64..20_000), 1..300),
        same_again in proptest::bool::ANY,
    ) {
        let mut world = World::new(Limits { same_again, login: Some(Duration::from_secs(5)), ..LIMITS });
        let (mut read, mut offered, mut refused, mut open) = (false, None, None, false);
        for (what, print, millis) in steps {
            world.now += Duration::from_millis(millis);
            let input = match what {
                0 | 1 => Input::Start,
                2 | 3 => Input::Credentials(Fingerprint(print)),
                4 => Input::NoCredentials("none".into()),
                5 => Input::Opened,
                6 => Input::LoggedIn,
                7 => Input::Heard,
                8 => Input::Refused("no".into()),
                9 => Input::Lost("cut".into()),
                10 => Input::Changed,
                11 => Input::Pong,
                _ => Input::Timer,
            };
            if let Input::Credentials(print) = input {
                offered = Some(print);
            }
            let was_refused = matches!(input, Input::Refused(_)) && open;
            for action in world.on(input) {
                match action {
                    Read => read = true,
                    Connect => {
                        proptest::prop_assert!(std::mem::take(&mut read), "nothing held is used");
                        proptest::prop_assert!(same_again || offered != refused, "it was refused");
                        proptest::prop_assert!(!std::mem::replace(&mut open, true), "one socket at a time");
                    }
                    Close => open = false,
                    Up => {
                        proptest::prop_assert!(open && world.link.is_up());
                        refused = None;
                    }
                    Beat | Probe | Down(_) | Barred(_) => {}
                }
            }
            if was_refused {
                refused = world.link.refused();
            }
            if let Some(wake) = world.link.wake_at() {
                proptest::prop_assert!(wake < world.now + Duration::from_secs(90), "it never sleeps for good");
            }
        }
    }
}
