//! The process's machine against the server's words and an adapter played by hand.

use super::*;
use crate::adapter::external::wire::{self, Said};
use crate::model::{InstrumentRef, Mode};
use crate::policy::backoff::QUICK;
use crate::shards::key::FaultCode;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn name(symbol: &str) -> KeyName {
    KeyName { instrument: InstrumentRef { venue: "NSE", symbol }.to_owned(), mode: Mode::Ltp }
}

/// A machine and what it did, in words.
struct Rig {
    machine: Machine,
    now: Instant,
    /// Commands the adapter has not answered.
    told: Vec<Command>,
}

impl Rig {
    fn new() -> Self {
        let card = Card { broker: "zerodha".into(), user: Some("asha".into()), ..Card::default() };
        let now = Instant::now();
        Rig { machine: Machine::new(card, now), now, told: Vec::new() }
    }

    /// Connected, welcome in session 7, cleared, logged in.
    fn live() -> Self {
        let mut rig = Rig::new();
        rig.machine.connected(rig.now);
        assert_eq!(rig.did(), ["hello"]);
        rig.hear(&wire::welcome(7));
        assert_eq!(rig.did(), ["publish", "start"]);
        rig.hear(&wire::unsubscribe_all(7, 1));
        rig.report(Report::Connected);
        assert_eq!(rig.did(), ["7/1 ok"]);
        rig
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.machine.heard(words::read(bytes), self.now);
    }

    fn subscribe(&mut self, id: u64, symbol: &str) {
        self.hear(&wire::subscribe(7, id, &name(symbol), 5));
    }

    fn unsubscribe(&mut self, id: u64, symbol: &str) {
        self.hear(&wire::unsubscribe(7, id, &name(symbol)));
    }

    fn report(&mut self, report: Report) {
        self.machine.report(report, self.now, 0.5);
    }

    /// The adapter answers its oldest unanswered command.
    fn answer(&mut self, outcome: Result<Option<u32>, CallError>) {
        let call = match self.told.remove(0) {
            Command::Subscribe { call, .. } | Command::Unsubscribe { call, .. } | Command::UnsubscribeAll { call } => {
                call
            }
            other => panic!("{other:?} needs no answer"),
        };
        self.report(Report::Answer { call, outcome });
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.machine.tick(self.now);
    }

    fn did(&mut self) -> Vec<String> {
        let effects = self.machine.effects();
        effects.into_iter().map(|effect| self.describe(effect)).collect()
    }

    fn describe(&mut self, effect: Effect) -> String {
        match effect {
            Effect::Send(bytes) => match wire::read(&bytes).expect("the server can read it") {
                Said::Hello(hello) => {
                    assert_eq!((&*hello.broker, hello.user.as_deref()), ("zerodha", Some("asha")));
                    "hello".into()
                }
                Said::Result { session, id, outcome: Ok(_) } => format!("{session}/{id} ok"),
                Said::Result { session, id, outcome: Err(error) } => format!("{session}/{id} {error:?}"),
                Said::Status { connected, detail, .. } => format!("status {connected} {detail}"),
                Said::Heartbeat { session } => format!("beat {session}"),
                Said::Unknown => panic!("no such word"),
            },
            Effect::Reconnect => "reconnect".into(),
            Effect::Start => "start".into(),
            Effect::Stop => "stop".into(),
            Effect::Publish(true) => "publish".into(),
            Effect::Publish(false) => "silence".into(),
            Effect::Replaced => "replaced".into(),
            Effect::Tell(command) => {
                let text = match &command {
                    Command::Subscribe { name, .. } => format!("+{}", name.instrument.symbol()),
                    Command::Unsubscribe { name, .. } => format!("-{}", name.instrument.symbol()),
                    Command::UnsubscribeAll { .. } => "-*".into(),
                    other => panic!("{other:?} is not the machine's"),
                };
                self.told.push(command);
                text
            }
        }
    }
}

