//! Each rule of the machine, with a clock that is an argument.

use super::*;
use Action::{Begin, Clear, Disconnect, Drop, Fail, Make, Retire, Uncleared};

/// A machine, its clock and what is desired.
struct World {
    machine: Machine,
    now: Instant,
    wish: Desired,
}

impl World {
    /// One session of a user of `fake`.
    fn new() -> Self {
        let keep_alive = ["keep".to_owned()].into();
        let machine = Machine::new(Arc::new(Config { keep_alive, ..Config::default() }));
        let wish = Desired { broker: Some("fake".into()), sessions: 1, ticket: 1, rebuild: 0 };
        World { machine, now: Instant::now(), wish }
    }

    fn on(&mut self, input: Input) -> Vec<Action> {
        self.machine.on(input, &self.wish, self.now, 0.5)
    }

    fn look(&mut self) -> Vec<Action> {
        self.on(Input::Look)
    }

    /// Waits until the machine wants to be woken; how long that was.
    fn sleep(&mut self) -> (Duration, Vec<Action>) {
        let until = self.machine.wake_at().expect("it waits for something");
        let slept = until - self.now;
        self.now = until;
        (slept, self.look())
    }

    fn live(&mut self) {
        assert_eq!(self.look(), [self.make()]);
        assert_eq!(self.on(Input::Connected), [Begin { fresh: true }]);
        assert_eq!(self.stands(), Stands::Live);
    }

    fn stands(&self) -> Stands {
        self.machine.stands(false)
    }

    fn make(&self) -> Action {
        Make(self.wish.broker.clone().expect("a broker"))
    }

    fn steady(&mut self) {
        self.now += STEADY;
    }
}

fn no_connection() -> Input {
    Input::ConnectFailed { code: FaultCode::BrokerConnection, reason: "reset".into(), refused: false }
}

fn no_login() -> Input {
    Input::ConnectFailed { code: FaultCode::BrokerInit, reason: "bad totp".into(), refused: false }
}

fn refused() -> Input {
    Input::ConnectFailed { code: FaultCode::BrokerInit, reason: "403".into(), refused: true }
}

fn lost() -> Input {
    Input::Ended { reason: "closed".into(), refused: false }
}

fn fail(code: FaultCode, reason: &str) -> Action {
    Fail { code, reason: reason.to_owned() }
}

#[test]
fn what_the_adapter_says_of_its_connection_is_how_it_stands() {
    let mut world = World::new();
    assert_eq!(world.stands(), Stands::Absent);
    assert_eq!(world.look(), [world.make()]);
    assert_eq!(world.stands(), Stands::Connecting);
    assert_eq!(world.on(Input::Connected), [Begin { fresh: true }]);
    assert_eq!((world.stands(), world.machine.stands(true)), (Stands::Live, Stands::Degraded));
    for (input, stands) in [
        (Input::Whole(false), Stands::Degraded),
        (Input::Whole(true), Stands::Live),
        (Input::Down { refused: false }, Stands::Down),
        (Input::Whole(false), Stands::Down),
        (Input::Refused, Stands::Reauthenticating { takes_calls: true }),
    ] {
        assert_eq!(world.on(input), []);
        assert_eq!(world.stands(), stands);
        assert!(world.machine.takes_calls());
    }
    assert_eq!(world.on(Input::Restored), [Begin { fresh: false }], "everything is subscribed anew");
    assert_eq!(world.stands(), Stands::Live);
}

#[test]
fn a_start_that_fails_is_tried_once_more_at_once_and_then_told() {
    for (failed, code, reason) in
        [(no_connection(), FaultCode::BrokerConnection, "reset"), (refused(), FaultCode::BrokerInit, "403")]
    {
        let mut world = World::new();
        assert_eq!(world.look(), [world.make()]);
        assert_eq!(world.on(failed.clone()), [Drop, world.make()]);
        assert_eq!(world.on(failed.clone()), [Drop, fail(code, reason)]);
        assert_eq!((world.stands(), world.machine.wake_at()), (Stands::Failed { refused: false }, None));
        // Nobody relies on it: who attaches again asks again.
        world.now += Duration::from_secs(3600);
        assert_eq!(world.look(), []);
        world.wish.ticket += 1;
        assert_eq!(world.look(), [world.make()]);
        assert_eq!(world.on(failed), [Drop, world.make()]);
        assert_eq!(world.on(Input::Connected), [Begin { fresh: true }]);
    }
    let mut world = World::new();
    world.look();
    assert_eq!(world.on(no_login()), [Drop, fail(FaultCode::BrokerInit, "bad totp")], "for this, luck does nothing");
}

