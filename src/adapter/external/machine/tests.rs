//! The machine driven by hand: every interleaving is written out, time is a number.

use super::*;
use crate::adapter::CallError;
use crate::adapter::external::wire::Hello;
use crate::model::{InstrumentRef, Mode};
use serde_json::Value;

struct Bench {
    machine: Machine,
    start: Instant,
    now: Instant,
}

fn name(symbol: &str) -> KeyName {
    KeyName { instrument: InstrumentRef { venue: "NSE", symbol }.to_owned(), mode: Mode::Ltp }
}

impl Bench {
    fn new(config: Config) -> Self {
        let start = Instant::now();
        Bench { machine: Machine::new(config), start, now: start }
    }

    fn at(&mut self, millis: u64) {
        self.now = self.start + Duration::from_millis(millis);
        self.machine.tick(self.now);
    }

    /// What came of the inputs since: `P1 subscribe SBIN #2`, `A1 Connected`, …
    fn seen(&mut self) -> Vec<String> {
        self.machine.effects().into_iter().map(|effect| show(&effect)).collect()
    }

    fn join(&mut self, peer: u64) {
        self.machine.joined(PeerId(peer));
    }

    fn hello(&mut self, peer: u64, broker: &str, user: Option<&str>) {
        self.hello_with(peer, broker, user, |_| {});
    }

    fn hello_with(&mut self, peer: u64, broker: &str, user: Option<&str>, change: impl FnOnce(&mut Hello)) {
        let mut hello = Hello {
            broker: broker.into(),
            user: user.map(str::to_owned),
            modes: [true; 3],
            capacity: 0,
            publishes: Vec::new(),
            secret: None,
            highest_only: false,
        };
        change(&mut hello);
        self.machine.message(PeerId(peer), Ok(Said::Hello(hello)), self.now);
    }

    fn result(&mut self, peer: u64, session: u64, id: u64, outcome: Result<Option<u32>, CallError>) {
        self.machine.message(PeerId(peer), Ok(Said::Result { session, id, outcome }), self.now);
    }

    fn beat(&mut self, peer: u64, session: u64) {
        self.machine.message(PeerId(peer), Ok(Said::Heartbeat { session }), self.now);
    }

    fn start(&mut self, id: u64, broker: &str, user: &str) {
        self.machine.started(AdapterId(id), broker, user);
        self.command(id, Command::Connect);
    }

    fn command(&mut self, id: u64, command: Command) {
        self.machine.command(AdapterId(id), command, self.now);
    }

    fn subscribe(&mut self, id: u64, call: u64, symbol: &str) {
        self.command(id, Command::Subscribe { call: CallId(call), name: name(symbol), depth: 5 });
    }

    fn unsubscribe(&mut self, id: u64, call: u64, symbol: &str) {
        self.command(id, Command::Unsubscribe { call: CallId(call), name: name(symbol) });
    }

    /// A session of asha's own at angel, cleared, with adapter 1 bound.
    fn live() -> Self {
        let mut bench = Bench::new(Config::default());
        bench.join(1);
        bench.hello(1, "angel", Some("asha"));
        bench.result(1, 1, 1, Ok(None));
        bench.start(1, "angel", "asha");
        let seen = bench.seen();
        assert_eq!(seen, ["publishes angel/asha: ", "P1 welcome 1", "P1 unsubscribe_all #1", "A1 Connected"]);
        bench
    }
}

