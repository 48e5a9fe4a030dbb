//! Feeds of users as sessions see them: their state, the notices about it, and what `/feeds` and metrics show.
//!
//! In: adapters' states and signs (registry), last ticks ([`FeedClock`]), publishers (bus endpoints). Out: one [`FeedStatus`] a user, judged
//! by `policy/feed_health` at each look (once a second, upkeep thread) and, for whoever subscribes, at that moment. Changes wake the
//! sessions through a watch, never a queue: a session compares what it was told last. Knows no broker. Tests: `tests/feeds.rs`.

use super::Sessions;
use super::state::{Phase, Session};
use crate::adapter::supervisor::StateLabel;
use crate::bus::endpoints::EndpointStatus;
use crate::model::{FeedClock, FeedState, Micros, UserId};
use crate::policy::feed_health::{Facts, FeedHealth, SILENT_AFTER};
use crate::policy::market_hours::Hours;
use crate::registry::{Feed, Registry};
use crate::wire::reply;
use serde::Serialize;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A bus without a publisher for so long is down; shorter, one restarts.
const PEERLESS_AFTER: Duration = Duration::from_secs(3);

/// When silence counts; tests have less time.
#[derive(Clone, Copy, Debug)]
pub struct FeedTimes {
    /// Between two looks.
    pub every: Duration,
    /// See [`SILENT_AFTER`].
    pub silent_after: Duration,
    /// See `PEERLESS_AFTER`.
    pub peerless_after: Duration,
}

impl Default for FeedTimes {
    fn default() -> Self {
        FeedTimes { every: Duration::from_secs(1), silent_after: SILENT_AFTER, peerless_after: PEERLESS_AFTER }
    }
}

/// How a user's ticks come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedKind {
    /// The simulated market, as long as it runs.
    Sim,
    /// Publishers on the bus: without one, the feed is down.
    Bus,
    /// Whatever its adapter says of its connection. The kind's name.
    Adapter(&'static str),
}

impl FeedKind {
    const fn label(self) -> &'static str {
        match self {
            FeedKind::Sim => "sim",
            FeedKind::Bus => "bus",
            FeedKind::Adapter(kind) => kind,
        }
    }
}

/// A user's feed at the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedStatus {
    /// How it is.
    pub state: FeedState,
    /// Since when, milliseconds since the UNIX epoch.
    pub since: u64,
    /// Why, for people.
    pub detail: String,
    /// It is down for the credentials.
    pub refused: bool,
}

impl FeedStatus {
    /// What is told anew when it has changed.
    pub(super) fn gist(&self) -> (FeedState, bool) {
        (self.state, self.refused)
    }
}

/// One feed, as `/feeds` shows it. No secret and no key is in it.
#[derive(Clone, Debug, Serialize)]
pub struct FeedReport {
    user: String,
    broker: String,
    kind: &'static str,
    state: &'static str,
    since: u64,
    detail: String,
    /// Where the adapter stands, as in `tickcast_adapters`.
    adapter: &'static str,
    /// Since the last tick; null before the first.
    silence_seconds: Option<f64>,
    /// Since the broker's last sign of life; null where there are none.
    heartbeat_seconds: Option<f64>,
    /// Keys that the broker holds for us.
    subscriptions: usize,
    /// Connections to the broker that are up; 1 or 0 where the adapter does not tell them apart.
    connections: usize,
    /// Instruments that could still be subscribed; null where nobody knows.
    capacity_left: Option<usize>,
}

struct Row {
    health: FeedHealth,
    status: FeedStatus,
}

type Table = HashMap<UserId, FeedStatus>;

/// See the module header.
pub struct Feeds {
    times: FeedTimes,
    registry: Arc<Registry>,
    clock: Arc<FeedClock>,
    kind: Box<dyn Fn(&str) -> FeedKind + Send + Sync>,
    /// Known once the bus runs; until then no endpoint has a peer.
    endpoints: OnceLock<Vec<Arc<EndpointStatus>>>,
    table: watch::Sender<Arc<Table>>,
}

impl Feeds {
    /// No feed has been looked at yet. `kind` says how a broker's ticks come in now.
    pub fn new(
        times: FeedTimes,
        registry: Arc<Registry>,
        clock: Arc<FeedClock>,
        kind: Box<dyn Fn(&str) -> FeedKind + Send + Sync>,
    ) -> Arc<Self> {
        let (endpoints, table) = (OnceLock::new(), watch::Sender::default());
        Arc::new(Feeds { times, registry, clock, kind, endpoints, table })
    }

