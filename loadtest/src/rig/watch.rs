//! What happens during a phase: latencies gathered from the readers, samples of everything over time, the overload level.
//!
//! In: a look every now and then. Out: the sums and the series of [`super::Figures`].

use super::Rig;
use crate::proc::Process;
use crate::progress::Progress;
use crate::stats::{Stats, histogram};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Samples of a series at most, counted.
const SAMPLES_MAX: u32 = 600;
/// Samples come no closer.
const SAMPLE_MIN: Duration = Duration::from_millis(250);
/// How often the server is asked for its overload level, which makes it render all its metrics.
const ASK: Duration = Duration::from_secs(1);

/// One look at everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Since the phase began, seconds.
    pub(crate) at: f64,
    /// Ticks received a second since the last sample.
    pub(crate) rate: f64,
    /// p99 of what came since then, nanoseconds; `None` when nothing did.
    pub(crate) p99: Option<u64>,
    /// Share of one core.
    pub(crate) cpu: Option<f64>,
    pub(crate) rss: Option<u64>,
    pub(crate) fds: Option<u64>,
}

/// Collects what happens during a phase.
pub(super) struct Watch {
    pub(super) began: Instant,
    period: Duration,
    next: Duration,
    pub(super) ages: Histogram<u64>,
    /// Since the last sample.
    recent: Histogram<u64>,
    pub(super) rounds: Histogram<u64>,
    pub(super) series: VecDeque<Sample>,
    ticks: u64,
    cpu: Option<Duration>,
    last: Duration,
    pub(super) rss_max: Option<u64>,
    pub(super) overload: Option<f64>,
    /// When the server is asked for it again; not at all when it has none.
    ask_at: Option<Duration>,
}

impl Watch {
    pub(super) fn new(time: Duration, before: &Stats, cpu: Option<Duration>) -> Self {
        let period = (time / SAMPLES_MAX).max(SAMPLE_MIN);
        Watch {
            began: Instant::now(),
            period,
            next: period,
            ages: histogram(),
            recent: histogram(),
            rounds: histogram(),
            series: VecDeque::new(),
            ticks: before.ticks,
            cpu,
            last: Duration::ZERO,
            rss_max: None,
            overload: None,
            ask_at: Some(ASK),
        }
    }

    /// Asks the server for its overload level.
    pub(super) fn ask(&mut self, rig: &Rig) {
        let level = rig.target.metric("tickcast_overload_level");
        self.overload = self.overload.into_iter().chain(level).reduce(f64::max);
        self.ask_at = level.map(|_| self.began.elapsed() + ASK);
    }

    /// Takes the readers' latencies.
    pub(super) fn take(&mut self, rig: &mut Rig) {
        rig.seen = rig.readers.stats();
        self.ages.add(&rig.seen.ages).expect("the same bounds");
        self.recent.add(&rig.seen.ages).expect("the same bounds");
        self.rounds.add(&rig.seen.rounds).expect("the same bounds");
        rig.seen.ages.reset();
        rig.seen.rounds.reset();
    }

    pub(super) fn look(&mut self, rig: &mut Rig, progress: &Progress, name: &str, time: Duration) {
        let at = self.began.elapsed();
        if at < self.next {
            return;
        }
        self.next = at + self.period;
        if self.ask_at.is_some_and(|ask| at >= ask) {
            self.ask(rig);
        }
        self.take(rig);
        let process = rig.target.process;
        let (cpu, rss) = (process.and_then(Process::cpu), process.and_then(Process::rss));
        let span = (at - self.last).as_secs_f64().max(1e-9);
        let sample = Sample {
            at: at.as_secs_f64(),
            rate: (rig.seen.ticks - self.ticks) as f64 / span,
            p99: (!self.recent.is_empty()).then(|| self.recent.value_at_quantile(0.99)),
            cpu: cpu.zip(self.cpu).map(|(now, then)| now.saturating_sub(then).as_secs_f64() / span),
            rss,
            fds: process.and_then(Process::fds),
        };
        let p99 = sample.p99.map_or_else(|| "-".into(), |ns| format!("{:.1} ms", ns as f64 / 1e6));
        let text = format!("{:.0} ticks/s, p99 {p99}", sample.rate);
        if !time.is_zero() {
            progress.at(name, at.as_millis() as u64, time.as_millis() as u64, &text);
        }
        (self.ticks, self.cpu, self.last) = (rig.seen.ticks, cpu, at);
        self.rss_max = self.rss_max.max(rss);
        self.recent.reset();
        self.series.push_back(sample);
        if self.series.len() > 2 * SAMPLES_MAX as usize {
            self.series.pop_front();
        }
    }
}