fn show(effect: &Effect) -> String {
    match effect {
        Effect::Send(PeerId(peer), bytes) => {
            let map: Value = rmp_serde::from_slice(bytes).expect("a map");
            let op = map["op"].as_str().expect("an op");
            match op {
                "welcome" | "heartbeat" => format!("P{peer} {op} {}", map["session"]),
                "subscribe" | "unsubscribe" => {
                    format!("P{peer} {op} {} #{}", map["symbol"].as_str().expect("a symbol"), map["id"])
                }
                "unsubscribe_all" => format!("P{peer} {op} #{}", map["id"]),
                "disconnect" => format!("P{peer} {op} {} {}", map["session"], map["reason"].as_str().expect("why")),
                _ => format!("P{peer} {op}"),
            }
        }
        Effect::Report(AdapterId(id), report) => match report {
            Report::Answer { call, outcome: Ok(_) } => format!("A{id} ok {}", call.0),
            Report::Answer { call, outcome: Err(CallError::Refused(words) | CallError::Failed(words)) } => {
                format!("A{id} failed {}: {words}", call.0)
            }
            Report::Down { reason } => format!("A{id} down: {reason}"),
            other => format!("A{id} {other:?}"),
        },
        Effect::Publishes(owner, endpoints, highest_only) => {
            let all: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
            let how = if *highest_only { " once" } else { "" };
            format!("publishes {}/{}: {}{how}", owner.broker, owner.user.as_deref().unwrap_or("*"), all.join(","))
        }
        Effect::Abandon(owner) => format!("abandon {}/{}", owner.broker, owner.user.as_deref().unwrap_or("*")),
        Effect::Reject(cause) => format!("reject {cause}"),
    }
}

#[test]
fn whoever_has_no_session_is_asked_to_say_hello_and_bad_maps_are_counted() {
    let mut bench = Bench::new(Config::default());
    bench.join(1);
    bench.beat(1, 7);
    bench.machine.message(PeerId(1), Err(Malformed::Map), bench.now);
    bench.machine.message(PeerId(1), Ok(Said::Unknown), bench.now);
    assert_eq!(bench.seen(), ["P1 hello_required", "reject map", "P1 hello_required", "P1 hello_required"]);
    let mut bench = Bench::live();
    bench.machine.message(PeerId(1), Err(Malformed::Version), bench.now);
    bench.machine.message(PeerId(1), Ok(Said::Unknown), bench.now);
    bench.beat(1, 1);
    assert_eq!(bench.seen(), ["reject version", "P1 heartbeat 1"], "it costs a live session nothing");
}

#[test]
fn each_call_has_an_id_of_its_own_and_only_its_first_answer_counts() {
    let mut bench = Bench::live();
    bench.subscribe(1, 41, "SBIN");
    bench.subscribe(1, 42, "INFY");
    assert_eq!(bench.seen(), ["P1 subscribe SBIN #2", "P1 subscribe INFY #3"]);
    bench.result(1, 1, 3, Ok(Some(5)));
    bench.result(1, 1, 2, Err(CallError::Refused("no".into())));
    bench.result(1, 1, 3, Ok(Some(5)));
    bench.result(1, 1, 99, Ok(None));
    bench.result(1, 6, 2, Ok(None));
    let want = ["A1 ok 42", "A1 failed 41: no", "reject unknown_id", "reject unknown_id", "reject stale_session"];
    assert_eq!(bench.seen(), want);
    bench.unsubscribe(1, 43, "INFY");
    bench.result(1, 1, 4, Ok(None));
    assert_eq!(bench.seen(), ["P1 unsubscribe INFY #4", "A1 ok 43"]);
}

#[test]
fn a_process_silent_for_six_seconds_is_dead_and_everything_is_replayed_after_its_next_hello() {
    let mut bench = Bench::live();
    bench.subscribe(1, 1, "SBIN");
    bench.result(1, 1, 2, Ok(None));
    bench.at(3000);
    bench.beat(1, 1);
    bench.seen();
    bench.at(8999);
    assert!(bench.seen().is_empty(), "a heartbeat is 6 s of life");
    bench.at(9000);
    assert_eq!(bench.seen(), ["reject silent", "A1 down: the adapter process is silent"]);
    // What nobody holds needs no call, and what comes now waits for the next session.
    bench.unsubscribe(1, 2, "SBIN");
    bench.subscribe(1, 3, "INFY");
    assert_eq!(bench.seen(), ["A1 ok 2"]);
    bench.beat(1, 1);
    bench.hello(1, "angel", Some("asha"));
    assert_eq!(bench.seen(), ["P1 hello_required", "publishes angel/asha: ", "P1 welcome 2", "P1 unsubscribe_all #1"]);
    bench.result(1, 2, 1, Ok(None));
    assert_eq!(bench.seen(), ["A1 Restored"], "the supervisor makes its calls anew");
    bench.at(14_000);
    assert!(bench.seen().is_empty(), "the call that waited was forgotten with its generation");
}

