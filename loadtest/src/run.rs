//! One measurement: a fresh server, its clients, the publisher, and what came of it.
//!
//! Order: server, clients with their acknowledgements, probes until every client has seen one, the load, then a wait until every
//! reading client has the last tick of each of its symbols, or five seconds.

use crate::client::{Client, Seen};
use crate::publish::{self, Published};
use crate::server::Server;
use crate::{Failure, Load};
use hdrhistogram::Histogram;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

/// How long a probe may take to arrive, and the last ticks.
const PATIENCE: Duration = Duration::from_secs(10);
const LAST_TICKS: Duration = Duration::from_secs(5);
/// How often we look whether they have.
const LOOK: Duration = Duration::from_millis(5);

/// What differs between measurements.
pub(crate) struct Plan {
    pub(crate) universe: u32,
    pub(crate) symbols: u32,
    /// One more client that subscribes and then reads nothing until the load is over.
    pub(crate) stalled: bool,
}

/// What came of it.
pub(crate) struct Figures {
    /// Publish to receipt at healthy clients, nanoseconds.
    pub(crate) ages: Histogram<u64>,
    pub(crate) delivered: u64,
    pub(crate) expected: u64,
    /// Healthy clients that have the last tick of each of their symbols.
    pub(crate) up_to_date: u32,
    pub(crate) published: Published,
    pub(crate) cpu: Duration,
    pub(crate) rss: u64,
    pub(crate) stalled: Option<Stalled>,
}

/// How the client fared that had stopped reading.
pub(crate) struct Stalled {
    /// Ticks it got in the end; the rest was replaced by newer ones.
    pub(crate) ticks: u64,
    pub(crate) expected: u64,
    /// It got the last tick of each of its symbols.
    pub(crate) up_to_date: bool,
}

pub(crate) fn run(load: &Load, plan: &Plan) -> Result<Figures, Failure> {
    let server = Server::start(&load.spawn)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, measure(load, plan, &server))
}

/// A client's symbols and what it has received.
struct Reader {
    symbols: Vec<u32>,
    seen: Rc<RefCell<Seen>>,
}

impl Reader {
    fn new(plan: &Plan, first: u64) -> Self {
        let number = |n| ((first + u64::from(n)) % u64::from(plan.universe)) as u32;
        let seen = Seen { last: vec![0; plan.universe as usize], ..Seen::default() };
        Reader { symbols: (0..plan.symbols).map(number).collect(), seen: Rc::new(RefCell::new(seen)) }
    }

    fn expected(&self, published: &Published) -> u64 {
        self.symbols.iter().map(|s| published.ticks[*s as usize]).sum()
    }

    fn is_up_to_date(&self, published: &Published) -> bool {
        let seen = self.seen.borrow();
        self.symbols.iter().all(|s| seen.last[*s as usize] >= published.last[*s as usize])
    }
}

async fn measure(load: &Load, plan: &Plan, server: &Server) -> Result<Figures, Failure> {
    let epoch = Instant::now();
    let ages = Rc::new(RefCell::new(Histogram::new_with_bounds(1000, 60_000_000_000, 3)?));
    let mut readers = Vec::new();
    for n in 0..load.clients {
        let reader = Reader::new(plan, u64::from(n) * u64::from(plan.symbols));
        let client = Client::connect(&server.ws, &reader.symbols, false).await?;
        spawn_local(client.receive(epoch, Rc::clone(&reader.seen), Rc::clone(&ages)));
        readers.push(reader);
    }
    let stalled = match plan.stalled {
        true => {
            let reader = Reader::new(plan, 0);
            Some((Client::connect(&server.ws, &reader.symbols, true).await?, reader))
        }
        false => None,
    };
    let (go, told) = oneshot::channel();
    let answer = publish::spawn(
        publish::Plan {
            endpoint: server.bus.clone(),
            epoch,
            universe: plan.universe,
            rate: load.rate,
            seconds: load.seconds,
            batch: load.batch,
        },
        told,
    )?;
    if !until(PATIENCE, || readers.iter().all(|r| r.seen.borrow().probed)).await {
        return Err("not every client received a probe".into());
    }
    let cpu_before = server.cpu()?;
    go.send(()).map_err(|()| "the publisher has ended")?;
    let published = answer.await??;
    until(LAST_TICKS, || readers.iter().all(|r| r.is_up_to_date(&published))).await;
    let (cpu, rss) = (server.cpu()? - cpu_before, server.rss()?);
    if let Some(why) = readers.iter().find_map(|r| r.seen.borrow().ended.clone()) {
        return Err(format!("a client was cut off: {why}").into());
    }
    // Before the stalled one's old ticks come in: its ages belong to nobody.
    let healthy = ages.borrow().clone();
    let stalled = match stalled {
        Some((client, reader)) => {
            spawn_local(client.receive(epoch, Rc::clone(&reader.seen), ages));
            let up_to_date = until(LAST_TICKS, || reader.is_up_to_date(&published)).await;
            let ticks = reader.seen.borrow().ticks;
            Some(Stalled { ticks, expected: reader.expected(&published), up_to_date })
        }
        None => None,
    };
    Ok(Figures {
        ages: healthy,
        delivered: readers.iter().map(|r| r.seen.borrow().ticks).sum(),
        expected: readers.iter().map(|r| r.expected(&published)).sum(),
        up_to_date: readers.iter().filter(|r| r.is_up_to_date(&published)).count() as u32,
        published,
        cpu,
        rss,
        stalled,
    })
}

/// Looks until `done` holds; false when that took longer than `patience`.
async fn until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}
