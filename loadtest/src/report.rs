//! What came of a run: figures, judgements, warnings; as a table, as JSON, as a page.
//!
//! [`Report::warn`] is where the generator is honest about itself: a latency that it made itself is said to be one.

pub(crate) mod html;
pub(crate) mod json;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use crate::churn::Times;
use crate::cli::{self, Feed};
use crate::proc;
use crate::rig::Figures;
use crate::scenario::published_rate;
use crate::storm::Step;
use std::time::Duration;

/// A reader thread that is busier than this queues, part of its time.
const BUSY: f64 = 0.8;
/// Our threads ready to run without a core, part of the time.
const WAITED: f64 = 0.1;
/// The publisher's p99 lateness may be this part of the latency's p99 …
const LATE: f64 = 0.25;
/// … or this long.
const LATE_MIN: Duration = Duration::from_millis(2);
/// A reader's round may take this part of the latency's p99 …
const ROUND: f64 = 0.5;
/// … or this long.
const ROUND_MIN: Duration = Duration::from_millis(2);
/// Part of the rate that must have been published.
const PUBLISHED: f64 = 0.98;

/// A threshold, and how it was met.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) limit: String,
    pub(crate) value: String,
    pub(crate) passed: bool,
}

pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) settings: Vec<(&'static str, String)>,
    pub(crate) machine: Vec<(&'static str, String)>,
    pub(crate) runs: Vec<Figures>,
    pub(crate) steps: Vec<Step>,
    /// Highest good rate, and the limit that says what is good.
    pub(crate) knee: Option<(Option<f64>, Duration)>,
    pub(crate) times: Option<Times>,
    /// Memory in MiB and descriptors, per hour.
    pub(crate) drift: [Option<f64>; 2],
    pub(crate) warnings: Vec<String>,
    pub(crate) checks: Vec<Check>,
}

impl Report {
    pub(crate) fn new(scenario: &'static str, common: &cli::Common, runs: Vec<Figures>) -> Self {
        Report {
            scenario,
            settings: settings(common),
            machine: proc::machine(),
            runs,
            steps: Vec::new(),
            knee: None,
            times: None,
            drift: [None; 2],
            warnings: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// Every measurement, in order.
    pub(crate) fn figures(&self) -> impl Iterator<Item = &Figures> {
        self.runs.iter().chain(self.steps.iter().map(|step| &step.figures))
    }

    pub(crate) fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// Looks for what the generator did to its own figures.
    pub(crate) fn warn(&mut self) {
        // A storm goes past what is good on purpose, and past what we can do, too.
        let mut found: Vec<String> = self.runs.iter().flat_map(warnings).collect();
        if let Some(figures) = self.steps.iter().rfind(|step| step.good).map(|step| &step.figures) {
            found.extend(warnings(figures));
        }
        self.warnings.extend(found);
    }
}

fn settings(common: &cli::Common) -> Vec<(&'static str, String)> {
    let (server, load) = (&common.server, &common.load);
    let word = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    let mut settings = vec![
        (
            "server",
            match &server.url {
                Some(url) => url.clone(),
                None => server.spawn.as_deref().unwrap_or(crate::target::BINARY.as_ref()).display().to_string(),
            },
        ),
        ("clients", load.clients.to_string()),
        ("symbols per client", load.symbols.to_string()),
        ("universe", load.universe.to_string()),
        ("pick", word(&load.pick)),
        ("modes", load.modes.0.iter().map(|(m, n)| format!("{}={n}", word(m))).collect::<Vec<_>>().join(",")),
        ("rate", load.rate.to_string()),
        ("batch", load.batch.to_string()),
        ("bus", if server.feed == Feed::External { "external feed".into() } else { word(&load.bus) }),
        ("format", word(&load.format)),
        ("seconds", load.seconds.to_string()),
        ("seed", load.seed.to_string()),
    ];
    if !server.set.is_empty() {
        settings.push(("server settings", server.set.join(" ")));
    }
    settings
}

fn warnings(figures: &Figures) -> Vec<String> {
    let mut found = Vec::new();
    let wall = figures.took.as_secs_f64().max(1e-9);
    let name = &figures.name;
    let busiest = |prefix: &str| {
        let of = figures.threads.iter().filter(|t| t.name.starts_with(prefix)).map(|t| t.cpu.as_secs_f64() / wall);
        of.fold(0.0, f64::max)
    };
    let readers = busiest("lt-reader");
    if readers > BUSY {
        found.push(format!(
            "{name}: a reader thread was {:.0} % busy, so latency holds the generator's own queueing: more --readers (if there are idle \
             cores), fewer clients, or another machine",
            readers * 100.0
        ));
    }
    let [round, p99] = [&figures.seen.rounds, &figures.ages].map(|h| Duration::from_nanos(h.value_at_quantile(0.99)));
    if round > ROUND_MIN.max(p99.mul_f64(ROUND)) {
        found.push(format!(
            "{name}: a round of a reader thread took up to {round:.1?} (p99): so much of the latency may be the generator's own, since what \
             comes meanwhile waits for it"
        ));
    }
    let waited: f64 =
        figures.threads.iter().filter(|t| t.name.starts_with("lt-")).map(|t| t.waited.as_secs_f64()).sum();
    if waited / wall > WAITED {
        found.push(format!(
            "{name}: the generator's threads waited {:.0} % of the time for a core: it shares them with the server or others, and latency \
             holds that wait",
            waited / wall * 100.0
        ));
    }
    if let Some(published) = &figures.published {
        let late = Duration::from_nanos(published.late.value_at_quantile(0.99));
        if late > LATE_MIN.max(p99.mul_f64(LATE)) {
            found.push(format!(
                "{name}: the publisher was up to {late:.1?} late (p99); that counts as latency, since ticks carry the time at which they \
                 were due"
            ));
        }
        if published.dropped > 0 {
            found.push(format!(
                "{name}: {} ticks found the publisher's queue full and were never published",
                published.dropped
            ));
        }
    }
    if let Some(rate) = published_rate(figures).filter(|rate| *rate < PUBLISHED * figures.rate_wanted) {
        found.push(format!("{name}: only {rate:.0} of {:.0} ticks a second could be published", figures.rate_wanted));
    }
    found
}
