//! `/sessions` and `/subscriptions`: slow clients and what is subscribed, for people and for `tickcast top`.
//!
//! In: queries. Out: JSON, or 400 with what is allowed. Sessions belong to workers, so each worker is asked by a message and has
//! [`limits::XRAY_WAIT`] for its answer; one that gives none is named in the reply and costs its own rows only, and is not asked again
//! before it has answered. Subscriptions are counted on a thread of their own, since that waits for shard locks. One request of each kind
//! at a time. No API key ever appears. Tests: `tests/xray.rs`.

use super::query::Params;
use crate::engine::queue::Control;
use crate::engine::xray::{self, Ask, By, Seen, SeenSession};
use crate::limits;
use crate::net::admin::{Answer, Reply, Route};
use crate::policy::diagnosis::{Facts, Tcp, Verdict, judge};
use crate::registry::Registry;
use crate::registry::audit::{BETWEEN, Findings};
use crate::registry::streams;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

const SESSIONS_USAGE: &str = "/sessions?top=1..1000&by=lag|bytes|merged";
const SUBSCRIPTIONS_USAGE: &str = "/subscriptions?top=1..1000&by=references|ticks&drift=0|1";
/// Rows unless asked otherwise.
const SESSIONS_SHOWN: usize = 20;
const SUBSCRIPTIONS_SHOWN: usize = 50;

/// `/sessions`.
pub(super) fn sessions(workers: Vec<mpsc::Sender<Control>>) -> Route {
    let owed = RefCell::new(workers.iter().map(|_| None).collect());
    let office = Rc::new(Office { workers, owed, turn: Semaphore::new(1) });
    Route {
        path: "/sessions",
        about: "slow clients first, with the kernel's figures and whose fault it is",
        answer: Answer::later(move |query| {
            let (office, ask) = (Rc::clone(&office), session_ask(query));
            async move {
                match ask {
                    Ok((ask, by)) => office.report(ask, by).await,
                    Err(mistake) => Reply::text(StatusCode::BAD_REQUEST, mistake),
                }
            }
        }),
    }
}

fn session_ask(query: &str) -> Result<(Ask, &'static str), String> {
    let params = Params::parse(query, SESSIONS_USAGE)?;
    let top = params.number("top", 1..=limits::ADMIN_ROWS_MAX, SESSIONS_SHOWN)?;
    let (label, by) = params.one_of("by", &By::ALL.map(|choice| (choice.0, choice)))?;
    Ok((Ask { by, top }, label))
}

/// Asks the workers.
struct Office {
    workers: Vec<mpsc::Sender<Control>>,
    /// Answers that a worker still owes from an earlier request.
    owed: RefCell<Vec<Option<oneshot::Receiver<Seen>>>>,
    turn: Semaphore,
}

impl Office {
    async fn report(&self, ask: Ask, by: &'static str) -> Reply {
        let _turn = self.turn.acquire().await.expect("the semaphore is never closed");
        let deadline = tokio::time::Instant::now() + limits::XRAY_WAIT;
        let asked: Vec<_> = (0..self.workers.len()).map(|worker| self.ask(worker, ask)).collect();
        let (mut total, mut lagging, mut missing) = (0, 0, Vec::new());
        let mut found: Vec<(SeenSession, Duration)> = Vec::new();
        for (worker, answer) in asked.into_iter().enumerate() {
            match self.await_one(worker, answer, deadline).await {
                Some(seen) => {
                    total += seen.total;
                    lagging += seen.lagging;
                    found.extend(seen.sessions.into_iter().map(|session| (session, seen.late_by)));
                }
                None => missing.push(worker),
            }
        }
        xray::keep_first(&mut found, ask, |(session, _)| &session.figures);
        let sessions: Vec<SessionRow> =
            found.into_iter().map(|(session, late)| SessionRow::new(session, late)).collect();
        let body = json!({
            "by": by, "total": total, "lagging": lagging, "workers_missing": missing, "sessions": sessions,
        });
        Reply::json(body.to_string())
    }

    /// Asks one worker, unless it still owes an answer: a queue that nobody empties is not filled by us.
    fn ask(&self, worker: usize, ask: Ask) -> Option<oneshot::Receiver<Seen>> {
        let mut owed = self.owed.borrow_mut();
        if let Some(late) = &mut owed[worker]
            && matches!(late.try_recv(), Err(oneshot::error::TryRecvError::Empty))
        {
            return None;
        }
        owed[worker] = None;
        let (reply, answer) = oneshot::channel();
        self.workers[worker].try_send(Control::Sessions { ask, reply }).ok().map(|()| answer)
    }

    async fn await_one(
        &self,
        worker: usize,
        answer: Option<oneshot::Receiver<Seen>>,
        deadline: tokio::time::Instant,
    ) -> Option<Seen> {
        let mut answer = answer?;
        match tokio::time::timeout_at(deadline, &mut answer).await {
            Ok(seen) => seen.ok(),
            Err(_) => {
                self.owed.borrow_mut()[worker] = Some(answer);
                None
            }
        }
    }
}

