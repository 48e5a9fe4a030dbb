//! The threads that hold the clients: each with a poll of its own, so that a client costs neither thread nor task.
//!
//! In: what each client is to do. Out: [`Stats`], taken under a lock once a round. Promise: at most `OPENING` clients of a thread
//! are getting in at a time, so that no listen queue overflows; who has not got in after `PATIENCE` is given up and says where it stood.

use crate::Failure;
use crate::client::{Client, Common, Scratch, Spec};
use crate::stats::Stats;
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Clients of one thread that are getting in.
const OPENING: usize = 32;
/// Time for that.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a thread looks up when nothing comes.
const LOOK: Duration = Duration::from_millis(20);

/// How the clients stood at the end.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Standing {
    /// Healthy clients that have the newest tick of each of their symbols.
    pub(crate) up_to_date: u64,
    /// The same of the stalled ones.
    pub(crate) stalled_up_to_date: u64,
}

/// The running threads.
pub(crate) struct Readers {
    threads: Vec<(Arc<Mutex<Stats>>, JoinHandle<Standing>)>,
    common: Arc<Common>,
}

impl Readers {
    pub(crate) fn start(common: Common, specs: Vec<Spec>, threads: usize) -> Result<Self, Failure> {
        let common = Arc::new(common);
        let mut shares: Vec<VecDeque<Spec>> = (0..threads).map(|_| VecDeque::new()).collect();
        for (n, spec) in specs.into_iter().enumerate() {
            shares[n % threads].push_back(spec);
        }
        let mut started = Vec::new();
        for (n, share) in shares.into_iter().enumerate() {
            let stats = Arc::new(Mutex::new(Stats::default()));
            let reader = Reader::new(Arc::clone(&common), share, Arc::clone(&stats))?;
            let thread = std::thread::Builder::new().name(format!("lt-reader-{n}"));
            started.push((stats, thread.spawn(move || reader.run())?));
        }
        Ok(Readers { threads: started, common })
    }

    /// All counts so far; latencies since the last call.
    pub(crate) fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for (stats, _) in &self.threads {
            sum.absorb(&mut stats.lock().unwrap_or_else(PoisonError::into_inner));
        }
        sum
    }

    /// Ends them.
    pub(crate) fn stop(&mut self) -> Standing {
        self.common.board.stop.store(true, Ordering::Release);
        let mut sum = Standing::default();
        for (_, thread) in self.threads.drain(..) {
            let standing = thread.join().unwrap_or_default();
            sum.up_to_date += standing.up_to_date;
            sum.stalled_up_to_date += standing.stalled_up_to_date;
        }
        sum
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Reader {
    poll: Poll,
    common: Arc<Common>,
    waiting: VecDeque<Spec>,
    clients: Vec<Client>,
    /// Those that are getting in, and when they began.
    opening: Vec<(usize, Instant)>,
    stats: Arc<Mutex<Stats>>,
    scratch: Scratch,
    was_stalled: bool,
}

impl Reader {
    fn new(common: Arc<Common>, waiting: VecDeque<Spec>, stats: Arc<Mutex<Stats>>) -> Result<Self, Failure> {
        let clients = Vec::with_capacity(waiting.len());
        let poll = Poll::new()?;
        Ok(Reader {
            poll,
            common,
            waiting,
            clients,
            opening: Vec::new(),
            stats,
            scratch: Scratch::default(),
            was_stalled: false,
        })
    }

    fn run(mut self) -> Standing {
        let mut events = Events::with_capacity(1024);
        let board = Arc::clone(&self.common.board);
        while !board.stop.load(Ordering::Acquire) {
            let polled = self.poll.poll(&mut events, Some(LOOK));
            let began = Instant::now();
            let stats = Arc::clone(&self.stats);
            let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = polled
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                stats.end(format!("epoll: {error}"));
                break;
            }
            let stalled = board.stall.load(Ordering::Acquire);
            for event in &events {
                let client = &mut self.clients[event.token().0];
                if event.is_writable() {
                    client.writable(&self.common, &mut stats);
                }
                // Readiness is told once: what a stalled client leaves is read when the stall ends.
                if !(stalled && client.spec.stalls) {
                    client.readable(&self.common, &mut self.scratch, &mut stats);
                }
            }
            if self.was_stalled && !stalled {
                for client in self.clients.iter_mut().filter(|c| c.spec.stalls && !c.has_ended()) {
                    client.readable(&self.common, &mut self.scratch, &mut stats);
                }
            }
            self.was_stalled = stalled;
            self.open(&mut stats);
            if !events.is_empty() {
                stats.rounds.saturating_record(began.elapsed().as_nanos() as u64);
            }
        }
        let up_to_date = |stalls| {
            let of = self.clients.iter().filter(|c| c.spec.stalls == stalls && c.is_live() && c.is_up_to_date(&board));
            of.count() as u64
        };
        Standing { up_to_date: up_to_date(false), stalled_up_to_date: up_to_date(true) }
    }

    /// Lets the next ones in.
    fn open(&mut self, stats: &mut Stats) {
        let clients = &mut self.clients;
        self.opening.retain(|(at, since)| {
            let client = &mut clients[*at];
            if since.elapsed() > PATIENCE {
                client.end(format!("no answer in {} s", PATIENCE.as_secs()), stats);
            }
            !client.is_live() && !client.has_ended()
        });
        while self.opening.len() < OPENING
            && let Some(spec) = self.waiting.pop_front()
        {
            let opened = Client::open(&self.common, spec).and_then(|mut client| {
                let token = Token(self.clients.len());
                let both = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut client.stream, token, both)?;
                Ok(client)
            });
            match opened {
                Ok(client) => {
                    self.opening.push((self.clients.len(), Instant::now()));
                    self.clients.push(client);
                }
                Err(error) => stats.end(format!("cannot connect to {}: {error}", self.common.addr)),
            }
        }
    }
}