#[test]
fn calls_wait_for_the_first_login_and_each_has_one_result() {
    let mut rig = Rig::new();
    rig.machine.connected(rig.now);
    rig.hear(&wire::welcome(7));
    rig.hear(&wire::unsubscribe_all(7, 1));
    rig.subscribe(2, "A");
    rig.subscribe(3, "B");
    assert_eq!(rig.did(), ["hello", "publish", "start", "7/1 ok"], "nothing is held before a login");
    rig.report(Report::Connected);
    assert_eq!(rig.did(), ["+A", "+B"]);
    rig.answer(Ok(Some(5)));
    rig.answer(Err(CallError::Full("no room".into())));
    assert_eq!(rig.did(), ["7/2 ok", "7/3 Full(\"no room\")"]);
    // A second answer is nobody's.
    rig.report(Report::Answer { call: CallId(2), outcome: Ok(None) });
    assert_eq!(rig.did(), [""; 0]);
}

#[test]
fn a_heartbeat_leaves_every_two_seconds_and_six_of_silence_bring_a_hello_and_thirty_a_new_connection() {
    let mut rig = Rig::live();
    for _ in 0..5 {
        rig.pass(BEAT);
        assert_eq!(rig.did(), ["beat 7"]);
        rig.hear(&wire::heartbeat(7));
    }
    rig.pass(BEAT);
    rig.pass(BEAT);
    assert_eq!(rig.did(), ["beat 7", "beat 7"]);
    assert_eq!(rig.machine.wake_at(), Some(rig.now + BEAT));
    rig.pass(BEAT);
    assert_eq!(rig.did(), ["silence", "hello"]);
    for _ in 0..3 {
        rig.pass(limits::CONTROL_SILENCE);
        assert_eq!(rig.did(), ["hello"]);
    }
    rig.pass(limits::CONTROL_SILENCE);
    assert_eq!(rig.did(), ["reconnect"]);
    assert_eq!(rig.machine.wake_at(), None, "the link says when there is a connection again");
    rig.machine.disconnected();
    rig.machine.connected(rig.now);
    rig.hear(&wire::welcome(8));
    assert_eq!(rig.did(), ["hello", "publish"]);
}

#[test]
fn a_session_that_is_over_gets_no_results_and_the_next_begins_with_everything_let_go() {
    let mut rig = Rig::live();
    rig.subscribe(2, "A");
    assert_eq!(rig.did(), ["+A"]);
    rig.hear(&wire::hello_required());
    assert_eq!(rig.did(), ["silence", "hello"]);
    rig.answer(Ok(None));
    assert_eq!(rig.did(), [""; 0], "its session is over");
    rig.hear(&wire::welcome(8));
    rig.hear(&wire::unsubscribe_all(8, 1));
    rig.subscribe(3, "A");
    assert_eq!(rig.did(), ["publish", "-*"], "words of session 7 are ignored");
    rig.answer(Ok(None));
    assert_eq!(rig.did(), ["8/1 ok"]);
}

#[test]
fn a_subscribe_that_is_taken_back_before_its_answer_has_a_result_all_the_same() {
    let mut rig = Rig::live();
    for (id, symbol) in [(2, "A"), (3, "B"), (4, "A")] {
        rig.subscribe(id, symbol);
    }
    rig.unsubscribe(5, "A");
    rig.subscribe(6, "A");
    assert_eq!(rig.did(), ["+A", "+B", "+A", "-A", "+A"]);
    // The adapter answers the unsubscribe only: what is not held any more needs no word.
    let call = CallId(5);
    rig.report(Report::Answer { call, outcome: Ok(None) });
    let taken_back = |id| format!("7/{id} Refused(\"It was taken back\")");
    assert_eq!(rig.did(), [taken_back(2), taken_back(4), "7/5 ok".into()], "B and the later one wait on");
    rig.hear(&wire::unsubscribe_all(7, 7));
    assert_eq!(rig.did(), ["-*"]);
    rig.report(Report::Answer { call: CallId(7), outcome: Ok(None) });
    assert_eq!(rig.did(), [taken_back(3), taken_back(6), "7/7 ok".into()]);
}