/// One session, as `/sessions` shows it.
#[derive(Serialize)]
struct SessionRow {
    session: String,
    user: Option<String>,
    broker: Option<String>,
    peer: SocketAddr,
    format: &'static str,
    class: &'static str,
    worker: u8,
    age_seconds: f64,
    subscriptions: usize,
    lag_seconds: f64,
    outbox_bytes: usize,
    merged: u64,
    sent_frames: u64,
    sent_bytes: u64,
    tcp: Option<TcpRow>,
    verdict: Option<Verdict>,
    why: String,
}

#[derive(Serialize)]
struct TcpRow {
    rtt_seconds: f64,
    rtt_var_seconds: f64,
    retransmits: u32,
    unacked: u32,
    delivery_rate_bytes: Option<u64>,
    notsent_bytes: Option<u32>,
    send_queue_bytes: Option<u32>,
}

impl SessionRow {
    fn new(seen: SeenSession, worker_late: Duration) -> Self {
        let SeenSession { figures, user, broker, peer, age, subscriptions, tcp } = seen;
        let finding = judge(&Facts { lag: figures.lag, worker_late, tcp });
        SessionRow {
            session: figures.id.to_string(),
            user: user.map(|user| user.to_string()),
            broker,
            peer,
            format: figures.format.label(),
            class: figures.class.label(),
            worker: figures.id.worker.0,
            age_seconds: age.as_secs_f64(),
            subscriptions,
            lag_seconds: figures.lag.as_secs_f64(),
            outbox_bytes: figures.outbox_bytes,
            merged: figures.merged,
            sent_frames: figures.sent_frames,
            sent_bytes: figures.sent_bytes,
            tcp: tcp.map(TcpRow::from),
            verdict: finding.verdict,
            why: finding.why,
        }
    }
}

impl From<Tcp> for TcpRow {
    fn from(tcp: Tcp) -> Self {
        TcpRow {
            rtt_seconds: tcp.rtt.as_secs_f64(),
            rtt_var_seconds: tcp.rtt_var.as_secs_f64(),
            retransmits: tcp.retransmits,
            unacked: tcp.unacked,
            delivery_rate_bytes: tcp.delivery_rate,
            notsent_bytes: tcp.notsent,
            send_queue_bytes: tcp.send_queue,
        }
    }
}

/// `/subscriptions`.
pub(super) fn subscriptions(registry: Arc<Registry>, findings: watch::Receiver<Option<Arc<Findings>>>) -> Route {
    let turn = Arc::new(Semaphore::new(1));
    Route {
        path: "/subscriptions",
        about: "streams by references or ticks; with ?drift=1 what the auditor found different",
        answer: Answer::later(move |query| {
            let (registry, turn) = (Arc::clone(&registry), Arc::clone(&turn));
            let wanted = subscription_ask(query);
            let drift = findings.borrow().clone();
            async move {
                let (by, top, with_drift) = match wanted {
                    Ok(wanted) => wanted,
                    Err(mistake) => return Reply::text(StatusCode::BAD_REQUEST, mistake),
                };
                // The permit goes along: should a lock never be given back, one thread waits for it and not many.
                let turn = turn.acquire_owned().await.expect("the semaphore is never closed");
                let looked = tokio::task::spawn_blocking(move || {
                    let view = registry.streams(by, top);
                    drop(turn);
                    view
                });
                let Ok(view) = looked.await else {
                    return Reply::text(StatusCode::INTERNAL_SERVER_ERROR, "a shard is broken; see /healthz\n");
                };
                let mut body = json!({
                    "active": view.active,
                    "shared_ratio": view.shared_ratio,
                    "streams": view.streams.iter().map(stream_row).collect::<Vec<_>>(),
                });
                if with_drift {
                    body["drift"] = drift_row(drift.as_deref());
                }
                Reply::json(body.to_string())
            }
        }),
    }
}

fn subscription_ask(query: &str) -> Result<(streams::By, usize, bool), String> {
    let params = Params::parse(query, SUBSCRIPTIONS_USAGE)?;
    let by = params.one_of("by", &streams::By::ALL)?;
    let top = params.number("top", 1..=limits::ADMIN_ROWS_MAX, SUBSCRIPTIONS_SHOWN)?;
    Ok((by, top, params.one_of("drift", &[("0", false), ("1", true)])?))
}

fn stream_row(view: &streams::StreamView) -> Value {
    json!({
        "exchange": view.instrument.venue(),
        "symbol": view.instrument.symbol(),
        "mode": view.mode.int(),
        "scope": view.scope,
        "references": view.references,
        "state": view.standing.label(),
        "depth": view.depth,
        "ticks": view.ticks,
    })
}

/// `null` until the first audit is over.
fn drift_row(findings: Option<&Findings>) -> Value {
    let Some(findings) = findings else { return Value::Null };
    let found = findings.named.iter().map(|one| {
        json!({
            "between": one.between,
            "user": one.user,
            "session": one.session.map(|id| id.to_string()),
            "exchange": one.key.as_ref().map(|(instrument, _)| instrument.venue()),
            "symbol": one.key.as_ref().map(|(instrument, _)| instrument.symbol()),
            "mode": one.key.as_ref().map(|(_, mode)| mode.int()),
        })
    });
    let mut row = json!({ "audited_seconds_ago": findings.at.elapsed().as_secs_f64() });
    for (between, count) in BETWEEN.into_iter().zip(findings.drift.counts()) {
        row[between] = count.into();
    }
    row["found"] = found.collect();
    row
}
