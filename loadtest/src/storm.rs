//! The storm: the rate grows step by step until p99 passes the limit, goes past that, and comes back down.
//!
//! Out: each step with the overload level that the server says, the knee, and whether it came back. [`Ramp`] is pure.

use crate::Failure;
use crate::cli;
use crate::progress::Progress;
use crate::report::{Check, Report};
use crate::rig::{Figures, Rig};
use crate::scenario::published_rate;
use std::time::Duration;

/// Below this part of what was due the publisher has not published the rate of its step.
const PUBLISHED: f64 = 0.9;

/// Which way a step goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Up,
    Past,
    Back,
}

impl Way {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Way::Up => "up",
            Way::Past => "past",
            Way::Back => "back",
        }
    }
}

/// One step as it went.
pub(crate) struct Step {
    pub(crate) way: Way,
    pub(crate) rate: f64,
    pub(crate) good: bool,
    pub(crate) figures: Figures,
}

/// Which rate comes next.
pub(crate) struct Ramp {
    start: f64,
    factor: f64,
    steps: u32,
    at: u32,
    way: Way,
    knee: Option<u32>,
}

impl Ramp {
    pub(crate) fn new(start: f64, factor: f64, steps: u32) -> Self {
        Ramp { start, factor, steps, at: 0, way: Way::Up, knee: None }
    }

    pub(crate) fn rate(&self) -> f64 {
        self.start * self.factor.powi(self.at as i32)
    }

    /// The highest rate that any step may have.
    pub(crate) fn highest(&self) -> f64 {
        self.start * self.factor.powi(self.steps as i32 + 1)
    }

    pub(crate) fn way(&self) -> Way {
        self.way
    }

    /// The highest good rate on the way up.
    pub(crate) fn knee(&self) -> Option<f64> {
        self.knee.map(|at| self.start * self.factor.powi(at as i32))
    }

    /// How the step went; whether there is another.
    pub(crate) fn next(&mut self, good: bool) -> bool {
        match self.way {
            Way::Up if good => {
                self.knee = Some(self.at);
                self.at += 1;
                self.at < self.steps
            }
            Way::Up => {
                self.way = Way::Past;
                self.at += 1;
                true
            }
            // Down to the knee and one below, where it must be well again.
            Way::Past | Way::Back => {
                self.way = Way::Back;
                let end = self.knee.map_or(0, |knee| knee.saturating_sub(1));
                let more = self.at > end;
                self.at = self.at.saturating_sub(1);
                more
            }
        }
    }
}

pub(crate) fn run(common: &cli::Common, storm: &cli::StormArgs, progress: &Progress) -> Result<Report, Failure> {
    let mut ramp = Ramp::new(f64::from(common.load.rate), storm.factor, storm.steps);
    let time = Duration::from_secs(u64::from(common.load.seconds));
    let mut rig = Rig::start(common, ramp.highest().min(2e6), 0, 0, progress)?;
    let mut steps: Vec<Step> = Vec::new();
    let mut late = false;
    loop {
        let (rate, way) = (ramp.rate(), ramp.way());
        let name = format!("{} {rate:.0}/s", way.word());
        let figures = rig.measure(&name, rate, time, progress)?;
        let published = published_rate(&figures).unwrap_or_default();
        late |= published < PUBLISHED * rate;
        let good = Duration::from_nanos(figures.quantile(0.99)) <= storm.knee_p99 && published >= PUBLISHED * rate;
        steps.push(Step { way, rate, good, figures });
        if !ramp.next(good) {
            break;
        }
    }
    drop(rig);
    let mut report = Report::new("storm", common, Vec::new());
    if late {
        report.warnings.push(
            "the publisher itself did not reach the rate of some step: what lies there is the generator's limit, not the server's".into(),
        );
    }
    if let Some(least) = storm.min_knee {
        let knee = ramp.knee().unwrap_or_default();
        report.checks.push(Check {
            name: "knee",
            limit: format!("at least {least}/s"),
            value: format!("{knee:.0}/s"),
            passed: knee >= f64::from(least),
        });
    }
    report.knee = Some((ramp.knee(), storm.knee_p99));
    report.steps = steps;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps of a server whose p99 is good up to `limit`.
    fn walk(limit: f64, steps: u32) -> (Vec<(Way, f64)>, Option<f64>) {
        let mut ramp = Ramp::new(1000.0, 2.0, steps);
        let mut walked = Vec::new();
        loop {
            walked.push((ramp.way(), ramp.rate()));
            if !ramp.next(ramp.rate() <= limit) {
                return (walked, ramp.knee());
            }
        }
    }

    #[test]
    fn a_ramp_goes_up_to_the_first_bad_step_past_it_and_back_below_the_knee() {
        use Way::{Back, Past, Up};
        let (steps, knee) = walk(5000.0, 20);
        assert_eq!(
            steps,
            [
                (Up, 1000.0),
                (Up, 2000.0),
                (Up, 4000.0),
                (Up, 8000.0),
                (Past, 16_000.0),
                (Back, 8000.0),
                (Back, 4000.0),
                (Back, 2000.0)
            ]
        );
        assert_eq!(knee, Some(4000.0));
    }

    #[test]
    fn a_ramp_that_never_turns_bad_ends_and_one_that_is_bad_at_once_has_no_knee() {
        let (steps, knee) = walk(f64::INFINITY, 4);
        assert_eq!((steps.len(), knee), (4, Some(8000.0)));
        let (steps, knee) = walk(0.0, 4);
        assert_eq!(knee, None);
        assert_eq!(steps.iter().map(|(_, rate)| *rate).collect::<Vec<_>>(), [1000.0, 2000.0, 1000.0]);
        assert!(Ramp::new(1000.0, 2.0, 4).highest() >= 16_000.0);
    }
}
