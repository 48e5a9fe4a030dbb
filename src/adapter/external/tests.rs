//! The channel's task with adapters and peers made by hand, in paused time.

use super::*;
use crate::adapter::CallError;
use crate::model::{InstrumentRef, Mode};
use crate::shards::key::{CallId, KeyName};
use bytes::Bytes;
use serde_json::{Value, json};
use smallvec::smallvec;

struct NoFeeds;

impl Feeds for NoFeeds {
    fn publishes(&mut self, _: &Owner, _: &[Endpoint], _: bool) {}
    fn abandon(&mut self, _: &Owner) {}
}

/// One peer and one adapter of asha at angel.
struct World {
    events: mpsc::Sender<Event>,
    out: mpsc::Receiver<Bytes>,
    commands: mpsc::Sender<Command>,
    reports: mpsc::Receiver<Report>,
}

impl World {
    async fn new(queue_max: usize) -> World {
        let (channel, inbox) = Channel::new(100);
        let (events, heard) = mpsc::channel(16);
        let metrics = ControlMetrics::register();
        let machine = Machine::new(machine::Config::default());
        tokio::spawn(run(machine, heard, inbox, NoFeeds, metrics));
        let (commands, theirs) = mpsc::channel(16);
        let (says, reports) = mpsc::channel(16);
        tokio::spawn(Box::new(channel.adapter("Angel", "asha")).run(Io { commands: theirs, reports: says }));
        let (peer, out) = Peer::detached(queue_max);
        events.send(Event::Joined(PeerId(1), peer)).await.expect("the channel runs");
        commands.send(Command::Connect).await.expect("the adapter runs");
        World { events, out, commands, reports }
    }

    async fn say(&self, map: Value) {
        let body = Bytes::from(rmp_serde::to_vec(&map).expect("MessagePack"));
        self.events.send(Event::Message(PeerId(1), smallvec![body])).await.expect("the channel runs");
    }

    async fn hear(&mut self) -> Value {
        rmp_serde::from_slice(&self.out.recv().await.expect("a message")).expect("a map")
    }

    /// Hello, welcome, and the first `unsubscribe_all` answered; the session.
    async fn session(&mut self) -> u64 {
        self.say(json!({"v": 1, "op": "hello", "broker": "angel", "user": "asha"})).await;
        let session = self.hear().await["session"].as_u64().expect("a session");
        let clear = self.hear().await;
        assert_eq!(clear["op"], "unsubscribe_all");
        self.say(json!({"v": 1, "op": "result", "session": session, "id": clear["id"], "status": "success"})).await;
        session
    }

    async fn report(&mut self) -> Report {
        self.reports.recv().await.expect("a report")
    }
}

fn infy() -> KeyName {
    KeyName { instrument: InstrumentRef { venue: "NSE", symbol: "INFY" }.to_owned(), mode: Mode::Ltp }
}

#[tokio::test(start_paused = true)]
async fn six_silent_seconds_end_a_session_and_the_next_hello_restores_the_adapter() {
    let mut world = World::new(16).await;
    let session = world.session().await;
    assert_eq!(world.report().await, Report::Connected);
    let started = Instant::now();
    let reason = "the adapter process is silent".to_owned();
    assert_eq!(world.report().await, Report::Down { reason });
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(6) && took <= Duration::from_secs(6) + TICK, "{took:?}");
    world.say(json!({"v": 1, "op": "heartbeat", "session": session})).await;
    assert_eq!(world.hear().await["op"], "hello_required");
    assert!(world.session().await > session);
    assert_eq!(world.report().await, Report::Restored);
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_out_and_its_result_comes_back_with_the_calls_own_number() {
    let mut world = World::new(16).await;
    let session = world.session().await;
    assert_eq!(world.report().await, Report::Connected);
    let command = Command::Subscribe { call: CallId(77), name: infy(), depth: 5 };
    world.commands.send(command).await.expect("the adapter runs");
    let call = world.hear().await;
    assert_eq!((&call["op"], &call["symbol"], &call["depth"]), (&json!("subscribe"), &json!("INFY"), &json!(5)));
    let refused =
        json!({"v": 1, "op": "result", "session": session, "id": call["id"], "status": "error", "message": "no"});
    world.say(refused).await;
    let outcome = Err(CallError::Refused("no".into()));
    assert_eq!(world.report().await, Report::Answer { call: CallId(77), outcome });
    world.commands.send(Command::Disconnect).await.expect("the adapter runs");
    assert_eq!(world.report().await, Report::Disconnected);
    assert_eq!(world.hear().await["op"], "disconnect");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_dropped_and_its_session_with_it() {
    let mut world = World::new(3).await;
    let session = world.session().await;
    assert_eq!(world.report().await, Report::Connected);
    for _ in 0..4 {
        world.say(json!({"v": 1, "op": "heartbeat", "session": session})).await;
    }
    assert!(matches!(world.report().await, Report::Down { .. }));
    for _ in 0..3 {
        assert_eq!(world.hear().await["op"], "heartbeat");
    }
    assert!(world.out.recv().await.is_none(), "its connection is closed");
}

#[tokio::test(start_paused = true)]
async fn an_adapter_whose_supervisor_is_gone_leaves_nothing_behind() {
    let mut world = World::new(16).await;
    world.session().await;
    assert_eq!(world.report().await, Report::Connected);
    let command = Command::Subscribe { call: CallId(1), name: infy(), depth: 5 };
    world.commands.send(command).await.expect("the adapter runs");
    assert_eq!(world.hear().await["op"], "subscribe");
    let World { events, mut out, commands, reports } = world;
    drop((commands, reports));
    let left: Value = rmp_serde::from_slice(&out.recv().await.expect("a message")).expect("a map");
    assert_eq!((&left["op"], &left["symbol"]), (&json!("unsubscribe"), &json!("INFY")));
    drop(events);
}
