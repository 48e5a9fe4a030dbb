//! The tables of `docs/PROTOCOL.md` say what the enums say, row by row, and its examples can be read.

use super::{close::CloseReason, command, error::ErrorCode};
use crate::limits;
use crate::model::Format;

const PROTOCOL: &str = include_str!("../../docs/PROTOCOL.md");

/// The rows of the table under `heading`, without its header.
fn table(heading: &str) -> Vec<&'static str> {
    let section = PROTOCOL.split_once(heading).expect("the heading").1;
    section.lines().skip_while(|l| !l.starts_with("| ---")).skip(1).take_while(|l| l.starts_with('|')).collect()
}

#[test]
fn the_error_table_is_the_enum() {
    let want: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| format!("| `{}` | {} | {} |", code.as_str(), code.cause(), code.advice()))
        .collect();
    assert_eq!(table("\n## Errors\n"), want);
}

#[test]
fn the_close_table_is_the_enum() {
    let want: Vec<_> = CloseReason::ALL
        .iter()
        .map(|r| format!("| {} | {} | `{}` | {} |", r.code(), r.text(), r.label(), r.retry().text()))
        .collect();
    assert_eq!(table("\n## Close codes\n"), want);
}

#[test]
fn the_limits_are_ours() {
    let limits = table("\n## Limits\n").join("\n");
    for (number, value) in [
        ("1 MiB, 64 kB", (limits::MESSAGE_BYTES_MAX, limits::MESSAGE_BYTES_MAX_UNAUTHENTICATED) == (1 << 20, 64_000)),
        ("10 s; 15 s", (limits::HANDSHAKE.as_secs(), limits::AUTH_DEADLINE.as_secs()) == (10, 15)),
        ("5 per connection", limits::AUTH_FAILURES_PER_CONNECTION == 5),
        ("50 per second, burst 2000", (limits::COMMANDS_PER_SECOND, limits::COMMANDS_BURST) == (50, 2000)),
        ("| 1000 |", limits::SUBSCRIPTIONS_PER_CLIENT == 1000),
        ("| 5000 |", limits::ENTRIES_PER_REQUEST == 5000),
        ("1 MiB, or 10 s", (limits::OUTBOX_BYTES_MAX, limits::LOSSLESS_STALL.as_secs()) == (1 << 20, 10)),
        ("10,000", limits::SESSIONS_MAX == 10_000),
    ] {
        assert!(limits.contains(number) && value, "{number}");
    }
}

#[test]
fn the_examples_can_be_read() {
    let mut commands = 0;
    for block in PROTOCOL.split("```json\n").skip(1).map(|rest| rest.split("```").next().expect("a block")) {
        for example in serde_json::Deserializer::from_str(block).into_iter::<serde_json::Value>() {
            let example = example.expect(block);
            if example.get("action").is_some() {
                let parsed = command::parse(example.to_string().as_bytes(), false, Format::Json, 10);
                assert!(parsed.is_ok(), "{example}");
                commands += 1;
            }
        }
    }
    assert_eq!(commands, 6);
}
