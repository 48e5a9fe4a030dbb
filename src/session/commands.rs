//! What a command does: one at a time per session, in order.
//!
//! In: parsed commands from `reader.rs`. Out: replies, registry calls, and activation or deactivation in the engine. Promises: an
//! acknowledgement precedes the first tick of what it acknowledges, and follows the last one of what it ends; a session that goes
//! away meanwhile gets nothing more and holds nothing. A command that panics is answered with PROCESSING_ERROR and the session goes on.

mod subscribe;
mod unsubscribe;

use super::Sessions;
use super::state::{Phase, Session};
use crate::adapter::supervisor::correlation_id;
use crate::auth::{AuthFailure, Identity};
use crate::limits::REFERENCES_LOGGED;
use crate::model::{Micros, limited};
use crate::registry::{FaultCode, Member};
use crate::wire::close::CloseReason;
use crate::wire::command::{Command, CommandError};
use crate::wire::error::ErrorCode;
use crate::wire::reply;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// A message in its turn: a command, or the error frame that it earned.
pub(super) type Queued = Result<Command, CommandError>;

/// A socket whose key was refused gets this long for another try: OpenAlgo's SDK would otherwise keep it open beside its next one,
/// and take the late close for the loss of that one.
const RETRY_WINDOW: Duration = Duration::from_secs(5);

pub(super) const NOT_AUTHENTICATED: &str =
    "You must authenticate first: send {\"action\":\"authenticate\",\"api_key\":\"…\"}";

/// Carries out what waits, then ends; `queue` starts the next one when something waits again.
pub(super) async fn carry_out(sessions: Rc<Sessions>, session: Rc<Session>) {
    loop {
        let next = {
            let mut state = session.state.borrow_mut();
            match state.waiting.pop_front() {
                Some((queued, len)) => {
                    state.waiting_bytes -= len;
                    queued
                }
                None => {
                    state.busy = false;
                    // Idle sessions hold no buffer.
                    state.waiting = VecDeque::new();
                    return;
                }
            }
        };
        let action = next.as_ref().map_or("invalid", Command::action);
        // Kept for the answer if the command fails: OpenAlgo's internal client waits for its id.
        let id = next.as_ref().ok().and_then(request_id).map(ToOwned::to_owned);
        let started = Instant::now();
        let outcome = match catching(carry_out_one(&sessions, &session, next)).await {
            Some(outcome) => outcome,
            None => {
                let reference = correlation_id();
                limited!(error, REFERENCES_LOGGED, action, correlation = %reference, "a command failed; its session goes on");
                subscribe::roll_back(&sessions, &session);
                let message =
                    format!("The request could not be processed; nothing else is affected, please report {reference}");
                refuse(&sessions, &session, ErrorCode::ProcessingError, &message, id.as_deref())
            }
        };
        sessions.metrics.command(action, outcome, started.elapsed());
    }
}

/// Runs `future`; `None` when it panics, so that a fault ends one command and not the session. A task of its own would do the same, but
/// flushes would go between it and its answer.
async fn catching<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// How a command ended, for its metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    Partial,
    Error,
}

async fn carry_out_one(sessions: &Rc<Sessions>, session: &Rc<Session>, queued: Queued) -> Outcome {
    let command = match queued {
        Ok(command) => command,
        Err(error) => {
            let unknown = error.needs_auth && session.state.borrow().user().is_none();
            let (code, message) = match unknown {
                true => (ErrorCode::NotAuthenticated, NOT_AUTHENTICATED),
                false => (error.code, error.message.as_str()),
            };
            return refuse(sessions, session, code, message, error.request_id.as_deref());
        }
    };
    if let Some(before) = &sessions.config.before_command {
        before(&command);
    }
    if command.needs_auth() && session.state.borrow().user().is_none() {
        return refuse(sessions, session, ErrorCode::NotAuthenticated, NOT_AUTHENTICATED, request_id(&command));
    }
    match command {
        Command::Authenticate { key } => authenticate(sessions, session, key).await,
        Command::Subscribe(request) => subscribe::subscribe(sessions, session, request).await,
        Command::Unsubscribe(request) => unsubscribe::some(sessions, session, request).await,
        Command::UnsubscribeAll { request_id } => unsubscribe::all(sessions, session, request_id.as_deref()).await,
        Command::SubscribeOrders { request_id } => orders(sessions, session, true, request_id.as_deref()),
        Command::UnsubscribeOrders { request_id } => orders(sessions, session, false, request_id.as_deref()),
        Command::BrokerInfo => broker_info(sessions, session),
        // Answered by the reader already.
        Command::SupportedBrokers => supported_brokers(sessions, session),
        Command::Ping { timestamp, ping_id } => pong(sessions, session, timestamp.as_deref(), ping_id.as_deref()),
    }
}