#[test]
fn a_call_that_names_nothing_is_refused() {
    let mut rig = Rig::live();
    let map = serde_json::json!({"v": 1, "op": "subscribe", "session": 7, "id": 2, "symbol": "A", "exchange": "NSE", "mode": 4});
    rig.hear(&rmp_serde::to_vec(&map).expect("MessagePack"));
    assert_eq!(rig.did(), ["7/2 Refused(\"The call names no instrument\")"]);
}

#[test]
fn a_lost_broker_connection_is_told_and_its_return_asks_for_a_replay() {
    let mut rig = Rig::live();
    rig.report(Report::Down { reason: "hung up".into() });
    rig.report(Report::Down { reason: "hung up".into() });
    assert_eq!(rig.did(), ["status false hung up"]);
    rig.subscribe(2, "A");
    assert_eq!(rig.did(), ["+A"], "it may wait for the broker there");
    // A server that starts meanwhile is told, too.
    rig.machine.disconnected();
    rig.machine.connected(rig.now);
    rig.hear(&wire::welcome(8));
    assert_eq!(rig.did(), ["silence", "hello", "publish", "status false the broker connection is lost"]);
    rig.report(Report::Restored);
    assert_eq!(rig.did(), ["status true connected again"]);
}

#[test]
fn a_failed_login_is_told_to_whoever_asks_and_tried_again_with_back_off() {
    let mut rig = Rig::new();
    rig.machine.connected(rig.now);
    rig.hear(&wire::welcome(7));
    rig.subscribe(2, "A");
    rig.did();
    let failed = || Report::ConnectFailed { code: FaultCode::BrokerInit, reason: "no token".into() };
    rig.report(failed());
    assert_eq!(rig.did(), ["7/2 Refused(\"no token\")", "status false no token"]);
    rig.subscribe(3, "A");
    rig.unsubscribe(4, "A");
    assert_eq!(rig.did(), ["7/3 Refused(\"no token\")", "7/4 ok"]);
    let mut waits = Vec::new();
    for _ in 0..4 {
        let Some(until) = rig.machine.wake_at() else { panic!("a retry") };
        // The server is heard from all the while.
        rig.hear(&wire::heartbeat(7));
        let Feed::Failed { until: retry, .. } = rig.machine.feed.clone() else { panic!("{until:?}") };
        waits.push((retry - rig.now).as_millis());
        rig.pass(retry - rig.now);
        assert!(rig.did().contains(&"start".to_owned()));
        rig.report(failed());
        rig.did();
    }
    assert_eq!(waits, [250, 500, 1000, 2000]);
    // After two minutes, seldom.
    rig.now += QUICK;
    rig.hear(&wire::heartbeat(7));
    for wait in [2, 4, 8, 16, 32, 60, 60] {
        let Feed::Failed { until, .. } = rig.machine.feed.clone() else { panic!("failed") };
        assert!(until <= rig.now + Duration::from_secs(wait));
        rig.now = rig.now.max(until);
        rig.hear(&wire::heartbeat(7));
        rig.machine.tick(rig.now);
        rig.report(failed());
    }
    rig.did();
    let Feed::Failed { until, .. } = rig.machine.feed.clone() else { panic!("failed") };
    rig.now = until;
    rig.hear(&wire::heartbeat(7));
    rig.machine.tick(rig.now);
    rig.did();
    rig.report(Report::Connected);
    assert_eq!(rig.did(), ["status true connected again"]);
}

