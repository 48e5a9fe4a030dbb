//! The fields of a message or of one of its entries, borrowed and not yet judged.

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// Raw values by key; unknown keys are skipped, the last of a repeated key counts.
#[derive(Clone, Copy, Default)]
pub(super) struct Fields<'a> {
    pub(super) action: Option<&'a RawValue>,
    pub(super) r#type: Option<&'a RawValue>,
    pub(super) api_key: Option<&'a RawValue>,
    pub(super) apikey: Option<&'a RawValue>,
    pub(super) request_id: Option<&'a RawValue>,
    pub(super) timestamp: Option<&'a RawValue>,
    pub(super) ping_id: Option<&'a RawValue>,
    symbols: Option<&'a RawValue>,
    instruments: Option<&'a RawValue>,
    pub(super) symbol: Option<&'a RawValue>,
    pub(super) exchange: Option<&'a RawValue>,
    pub(super) mode: Option<&'a RawValue>,
    pub(super) depth: Option<&'a RawValue>,
    pub(super) depth_level: Option<&'a RawValue>,
    pub(super) snapshot: Option<&'a RawValue>,
    pub(super) max_rate: Option<&'a RawValue>,
    pub(super) delivery: Option<&'a RawValue>,
    pub(super) range: Option<&'a RawValue>,
    pub(super) feed_status: Option<&'a RawValue>,
    pub(super) overload: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    /// What stands for the list of instruments, if it is not empty.
    pub(super) fn list(&self) -> Option<&'a RawValue> {
        [self.symbols, self.instruments].into_iter().find_map(truthy)
    }

    /// Whether the request uses the list form.
    pub(super) fn has_list(&self) -> bool {
        self.list().is_some()
    }

    fn slot(&mut self, key: &str) -> Option<&mut Option<&'a RawValue>> {
        Some(match key {
            "action" => &mut self.action,
            "type" => &mut self.r#type,
            "api_key" => &mut self.api_key,
            "apikey" => &mut self.apikey,
            "request_id" => &mut self.request_id,
            "timestamp" => &mut self.timestamp,
            "_pingId" => &mut self.ping_id,
            "symbols" => &mut self.symbols,
            "instruments" => &mut self.instruments,
            "symbol" => &mut self.symbol,
            "exchange" => &mut self.exchange,
            "mode" => &mut self.mode,
            "depth" => &mut self.depth,
            "depth_level" => &mut self.depth_level,
            "snapshot" => &mut self.snapshot,
            "max_rate" => &mut self.max_rate,
            "delivery" => &mut self.delivery,
            "range" => &mut self.range,
            "feed_status" => &mut self.feed_status,
            "overload" => &mut self.overload,
            _ => return None,
        })
    }
}

/// A key, borrowed unless it holds escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E: Error>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(Key(key)) = map.next_key()? {
                    match fields.slot(&key) {
                        Some(slot) => *slot = Some(map.next_value()?),
                        None => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// Hands the first `max` entries of `list` to `visit`, one at a time so that a hostile list takes no memory, and returns
/// how many there are.
pub(super) fn each<'a>(
    list: &'a RawValue,
    max: usize,
    visit: impl FnMut(Fields<'a>),
) -> Result<usize, serde_json::Error> {
    struct ListVisitor<F>(usize, F);
    impl<'de, F: FnMut(Fields<'de>)> Visitor<'de> for ListVisitor<F> {
        type Value = usize;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of objects")
        }
        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<usize, A::Error> {
            let mut count = 0;
            while count < self.0 {
                let Some(entry) = list.next_element()? else { return Ok(count) };
                (self.1)(entry);
                count += 1;
            }
            while list.next_element::<IgnoredAny>()?.is_some() {
                count += 1;
            }
            Ok(count)
        }
    }
    serde_json::Deserializer::from_str(list.get()).deserialize_seq(ListVisitor(max, visit))
}

/// The value unless it is missing, null, false, zero or empty: what Python calls falsy.
pub(super) fn truthy(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| match raw.get() {
        "null" | "false" | "\"\"" => false,
        text => match text.as_bytes()[0] {
            b'[' | b'{' => !text[1..text.len() - 1].trim().is_empty(),
            b'-' | b'0'..=b'9' => text.parse() != Ok(0.0f64),
            _ => true,
        },
    })
}

/// The text of a JSON string; `None` for anything else.
pub(super) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(raw.get()).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}
