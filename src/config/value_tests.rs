//! How single values are read and what is said about wrong ones.

use super::*;

fn text(s: &str) -> Raw {
    Raw::Text(s.into())
}

#[test]
fn durations_need_a_unit_unless_they_are_zero() {
    for (input, want) in [
        ("5ms", Some(5_000)),
        ("10s", Some(10_000_000)),
        ("1m", Some(60_000_000)),
        ("250us", Some(250)),
        ("2h", Some(7_200_000_000)),
        ("10 s", Some(10_000_000)),
        ("0", Some(0)),
        ("10", None),
        ("s", None),
        ("-1s", None),
        ("1.5s", None),
        ("", None),
        ("99999999999999999999s", None),
        ("18446744073709551615h", None),
    ] {
        assert_eq!(Time::parse(&text(input)).ok(), want.map(Duration::from_micros), "{input:?}");
    }
}

#[test]
fn sizes_take_binary_and_decimal_units_or_none() {
    for (input, want) in [
        ("64MiB", Some(64 << 20)),
        ("1 KiB", Some(1024)),
        ("64kB", Some(64_000)),
        ("65536", Some(65_536)),
        ("1_000", Some(1_000)),
        ("1mib", None),
        ("MiB", None),
        ("", None),
        ("99999999999GiB", None),
    ] {
        assert_eq!(Size::parse(&text(input)).ok(), want, "{input:?}");
    }
    assert_eq!(Size::parse(&Raw::Int(-1)).ok(), None);
}

#[test]
fn what_is_printed_reads_back_as_the_same_value() {
    for micros in [0, 1, 999, 1_000, 5_000, 1_000_000, 90_000_000, 3_600_000_000] {
        let value = Duration::from_micros(micros);
        let printed = Time::print(&value);
        assert_eq!(Time::parse(&text(printed.trim_matches('"'))), Ok(value), "{printed}");
    }
    for bytes in [0, 1, 1023, 1024, 64_000, 1 << 20, 3 << 30] {
        let printed = Size::print(&bytes);
        assert_eq!(Size::parse(&text(printed.trim_matches('"'))), Ok(bytes), "{printed}");
    }
}

#[test]
fn addresses_know_localhost_star_and_ipv6_but_no_names() {
    for (input, want) in [
        ("127.0.0.1:8765", Some("127.0.0.1:8765")),
        ("localhost:0", Some("127.0.0.1:0")),
        ("*:80", Some("0.0.0.0:80")),
        ("[::1]:9", Some("[::1]:9")),
        ("example.com:80", None),
        ("127.0.0.1", None),
        ("8765", None),
        ("127.0.0.1:99999", None),
    ] {
        assert_eq!(parse_address(input), want.map(|w| w.parse().unwrap()), "{input:?}");
    }
}

#[test]
fn a_misspelt_log_level_is_refused_instead_of_silencing_everything() {
    assert!(LogFilter::parse(&text("info")).is_ok());
    assert!(LogFilter::parse(&text("info,tickcast::bus=debug")).is_ok());
    assert!(LogFilter::parse(&text("inof")).is_err());
    assert!(LogFilter::parse(&text("tickcast=loud")).is_err());
}
