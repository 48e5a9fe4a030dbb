//! `subscribe`: from entries to acknowledged, ticking subscriptions.

use super::unsubscribe::end_delivery;
use super::{Outcome, member, present_member, refuse};
use crate::engine::batch::FrameKey;
use crate::engine::worker::Activate;
use crate::limits::ACK_BYTES_MAX;
use crate::model::{Format, InstrumentRef, Mode, StreamId, limited};
use crate::policy::conflation::Terms;
use crate::policy::overload::takes_subscriptions;
use crate::registry::{self, Decision, Fault, FaultCode, Member, Want};
use crate::session::Sessions;
use crate::session::held::Notices;
use crate::session::state::{Phase, Session};
use crate::shards::ShardIndex;
use crate::wire::command::{Delivery, Depth, Entry, EntryError, MaxRate, Options, SubscribeRequest};
use crate::wire::error::ErrorCode;
use crate::wire::reply::{self, AckEntry, AckOutcome};
use hashbrown::HashMap;
use std::rc::Rc;
use tokio::sync::mpsc;

const LIMIT: &str =
    "Subscription limit of this client reached: unsubscribe something first, or raise limits.subscriptions_per_client";
const OVERLOADED: &str =
    "The server is overloaded and takes no new subscriptions of this key's class: try again later, with growing delays";

/// What the registry granted.
struct Granted {
    stream: StreamId,
    scale: u8,
    depth: u32,
}

/// How one entry stands.
enum Standing {
    Error(Option<ErrorCode>, String),
    Duplicate,
    /// Same instrument and mode as an earlier entry of this request.
    SameAs(usize),
    /// The n-th want.
    Wanted(usize),
}

pub(super) async fn subscribe(sessions: &Rc<Sessions>, session: &Rc<Session>, request: SubscribeRequest) -> Outcome {
    let request_id = request.request_id.as_deref();
    let Some(member) = member(sessions, session, request_id) else { return Outcome::Error };
    if let Some(fault) = sessions.registry.unavailable(&member) {
        return refuse(sessions, session, ErrorCode::BrokerError, &fault.message, request_id);
    }
    let held = session.state.borrow().held.len();
    if held >= sessions.config.subscriptions_max {
        let message = format!(
            "Maximum {} subscriptions per client: unsubscribe something first, or raise limits.subscriptions_per_client",
            sessions.config.subscriptions_max
        );
        return refuse(sessions, session, ErrorCode::LimitExceeded, &message, request_id);
    }
    let (standings, entries) = sort_out(sessions, session, &request.entries, sessions.config.subscriptions_max - held);
    let levels = request.depth.levels();
    let wants: Vec<Want<'_>> =
        entries.iter().map(|e| Want { instrument: e.instrument.as_ref(), mode: e.mode, depth: levels }).collect();
    session.state.borrow_mut().pending = entries.iter().map(|e| (e.instrument.clone(), e.mode)).collect();
    let mut outcomes = ask(sessions, session, &member, &wants).await;
    let member = catch_up(sessions, session, member, &wants, &mut outcomes);
    let mut state = session.state.borrow_mut();
    if state.is_closing() {
        // `close` has released held and pending references alike.
        return Outcome::Error;
    }
    let terms = replaced_terms(&request.entries, &standings, &entries, |entry, terms| {
        if let Some(held) = state.held.find(entry.instrument.as_ref(), entry.mode) {
            sessions.worker.set_terms(session.id, held.key, terms);
        }
    });
    let mut fresh = Vec::new();
    state.held.reserve(entries.len());
    for ((entry, outcome), terms) in entries.iter().zip(&outcomes).zip(terms) {
        if let Ok(granted) = outcome {
            let shard = sessions.shards.shard_of(entry.instrument.as_ref());
            let key = FrameKey::new(granted.stream, entry.mode, session.format, member.broker);
            let name = sessions.names.borrow_mut().intern(entry.instrument.as_ref());
            state.held.insert(name, key, granted.scale);
            fresh.push(Fresh { entry, key, scale: granted.scale, shard, terms });
        }
    }
    drop(state);
    let (ack, outcome) = acknowledge(sessions, session, &member, &request, &standings, &outcomes);
    if ack.len() > ACK_BYTES_MAX {
        limited!(warn, 1, bytes = ack.len(), "an acknowledgement is larger than OpenAlgo's own client accepts");
    }
    // Asked before values are read: once the simulated market is over, none of its values is left to be taken for a real one.
    let label = sessions.label(member.broker);
    let live = sessions.feed_is_live(member.user);
    let frame = reply::frame(session.format, &ack).into();
    // OpenAlgo's clients know no snapshots, so JSON gets one unasked only while it is young and its feed lives; a MessagePack tick says
    // itself how old it is.
    sessions.worker.activate(session.id, Some(frame), fresh, |fresh| {
        let (key, terms) = (fresh.key, fresh.terms);
        let Some(activation) = sessions.shards.activate(fresh.shard, key.stream(), sessions.interest(key)) else {
            // The reference pins the stream, so it is there; were it not, there would be nothing to deliver.
            return Activate { key, floor: 0, snapshot: None, terms };
        };
        let last = activation.last.as_ref();
        let unasked = key.format() == Format::MsgPack || (live && last.is_some_and(|last| sessions.is_young(last)));
        let last = last.filter(|_| fresh.entry.options.snapshot.unwrap_or(unasked));
        let snapshot =
            last.and_then(|last| sessions.snapshot(last, fresh.entry.instrument.as_ref(), key, fresh.scale, label));
        Activate { key, floor: activation.floor, snapshot, terms }
    });
    session.state.borrow_mut().pending = Vec::new();
    notices(sessions, session, &request.entries);
    outcome
}