    /// The bus runs.
    pub fn set_endpoints(&self, endpoints: Vec<Arc<EndpointStatus>>) {
        // The first ones count; there is one bus.
        let _ = self.endpoints.set(endpoints);
    }

    /// Wakes up whenever some feed's state has changed.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<Table>> {
        self.table.subscribe()
    }

    /// The state of a user's feed at the last look, or as it is now when that says more: it may never have been looked at, and whoever
    /// asks right after the first tick is told that it lives.
    pub(super) fn status(&self, user: UserId) -> Option<FeedStatus> {
        let feed = self.registry.feed_of(user)?;
        let known = self.table.borrow().get(&user).cloned();
        let facts = self.facts(&feed, Micros::now());
        let fresh = FeedHealth::new(self.times.silent_after).peek(&facts, Instant::now());
        let changed = known.as_ref().is_none_or(|known| match (known.state, fresh) {
            // What needs a past is judged by the looks.
            (FeedState::Stale | FeedState::Recovered, FeedState::Quiet) => false,
            (FeedState::Recovered, FeedState::Live) => false,
            (_, fresh) => known.gist() != (fresh, is_refused(&feed, fresh)),
        });
        match known {
            Some(known) if !changed => Some(known),
            _ => Some(FeedStatus {
                state: fresh,
                since: Micros::now().millis(),
                detail: self.detail(&feed, &facts, fresh),
                refused: is_refused(&feed, fresh),
            }),
        }
    }

    /// Looks at all feeds for ever, and wakes sessions when something has changed.
    pub async fn run(self: Arc<Self>) {
        let mut looks = tokio::time::interval(self.times.every);
        let mut rows: HashMap<UserId, Row> = HashMap::new();
        loop {
            looks.tick().await;
            self.look(&mut rows);
        }
    }

    fn look(&self, rows: &mut HashMap<UserId, Row>) {
        let (feeds, wall, now) = (self.registry.feeds(), Micros::now(), Instant::now());
        rows.retain(|user, _| feeds.iter().any(|feed| feed.user == *user));
        let (mut silences, mut changed) = (Vec::new(), false);
        for feed in &feeds {
            let facts = self.facts(feed, wall);
            let new = !rows.contains_key(&feed.user);
            let row = rows.entry(feed.user).or_insert_with(|| Row {
                health: FeedHealth::new(self.times.silent_after),
                status: FeedStatus {
                    state: FeedState::Down,
                    since: wall.millis(),
                    detail: String::new(),
                    refused: false,
                },
            });
            let state = row.health.look(&facts, now);
            silences.push((feed.broker.clone(), row.health.silence(&facts, now)));
            let refused = is_refused(feed, state);
            if new || (state, refused) != row.status.gist() {
                // What is down for another reason than before has been down since then.
                let since = if state == row.status.state && !new { row.status.since } else { wall.millis() };
                row.status = FeedStatus { state, since, detail: self.detail(feed, &facts, state), refused };
                tracing::debug!(user = feed.user.0, broker = &*feed.broker, state = state.as_str(), "feed state");
                changed = true;
            }
        }
        self.registry.observe_silence(silences.iter().map(|(broker, silence)| (&**broker, *silence)));
        if changed || rows.len() != self.table.borrow().len() {
            self.table.send_replace(Arc::new(rows.iter().map(|(user, row)| (*user, row.status.clone())).collect()));
        }
    }

    /// All feeds, for `/feeds`, by user.
    pub fn report(&self) -> Vec<FeedReport> {
        let wall = Micros::now();
        let mut reports: Vec<_> = self.registry.feeds().iter().filter_map(|feed| self.report_one(feed, wall)).collect();
        reports.sort_by(|a, b| (&a.user, &a.broker).cmp(&(&b.user, &b.broker)));
        reports
    }

    fn report_one(&self, feed: &Feed, wall: Micros) -> Option<FeedReport> {
        let status = self.status(feed.user)?;
        let facts = self.facts(feed, wall);
        Some(FeedReport {
            user: feed.name.to_string(),
            broker: feed.broker.to_string(),
            kind: (self.kind)(&feed.broker).label(),
            state: status.state.as_str(),
            since: status.since,
            detail: self.detail(feed, &facts, status.state),
            adapter: feed.state.label().map_or("absent", StateLabel::label),
            silence_seconds: facts.data.map(|silence| silence.as_secs_f64()),
            heartbeat_seconds: facts.heartbeat.map(|silence| silence.as_secs_f64()),
            subscriptions: feed.signs().held().map(|(_, held)| held).sum(),
            connections: feed.signs().connections().unwrap_or(usize::from(facts.connected)),
            capacity_left: feed.signs().capacity(),
        })
    }

    fn facts(&self, feed: &Feed, wall: Micros) -> Facts {
        let adapter = feed.state.label().is_some_and(|label| label.is_connected());
        Facts {
            connected: adapter && self.has_publisher(feed),
            data: self.clock.silence(feed.scope, feed.label, Instant::now()),
            heartbeat: feed.signs().heartbeat(),
            expected: feed.signs().held().any(|(hours, held): (Hours, usize)| held > 0 && hours.is_open(wall)),
        }
    }

    /// Whether somebody is there to publish what comes by the bus. Of endpoints that came later nothing is known here: their adapters say
    /// how they are.
    fn has_publisher(&self, feed: &Feed) -> bool {
        if (self.kind)(&feed.broker) != FeedKind::Bus {
            return true;
        }
        let mut own = self.endpoints.get().into_iter().flatten().filter(|e| e.spec().scope == feed.scope).peekable();
        own.peek().is_none() || own.any(|e| e.peers() > 0 || e.peerless() < self.times.peerless_after)
    }

    fn detail(&self, feed: &Feed, facts: &Facts, state: FeedState) -> String {
        let silence =
            facts.data.map_or("no tick yet".to_owned(), |silence| format!("no tick for {} s", silence.as_secs()));
        let adapter = feed.state.label();
        let mut detail = match state {
            FeedState::Live => "ticks arrive".to_owned(),
            FeedState::Quiet if facts.expected => silence,
            FeedState::Quiet => format!("{silence}, and none is expected now"),
            FeedState::Stale => format!("{silence}, though some are expected"),
            FeedState::Down if is_refused(feed, state) => {
                "the broker refuses the credentials; new ones are taken up as soon as they are there".to_owned()
            }
            FeedState::Down if !self.has_publisher(feed) => "no publisher is connected to the bus".to_owned(),
            FeedState::Down => format!("the adapter is {}", adapter.map_or("absent", StateLabel::label)),
            FeedState::Recovered => "connected again; subscriptions are restored".to_owned(),
        };
        if adapter == Some(StateLabel::Degraded) {
            detail.push_str("; a part of what is subscribed is not carried now");
        }
        detail
    }
}