#[test]
fn an_adapter_that_is_relied_on_is_tried_by_the_law_for_connections() {
    let mut world = World::new();
    world.live();
    world.steady();
    assert_eq!(world.on(lost()), [Drop, world.make()], "the first replacement is made at once");
    assert_eq!(world.on(no_connection()), [Drop, world.make()]);
    let mut waits = Vec::new();
    while waits.last() != Some(&60_000) {
        let failed = world.on(no_connection());
        assert_eq!(failed, [Drop, fail(FaultCode::BrokerConnection, "reset")]);
        assert_eq!(world.stands(), Stands::Failed { refused: false });
        let (slept, woken) = world.sleep();
        assert_eq!(woken, [world.make()]);
        waits.push(slept.as_millis());
    }
    assert_eq!(waits[..5], [250, 500, 1000, 2000, 2000]);
    assert_eq!(waits[waits.len() - 6..], [2000, 4000, 8000, 16_000, 32_000, 60_000]);
}

#[test]
fn an_adapter_that_falls_soon_after_each_login_is_made_ever_less_often() {
    let mut world = World::new();
    world.live();
    let mut waits = Vec::new();
    for _ in 0..5 {
        let mut did = world.on(lost());
        let mut slept = Duration::ZERO;
        if did.len() == 1 {
            assert_eq!(world.stands(), Stands::Down);
            (slept, did) = world.sleep();
        }
        assert_eq!(did.last(), Some(&world.make()));
        waits.push(slept.as_millis());
        world.on(Input::Connected);
    }
    assert_eq!(waits, [0, 250, 500, 1000, 2000]);
}

#[test]
fn a_start_that_is_late_is_relied_on_since_the_client_was_told_success() {
    let mut world = World::new();
    world.look();
    let (slept, woken) = world.sleep();
    assert_eq!(slept, Config::default().connect_timeout);
    assert_eq!(woken, [Drop, fail(FaultCode::BrokerConnection, "The broker connection timed out")]);
    assert_eq!(world.sleep(), (Duration::from_millis(250), vec![world.make()]));
}

#[test]
fn refused_credentials_are_read_anew_at_once_and_then_ever_less_often() {
    let mut world = World::new();
    world.live();
    world.steady();
    assert_eq!(
        world.on(Input::Ended { reason: "token expired".into(), refused: true }),
        [Drop, world.make()],
        "the next one reads them anew"
    );
    assert_eq!(world.stands(), Stands::Reauthenticating { takes_calls: false });
    assert_eq!(world.on(refused()), [Drop, world.make()]);
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert_eq!(world.on(refused()), [Drop, fail(FaultCode::BrokerInit, "403")]);
        assert_eq!(world.stands(), Stands::Failed { refused: true });
        let (slept, woken) = world.sleep();
        assert_eq!(woken, [world.make()]);
        assert_eq!(world.stands(), Stands::Reauthenticating { takes_calls: false });
        waits.push(slept.as_secs());
    }
    assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    // Told that they have changed, it does not wait, and what failed before counts for nothing.
    world.on(refused());
    world.wish.rebuild += 1;
    assert_eq!(world.look(), [world.make()]);
    assert_eq!(world.on(refused()), [Drop, world.make()]);
    world.on(refused());
    assert_eq!(world.sleep().0, LOOK);
    world.on(Input::Connected);
    assert_eq!(world.stands(), Stands::Live);
}

#[test]
fn a_word_of_refusal_makes_the_adapter_anew_but_not_again_and_again() {
    for word in [Input::CallRefused, Input::Down { refused: true }] {
        let mut world = World::new();
        world.live();
        assert!(world.machine.may_reauthenticate(world.now));
        assert_eq!(world.on(word.clone()), [Disconnect]);
        assert_eq!(world.stands(), Stands::Reauthenticating { takes_calls: false });
        assert_eq!(world.on(lost()), [Drop, world.make()], "the last is gone before the next is made");
        assert_eq!(world.stands(), Stands::Reauthenticating { takes_calls: false });
        assert_eq!(world.on(Input::Connected), [Begin { fresh: true }]);
        assert_eq!(world.stands(), Stands::Live);
        assert!(!world.machine.may_reauthenticate(world.now));
        assert_eq!(world.on(word.clone()), [], "it did not help");
        world.on(Input::Restored);
        world.steady();
        assert_eq!(world.on(word), [Disconnect]);
    }
}

