//! A broker's key of an instrument as a value: what ticks are addressed by at brokers whose tokens repeat across exchanges.

use super::{Dialect, FeedExchange, TOKEN_BYTES_MAX};
use std::fmt;

/// An exchange's code ([`super::FeedExchange::code`]) and a token. Ordered by exchange, so that messages group by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    exchange: u8,
    len: u8,
    token: [u8; TOKEN_BYTES_MAX],
}

impl Key {
    /// `None` when the dialect has no such exchange, or the token cannot be one.
    pub fn new(dialect: Dialect, exchange: u8, token: &str) -> Option<Self> {
        dialect.exchanges().iter().find(|known| known.code == exchange)?;
        let text = dialect.token(token)?;
        let mut token = [0; TOKEN_BYTES_MAX];
        token[..text.len()].copy_from_slice(text.as_bytes());
        Some(Key { exchange, len: text.len() as u8, token })
    }

    /// As [`Key::new`], with the exchange's name.
    pub fn named(dialect: Dialect, exchange: &str, token: &str) -> Option<Self> {
        Key::new(dialect, dialect.exchange(exchange)?.code, token)
    }

    /// As it stands in the broker's files; `dialect` is the one it was made with.
    pub fn listing(&self, dialect: Dialect) -> (FeedExchange, String) {
        let exchange = dialect.exchanges().iter().find(|known| known.code == self.exchange);
        (*exchange.expect("it was made of one"), self.token().to_owned())
    }

    /// The exchange's code.
    pub fn exchange(&self) -> u8 {
        self.exchange
    }

    /// The token.
    pub fn token(&self) -> &str {
        std::str::from_utf8(&self.token[..usize::from(self.len)]).expect("it was made from text")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|{}", self.exchange, self.token())
    }
}
