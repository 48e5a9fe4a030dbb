//! How the text of one setting becomes a typed value, and back.
//!
//! In: a [`Raw`] value from TOML, a variable or a flag. Out: the value, or a sentence that says what would be right.
//! A [`Codec`] is a type of setting; what it prints is TOML that it reads back to the same value.
//! Pure. Tests: `value_tests.rs`.

use super::endpoint;
use super::settings::{AdapterKind, CloseStyle, KeyStoreSetting, LogFormat, Normalise, Secret};
use std::fmt::Display;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A value as its source wrote it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw {
    /// From a variable or a flag: no type of its own.
    Text(String),
    /// TOML string.
    Str(String),
    /// TOML integer.
    Int(i64),
    /// TOML boolean.
    Bool(bool),
    /// TOML array.
    List(Vec<Raw>),
    /// TOML of a type that no setting has; the text names it.
    Other(&'static str),
}

impl Raw {
    /// The value as a message shows it.
    pub(super) fn shown(&self) -> String {
        match self {
            Raw::Text(s) | Raw::Str(s) => quote(s),
            Raw::Int(n) => n.to_string(),
            Raw::Bool(b) => b.to_string(),
            Raw::List(items) => format!("[{}]", items.iter().map(Raw::shown).collect::<Vec<_>>().join(", ")),
            Raw::Other(kind) => format!("({kind})"),
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Raw::Text(s) | Raw::Str(s) => Some(s.trim()),
            _ => None,
        }
    }
}

/// A type of setting. `Err` says what would be right, without the bad value.
pub(super) trait Codec {
    /// The field's type in [`super::settings`].
    type T;
    /// What the docs and messages call it.
    fn shape() -> String;
    fn parse(raw: &Raw) -> Result<Self::T, String>;
    /// TOML that [`Codec::parse`] reads back; `"(secret)"` for secrets.
    fn print(value: &Self::T) -> String;
    /// Whether the bad value must not be shown in messages.
    const SECRET: bool = false;
}

/// A count, written as a plain integer.
pub(super) struct Count<N>(PhantomData<N>);

impl<N: FromStr + TryFrom<i64> + Display> Codec for Count<N> {
    type T = N;
    fn shape() -> String {
        "integer".into()
    }
    fn parse(raw: &Raw) -> Result<N, String> {
        let parsed = match raw {
            Raw::Int(n) => N::try_from(*n).ok(),
            Raw::Text(s) => s.trim().replace('_', "").parse().ok(),
            _ => None,
        };
        parsed.ok_or_else(|| "write a whole number that is not negative".into())
    }
    fn print(value: &N) -> String {
        value.to_string()
    }
}

/// Bytes: `"64MiB"`, `"128KiB"`, or a plain integer.
pub(super) struct Size;

const SIZE_UNITS: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

impl Codec for Size {
    type T = usize;
    fn shape() -> String {
        "size".into()
    }
    fn parse(raw: &Raw) -> Result<usize, String> {
        let right = || "write a size such as \"1MiB\" or \"128KiB\", or a number of bytes".to_string();
        if let Raw::Int(n) = raw {
            return usize::try_from(*n).map_err(|_| right());
        }
        let text = raw.text().ok_or_else(right)?;
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.replace('_', "").parse().map_err(|_| right())?;
        let unit = unit.trim();
        let factor = match unit {
            "" => 1,
            _ => SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(right)?.1,
        };
        number.checked_mul(factor).and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(right)
    }
    fn print(value: &usize) -> String {
        let unit = SIZE_UNITS[..3].iter().find(|(_, f)| *value > 0 && (*value as u64).is_multiple_of(*f));
        match unit {
            Some((name, factor)) => quote(&format!("{}{name}", *value as u64 / factor)),
            None => value.to_string(),
        }
    }
}

/// A duration: `"5ms"`, `"10s"`, `"1m"`; `"0"` where off is allowed.
pub(super) struct Time;

const TIME_UNITS: [(&str, u64); 5] =
    [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

impl Codec for Time {
    type T = Duration;
    fn shape() -> String {
        "duration".into()
    }
    fn parse(raw: &Raw) -> Result<Duration, String> {
        let right = || "write a duration with its unit, such as \"5ms\", \"10s\" or \"1m\"".to_string();
        if *raw == Raw::Int(0) {
            return Ok(Duration::ZERO);
        }
        let text = raw.text().ok_or_else(right)?;
        if text == "0" {
            return Ok(Duration::ZERO);
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(right)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| right())?;
        let unit = unit.trim();
        let factor = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(right)?.1;
        number.checked_mul(factor).map(Duration::from_micros).ok_or_else(right)
    }
    fn print(value: &Duration) -> String {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        if micros == 0 {
            return quote("0s");
        }
        // Minutes and hours only when nothing is lost; seconds are what people compare.
        let (unit, factor) = TIME_UNITS[2..].iter().find(|(_, f)| micros.is_multiple_of(*f)).unwrap_or(&TIME_UNITS[4]);
        quote(&format!("{}{unit}", micros / factor))
    }
}

/// `true` or `false`.
pub(super) struct Flag;

impl Codec for Flag {
    type T = bool;
    fn shape() -> String {
        "true or false".into()
    }
    fn parse(raw: &Raw) -> Result<bool, String> {
        match raw {
            Raw::Bool(b) => Ok(*b),
            Raw::Text(s) => match s.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err("write true or false".into()),
            },
            _ => Err("write true or false, without quotes".into()),
        }
    }
    fn print(value: &bool) -> String {
        value.to_string()
    }
}

/// An address to listen on.
pub(super) struct Address;

impl Codec for Address {
    type T = SocketAddr;
    fn shape() -> String {
        "IP:PORT".into()
    }
    fn parse(raw: &Raw) -> Result<SocketAddr, String> {
        let right = || "write IP:PORT, such as 127.0.0.1:8765 or [::1]:8765".to_string();
        parse_address(raw.text().ok_or_else(right)?).ok_or_else(right)
    }
    fn print(value: &SocketAddr) -> String {
        quote(&value.to_string())
    }
}

/// An address to listen on, or `""` for none.
pub(super) struct OptionalAddress;

impl Codec for OptionalAddress {
    type T = Option<SocketAddr>;
    fn shape() -> String {
        "IP:PORT or \"\"".into()
    }
    fn parse(raw: &Raw) -> Result<Option<SocketAddr>, String> {
        if raw.text() == Some("") { Ok(None) } else { Address::parse(raw).map(Some) }
    }
    fn print(value: &Option<SocketAddr>) -> String {
        value.as_ref().map_or_else(|| quote(""), Address::print)
    }
}

/// `IP:PORT`, with `localhost` and `*` understood.
pub(super) fn parse_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    Some(SocketAddr::new(parse_host(host)?, port.parse().ok()?))
}