#[test]
fn a_call_that_meets_no_process_fails_before_its_supervisor_gives_up() {
    let mut bench = Bench::live();
    bench.subscribe(1, 1, "SBIN");
    bench.machine.left(PeerId(1), bench.now);
    bench.seen();
    bench.subscribe(1, 2, "INFY");
    bench.at(3999);
    assert!(bench.seen().is_empty());
    bench.at(4000);
    let failed = |call: u64| format!("A1 failed {call}: no adapter process is connected");
    assert_eq!(bench.seen(), [failed(1), failed(2)]);
}

#[test]
fn a_process_that_does_not_answer_the_first_unsubscribe_all_is_called_after_two_seconds() {
    let mut bench = Bench::new(Config::default());
    bench.start(1, "angel", "asha");
    bench.join(1);
    bench.hello(1, "angel", Some("asha"));
    bench.seen();
    bench.at(1999);
    assert!(bench.seen().is_empty());
    bench.at(2000);
    assert_eq!(bench.seen(), ["A1 Connected"]);
    bench.result(1, 1, 1, Ok(None));
    assert!(bench.seen().is_empty(), "its late answer is known and says nothing");
}

#[test]
fn a_second_hello_for_one_broker_and_user_replaces_the_first() {
    let mut bench = Bench::live();
    bench.subscribe(1, 1, "SBIN");
    bench.seen();
    bench.join(2);
    bench.hello(2, "angel", Some("asha"));
    let want = [
        "reject replaced",
        "P1 disconnect 1 replaced",
        "A1 down: another adapter process said hello",
        "publishes angel/asha: ",
        "P2 welcome 2",
        "P2 unsubscribe_all #1",
    ];
    assert_eq!(bench.seen(), want);
    bench.result(2, 2, 1, Ok(None));
    bench.result(1, 1, 2, Ok(None));
    assert_eq!(bench.seen(), ["A1 Restored", "P1 hello_required"], "the first has no session any more");
    bench.machine.left(PeerId(1), bench.now);
    bench.subscribe(1, 2, "SBIN");
    assert_eq!(bench.seen(), ["P2 subscribe SBIN #2"], "its end costs the second nothing");
}

#[test]
fn two_users_processes_of_one_broker_are_kept_apart() {
    let mut bench = Bench::live();
    bench.join(2);
    bench.hello(2, "angel", Some("ravi"));
    bench.result(2, 2, 1, Ok(None));
    bench.start(2, "angel", "ravi");
    bench.start(3, "zerodha", "asha");
    bench.seen();
    bench.subscribe(1, 1, "SBIN");
    bench.subscribe(2, 2, "SBIN");
    bench.subscribe(3, 3, "SBIN");
    assert_eq!(bench.seen(), ["P1 subscribe SBIN #2", "P2 subscribe SBIN #2"]);
    // One peer's answer in the other's session is no answer.
    bench.result(2, 1, 2, Ok(None));
    assert_eq!(bench.seen(), ["reject stale_session"]);
    bench.machine.left(PeerId(2), bench.now);
    assert_eq!(bench.seen(), ["A2 down: the adapter process has gone"]);
}

#[test]
fn a_shared_process_lets_a_key_go_with_its_last_user() {
    let mut bench = Bench::new(Config::default());
    bench.join(1);
    bench.hello(1, "angel", None);
    bench.result(1, 1, 1, Ok(None));
    bench.start(1, "angel", "asha");
    bench.start(2, "angel", "ravi");
    bench.subscribe(1, 1, "SBIN");
    bench.subscribe(2, 2, "SBIN");
    bench.subscribe(2, 3, "INFY");
    for id in 2..=4 {
        bench.result(1, 1, id, Ok(None));
    }
    bench.seen();
    bench.unsubscribe(1, 4, "SBIN");
    assert_eq!(bench.seen(), ["A1 ok 4"], "ravi still holds it");
    bench.subscribe(1, 5, "SBIN");
    bench.result(1, 1, 5, Ok(None));
    bench.command(2, Command::UnsubscribeAll { call: CallId(6) });
    assert_eq!(bench.seen(), ["P1 subscribe SBIN #5", "A1 ok 5", "P1 unsubscribe INFY #6", "A2 ok 6"]);
    bench.result(1, 1, 6, Ok(None));
    bench.command(2, Command::Disconnect);
    assert_eq!(bench.seen(), ["A2 Disconnected"], "the process stays for asha");
    bench.machine.gone(AdapterId(1));
    assert_eq!(bench.seen(), ["P1 unsubscribe SBIN #7"], "an adapter that just ends leaves nothing behind");
}

