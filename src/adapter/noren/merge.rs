//! What a Noren connection must remember: the merged state of each instrument, and which tick a message makes of it.
//!
//! In: instruments subscribed and let go, market data. Out: ticks. The rules are those of broker-feeds 3.4: (1) a snapshot
//! merges like a change, nothing is cleared, since the state is as young as the connection; (2) what a change does not
//! name stays; (3) what does not parse leaves the old value; (4) open, high, low, close and average keep a value that is
//! not zero when zero comes; (5) every message publishes the merged state, and says when last-price subscribers need not
//! hear of it: neither price nor feed time came; (6) before the snapshot of its stream, only a last price is published;
//! (7) what is let go is forgotten; (8) exchange and token together say whose it is, the token alone only if one
//! instrument has it. Tests: `merge/tests.rs` with every vector; fuzzed as `noren`.

#[cfg(test)]
mod tests;

use super::decode::{self, Change, Feed, LevelChange, Message, Stream, TradeTime};
use crate::adapter::native::tick::{Depth, LEVELS, Level, NativeTick, Price, check_written};
use crate::adapter::symbols::{Dialect, Key};
use crate::model::Mode;
use std::collections::HashMap;

/// The instruments of one connection.
#[derive(Debug, Default)]
pub struct Book(HashMap<Key, Record>);

/// One instrument.
#[derive(Debug)]
struct Record {
    /// All that is known, whichever stream told it.
    state: NativeTick,
    traded: Option<TradeTime>,
    /// The book, once any level of it has come: indices have none.
    depth: Option<Depth>,
    /// Whether the streams' snapshots have come.
    has_touchline: bool,
    has_depth: bool,
}

impl Book {
    /// `key` has been subscribed; what comes for others is dropped.
    pub fn add(&mut self, key: Key) {
        self.0.entry(key).or_insert_with(|| Record {
            state: NativeTick::new(Mode::Quote),
            traded: None,
            depth: None,
            has_touchline: false,
            has_depth: false,
        });
    }

    /// Nobody wants `key` any more.
    pub fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// Instruments remembered.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Merges `feed` and hands the tick it makes, if any, to `out`.
    pub fn merge(&mut self, dialect: Dialect, feed: &Feed<'_>, out: impl FnOnce(Key, NativeTick)) {
        let Some(key) = self.key(dialect, feed) else { return };
        let Some(record) = self.0.get_mut(&key) else { return };
        let is_news = record.apply(&feed.change);
        let has_snapshot = match feed.stream {
            Stream::Touchline => &mut record.has_touchline,
            Stream::Depth => &mut record.has_depth,
        };
        *has_snapshot |= feed.is_full;
        let has_snapshot = *has_snapshot;
        if has_snapshot {
            let tick = record.tick(feed.stream);
            // An empty snapshot tells nothing.
            if tick == NativeTick::new(tick.mode) {
                return;
            }
            out(key, NativeTick { ltp_unchanged: tick.ltp.is_some() && !is_news, ..tick });
        } else if is_news && record.state.ltp.is_some() {
            out(key, record.last_price());
        }
    }

    fn key(&self, dialect: Dialect, feed: &Feed<'_>) -> Option<Key> {
        if let Some(exchange) = feed.exchange {
            return Key::named(dialect, exchange, feed.token);
        }
        let mut same = self.0.keys().filter(|key| key.token() == feed.token);
        same.next().filter(|_| same.next().is_none()).copied()
    }
}

/// Fuzz entry: lines are messages of one connection. State stays bounded by what is subscribed, and ticks can be written.
pub fn fuzz_messages(bytes: &[u8]) {
    let mut book = Book::default();
    for (exchange, token) in [("NSE", "22"), ("BSE", "22"), ("NFO", "35001")] {
        book.add(Key::named(Dialect::Shoonya, exchange, token).expect("a key"));
    }
    for line in bytes.split(|&c| c == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
        if let Some(Message::Feed(feed)) = decode::decode(line) {
            book.merge(Dialect::Shoonya, &feed, |_, tick| check_written(&tick));
        }
    }
    assert_eq!(book.len(), 3);
}

impl Record {
    /// Whether last-price subscribers should hear of it.
    fn apply(&mut self, change: &Change) -> bool {
        let state = &mut self.state;
        for (old, new) in [
            (&mut state.open, change.open),
            (&mut state.high, change.high),
            (&mut state.low, change.low),
            (&mut state.close, change.close),
            (&mut state.average_price, change.average_price),
        ] {
            let kept = old.filter(|old| *old != Price(0));
            *old = new.filter(|new| *new != Price(0)).or(kept).or(new).or(*old);
        }
        for (old, new) in [
            (&mut state.ltp, change.ltp),
            (&mut state.upper_circuit, change.upper_circuit),
            (&mut state.lower_circuit, change.lower_circuit),
            (&mut state.week_52_high, change.week_52_high),
            (&mut state.week_52_low, change.week_52_low),
        ] {
            *old = new.or(*old);
        }
        for (old, new) in [
            (&mut state.last_quantity, change.last_quantity),
            (&mut state.volume, change.volume),
            (&mut state.total_buy_quantity, change.total_buy_quantity),
            (&mut state.total_sell_quantity, change.total_sell_quantity),
            (&mut state.oi, change.oi),
        ] {
            *old = new.or(*old);
        }
        if [change.bids, change.asks] != [[LevelChange::default(); LEVELS]; 2] {
            let depth = self.depth.get_or_insert_default();
            levels(&mut depth.bids, &change.bids);
            levels(&mut depth.asks, &change.asks);
        }
        self.traded = change.traded.or(self.traded);
        let feed_ms = change.feed_ms.or(state.exchange_ms);
        let is_news = change.ltp.is_some() || feed_ms != state.exchange_ms;
        state.exchange_ms = feed_ms;
        if let Some(traded) = self.traded {
            // A time of day gets its day from the feed's time; it is not moved when only that goes on.
            state.last_trade_ms = match change.traded {
                None => state.last_trade_ms.or_else(|| traded.ms(feed_ms)),
                Some(_) => traded.ms(feed_ms),
            };
        }
        is_news
    }

    fn last_price(&self) -> NativeTick {
        let NativeTick { ltp, last_trade_ms, exchange_ms, .. } = self.state;
        NativeTick { ltp, last_trade_ms, exchange_ms, ..NativeTick::new(Mode::Ltp) }
    }

    fn tick(&self, stream: Stream) -> NativeTick {
        match stream {
            Stream::Touchline => NativeTick { mode: Mode::Quote, depth: None, ..self.state.clone() },
            Stream::Depth => NativeTick { mode: Mode::Depth, depth: self.depth, ..self.state.clone() },
        }
    }
}

fn levels(old: &mut [Level; LEVELS], new: &[LevelChange; LEVELS]) {
    for (old, new) in old.iter_mut().zip(new) {
        old.price = new.price.unwrap_or(old.price);
        old.quantity = new.quantity.unwrap_or(old.quantity);
        old.orders = new.orders.unwrap_or(old.orders);
    }
}
