//! The server's side: which endpoints hold a lease, found by looking again and again, on a thread of its own.
//!
//! `Watch` is pure: looks and times in, leases out. [`run`] looks, and clears the socket files of dead publishers. Promises:
//! a lease ends only when a look that worked did not find it, and neither shortly after a look that failed nor after the
//! clock was set, when everybody must first have had time to renew; an endpoint that may not be used is counted once while
//! it stays; one warning when the registry is lost, one line when it is back. Tests: at the end, `tests/discovery.rs`.

use super::metrics::DiscoveryMetrics;
use super::{Look, Place, Row, wall_millis};
use crate::adapter::external::machine::Owner;
use crate::limits::DISCOVERY_ENDPOINTS_MAX;
use crate::policy::backoff::Backoff;
use crate::zmtp::{Endpoint, listener};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::sleep;

/// How often the registry is looked at.
pub const LOOK: Duration = Duration::from_millis(500);
/// After a failure or a step of the clock, everybody gets this long to renew.
const GRACE: Duration = Duration::from_secs(3);
/// Wall clock and monotonic clock may part by this much between two looks; more is a step.
const STEP: Duration = Duration::from_secs(1);
/// Waits after looks that failed.
const RETRY: Backoff = Backoff::new(LOOK, Duration::from_secs(2));

/// `cause`: an entry that cannot be read, or holds for ever.
pub const CAUSE_MALFORMED: &str = "malformed";
/// `cause`: an endpoint on another machine, or on none.
pub const CAUSE_ENDPOINT: &str = "endpoint";
/// `cause`: an endpoint that the settings name, too.
pub const CAUSE_TAKEN: &str = "taken";
/// `cause`: one endpoint under two spellings.
pub const CAUSE_TWICE: &str = "twice";
/// `cause`: more endpoints than there may be.
pub const CAUSE_FULL: &str = "full";
/// All of them.
pub const CAUSES: [&str; 5] = [CAUSE_MALFORMED, CAUSE_ENDPOINT, CAUSE_TAKEN, CAUSE_TWICE, CAUSE_FULL];

/// Endpoints that hold, each with whom its ticks belong to; without a user, to everybody.
pub type Leases = Vec<(Owner, Endpoint)>;

/// Settings.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Whether publishers may be anywhere.
    pub allow_public: bool,
    /// Endpoints of the settings: they are connected to, or bound by us, already.
    pub taken: Vec<Endpoint>,
}

/// See the module's header.
struct Watch {
    config: Config,
    held: Leases,
    /// What was refused at the last look: text and cause.
    refused: BTreeSet<(String, &'static str)>,
    /// The last look failed.
    failing: bool,
    /// What is not found before this may yet be renewed.
    uncertain_until: Option<Instant>,
    /// When it last looked, by both clocks.
    last: Option<(Instant, i64)>,
}

impl Watch {
    fn new(config: Config) -> Self {
        Watch { config, held: Vec::new(), refused: BTreeSet::new(), failing: false, uncertain_until: None, last: None }
    }

    /// A look failed: all stays.
    fn failed(&mut self) {
        self.failing = true;
    }

    /// A look worked, at `now` by the monotonic and `wall` by the wall clock. Whether the leases are others than before, and
    /// the causes of new refusals.
    fn looked(&mut self, rows: &[Result<Row, String>], now: Instant, wall: i64) -> (bool, Vec<&'static str>) {
        let stepped = self.last.replace((now, wall)).is_some_and(|(then, wall_then)| {
            let monotonic = super::millis(now.duration_since(then));
            (wall - wall_then - monotonic).abs() > super::millis(STEP)
        });
        // From now on, and not from the last look that failed: until now nobody could renew.
        if std::mem::take(&mut self.failing) || stepped {
            self.uncertain_until = Some(now + GRACE);
        }
        let (mut found, mut refused) = (Leases::new(), BTreeSet::new());
        for row in rows {
            let (text, admitted) = match row {
                Err(name) => (name, Err(CAUSE_MALFORMED)),
                Ok(row) => (&row.endpoint, self.admit(row, &found)),
            };
            match admitted {
                Ok(lease) => found.push(lease),
                Err(cause) => _ = refused.insert((text.clone(), cause)),
            }
        }
        if self.uncertain_until.is_some_and(|until| now < until) {
            for lease in &self.held {
                if found.len() < DISCOVERY_ENDPOINTS_MAX && !found.iter().any(|(_, endpoint)| *endpoint == lease.1) {
                    found.push(lease.clone());
                }
            }
        } else {
            self.uncertain_until = None;
        }
        let causes = refused.difference(&self.refused).map(|(_, cause)| *cause).collect();
        self.refused = refused;
        let same = found.len() == self.held.len() && found.iter().all(|lease| self.held.contains(lease));
        if !same {
            self.held = found;
        }
        (!same, causes)
    }

