//! One server with its clients and publisher: set up, warmed up, measured phase by phase.
//!
//! In: the options and what differs between scenarios. Out: [`Figures`] of each phase. Order: server, clients with their
//! acknowledgements, ticks until every client has seen one, warm-up, then phases; after each, a wait until all that was published has
//! come, or nothing comes any more.

mod watch;

pub(crate) use watch::Sample;

use crate::Failure;
use crate::board::Board;
use crate::cli;
use crate::client::{Common, Spec};
use crate::picks::Picker;
use crate::proc::{self, Process, Thread};
use crate::progress::Progress;
use crate::publish::{Phase, Plan, Published, Publisher};
use crate::readers::{Readers, Standing};
use crate::stats::Stats;
use crate::target::Target;
use crate::ticks::{self, Instrument};
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use watch::Watch;

/// How long the last ticks may take, and how long nothing may come meanwhile.
const LAST_TICKS: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(1500);
/// Until every client has seen a tick.
const FIRST_TICKS: Duration = Duration::from_secs(20);
/// One round of first ticks.
const PROBE: Duration = Duration::from_millis(100);
/// How long the clients may take, and each of them.
const CLIENTS: Duration = Duration::from_secs(60);
const CLIENT: Duration = Duration::from_millis(20);
/// Descriptors that we need besides one for each client.
const OTHER_FILES: u64 = 64;

/// What a phase came to.
pub(crate) struct Figures {
    pub(crate) name: String,
    pub(crate) clients: u64,
    /// Ages at healthy clients, nanoseconds.
    pub(crate) ages: Histogram<u64>,
    /// What was seen from the beginning to the last tick.
    pub(crate) seen: Stats,
    /// Ticks that healthy clients should have got; `None` when somebody else publishes.
    pub(crate) expected: Option<u64>,
    pub(crate) stalled_expected: u64,
    pub(crate) standing: Standing,
    pub(crate) published: Option<Published>,
    pub(crate) rate_wanted: f64,
    pub(crate) took: Duration,
    /// With the wait for the last ticks, as `cpu` is.
    pub(crate) span: Duration,
    pub(crate) cpu: Option<Duration>,
    /// Resident memory before the clients came, with them, at the end, and at most.
    pub(crate) rss: [Option<u64>; 4],
    pub(crate) fds: Option<u64>,
    /// The server's overload level, the highest seen.
    pub(crate) overload: Option<f64>,
    pub(crate) threads: Vec<Thread>,
    pub(crate) series: Vec<Sample>,
}

impl Figures {
    pub(crate) fn quantile(&self, q: f64) -> u64 {
        self.ages.value_at_quantile(q)
    }

    /// Part of the expected ticks that came.
    pub(crate) fn delivered(&self) -> Option<f64> {
        self.expected.map(|expected| if expected == 0 { 1.0 } else { self.seen.delivered as f64 / expected as f64 })
    }

    pub(crate) fn ticks_per_cpu_second(&self) -> Option<f64> {
        self.cpu.filter(|cpu| !cpu.is_zero()).map(|cpu| self.seen.ticks as f64 / cpu.as_secs_f64())
    }

    pub(crate) fn bytes_per_tick(&self) -> Option<f64> {
        (self.seen.ticks > 0).then(|| self.seen.bytes as f64 / self.seen.ticks as f64)
    }
}

pub(crate) struct Rig {
    pub(crate) target: Target,
    board: Arc<Board>,
    readers: Readers,
    publisher: Option<Publisher>,
    instruments: Arc<Vec<Instrument>>,
    /// Healthy takers of each symbol, and those that stall.
    takers: Vec<u64>,
    stalled_takers: Vec<u64>,
    pub(crate) clients: u32,
    rss_before: Option<u64>,
    rss_clients: Option<u64>,
    seen: Stats,
}

