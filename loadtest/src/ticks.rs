//! What is published: instruments, topics, and payloads in the shape that OpenAlgo's adapters give them.
//!
//! A tick's last price is its number divided by 100, so the number comes back through any server that passes the price on, in any
//! format; when the tick was due stands in [`crate::board`]. Pure. In: a tick's number. Out: bytes; and the number again.

use rmp::encode::{write_array_len, write_f64, write_map_len, write_str, write_uint};
use std::io::Write;
use tickcast::model::Mode;

/// One instrument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instrument {
    pub(crate) exchange: String,
    pub(crate) symbol: String,
}

impl Instrument {
    /// As an entry of a subscribe request.
    pub(crate) fn entry(&self) -> String {
        serde_json::json!({"symbol": self.symbol, "exchange": self.exchange}).to_string()
    }
}

/// Names made up for us.
pub(crate) fn made_up(universe: u32) -> Vec<Instrument> {
    (0..universe).map(|n| Instrument { exchange: "NSE".into(), symbol: format!("L{n:05}") }).collect()
}

/// `NSE:INFY,NSE:SBIN`, or the file of that name with one instrument a line.
pub(crate) fn named(list: &str) -> Result<Vec<Instrument>, String> {
    let text = match list.contains(':') {
        true => list.to_owned(),
        false => std::fs::read_to_string(list)
            .map_err(|e| format!("--instruments {list}: {e}; write NSE:INFY,NSE:SBIN or name a file of such lines"))?,
    };
    let words = text.split([',', '\n']).map(str::trim).filter(|word| !word.is_empty() && !word.starts_with('#'));
    let found = words.map(|word| match word.split_once(':') {
        Some((exchange, symbol)) if !exchange.is_empty() && !symbol.is_empty() => {
            Ok(Instrument { exchange: exchange.into(), symbol: symbol.into() })
        }
        _ => Err(format!("--instruments: `{word}` is no instrument; write EXCHANGE:SYMBOL, as NSE:INFY")),
    });
    let mut found = found.collect::<Result<Vec<_>, _>>()?;
    let mut seen = std::collections::HashSet::new();
    found.retain(|i| seen.insert((i.exchange.clone(), i.symbol.clone())));
    if found.is_empty() { Err(format!("--instruments {list}: names none")) } else { Ok(found) }
}

/// Topic of a tick.
pub(crate) fn topic(instrument: &Instrument, mode: Mode) -> String {
    let word = match mode {
        Mode::Ltp => "LTP",
        Mode::Quote => "QUOTE",
        Mode::Depth => "DEPTH",
    };
    format!("{}_{}_{word}", instrument.exchange, instrument.symbol)
}

/// Fields besides `ltp`, `ltt` and `timestamp`, as (name, value times 100, whether it is a price).
const QUOTE: [(&str, u64, bool); 9] = [
    ("volume", 512_345_600, false),
    ("open", 141_000, true),
    ("high", 142_505, true),
    ("low", 140_505, true),
    ("close", 141_200, true),
    ("last_quantity", 2500, false),
    ("average_price", 141_512, true),
    ("total_buy_quantity", 85_432_100, false),
    ("total_sell_quantity", 91_234_500, false),
];
const LEVELS: u64 = 5;

