//! `unsubscribe` and `unsubscribe_all`: ticks end before the acknowledgement, whatever the broker says.

use super::{Outcome, member};
use crate::model::{Instrument, InstrumentRef, Mode};
use crate::registry::{self, Member, UnsubscribeDecision};
use crate::session::Sessions;
use crate::session::held::Subscription;
use crate::session::state::Session;
use crate::wire::command::UnsubscribeRequest;
use crate::wire::reply::{self, FailedEntry};
use hashbrown::{HashMap, HashSet};
use serde_json::value::RawValue;
use std::rc::Rc;
use tokio::sync::mpsc;

const NOT_HELD: &str = "Client is not subscribed to this symbol/exchange/mode";

pub(super) async fn some(sessions: &Rc<Sessions>, session: &Rc<Session>, request: UnsubscribeRequest) -> Outcome {
    let request_id = request.request_id.as_deref();
    let Some(member) = member(sessions, session, request_id) else { return Outcome::Error };
    // Per entry: the range of keys that it means.
    let mut keys: Vec<(Instrument, Mode)> = Vec::new();
    let mut ranges = Vec::with_capacity(request.entries.len());
    let mut named: HashSet<(InstrumentRef<'_>, Mode)> = HashSet::new();
    for entry in &request.entries {
        let from = keys.len();
        if let Ok(entry) = entry {
            let modes = session.state.borrow().held.meant(entry.instrument.as_ref(), entry.mode);
            let modes: Vec<_> =
                modes.into_iter().filter(|mode| named.insert((entry.instrument.as_ref(), *mode))).collect();
            if modes.is_empty() {
                sessions.registry.count_not_held();
            }
            keys.extend(modes.into_iter().map(|mode| (entry.instrument.clone(), mode)));
        }
        ranges.push(from..keys.len());
    }
    let faults = release(sessions, session, &member, &keys).await;
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for (entry, range) in request.entries.iter().zip(ranges) {
        match entry {
            Err(error) => failed.push(FailedEntry::from(error)),
            Ok(entry) => {
                let name = entry.instrument.as_ref();
                let fault =
                    if range.is_empty() { Some(NOT_HELD) } else { range.clone().find_map(|n| faults[n].as_deref()) };
                match fault {
                    None => successful.push(name),
                    Some(message) => failed.push(FailedEntry { symbol: name.symbol, exchange: name.venue, message }),
                }
            }
        }
    }
    acknowledge(sessions, session, &member, &successful, &failed, request_id)
}

pub(super) async fn all(sessions: &Rc<Sessions>, session: &Rc<Session>, request_id: Option<&RawValue>) -> Outcome {
    let Some(member) = member(sessions, session, request_id) else { return Outcome::Error };
    let keys: Vec<_> =
        session.state.borrow().held.in_order().iter().map(Subscription::name).map(|(i, m)| (i.to_owned(), m)).collect();
    let faults = release(sessions, session, &member, &keys).await;
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for ((instrument, _), fault) in keys.iter().zip(&faults) {
        let name = instrument.as_ref();
        match fault {
            None => successful.push(name),
            Some(message) => failed.push(FailedEntry { symbol: name.symbol, exchange: name.venue, message }),
        }
    }
    acknowledge(sessions, session, &member, &successful, &failed, request_id)
}

/// Takes `keys` out of the session's own copy and out of the engine: no tick of theirs is sent after this.
pub(super) fn end_delivery(sessions: &Sessions, session: &Session, keys: &[(Instrument, Mode)]) {
    let mut frames = Vec::with_capacity(keys.len());
    let mut shards = HashMap::with_capacity(keys.len());
    let mut state = session.state.borrow_mut();
    for (instrument, mode) in keys {
        if let Some(held) = state.held.remove(instrument.as_ref(), *mode) {
            frames.push(held.key);
            shards.insert(held.key.stream(), sessions.shard_of(&held));
        }
    }
    drop(state);
    sessions.worker.deactivate(session.id, &frames, |key| sessions.unwanted(shards[&key.stream()], key));
}

/// Ends delivery of `keys` and gives the references back. Per key: the fault to report, if the broker would not let go of it.
async fn release(
    sessions: &Sessions,
    session: &Session,
    member: &Member,
    keys: &[(Instrument, Mode)],
) -> Vec<Option<String>> {
    end_delivery(sessions, session, keys);
    let names: Vec<(InstrumentRef<'_>, Mode)> = keys.iter().map(|(i, m)| (i.as_ref(), *m)).collect();
    let (reply, mut replies) = mpsc::channel(names.len().max(1));
    let decisions = sessions.registry.unsubscribe(member, session.id, &names, &reply);
    drop(reply);
    let mut faults: Vec<Option<String>> = decisions
        .into_iter()
        .map(|decision| matches!(decision, UnsubscribeDecision::NotHeld).then(|| NOT_HELD.to_owned()))
        .collect();
    while let Some((entry, outcome)) = replies.recv().await {
        if let registry::Outcome::Failed(fault) = outcome {
            faults[entry as usize] = Some(fault.message.as_ref().to_owned());
        }
    }
    faults
}

fn acknowledge(
    sessions: &Sessions,
    session: &Session,
    member: &Member,
    successful: &[InstrumentRef<'_>],
    failed: &[FailedEntry<'_>],
    request_id: Option<&RawValue>,
) -> Outcome {
    let mut json = Vec::with_capacity(256 + (successful.len() + failed.len()) * 96);
    let broker = sessions.label(member.broker);
    reply::unsubscribe_ack(&mut json, broker, successful, failed, request_id);
    sessions.reply(session, &json);
    match (successful.is_empty(), failed.is_empty()) {
        (_, true) => Outcome::Success,
        (true, false) => Outcome::Error,
        (false, false) => Outcome::Partial,
    }
}