    fn admit(&self, row: &Row, found: &Leases) -> Result<(Owner, Endpoint), &'static str> {
        if !row.whose.is_sound() {
            return Err(CAUSE_MALFORMED);
        }
        let endpoint = named_once(row.endpoint.parse().map_err(|_| CAUSE_MALFORMED)?);
        let nowhere = endpoint.is_wildcard() || matches!(endpoint, Endpoint::Tcp { port: 0, .. });
        if nowhere || !(endpoint.is_local() || self.config.allow_public) {
            return Err(CAUSE_ENDPOINT);
        }
        if self.config.taken.iter().any(|taken| named_once(taken.clone()) == endpoint) {
            return Err(CAUSE_TAKEN);
        }
        if found.iter().any(|(_, other)| *other == endpoint) {
            return Err(CAUSE_TWICE);
        }
        if found.len() >= DISCOVERY_ENDPOINTS_MAX {
            return Err(CAUSE_FULL);
        }
        let broker = row.whose.broker.clone().unwrap_or_default().to_ascii_lowercase();
        Ok((Owner { broker, user: row.whose.user.clone() }, endpoint))
    }
}

/// One spelling for this machine: a publisher heard twice would be two.
fn named_once(endpoint: Endpoint) -> Endpoint {
    match endpoint {
        Endpoint::Tcp { host, port } if host.eq_ignore_ascii_case("localhost") => {
            Endpoint::Tcp { host: "127.0.0.1".to_owned(), port }
        }
        other => other,
    }
}

/// Looks until it is dropped; blocks its thread while it does. `leases` always holds the newest.
pub async fn run(place: Place, config: Config, leases: watch::Sender<Leases>, metrics: DiscoveryMetrics) {
    let (mut registry, mut watch) = (place.registry(), Watch::new(config));
    let mut backoff = RETRY;
    loop {
        let looked = registry.look();
        let now = Instant::now();
        let wait = match looked {
            Ok(look) => {
                if backoff.is_failing() {
                    tracing::info!(registry = place.label(), "the registry of publishers is back");
                    backoff.reset();
                }
                metrics.found.increment(1);
                clear_sockets(&look);
                let (changed, causes) = watch.looked(&look.rows, now, wall_millis());
                for cause in causes {
                    metrics.reject(cause);
                    tracing::warn!(registry = place.label(), cause, "a registered publisher is not used");
                }
                if changed {
                    tracing::info!(registry = place.label(), endpoints = watch.held.len(), "registered publishers");
                    metrics.leases.set(watch.held.len() as f64);
                    leases.send_replace(watch.held.clone());
                }
                LOOK
            }
            Err(error) => {
                watch.failed();
                metrics.failed.increment(1);
                if !backoff.is_failing() {
                    tracing::warn!(%error, "the registry of publishers cannot be used; those known are kept, and it is tried again");
                }
                backoff.wait(rand::random())
            }
        };
        sleep(wait).await;
    }
}