#[test]
fn new_credentials_replace_the_adapter_and_none_leave_the_user_without() {
    let mut world = World::new();
    world.live();
    world.wish.rebuild += 1;
    assert_eq!(world.look(), [Disconnect]);
    assert_eq!(world.stands(), Stands::Closing);
    assert_eq!(world.on(Input::Connected), [], "late words of a life that is over");
    assert_eq!(world.on(lost()), [Drop, world.make()]);
    assert_eq!(world.on(Input::Connected), [Begin { fresh: true }]);
    (world.wish.rebuild, world.wish.broker) = (2, None);
    assert_eq!(world.look(), [Disconnect]);
    assert_eq!(world.sleep(), (CLOSE_WAIT, vec![Drop, fail(FaultCode::Broker, "No broker is configured")]));
    world.now += Duration::from_secs(3600);
    assert_eq!((world.look(), world.machine.wake_at()), (vec![], None));
    (world.wish.rebuild, world.wish.broker) = (3, Some("other".into()));
    assert_eq!(world.look(), [world.make()]);
}

#[test]
fn another_broker_replaces_the_adapter() {
    let mut world = World::new();
    world.live();
    world.wish.broker = Some("other".into());
    assert_eq!(world.look(), [Disconnect]);
    assert_eq!(world.on(lost()), [Drop, world.make()]);
}

#[test]
fn without_a_session_it_lingers_and_goes() {
    let mut world = World::new();
    world.live();
    world.wish.sessions = 0;
    assert_eq!((world.look(), world.stands()), (vec![], Stands::Lingering));
    world.now += Config::default().linger / 2;
    world.wish.sessions = 1;
    assert_eq!((world.look(), world.stands()), (vec![], Stands::Live), "somebody came back");
    world.wish.sessions = 0;
    world.look();
    assert_eq!(world.sleep(), (Config::default().linger, vec![Disconnect]));
    assert_eq!(world.on(lost()), [Drop, Begin { fresh: true }, Retire]);
}

#[test]
fn a_kept_adapter_is_cleared_and_stays() {
    let mut world = World::new();
    world.wish.broker = Some("keep".into());
    world.live();
    world.wish.sessions = 0;
    world.look();
    assert_eq!(world.sleep(), (Config::default().linger, vec![Clear]));
    assert_eq!(world.stands(), Stands::Lingering);
    assert_eq!(world.on(Input::Cleared(false)), [Uncleared]);
    assert_eq!(world.sleep(), (Duration::from_secs(1), vec![Clear]));
    assert_eq!(world.sleep(), (Config::default().call_timeout, vec![Uncleared]), "not answered");
    assert_eq!(world.sleep(), (Duration::from_secs(2), vec![Clear]));
    // The broker's connection comes back meanwhile.
    assert_eq!(world.on(Input::Down { refused: false }), []);
    assert_eq!(world.on(Input::Restored), []);
    assert_eq!(world.on(Input::Cleared(true)), [Begin { fresh: false }]);
    assert_eq!((world.stands(), world.machine.wake_at()), (Stands::Kept, None));
    world.wish.sessions = 1;
    assert_eq!((world.look(), world.stands()), (vec![], Stands::Live));
}

proptest::proptest! {
    #[test]
    fn whatever_happens_there_is_one_adapter_and_it_never_sleeps_while_somebody_relies_on_it(
        steps in proptest::collection::vec((0u8..16, 0u64..40_000), 1..400),
    ) {
        let mut world = World::new();
        let mut alive = false;
        let mut relied_on = false;
        for (what, millis) in steps {
            world.now += Duration::from_millis(millis);
            let input = match what {
                0 => Input::Connected,
                1 => no_connection(),
                2 => no_login(),
                3 => refused(),
                4 => Input::Down { refused: false },
                5 => Input::Down { refused: true },
                6 => Input::Refused,
                7 => Input::Restored,
                8 => Input::CallRefused,
                9 => Input::Cleared(true),
                10 => Input::Cleared(false),
                11 => lost(),
                12 => { world.wish.sessions ^= 1; Input::Look }
                13 => { world.wish.ticket += 1; Input::Look }
                14 => { world.wish.rebuild += 1; Input::Look }
                _ => Input::Look,
            };
            // An adapter that is not there says nothing.
            let input = if alive { input } else { Input::Look };
            for action in world.on(input) {
                match action {
                    Make(_) => proptest::prop_assert!(!std::mem::replace(&mut alive, true), "one at a time"),
                    Drop => alive = false,
                    Disconnect | Clear | Begin { fresh: false } => proptest::prop_assert!(alive),
                    Begin { fresh: true } => relied_on |= alive,
                    Retire => proptest::prop_assert!(!alive && world.wish.sessions == 0),
                    Fail { .. } | Uncleared => {}
                }
            }
            if !alive && world.wish.sessions > 0 && relied_on {
                let wake = world.machine.wake_at();
                let soon = wake.is_some_and(|at| at <= world.now + Duration::from_secs(72));
                proptest::prop_assert!(soon, "{:?}", world.machine);
            }
        }
    }
}