impl Rig {
    /// `rate_max` is the highest rate to come; `users` more users can authenticate; of 100 clients `stalled` will stop reading.
    pub(crate) fn start(
        common: &cli::Common,
        rate_max: f64,
        users: u32,
        stalled: u32,
        progress: &Progress,
    ) -> Result<Self, Failure> {
        let load = &common.load;
        enough_files(load.clients)?;
        let instruments = Arc::new(match &load.instruments {
            Some(list) => ticks::named(list)?,
            None => ticks::made_up(load.universe),
        });
        let universe = instruments.len() as u32;
        progress.say("starting");
        let target = Target::find(&common.server, load.clients, users)?;
        let rss_before = target.process.and_then(Process::rss);
        let board = Arc::new(Board::new(universe, rate_max as u64));
        let mut picker = Picker::new(load, universe);
        let (mut takers, mut stalled_takers) = (vec![0; universe as usize], vec![0; universe as usize]);
        let mut specs = Vec::with_capacity(load.clients as usize);
        for number in 0..load.clients {
            // Evenly spread: client n is the one at which the sum of shares passes a whole number.
            let stalls = (number + 1) * stalled / 100 > number * stalled / 100;
            let symbols = picker.next();
            let takers = if stalls { &mut stalled_takers } else { &mut takers };
            symbols.iter().for_each(|s| takers[*s as usize] += 1);
            specs.push(Spec { number, symbols, mode: load.modes.of(number), stalls });
        }
        let shared = Common {
            addr: target.addr,
            host: target.host.clone(),
            path: target.path.clone(),
            key: target.keys[0].clone(),
            format: load.format.into(),
            instruments: Arc::clone(&instruments),
            board: Arc::clone(&board),
            external: target.bus.is_none(),
        };
        let threads = load.readers.map_or_else(|| (proc::cores() / 2).clamp(1, 8), |n| n as usize);
        let publisher = match &target.bus {
            Some((endpoint, direction)) => {
                let plan = Plan {
                    endpoint: endpoint.clone(),
                    direction: *direction,
                    instruments: Arc::clone(&instruments),
                    mode: load.modes.highest(),
                    bus: load.bus,
                    batch: load.batch,
                };
                Some(Publisher::start(plan, Arc::clone(&board))?)
            }
            None => None,
        };
        let mut rig = Rig {
            target,
            readers: Readers::start(shared, specs, threads)?,
            publisher,
            board,
            instruments,
            takers,
            stalled_takers,
            clients: load.clients,
            rss_before,
            rss_clients: None,
            seen: Stats::default(),
        };
        rig.await_clients(progress)?;
        rig.await_ticks(load, progress)?;
        Ok(rig)
    }

    /// A symbol of the universe that some client holds, and its entry.
    pub(crate) fn shared_entry(&self, at: usize) -> String {
        let held: Vec<usize> = (0..self.takers.len()).filter(|s| self.takers[*s] > 0).collect();
        self.instruments[held[at % held.len()]].entry()
    }