#[test]
fn a_user_whose_own_process_comes_is_moved_to_it_from_the_shared_one() {
    let mut bench = Bench::new(Config::default());
    bench.join(1);
    bench.hello(1, "angel", None);
    bench.result(1, 1, 1, Ok(None));
    bench.start(1, "angel", "asha");
    bench.subscribe(1, 1, "SBIN");
    bench.result(1, 1, 2, Ok(None));
    bench.seen();
    bench.join(2);
    bench.hello(2, "angel", Some("asha"));
    bench.result(2, 2, 1, Ok(None));
    assert_eq!(bench.seen()[3..], ["P1 unsubscribe SBIN #3", "A1 Restored"]);
    bench.machine.left(PeerId(2), bench.now);
    assert_eq!(bench.seen(), ["A1 down: the adapter process has gone"], "and is never served by the shared one again");
    bench.subscribe(1, 2, "SBIN");
    assert!(bench.seen().is_empty());
}

#[test]
fn after_the_linger_the_process_logs_out_and_is_asked_back_when_somebody_comes() {
    let mut bench = Bench::live();
    bench.command(1, Command::Disconnect);
    assert_eq!(bench.seen(), ["P1 disconnect 1 unused", "A1 Disconnected"]);
    bench.start(2, "angel", "asha");
    assert_eq!(bench.seen(), ["P1 hello_required"]);
    bench.hello(1, "angel", Some("asha"));
    bench.result(1, 2, 1, Ok(None));
    assert_eq!(bench.seen()[3..], ["A2 Connected"]);
}

#[test]
fn an_adapter_that_meets_no_process_goes_on_without_one_and_is_restored_by_a_late_hello() {
    let mut bench = Bench::new(Config::default());
    bench.start(1, "angel", "asha");
    bench.at(19_999);
    assert!(bench.seen().is_empty());
    bench.at(20_000);
    assert_eq!(bench.seen(), ["A1 Connected", "A1 down: no adapter process is connected"]);
    bench.join(1);
    bench.hello(1, "angel", None);
    bench.result(1, 1, 1, Ok(None));
    assert_eq!(bench.seen()[3..], ["A1 Restored"]);
}

#[test]
fn a_broker_connection_that_comes_back_is_replayed() {
    let mut bench = Bench::live();
    let mut status = |connected, detail: &str| {
        let said = Said::Status { session: 1, connected, detail: detail.into() };
        bench.machine.message(PeerId(1), Ok(said), bench.now);
        bench.machine.effects().iter().map(show).collect::<Vec<_>>()
    };
    assert!(status(true, "").is_empty(), "nothing was lost");
    assert_eq!(status(false, "401"), ["A1 down: the broker connection is down: 401"]);
    assert!(status(false, "still").is_empty());
    assert_eq!(status(true, ""), ["A1 Restored"]);
}

#[test]
fn modes_and_capacity_of_the_hello_are_kept() {
    let mut bench = Bench::new(Config::default());
    bench.join(1);
    bench.hello_with(1, "angel", None, |hello| (hello.modes, hello.capacity) = ([true, true, false], 1));
    bench.result(1, 1, 1, Ok(None));
    bench.start(1, "angel", "asha");
    bench.seen();
    let of = |mode| KeyName { mode, ..name("SBIN") };
    for (call, mode) in [(1, Mode::Ltp), (2, Mode::Quote), (3, Mode::Depth)] {
        bench.command(1, Command::Subscribe { call: CallId(call), name: of(mode), depth: 5 });
    }
    bench.subscribe(1, 4, "INFY");
    let want = [
        "P1 subscribe SBIN #2",
        "P1 subscribe SBIN #3",
        "A1 failed 3: The adapter does not serve mode 3 (Depth)",
        "A1 failed 4: MAX_CAPACITY_REACHED: the adapter holds 1 instruments at most",
    ];
    assert_eq!(bench.seen(), want);
    // A refused subscribe and an unsubscribe make room.
    bench.result(1, 1, 2, Err(CallError::Refused("no".into())));
    bench.result(1, 1, 3, Ok(None));
    bench.command(1, Command::Unsubscribe { call: CallId(5), name: of(Mode::Quote) });
    bench.result(1, 1, 4, Ok(None));
    bench.subscribe(1, 6, "INFY");
    assert_eq!(bench.seen().last().map(String::as_str), Some("P1 subscribe INFY #5"));
}