fn request_id(command: &Command) -> Option<&RawValue> {
    match command {
        Command::Subscribe(request) => request.request_id.as_deref(),
        Command::Unsubscribe(request) => request.request_id.as_deref(),
        Command::UnsubscribeAll { request_id }
        | Command::SubscribeOrders { request_id }
        | Command::UnsubscribeOrders { request_id } => request_id.as_deref(),
        _ => None,
    }
}

/// Sends an error frame.
pub(super) fn refuse(
    sessions: &Sessions,
    session: &Session,
    code: ErrorCode,
    message: &str,
    request_id: Option<&RawValue>,
) -> Outcome {
    sessions.metrics.error(code);
    let mut json = Vec::with_capacity(128);
    reply::error(&mut json, code, message, request_id);
    sessions.reply(session, &json);
    Outcome::Error
}

pub(super) fn pong(
    sessions: &Sessions,
    session: &Session,
    timestamp: Option<&RawValue>,
    ping_id: Option<&RawValue>,
) -> Outcome {
    let mut json = Vec::with_capacity(128);
    reply::pong(&mut json, Micros::now().millis(), timestamp, ping_id);
    sessions.reply(session, &json);
    Outcome::Success
}

pub(super) fn supported_brokers(sessions: &Sessions, session: &Session) -> Outcome {
    let mut json = Vec::with_capacity(256);
    let brokers: Vec<&str> = sessions.config.supported_brokers.iter().map(String::as_str).collect();
    reply::supported_brokers(&mut json, &brokers);
    sessions.reply(session, &json);
    Outcome::Success
}

async fn authenticate(sessions: &Rc<Sessions>, session: &Rc<Session>, key: Option<String>) -> Outcome {
    let Some(key) = key else {
        refuse(sessions, session, ErrorCode::AuthenticationError, "API key is required", None);
        return failed_attempt(sessions, session);
    };
    let identity = match sessions.auth.authenticate(key, session.peer.ip()).await {
        Ok(identity) => identity,
        Err(AuthFailure::Invalid) => {
            refuse(sessions, session, ErrorCode::AuthenticationError, "Invalid API key", None);
            return failed_attempt(sessions, session);
        }
        Err(AuthFailure::TooManyAttempts) => {
            let message = "Too many failed attempts from this address; wait a minute, then try again with a valid key";
            refuse(sessions, session, ErrorCode::AuthenticationError, message, None);
            sessions.close(session, CloseReason::AuthAttempts);
            return Outcome::Error;
        }
        Err(AuthFailure::Busy) => {
            let message = "The key check is busy; try again in a few seconds";
            return refuse(sessions, session, ErrorCode::ServerError, message, None);
        }
        Err(AuthFailure::Unavailable(why)) => {
            let id = correlation_id();
            limited!(error, REFERENCES_LOGGED, correlation = %id, error = %why, "key store unavailable");
            let message =
                format!("The key store cannot be read at the moment; try again, and quote {id} to the operator");
            return refuse(sessions, session, ErrorCode::ServerError, &message, None);
        }
    };
    if !go_live(sessions, session, &identity) {
        return Outcome::Error;
    }
    if fresh_member(session) && sessions.registry.sessions_of(&identity.user) >= sessions.config.sessions_per_user {
        sessions.close(session, CloseReason::UserLimit);
        return Outcome::Error;
    }
    let broker = identity.broker.as_deref();
    let attached = sessions.registry.attach(session.id, &identity.user, broker).await;
    if session.state.borrow().is_closing() {
        // The session ended while its adapter was being made: give the place back.
        let member = attached.unwrap_or_else(|error| error.member);
        sessions.registry.detach(session.id, &member);
        return Outcome::Error;
    }
    match attached {
        Ok(member) => {
            let member = join(sessions, session, member);
            let mut json = Vec::with_capacity(256);
            let broker = sessions.label(member.broker);
            reply::auth_success(&mut json, broker, &identity.user, sessions.config.epoch);
            sessions.reply(session, &json);
            Outcome::Success
        }
        Err(error) => {
            join(sessions, session, error.member);
            let code = match error.fault.code {
                FaultCode::BrokerInit => ErrorCode::BrokerInitError,
                FaultCode::BrokerConnection => ErrorCode::BrokerConnectionError,
                FaultCode::Limit => ErrorCode::LimitExceeded,
                FaultCode::Capacity => ErrorCode::MaxCapacityReached,
                FaultCode::Broker | FaultCode::Refused | FaultCode::Cancelled => ErrorCode::BrokerError,
            };
            refuse(sessions, session, code, &error.fault.message, None)
        }
    }
}