/// A process that was killed leaves its socket file; one that still listens keeps it.
fn clear_sockets(look: &Look) {
    for endpoint in look.dead.iter().filter_map(|text| text.parse().ok()) {
        if let Endpoint::Ipc(path) = endpoint
            && listener::remove_stale(&path).is_ok()
        {
            tracing::info!(path = %path.display(), "the socket file of a dead publisher is removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Whose;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn row(endpoint: &str, broker: Option<&str>, user: Option<&str>) -> Result<Row, String> {
        let whose = Whose { broker: broker.map(str::to_owned), user: user.map(str::to_owned) };
        Ok(Row { endpoint: endpoint.to_owned(), whose })
    }

    fn shared(port: usize) -> Result<Row, String> {
        row(&format!("tcp://127.0.0.1:{port}"), None, None)
    }

    fn endpoints(watch: &Watch) -> Vec<String> {
        watch.held.iter().map(|(_, endpoint)| endpoint.to_string()).collect()
    }

    #[test]
    fn a_lease_holds_while_it_is_found_and_belongs_to_whom_it_names() {
        let (mut watch, now) = (Watch::new(Config::default()), Instant::now());
        let rows = [shared(1), row("ipc:///tmp/a", Some("Angel"), Some("asha"))];
        assert_eq!(watch.looked(&rows, now, 0), (true, vec![]));
        assert_eq!(watch.held[1].0, Owner { broker: "angel".into(), user: Some("asha".into()) });
        assert_eq!(watch.held[0].0, Owner { broker: String::new(), user: None });
        assert!(!watch.looked(&rows, now + SECOND, 1000).0, "nothing new");
        assert!(watch.looked(&rows[1..], now + 2 * SECOND, 2000).0);
        assert_eq!(endpoints(&watch), ["ipc:///tmp/a"]);
        let another = [row("ipc:///tmp/a", Some("angel"), Some("ravi"))];
        assert!(watch.looked(&another, now + 3 * SECOND, 3000).0, "another publisher has taken the endpoint");
        assert_eq!(watch.held[0].0.user.as_deref(), Some("ravi"));
    }

    #[test]
    fn what_may_not_be_used_is_ignored_and_counted_once_while_it_stays() {
        let taken = vec!["tcp://127.0.0.1:5555".parse().expect("an endpoint")];
        let (mut watch, now) = (Watch::new(Config { taken, ..Config::default() }), Instant::now());
        let rows = [
            Err("row 7".to_owned()),
            row("tcp://10.0.0.1:1", None, None),
            row("tcp://*:1", None, None),
            row("tcp://127.0.0.1:0", None, None),
            row("http://x", None, None),
            row("ipc:///a", None, Some("asha")),
            row("ipc:///b", Some("an gel"), None),
            row("tcp://localhost:5555", None, None),
            shared(1),
            row("tcp://LOCALHOST:1", Some("angel"), None),
        ];
        let (changed, mut causes) = watch.looked(&rows, now, 0);
        causes.sort_unstable();
        let (e, m) = (CAUSE_ENDPOINT, CAUSE_MALFORMED);
        assert_eq!((changed, causes), (true, vec![e, e, e, m, m, m, m, CAUSE_TAKEN, CAUSE_TWICE]));
        assert_eq!(endpoints(&watch), ["tcp://127.0.0.1:1"]);
        assert_eq!(watch.looked(&rows, now, 0), (false, vec![]));
        watch.looked(&rows[1..], now, 0);
        assert_eq!(watch.looked(&rows, now, 0).1, [m], "it went and came again");
    }

    #[test]
    fn there_is_an_end_to_endpoints_and_the_first_registered_hold() {
        let (mut watch, now) = (Watch::new(Config::default()), Instant::now());
        let rows: Vec<_> = (1..=DISCOVERY_ENDPOINTS_MAX + 2).map(shared).collect();
        assert_eq!(watch.looked(&rows, now, 0).1, [CAUSE_FULL; 2]);
        assert_eq!(watch.held.len(), DISCOVERY_ENDPOINTS_MAX);
        assert!(watch.looked(&rows[1..], now, 0).0);
        assert_eq!(watch.held.len(), DISCOVERY_ENDPOINTS_MAX, "there is room for the next");
    }

    #[test]
    fn after_a_failure_or_a_step_of_the_clock_everybody_has_time_to_renew() {
        for step in [false, true] {
            let (mut watch, start) = (Watch::new(Config::default()), Instant::now());
            watch.looked(&[shared(1), shared(2)], start, 0);
            let (now, wall) = (start + 60 * SECOND, if step { 3_600_000 } else { 60_000 });
            if !step {
                watch.failed();
            }
            assert!(!watch.looked(&[], now, wall).0, "a registry that came back empty ends nothing at once");
            assert!(!watch.looked(&[shared(2)], now + 2 * SECOND, wall + 2000).0);
            assert!(watch.looked(&[shared(2)], now + GRACE, wall + 3000).0, "who has not renewed by now is gone");
            assert_eq!(endpoints(&watch), ["tcp://127.0.0.1:2"]);
            assert!(watch.looked(&[], now + GRACE + SECOND, wall + 4000).0, "and the next one at once");
        }
    }
}