/// An IP address, with `localhost` and `*` understood.
pub(super) fn parse_host(host: &str) -> Option<IpAddr> {
    match host {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        "*" => Some(IpAddr::from([0, 0, 0, 0])),
        _ => host.trim_start_matches('[').trim_end_matches(']').parse().ok(),
    }
}

/// Non-empty strings; comma-separated in variables and flags.
pub(super) struct Names;

impl Codec for Names {
    type T = Vec<String>;
    fn shape() -> String {
        "list of strings".into()
    }
    fn parse(raw: &Raw) -> Result<Vec<String>, String> {
        parse_list(raw, |text| Ok(text.to_string()))
    }
    fn print(value: &Vec<String>) -> String {
        print_list(value)
    }
}

/// Broker names, in lower case.
pub(super) struct BrokerNames;

impl Codec for BrokerNames {
    type T = Vec<String>;
    fn shape() -> String {
        "list of brokers".into()
    }
    fn parse(raw: &Raw) -> Result<Vec<String>, String> {
        parse_list(raw, |text| Ok(text.to_ascii_lowercase()))
    }
    fn print(value: &Vec<String>) -> String {
        print_list(value)
    }
}

/// Endpoints we bind.
pub(super) struct BindEndpoints;

impl Codec for BindEndpoints {
    type T = Vec<String>;
    fn shape() -> String {
        "list of endpoints".into()
    }
    fn parse(raw: &Raw) -> Result<Vec<String>, String> {
        parse_list(raw, |text| endpoint::check_bind(text).map(|()| text.to_string()))
    }
    fn print(value: &Vec<String>) -> String {
        print_list(value)
    }
}

/// Endpoints we connect to.
pub(super) struct ConnectEndpoints;

impl Codec for ConnectEndpoints {
    type T = Vec<String>;
    fn shape() -> String {
        "list of endpoints".into()
    }
    fn parse(raw: &Raw) -> Result<Vec<String>, String> {
        parse_list(raw, |text| endpoint::check_connect(text).map(|()| text.to_string()))
    }
    fn print(value: &Vec<String>) -> String {
        print_list(value)
    }
}

/// One endpoint we bind.
pub(super) struct BindEndpoint;

impl Codec for BindEndpoint {
    type T = String;
    fn shape() -> String {
        "endpoint".into()
    }
    fn parse(raw: &Raw) -> Result<String, String> {
        let text = raw.text().ok_or("write an endpoint, such as \"tcp://127.0.0.1:5655\"")?;
        endpoint::check_bind(text).map(|()| text.to_string())
    }
    fn print(value: &String) -> String {
        quote(value)
    }
}