/// Whether the registry does not count the session under its user yet.
fn fresh_member(session: &Session) -> bool {
    matches!(session.state.borrow().phase, Phase::Live { member: None, .. })
}

/// The registry counts the session under its user, with or without a working broker; what it holds already goes on under the
/// user's present one, which need not be `member`'s any more.
fn join(sessions: &Sessions, session: &Session, member: Member) -> Member {
    if let Phase::Live { member: held, .. } = &mut session.state.borrow_mut().phase {
        held.get_or_insert_with(|| member.clone());
    }
    sessions.follow(session);
    present_member(session).unwrap_or(member)
}

fn present_member(session: &Session) -> Option<Member> {
    match &session.state.borrow().phase {
        Phase::Live { member, .. } => member.clone(),
        _ => None,
    }
}

/// The key is good: from now on the session is `identity`'s, whatever becomes of the broker. False when it may not be.
fn go_live(sessions: &Sessions, session: &Session, identity: &Identity) -> bool {
    let mut state = session.state.borrow_mut();
    let (fresh, other) = match &mut state.phase {
        Phase::Closing { .. } => return false,
        Phase::Live { identity: held, .. } if held.user == identity.user => {
            *held = identity.clone();
            (false, false)
        }
        Phase::Live { .. } => (false, true),
        phase @ Phase::AwaitingAuth { .. } => {
            *phase = Phase::Live { identity: identity.clone(), member: None };
            (true, false)
        }
    };
    drop(state);
    if other {
        let message = "This connection belongs to another user already; open a new connection for this key";
        refuse(sessions, session, ErrorCode::AuthenticationError, message, None);
    }
    if !other {
        sessions.worker.set_class(session.id, identity.class);
    }
    if fresh {
        sessions.metrics.unauthenticated.decrement(1.0);
        sessions.metrics.live[session.format as usize].increment(1.0);
    }
    !other
}

/// Counts a refused key; the fifth one closes.
fn failed_attempt(sessions: &Sessions, session: &Session) -> Outcome {
    let mut state = session.state.borrow_mut();
    state.auth_failures += 1;
    let enough = state.auth_failures >= sessions.config.auth_failures_max;
    if let Phase::AwaitingAuth { deadline } = &mut state.phase {
        *deadline = (*deadline).min(Instant::now() + RETRY_WINDOW);
    }
    drop(state);
    if enough {
        sessions.close(session, CloseReason::AuthAttempts);
    }
    Outcome::Error
}

/// The session's place under its user, or the error frame that says why there is none.
fn member(sessions: &Sessions, session: &Session, request_id: Option<&RawValue>) -> Option<Member> {
    sessions.follow(session);
    let member = present_member(session);
    if member.is_none() {
        let message = "Broker adapter not found: authenticate again once the broker is available";
        refuse(sessions, session, ErrorCode::BrokerError, message, request_id);
    }
    member
}

fn orders(sessions: &Sessions, session: &Session, wanted: bool, request_id: Option<&RawValue>) -> Outcome {
    let mut state = session.state.borrow_mut();
    let Some(user) = state.user().cloned() else { return Outcome::Error };
    state.orders = wanted;
    drop(state);
    let mut json = Vec::with_capacity(128);
    if wanted {
        sessions.orders.borrow_mut().entry(user).or_default().insert(session.id);
        reply::orders_subscribed(&mut json, request_id);
    } else {
        sessions.forget_orders(&user, session.id);
        reply::orders_unsubscribed(&mut json, request_id);
    }
    sessions.reply(session, &json);
    Outcome::Success
}

fn broker_info(sessions: &Sessions, session: &Session) -> Outcome {
    let (user, broker, member) = match &session.state.borrow().phase {
        Phase::Live { identity, member } => (identity.user.clone(), identity.broker.clone(), member.clone()),
        _ => return Outcome::Error,
    };
    let Some(broker) = broker else {
        let message = "No broker is logged in for this user: log in at the broker, then authenticate again";
        return refuse(sessions, session, ErrorCode::BrokerError, message, None);
    };
    let mut json = Vec::with_capacity(128);
    let status = member.map_or("disconnected", |member| sessions.registry.adapter_status(member.user));
    reply::broker_info(&mut json, &broker, status, &user);
    sessions.reply(session, &json);
    Outcome::Success
}