#[test]
fn a_hello_needs_the_secret_and_endpoints_that_are_its_own() {
    let own = Owner { broker: "angel".into(), user: Some("asha".into()) };
    let at = |port: u16| format!("tcp://127.0.0.1:{port}");
    let mut bench = Bench::new(Config {
        secret: Some("s3cret".into()),
        taken: vec![(at(5555).parse().expect("one"), None), (at(5601).parse().expect("one"), Some(own))],
        ..Config::default()
    });
    bench.join(1);
    bench.join(2);
    let mut hello = |peer, user, secret: Option<&str>, publishes: &[String]| {
        bench.hello_with(peer, "angel", Some(user), |hello| {
            (hello.secret, hello.publishes) = (secret.map(str::to_owned), publishes.to_vec());
        });
        bench.machine.effects().iter().map(show).collect::<Vec<_>>()
    };
    for secret in [None, Some(""), Some("s3cre"), Some("s3cret ")] {
        let seen = hello(1, "asha", secret, &[]);
        assert_eq!(seen[0], "reject hello_secret", "{secret:?}");
        assert!(seen[1].starts_with("P1 disconnect null"), "{seen:?}");
    }
    let right = Some("s3cret");
    let nothing_public = ["tcp://10.0.0.1:1".to_owned(), "tcp://*:1".into(), at(0), at(5555), "nonsense".into()];
    for endpoint in nothing_public {
        assert_eq!(hello(1, "asha", right, std::slice::from_ref(&endpoint))[0], "reject hello_endpoint", "{endpoint}");
    }
    // Its own of the settings is connected already.
    let seen = hello(1, "asha", right, &[at(5601), at(5602), at(5602), "ipc:///tmp/x".into()]);
    assert_eq!(seen[0], "publishes angel/asha: tcp://127.0.0.1:5602,ipc:///tmp/x");
    for endpoint in [at(5601), at(5602), "tcp://LocalHost:5602".into()] {
        assert_eq!(hello(2, "ravi", right, &[endpoint])[0], "reject hello_endpoint", "it is asha's");
    }
    let seen = hello(2, "ravi", right, &[at(5603)]);
    assert_eq!(seen[0], "publishes angel/ravi: tcp://127.0.0.1:5603");
}

#[test]
fn endpoints_of_a_dead_process_are_left_after_a_minute() {
    let mut bench = Bench::new(Config::default());
    bench.join(1);
    bench.hello_with(1, "angel", Some("asha"), |hello| hello.publishes = vec!["tcp://127.0.0.1:5601".into()]);
    bench.machine.left(PeerId(1), bench.now);
    bench.seen();
    bench.at(59_999);
    assert!(bench.seen().is_empty());
    bench.at(60_000);
    assert_eq!(bench.seen(), ["abandon angel/asha"]);
    bench.at(120_000);
    assert!(bench.seen().is_empty(), "once");
}

#[test]
fn a_session_that_becomes_ready_between_an_adapters_start_and_its_connect_is_not_missed() {
    let mut bench = Bench::new(Config::default());
    bench.join(1);
    bench.hello(1, "angel", None);
    bench.seen();
    bench.machine.started(AdapterId(1), "angel", "asha");
    bench.result(1, 1, 1, Ok(None));
    assert!(bench.seen().is_empty(), "nothing is reported before the adapter asked");
    bench.command(1, Command::Connect);
    assert_eq!(bench.seen(), ["A1 Connected"]);
}