/// Notices that the entries ask for are due from now on; what is not as usual now is told at once.
fn notices(sessions: &Sessions, session: &Session, entries: &[Result<Entry, EntryError>]) {
    let mut state = session.state.borrow_mut();
    let before = state.held.notices();
    for entry in entries.iter().flatten() {
        let notices = Notices { feed_status: entry.options.feed_status, overload: entry.options.overload };
        state.held.set_notices(entry.instrument.as_ref(), entry.mode, notices);
    }
    let now = state.held.notices();
    drop(state);
    if now.overload && !before.overload {
        sessions.tell_overload(session);
    }
    if now.feed_status && !before.feed_status {
        sessions.tell_feed_now(session);
    }
}

/// The user's broker may have changed while the entries were pending: what was granted is then on other streams.
fn catch_up(
    sessions: &Sessions,
    session: &Session,
    before: Member,
    wants: &[Want<'_>],
    outcomes: &mut [Result<Granted, Fault>],
) -> Member {
    sessions.follow(session);
    let Some(member) = present_member(session).filter(|m| m.version != before.version) else { return before };
    for (want, granted) in wants.iter().zip(outcomes) {
        if let Ok(granted) = granted
            && let Some(pin) = sessions.registry.pin_of(&member, want.instrument, want.mode)
        {
            (granted.stream, granted.scale) = (pin.stream, pin.scale);
        }
    }
    member
}

/// A subscribe that failed halfway was answered with an error: whatever it holds by now is given back, in all three places.
pub(super) fn roll_back(sessions: &Sessions, session: &Session) {
    let mut state = session.state.borrow_mut();
    let pending = std::mem::take(&mut state.pending);
    let Phase::Live { member: Some(member), .. } = &state.phase else { return };
    let member = member.clone();
    drop(state);
    end_delivery(sessions, session, &pending);
    sessions.registry.leave_all(&member, session.id, pending.iter().map(|(i, m)| (i.as_ref(), *m)));
}

struct Fresh<'a> {
    entry: &'a Entry,
    key: FrameKey,
    scale: u8,
    shard: ShardIndex,
    terms: Terms,
}

/// The terms of each want: those of the last entry that names it. `held` is called for entries that name what is held already, in order.
fn replaced_terms(
    all: &[Result<Entry, EntryError>],
    standings: &[Standing],
    wanted: &[&Entry],
    held: impl Fn(&Entry, Terms),
) -> Vec<Terms> {
    let mut terms: Vec<Terms> = wanted.iter().map(|entry| terms_of(&entry.options)).collect();
    for (entry, standing) in all.iter().zip(standings) {
        match (entry, standing) {
            (Ok(entry), Standing::Duplicate) => held(entry, terms_of(&entry.options)),
            (Ok(entry), Standing::SameAs(first)) => {
                if let Standing::Wanted(n) = standings[*first] {
                    terms[n] = terms_of(&entry.options);
                }
            }
            _ => {}
        }
    }
    terms
}

fn terms_of(options: &Options) -> Terms {
    Terms {
        every: options.delivery == Delivery::Every,
        interval: options.max_rate.map(MaxRate::interval),
        range: options.range,
    }
}

/// Which entries go to the registry: not those that are wrong, held already, named twice, or over the limit.
fn sort_out<'a>(
    sessions: &Sessions,
    session: &Session,
    entries: &'a [Result<Entry, EntryError>],
    room: usize,
) -> (Vec<Standing>, Vec<&'a Entry>) {
    let state = session.state.borrow();
    let overloaded = state.class().is_some_and(|class| !takes_subscriptions(sessions.config.overload.get(), class));
    let mut seen: HashMap<(InstrumentRef<'_>, Mode), usize> = HashMap::new();
    let mut wanted = Vec::new();
    let standings = entries
        .iter()
        .enumerate()
        .map(|(at, entry)| {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    sessions.metrics.error(error.code);
                    return Standing::Error(Some(error.code), error.message.into());
                }
            };
            let name = entry.instrument.as_ref();
            if state.held.find(name, entry.mode).is_some() {
                sessions.registry.count_duplicate();
                return Standing::Duplicate;
            }
            if let Some(&first) = seen.get(&(name, entry.mode)) {
                sessions.registry.count_duplicate();
                return Standing::SameAs(first);
            }
            if overloaded || wanted.len() >= room {
                sessions.metrics.error(ErrorCode::LimitExceeded);
                let message = if overloaded { OVERLOADED } else { LIMIT };
                return Standing::Error(Some(ErrorCode::LimitExceeded), message.into());
            }
            seen.insert((name, entry.mode), at);
            wanted.push(entry);
            Standing::Wanted(wanted.len() - 1)
        })
        .collect();
    (standings, wanted)
}