/// The payload of tick `number` as JSON, appended.
pub(crate) fn json(out: &mut Vec<u8>, mode: Mode, number: u64, now_ms: u64) {
    let price = |n: u64| format!("{}.{:02}", n / 100, n % 100);
    let mut write = |text: String| out.write_all(text.as_bytes()).expect("memory takes every write");
    write(format!(r#"{{"ltp":{},"ltt":{now_ms},"timestamp":{now_ms}"#, price(number)));
    if mode != Mode::Ltp {
        for (name, value, is_price) in QUOTE {
            let value = if is_price { price(value) } else { (value / 100).to_string() };
            write(format!(r#","{name}":{value}"#));
        }
    }
    if mode == Mode::Depth {
        let side = |sign: i64| {
            let level = |n: u64| {
                let at = number.saturating_add_signed(sign * n as i64 * 5);
                format!(r#"{{"price":{},"quantity":{},"orders":{}}}"#, price(at), 100 + n, 3 + n)
            };
            (1..=LEVELS).map(level).collect::<Vec<_>>().join(",")
        };
        write(format!(r#","depth":{{"buy":[{}],"sell":[{}]}}"#, side(-1), side(1)));
    }
    write("}".into());
}

/// The same as a MessagePack map, appended.
pub(crate) fn msgpack(out: &mut Vec<u8>, mode: Mode, number: u64, now_ms: u64) {
    pack(out, mode, number, now_ms).expect("memory takes every write");
}

fn pack(out: &mut Vec<u8>, mode: Mode, number: u64, now_ms: u64) -> Result<(), rmp::encode::ValueWriteError> {
    let fields = 3 + if mode == Mode::Ltp { 0 } else { QUOTE.len() as u32 } + u32::from(mode == Mode::Depth);
    write_map_len(out, fields)?;
    write_str(out, "ltp")?;
    write_f64(out, number as f64 / 100.0)?;
    for name in ["ltt", "timestamp"] {
        write_str(out, name)?;
        write_uint(out, now_ms)?;
    }
    if mode != Mode::Ltp {
        for (name, value, is_price) in QUOTE {
            write_str(out, name)?;
            if is_price { write_f64(out, value as f64 / 100.0)? } else { write_uint(out, value / 100).map(drop)? }
        }
    }
    if mode == Mode::Depth {
        write_str(out, "depth")?;
        write_map_len(out, 2)?;
        for (name, sign) in [("buy", -1), ("sell", 1)] {
            write_str(out, name)?;
            write_array_len(out, LEVELS as u32)?;
            for n in 1..=LEVELS {
                write_map_len(out, 3)?;
                write_str(out, "price")?;
                write_f64(out, number.saturating_add_signed(sign * n as i64 * 5) as f64 / 100.0)?;
                write_str(out, "quantity")?;
                write_uint(out, 100 + n)?;
                write_str(out, "orders")?;
                write_uint(out, 3 + n)?;
            }
        }
    }
    Ok(())
}

/// The tick's number from the text of its price: `123.4` is 12340.
pub(crate) fn number_of(text: &[u8]) -> Option<u64> {
    let mut whole = 0u64;
    let mut digits = text.iter().take_while(|b| b.is_ascii_digit());
    let count = digits.by_ref().take(15).map(|b| whole = whole * 10 + u64::from(b - b'0')).count();
    if count == 0 || digits.next().is_some() {
        return None;
    }
    let cents = match text.get(count..) {
        Some([b'.', a @ b'0'..=b'9', b @ b'0'..=b'9', ..]) => u64::from(a - b'0') * 10 + u64::from(b - b'0'),
        Some([b'.', a @ b'0'..=b'9', ..]) => u64::from(a - b'0') * 10,
        _ => 0,
    };
    Some(whole * 100 + cents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickcast::engine::normalise::{Field, Unit, decode};
    use tickcast::model::Encoding;

    #[test]
    fn the_server_reads_the_same_tick_from_both_encodings_and_its_price_gives_the_number_back() {
        for mode in [Mode::Ltp, Mode::Quote, Mode::Depth] {
            for number in [1, 10, 99, 100, 101, 12_340, 4_294_967_295] {
                let (mut text, mut packed) = (Vec::new(), Vec::new());
                json(&mut text, mode, number, 1_761_367_200_123);
                msgpack(&mut packed, mode, number, 1_761_367_200_123);
                let unit = || Unit { broker: None, venue: "NSE" };
                let (a, b) = (
                    decode(&text, Encoding::Json, unit()).expect("JSON"),
                    decode(&packed, Encoding::MsgPack, unit()).expect("MessagePack"),
                );
                for tick in [&a, &b] {
                    assert_eq!(tick.price_scaled(Field::Ltp, 2), Some((number as i64, false)));
                    assert!(tick.serves(mode, mode));
                    assert_eq!(tick.bids().count(), if mode == Mode::Depth { 5 } else { 0 });
                }
                assert_eq!(a.u64(Field::Volume), b.u64(Field::Volume));
                let mut out = Vec::new();
                b.write_json_mode(Mode::Ltp, &mut out);
                let at = memchr::memmem::find(&out, b"\"ltp\":").expect("a price") + 6;
                assert_eq!(number_of(&out[at..]), Some(number), "{}", String::from_utf8_lossy(&out));
            }
        }
    }

    #[test]
    fn prices_are_read_as_servers_write_them() {
        for (text, number) in
            [("0.01,", 1), ("123.4}", 12_340), ("123", 12_300), ("5.0", 500), ("7.059999", 705), ("1e5", 100)]
        {
            assert_eq!(number_of(text.as_bytes()), Some(number), "{text}");
        }
        for text in ["true", "", "null", "-1", "1234567890123456"] {
            assert_eq!(number_of(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn instruments_can_be_named_and_nonsense_is_told() {
        let two = named("NSE:INFY, NSE_INDEX:NIFTY,NSE:INFY").expect("two");
        assert_eq!(two.len(), 2);
        assert_eq!(topic(&two[1], Mode::Depth), "NSE_INDEX_NIFTY_DEPTH");
        assert!(named("NSE:").expect_err("no symbol").contains("NSE:INFY"));
        assert!(named("no-such-file").expect_err("no file").contains("no-such-file"));
        assert_eq!(made_up(2)[1].entry(), r#"{"symbol":"L00001","exchange":"NSE"}"#);
    }
}