fn parse_list(raw: &Raw, one: impl Fn(&str) -> Result<String, String>) -> Result<Vec<String>, String> {
    match raw {
        Raw::Text(text) => text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(one).collect(),
        Raw::List(items) => {
            let item = |raw: &Raw| match raw {
                Raw::Str(text) if !text.trim().is_empty() => one(text.trim()),
                other => Err(format!("every item is a non-empty string, {} is not", other.shown())),
            };
            items.iter().map(item).collect()
        }
        _ => Err("write a list of strings, such as [\"a\", \"b\"]".into()),
    }
}

fn print_list(value: &[String]) -> String {
    format!("[{}]", value.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", "))
}

/// A secret, or `""` for none.
pub(super) struct Hidden;

impl Codec for Hidden {
    type T = Option<Secret>;
    const SECRET: bool = true;
    fn shape() -> String {
        "secret text".into()
    }
    fn parse(raw: &Raw) -> Result<Option<Secret>, String> {
        match raw {
            Raw::Text(s) | Raw::Str(s) => Ok((!s.is_empty()).then(|| Secret(s.clone()))),
            _ => Err("write a string".into()),
        }
    }
    fn print(value: &Option<Secret>) -> String {
        quote(if value.is_some() { "(secret)" } else { "" })
    }
}

/// `auth.store`.
pub(super) struct Store;

impl Codec for Store {
    type T = KeyStoreSetting;
    fn shape() -> String {
        "key store".into()
    }
    fn parse(raw: &Raw) -> Result<KeyStoreSetting, String> {
        let parsed = raw.text().and_then(|text| match text.split_once(':') {
            None if text == "demo" => Some(KeyStoreSetting::Demo),
            Some(("sqlite", path)) if !path.is_empty() => Some(KeyStoreSetting::Sqlite(PathBuf::from(path))),
            Some(("openalgo", path)) if !path.is_empty() => Some(KeyStoreSetting::OpenAlgo(PathBuf::from(path))),
            _ => None,
        });
        parsed.ok_or_else(|| "write \"demo\", \"sqlite:FILE\" or \"openalgo:FILE\"".into())
    }
    fn print(value: &KeyStoreSetting) -> String {
        match value {
            KeyStoreSetting::Demo => quote("demo"),
            KeyStoreSetting::Sqlite(path) => quote(&format!("sqlite:{}", path.display())),
            KeyStoreSetting::OpenAlgo(path) => quote(&format!("openalgo:{}", path.display())),
        }
    }
}

/// A filter for log lines.
pub(super) struct LogFilter;

impl Codec for LogFilter {
    type T = String;
    fn shape() -> String {
        "log filter".into()
    }
    fn parse(raw: &Raw) -> Result<String, String> {
        let right = "write error, warn, info, debug, trace or off, or a list such as \"info,tickcast::bus=debug\"";
        // EnvFilter panics on some text that is not ASCII (`[é]`).
        let text = raw.text().filter(|text| !text.is_empty() && text.is_ascii()).ok_or(right)?;
        // tracing reads any single word as a target name, so a misspelt level would silence everything.
        let is_level = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        let words_are_right = text.split(',').all(|part| is_level(part.rsplit('=').next().unwrap_or(part).trim()));
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) if words_are_right => Ok(text.to_string()),
            _ => Err(right.into()),
        }
    }
    fn print(value: &String) -> String {
        quote(value)
    }
}

/// A setting with a few named values.
pub(super) trait Named: Copy + PartialEq + 'static {
    const NAMES: &'static [(&'static str, Self)];
}

impl Named for CloseStyle {
    const NAMES: &'static [(&'static str, Self)] = &[("frame", CloseStyle::Frame), ("drop", CloseStyle::Drop)];
}

impl Named for Normalise {
    const NAMES: &'static [(&'static str, Self)] = &[("lazy", Normalise::Lazy), ("off", Normalise::Off)];
}

impl Named for LogFormat {
    const NAMES: &'static [(&'static str, Self)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
}

impl Named for AdapterKind {
    const NAMES: &'static [(&'static str, Self)] = &[
        (AdapterKind::Sim.label(), AdapterKind::Sim),
        (AdapterKind::Bus.label(), AdapterKind::Bus),
        (AdapterKind::External.label(), AdapterKind::External),
    ];
}

/// One of a few names.
pub(super) struct OneOf<E>(PhantomData<E>);

impl<E: Named> Codec for OneOf<E> {
    type T = E;
    fn shape() -> String {
        E::NAMES.iter().map(|(name, _)| quote(name)).collect::<Vec<_>>().join(" or ")
    }
    fn parse(raw: &Raw) -> Result<E, String> {
        let text = raw.text().map(str::to_ascii_lowercase);
        let found = E::NAMES.iter().find(|(name, _)| Some(*name) == text.as_deref());
        found.map(|(_, value)| *value).ok_or_else(|| format!("write {}", Self::shape()))
    }
    fn print(value: &E) -> String {
        let found = E::NAMES.iter().find(|(_, v)| v == value).expect("NAMES lists every variant");
        quote(found.0)
    }
}

/// A TOML basic string.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