#[test]
fn an_adapter_that_dies_is_made_anew_and_nobody_waits_for_it() {
    let mut rig = Rig::live();
    rig.subscribe(2, "A");
    rig.did();
    rig.report(Report::Lost { reason: "orders were lost".into() });
    assert_eq!(rig.did(), ["7/2 Refused(\"orders were lost\")", "status false orders were lost"]);
    rig.machine.ended("its task", rig.now, 0.5);
    assert_eq!(rig.did(), [""; 0], "once");
    rig.pass(Duration::from_millis(250));
    rig.report(Report::Connected);
    assert_eq!(rig.did(), ["start", "status true connected again"]);
}

#[test]
fn when_nobody_needs_it_it_logs_out_keeps_silent_and_logs_in_for_the_next_subscribe() {
    let mut rig = Rig::live();
    rig.hear(&wire::disconnect(Some(7), "unused"));
    assert_eq!(rig.did(), ["silence", "stop"]);
    rig.report(Report::Disconnected);
    rig.pass(BEAT);
    assert_eq!(rig.did(), [""; 0], "a heartbeat would ask for a hello");
    rig.hear(&wire::hello_required());
    rig.hear(&wire::welcome(7));
    rig.hear(&wire::unsubscribe_all(7, 1));
    assert_eq!(rig.did(), ["hello", "publish", "7/1 ok"], "not logged in for nothing");
    rig.subscribe(2, "A");
    assert_eq!(rig.did(), ["start"]);
    rig.report(Report::Connected);
    assert_eq!(rig.did(), ["+A"]);
}

#[test]
fn whoever_is_needed_while_it_logs_out_logs_in_again_afterwards() {
    let mut rig = Rig::live();
    rig.hear(&wire::disconnect(Some(7), "unused"));
    rig.hear(&wire::hello_required());
    rig.hear(&wire::welcome(7));
    rig.subscribe(2, "A");
    assert_eq!(rig.did(), ["silence", "stop", "hello", "publish"]);
    rig.report(Report::Disconnected);
    rig.report(Report::Connected);
    assert_eq!(rig.did(), ["start", "+A"]);
}

#[test]
fn a_process_that_is_replaced_ends_and_one_whose_hello_is_refused_asks_again() {
    let mut rig = Rig::live();
    rig.hear(&wire::disconnect(Some(6), "replaced"));
    assert_eq!(rig.did(), [""; 0], "another session's");
    rig.hear(&wire::disconnect(Some(7), "replaced"));
    assert_eq!(rig.did(), ["silence", "replaced"]);
    let mut rig = Rig::new();
    rig.machine.connected(rig.now);
    rig.hear(&wire::disconnect(None, "the secret is wrong"));
    rig.pass(limits::CONTROL_SILENCE);
    assert_eq!(rig.did(), ["hello", "hello"]);
}

