//! `tickcast doctor`: looks at the machine, the settings and a running server, and says what is wrong and how to mend it.
//!
//! In: the same flags as `serve`. Out: findings, problems first, as text or JSON; exit code 1 when there is a problem. `gather/`
//! collects `facts`, which hold no secret; `judge/` turns them into findings and is pure. Promises: nothing is changed, and a running
//! server is only asked. Where none runs the bus endpoints are bound for `gather::LISTEN`, to see who connects to them.
//! Tests: `judge/tests.rs`, `tests/doctor.rs`.

mod facts;
mod gather;
mod judge;

use super::{DoctorArgs, check, exit};
use crate::config::{self, Problem};
use serde::Serialize;
use std::io::{self, Write};

/// Column in which a finding's text begins.
const TEXT_COLUMN: usize = 22;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// The server cannot start, or cannot do what these settings ask of it.
    Problem,
    /// It works, and something about it will surprise somebody.
    Warning,
    /// As it should be.
    Ok,
}

impl Level {
    const fn label(self) -> &'static str {
        match self {
            Level::Problem => "problem",
            Level::Warning => "warning",
            Level::Ok => "ok",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// What was looked at: one word.
    check: &'static str,
    /// What is the case.
    what: String,
    /// Why it matters; empty when it is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
    /// A command or a setting; empty when it is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    fix: String,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Finding { level: Level::Ok, check, what: what.into(), why: String::new(), fix: String::new() }
    }

    fn warning(check: &'static str, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { level: Level::Warning, check, what: what.into(), why: why.into(), fix: fix.into() }
    }

    fn problem(check: &'static str, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { level: Level::Problem, check, what: what.into(), why: why.into(), fix: fix.into() }
    }
}

/// Looks, judges and reports; the exit code.
///
/// # Errors
/// When `out` or `err` cannot be written.
pub fn run(args: &DoctorArgs, env: Vec<(String, String)>, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let loaded = match config::load(&args.serve.sources(env)) {
        Ok(loaded) => loaded,
        Err(problems) if args.json => {
            let findings: Vec<Finding> = problems.iter().map(mistake).collect();
            write_json(&findings, out)?;
            return Ok(exit::SETTINGS);
        }
        Err(problems) => return check::report(&problems, err),
    };
    let facts = gather::gather(&loaded)?;
    let mut findings = judge::judge(&loaded.settings, &facts);
    // Stable: what was looked at first stays first among its like.
    findings.sort_by_key(|finding| finding.level);
    if args.json {
        write_json(&findings, out)?
    } else {
        write_text(&findings, out)?
    }
    Ok(if count(&findings, Level::Problem) > 0 { exit::RUNTIME } else { exit::OK })
}

fn mistake(problem: &Problem) -> Finding {
    let why = "no server starts with these settings";
    Finding::problem("settings", problem.to_string(), why, "as the text says; `tickcast check` lists all mistakes")
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

fn write_json(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    let (problems, warnings) = (count(findings, Level::Problem), count(findings, Level::Warning));
    let report = serde_json::json!({ "problems": problems, "warnings": warnings, "findings": findings });
    writeln!(out, "{report:#}")?;
    out.flush()
}

fn write_text(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    for finding in findings {
        let head = format!("{:8} {}", finding.level.label(), finding.check);
        writeln!(out, "{head:TEXT_COLUMN$}{}", finding.what)?;
        for (name, text) in [("why", &finding.why), ("fix", &finding.fix)] {
            if !text.is_empty() {
                let head = format!("{:9}{name}", "");
                writeln!(out, "{head:TEXT_COLUMN$}{text}")?;
            }
        }
    }
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let (problems, warnings) = (count(findings, Level::Problem), count(findings, Level::Warning));
    writeln!(out, "\n{}, {}", plural(problems, "problem"), plural(warnings, "warning"))?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_worst_first_and_each_finding_with_why_and_fix() {
        let findings = [Finding::problem("ports", "taken", "it ends", "stop it"), Finding::ok("clock", "in step")];
        let mut text = Vec::new();
        write_text(&findings, &mut text).expect("memory");
        let text = String::from_utf8(text).expect("text");
        let expected = "problem  ports        taken\n         why          it ends\n         fix          stop it\n\
                        ok       clock        in step\n\n1 problem, 0 warnings\n";
        assert_eq!(text, expected);
        let mut json = Vec::new();
        write_json(&findings, &mut json).expect("memory");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!((&json["problems"], &json["findings"][0]["fix"]), (&1.into(), &"stop it".into()));
        assert_eq!(json["findings"][1], serde_json::json!({"level": "ok", "check": "clock", "what": "in step"}));
    }
}