/// Asks the registry for all wants at once and waits for every answer.
async fn ask(
    sessions: &Sessions,
    session: &Session,
    member: &Member,
    wants: &[Want<'_>],
) -> Vec<Result<Granted, Fault>> {
    let (reply, mut replies) = mpsc::channel(wants.len().max(1));
    let decisions = sessions.registry.subscribe(member, session.id, wants, &reply);
    drop(reply);
    let mut outcomes: Vec<Option<Result<Granted, Fault>>> = decisions
        .into_iter()
        .map(|decision| match decision {
            // The session's own copy said that it does not hold the key; the registry knows better, and the reference counts once.
            Decision::Joined { stream, scale, depth } | Decision::Duplicate { stream, scale, depth } => {
                Some(Ok(Granted { stream, scale, depth }))
            }
            Decision::Refused(fault) => Some(Err(fault)),
            Decision::Pending => None,
        })
        .collect();
    while let Some((entry, outcome)) = replies.recv().await {
        outcomes[entry as usize] = Some(match outcome {
            registry::Outcome::Subscribed { stream, scale, depth } => Ok(Granted { stream, scale, depth }),
            registry::Outcome::Failed(fault) => Err(fault),
            registry::Outcome::Unsubscribed => {
                Err(Fault::new(FaultCode::Cancelled, "The subscription ended meanwhile"))
            }
        });
    }
    outcomes.into_iter().map(|o| o.expect("the registry answers every want before it lets go of the channel")).collect()
}

fn acknowledge(
    sessions: &Sessions,
    session: &Session,
    member: &Member,
    request: &SubscribeRequest,
    standings: &[Standing],
    outcomes: &[Result<Granted, Fault>],
) -> (Vec<u8>, Outcome) {
    let depths: Vec<Depth> = outcomes
        .iter()
        .map(|o| match o {
            Ok(s) if s.depth != request.depth.levels() => Depth::Levels(s.depth),
            _ => request.depth.clone(),
        })
        .collect();
    let state = session.state.borrow();
    let mut errors = 0;
    let lines: Vec<AckEntry<'_>> = request
        .entries
        .iter()
        .zip(standings)
        .map(|(entry, standing)| {
            let duplicate = |entry: &Entry| {
                let held = state.held.find(entry.instrument.as_ref(), entry.mode);
                held.map(|held| reply::Subscribed {
                    mode: entry.mode,
                    depth: &request.depth,
                    id: held.key.stream(),
                    scale: held.scale,
                })
            };
            let wanted = |n: usize, entry: &Entry| match &outcomes[n] {
                Ok(s) => Ok(reply::Subscribed { mode: entry.mode, depth: &depths[n], id: s.stream, scale: s.scale }),
                Err(fault) => Err(AckOutcome::Error { message: &fault.message, code: shown_code(fault.code) }),
            };
            let outcome = match (standing, entry) {
                (Standing::Error(code, message), _) => AckOutcome::Error { message, code: *code },
                (Standing::Wanted(n), Ok(entry)) => wanted(*n, entry).map_or_else(|e| e, AckOutcome::Success),
                (Standing::SameAs(first), Ok(entry)) => match standings[*first] {
                    Standing::Wanted(n) => wanted(n, entry).map_or_else(|e| e, AckOutcome::Duplicate),
                    _ => unreachable!("only wanted entries are remembered"),
                },
                (Standing::Duplicate, Ok(entry)) => {
                    AckOutcome::Duplicate(duplicate(entry).expect("held, and one command at a time"))
                }
                (_, Err(error)) => AckOutcome::Error { message: error.message, code: Some(error.code) },
            };
            errors += usize::from(matches!(outcome, AckOutcome::Error { .. }));
            let (symbol, exchange) = match entry {
                Ok(entry) => (entry.instrument.symbol(), entry.instrument.venue()),
                Err(error) => (error.symbol.as_str(), error.exchange.as_str()),
            };
            AckEntry { symbol, exchange, outcome }
        })
        .collect();
    let mut ack = Vec::with_capacity(256 + lines.len() * 128);
    let broker = sessions.label(member.broker);
    reply::subscribe_ack(&mut ack, session.format, broker, &lines, request.request_id.as_deref());
    let outcome = match errors {
        0 => Outcome::Success,
        n if n == lines.len() => Outcome::Error,
        _ => Outcome::Partial,
    };
    (ack, outcome)
}

/// Entries that fail at the broker carry the adapter's words only, as upstream's do; our own refusals name their code.
const fn shown_code(code: FaultCode) -> Option<ErrorCode> {
    match code {
        FaultCode::Limit => Some(ErrorCode::LimitExceeded),
        FaultCode::Capacity => Some(ErrorCode::MaxCapacityReached),
        _ => None,
    }
}