/// One step of a random story.
#[derive(Clone, Debug)]
enum Step {
    Subscribe(u8),
    Unsubscribe(u8),
    UnsubscribeAll,
    /// The adapter answers its n-th open command.
    Answer(u8, bool),
    Up,
    Down,
    Dead,
    HelloRequired,
    Cut,
    Unused,
    Second,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u8).prop_map(Step::Subscribe),
        4 => (0..4u8).prop_map(Step::Unsubscribe),
        1 => Just(Step::UnsubscribeAll),
        8 => (0..8u8, any::<bool>()).prop_map(|(n, ok)| Step::Answer(n, ok)),
        3 => Just(Step::Up),
        1 => Just(Step::Down),
        1 => Just(Step::Dead),
        1 => Just(Step::HelloRequired),
        1 => Just(Step::Cut),
        1 => Just(Step::Unused),
        2 => Just(Step::Second),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_every_call_of_the_last_session_has_one_result(steps in prop::collection::vec(step(), 1..120)) {
        let mut rig = Rig::new();
        let (mut session, mut id) = (0, 0);
        let mut open: BTreeSet<u64> = BTreeSet::new();
        // What the adapter was told and has not answered; gone with the adapter.
        let mut at_adapter: Vec<CallId> = Vec::new();
        let welcome = |rig: &mut Rig, session: &mut u64, open: &mut BTreeSet<u64>| {
            *session += 1;
            open.clear();
            rig.hear(&wire::welcome(*session));
        };
        rig.machine.connected(rig.now);
        welcome(&mut rig, &mut session, &mut open);
        let settle = |rig: &mut Rig, session: u64, open: &mut BTreeSet<u64>, at: &mut Vec<CallId>| {
            for effect in rig.machine.effects() {
                match effect {
                    Effect::Send(bytes) => if let Ok(Said::Result { session: of, id, .. }) = wire::read(&bytes) {
                        assert_eq!(of, session, "a result of another session");
                        assert!(open.remove(&id), "a second result for {id}, or one for no call");
                    },
                    Effect::Tell(Command::Subscribe { call, .. } | Command::Unsubscribe { call, .. } | Command::UnsubscribeAll { call }) => at.push(call),
                    Effect::Start => at.clear(),
                    _ => {}
                }
            }
        };
        for step in steps {
            let symbol = |n: u8| name(["A", "B", "C", "D"][usize::from(n)]);
            id += 1;
            match step {
                Step::Subscribe(n) => { open.insert(id); rig.hear(&wire::subscribe(session, id, &symbol(n), 5)); }
                Step::Unsubscribe(n) => { open.insert(id); rig.hear(&wire::unsubscribe(session, id, &symbol(n))); }
                Step::UnsubscribeAll => { open.insert(id); rig.hear(&wire::unsubscribe_all(session, id)); }
                Step::Answer(n, ok) => if !at_adapter.is_empty() {
                    let call = at_adapter.remove(usize::from(n) % at_adapter.len());
                    let outcome = if ok { Ok(None) } else { Err(CallError::Failed("x".into())) };
                    rig.report(Report::Answer { call, outcome });
                },
                Step::Up => { rig.report(Report::Connected); rig.report(Report::Restored); }
                Step::Down => rig.report(Report::Down { reason: "x".into() }),
                Step::Dead => { at_adapter.clear(); rig.machine.ended("x", rig.now, 0.5); }
                Step::HelloRequired => { rig.hear(&wire::hello_required()); welcome(&mut rig, &mut session, &mut open); }
                Step::Cut => {
                    rig.machine.disconnected();
                    rig.machine.connected(rig.now);
                    welcome(&mut rig, &mut session, &mut open);
                }
                Step::Unused => {
                    rig.hear(&wire::disconnect(Some(session), "unused"));
                    rig.hear(&wire::hello_required());
                    welcome(&mut rig, &mut session, &mut open);
                }
                Step::Second => { rig.hear(&wire::heartbeat(session)); rig.pass(Duration::from_secs(1)); }
            }
            settle(&mut rig, session, &mut open, &mut at_adapter);
        }
        // In the end an adapter that lives answers everything.
        rig.pass(Duration::from_secs(60));
        rig.hear(&wire::heartbeat(session));
        rig.machine.connected(rig.now);
        welcome(&mut rig, &mut session, &mut open);
        settle(&mut rig, session, &mut open, &mut at_adapter);
        for n in 0..4 { id += 1; open.insert(id); rig.hear(&wire::subscribe(session, id, &name(["A", "B", "C", "D"][n]), 5)); }
        settle(&mut rig, session, &mut open, &mut at_adapter);
        rig.machine.ended("it has logged out", rig.now, 0.5);
        rig.report(Report::Connected);
        settle(&mut rig, session, &mut open, &mut at_adapter);
        while let Some(call) = at_adapter.pop() {
            rig.report(Report::Answer { call, outcome: Ok(None) });
            settle(&mut rig, session, &mut open, &mut at_adapter);
        }
        prop_assert!(open.is_empty(), "no result for {open:?}");
    }
}