impl Sessions {
    /// Some feed's state has changed: tells whoever asked for it.
    pub(super) fn tell_feeds(&self) {
        let all: Vec<_> = self.open.borrow().values().map(Rc::clone).collect();
        for session in all.iter().filter(|session| session.state.borrow().held.notices().feed_status) {
            self.tell_feed(session, self.config.feeds.table.borrow().get(&user_of(session)).cloned());
        }
    }

    /// Tells a session that has just asked for notices how its feed is, unless it is live.
    pub(super) fn tell_feed_now(&self, session: &Session) {
        let status = self.config.feeds.status(user_of(session));
        let live = status.as_ref().is_some_and(|status| status.state == FeedState::Live);
        session.state.borrow_mut().feed_told = live.then_some((FeedState::Live, false));
        self.tell_feed(session, status);
    }

    /// Whether the last values of the session's feed may be shown unasked.
    pub(super) fn feed_is_live(&self, user: UserId) -> bool {
        let status = self.config.feeds.status(user);
        status.is_some_and(|status| matches!(status.state, FeedState::Live | FeedState::Recovered))
    }

    fn tell_feed(&self, session: &Session, status: Option<FeedStatus>) {
        let Some(status) = status else { return };
        let mut state = session.state.borrow_mut();
        if state.feed_told.replace(status.gist()) == Some(status.gist()) {
            return;
        }
        let Phase::Live { member: Some(member), .. } = &state.phase else { return };
        let broker = self.label(member.broker).to_owned();
        drop(state);
        let mut json = Vec::with_capacity(160);
        reply::feed_status(&mut json, &broker, status.state, status.since, &status.detail);
        self.reply(session, &json);
    }
}

/// Whether a feed is down since its broker refuses the credentials.
fn is_refused(feed: &Feed, state: FeedState) -> bool {
    state == FeedState::Down && feed.state.label() == Some(StateLabel::Reauthenticating)
}

/// The user behind a session; nobody's id for one that is not attached.
fn user_of(session: &Session) -> UserId {
    match &session.state.borrow().phase {
        Phase::Live { member: Some(member), .. } => member.user,
        _ => UserId(u32::MAX),
    }
}