    fn await_clients(&mut self, progress: &Progress) -> Result<(), Failure> {
        let began = Instant::now();
        let patience = CLIENTS + CLIENT * self.clients;
        loop {
            self.look()?;
            let stats = &self.seen;
            progress.at("connecting", stats.live, u64::from(self.clients), "");
            if stats.ended > 0 {
                return Err(format!("{} clients did not get in: {}", stats.ended, stats.reasons.join("; ")).into());
            }
            if stats.live == u64::from(self.clients) {
                self.rss_clients = self.target.process.and_then(Process::rss);
                return Ok(());
            }
            if began.elapsed() > patience {
                return Err(
                    format!("only {} of {} clients got in within {patience:?}", stats.live, self.clients).into()
                );
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Publishes until every client has seen a tick, then warms up.
    fn await_ticks(&mut self, load: &cli::Load, progress: &Progress) -> Result<(), Failure> {
        let began = Instant::now();
        let patience = FIRST_TICKS;
        let wanted = u64::from(self.clients);
        while self.seen.reached < wanted {
            if let Some(publisher) = &self.publisher {
                // Each symbol once in a round.
                let rate = self.instruments.len().max(load.batch as usize) as f64 / PROBE.as_secs_f64();
                publisher.begin(Phase { rate: rate.min(50_000.0), time: PROBE, measured: false })?;
                while publisher.wait(PROBE)?.is_none() {}
            } else {
                std::thread::park_timeout(PROBE);
            }
            self.look()?;
            self.nobody_ended()?;
            progress.at("waiting for ticks", self.seen.reached, wanted, "");
            if began.elapsed() > patience {
                if self.publisher.is_none() && self.seen.reached > 0 {
                    // Not every symbol of a real market ticks.
                    break;
                }
                let hint = match &self.target.bus {
                    Some((at, _)) => {
                        format!("is {at} its bus, and does it listen there (--connect) or connect to us (--bind)?")
                    }
                    None => "does the feed publish these --instruments?".into(),
                };
                return Err(
                    format!("{} of {wanted} clients saw a tick in {patience:?}: {hint}", self.seen.reached).into()
                );
            }
        }
        let time = Duration::from_secs(u64::from(load.warmup));
        if !time.is_zero() {
            progress.say("warming up");
            self.phase(Phase { rate: f64::from(load.rate), time, measured: false }, &mut |_| {})?;
            self.nobody_ended()?;
        }
        Ok(())
    }

    fn nobody_ended(&mut self) -> Result<(), Failure> {
        match self.seen.ended {
            0 => Ok(()),
            n => Err(format!("{n} clients were cut off: {}", self.seen.reasons.join("; ")).into()),
        }
    }

    /// Counts so far; latencies since the last look.
    fn look(&mut self) -> Result<(), Failure> {
        if let Some(why) = self.target.is_gone() {
            return Err(why.into());
        }
        self.seen = self.readers.stats();
        Ok(())
    }

    /// One phase; `each` sees the state while it lasts.
    fn phase(&mut self, phase: Phase, each: &mut dyn FnMut(&mut Rig)) -> Result<Option<Published>, Failure> {
        let Some(publisher) = &self.publisher else {
            let end = Instant::now() + phase.time;
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                std::thread::park_timeout(left.min(Duration::from_millis(50)));
                each(self);
                if let Some(why) = self.target.is_gone() {
                    return Err(why.into());
                }
            }
            return Ok(None);
        };
        publisher.begin(phase)?;
        loop {
            let Some(publisher) = &self.publisher else { return Ok(None) };
            let published = publisher.wait(Duration::from_millis(50))?;
            each(self);
            if published.is_some() {
                return Ok(published);
            }
            if let Some(why) = self.target.is_gone() {
                return Err(why.into());
            }
        }
    }

    /// Publishes at `rate` for `time` and measures.
    pub(crate) fn measure(
        &mut self,
        name: &str,
        rate: f64,
        time: Duration,
        progress: &Progress,
    ) -> Result<Figures, Failure> {
        self.look()?;
        let before = self.seen.clone();
        let cpu_before = self.target.process.and_then(Process::cpu);
        let threads_before = proc::threads();
        let mut watch = Watch::new(time, &before, cpu_before);
        let phase = Phase { rate, time, measured: true };
        let began = Instant::now();
        let published = self.phase(phase, &mut |rig| {
            watch.look(rig, progress, name, time);
        })?;
        let took = began.elapsed();
        let expected = |takers: &[u64], published: &Published| -> u64 {
            takers.iter().zip(&published.ticks).map(|(takers, ticks)| takers * ticks).sum()
        };
        watch.ask(self);
        let due = published.as_ref().map(|p| before.delivered + expected(&self.takers, p));
        self.drain(due, &mut watch, progress, name);
        watch.take(self);
        let cpu =
            self.target.process.and_then(Process::cpu).zip(cpu_before).map(|(now, then)| now.saturating_sub(then));
        let rss = self.target.process.and_then(Process::rss);
        let seen = self.seen.clone().since(&before);
        Ok(Figures {
            name: name.to_owned(),
            clients: self.seen.live,
            ages: watch.ages,
            expected: published.as_ref().map(|p| expected(&self.takers, p)),
            stalled_expected: published.as_ref().map_or(0, |p| expected(&self.stalled_takers, p)),
            standing: Standing::default(),
            seen: Stats { rounds: watch.rounds, ..seen },
            published,
            rate_wanted: rate,
            took,
            span: watch.began.elapsed(),
            cpu,
            rss: [self.rss_before, self.rss_clients, rss, watch.rss_max.max(rss)],
            fds: self.target.process.and_then(Process::fds),
            overload: watch.overload,
            threads: proc::threads_since(&threads_before),
            series: watch.series.into(),
        })
    }

    /// Waits until all that is due has come, or nothing comes any more.
    fn drain(&mut self, due: Option<u64>, watch: &mut Watch, progress: &Progress, name: &str) {
        let Some(due) = due else { return };
        let began = Instant::now();
        let (mut last, mut since) = (0, Instant::now());
        while began.elapsed() < LAST_TICKS {
            watch.look(self, progress, name, Duration::ZERO);
            watch.take(self);
            if self.seen.delivered >= due || since.elapsed() > SILENCE {
                return;
            }
            if self.seen.delivered > last {
                (last, since) = (self.seen.delivered, Instant::now());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Stalled clients stop reading, or begin again.
    pub(crate) fn stall(&self, stalled: bool) {
        self.board.stall.store(stalled, Ordering::Release);
    }

    /// After a stall has ended: until what the stalled clients still get has come. Ticks that count, at them.
    pub(crate) fn catch_up(&mut self) -> Result<u64, Failure> {
        let began = Instant::now();
        let (mut last, mut since) = (0, Instant::now());
        while began.elapsed() < LAST_TICKS && since.elapsed() < SILENCE {
            self.look()?;
            if self.seen.stalled > last {
                (last, since) = (self.seen.stalled, Instant::now());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(self.seen.stalled)
    }

    /// Ends the clients: how they stood.
    pub(crate) fn finish(mut self) -> Standing {
        self.publisher = None;
        self.readers.stop()
    }
}

/// Whether this process may open a descriptor for each client; raises what may be raised.
fn enough_files(clients: u32) -> Result<(), Failure> {
    let (_, limit) = tickcast::net::sys::raise_file_limit()?;
    let needed = u64::from(clients) + OTHER_FILES;
    if limit < needed {
        return Err(format!(
            "{clients} clients need {needed} open files, and this process may have {}: fewer --clients, or `ulimit -n {needed}` \
             before (as root, or with a higher limit in /etc/security/limits.conf)",
            limit
        )
        .into());
    }
    Ok(())
}
