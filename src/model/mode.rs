//! Market-data modes, client formats and service classes.

/// What kind of tick is published or subscribed; a higher mode carries the fields of all lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Last traded price.
    Ltp = 1,
    /// LTP plus OHLC, volume and totals.
    Quote = 2,
    /// Quote plus several price levels.
    Depth = 3,
}

impl Mode {
    /// All modes, lowest first.
    pub const ALL: [Mode; 3] = [Mode::Ltp, Mode::Quote, Mode::Depth];

    /// The mode whose wire integer is `n` (1, 2 or 3).
    pub const fn from_int(n: u64) -> Option<Self> {
        match n {
            1 => Some(Mode::Ltp),
            2 => Some(Mode::Quote),
            3 => Some(Mode::Depth),
            _ => None,
        }
    }

    /// The mode named by `text`, in any case and with surrounding blanks (`LTP`, `Quote`, `Depth`).
    pub fn from_label(text: &str) -> Option<Self> {
        let text = text.trim();
        Mode::ALL.into_iter().find(|m| m.label().eq_ignore_ascii_case(text))
    }

    /// Wire integer: 1, 2 or 3.
    pub const fn int(self) -> u8 {
        self as u8
    }

    /// Zero-based position, for arrays of three.
    pub const fn index(self) -> usize {
        self as usize - 1
    }

    /// The client protocol's label.
    pub const fn label(self) -> &'static str {
        match self {
            Mode::Ltp => "LTP",
            Mode::Quote => "Quote",
            Mode::Depth => "Depth",
        }
    }

    /// The last part of a bus topic, and the value of a `mode` metric label in lower case.
    pub const fn topic(self) -> &'static str {
        match self {
            Mode::Ltp => "LTP",
            Mode::Quote => "QUOTE",
            Mode::Depth => "DEPTH",
        }
    }
}

/// How frames to one session are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Format {
    /// OpenAlgo's JSON text frames.
    Json = 0,
    /// `tickcast.v1.msgpack` binary frames.
    MsgPack = 1,
}

impl Format {
    /// Both formats.
    pub const ALL: [Format; 2] = [Format::Json, Format::MsgPack];

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::MsgPack => "msgpack",
        }
    }
}

/// How much a key's sessions matter when there is not enough for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Served first.
    High,
    /// The default.
    #[default]
    Normal,
    /// Conflated and shed first.
    Low,
}

impl Class {
    /// The class named by `text` (`high`, `normal`, `low`).
    pub fn from_label(text: &str) -> Option<Self> {
        [Class::High, Class::Normal, Class::Low].into_iter().find(|c| c.label() == text)
    }

    /// Setting and metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Class::High => "high",
            Class::Normal => "normal",
            Class::Low => "low",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_parse_in_any_case_and_with_blanks_but_digits_do_not() {
        for (text, want) in [
            (" ltp ", Some(Mode::Ltp)),
            ("QUOTE", Some(Mode::Quote)),
            ("Depth", Some(Mode::Depth)),
            ("1", None),
            ("", None),
        ] {
            assert_eq!(Mode::from_label(text), want, "{text:?}");
        }
    }
}
