//! What a broker is to the frame: its protocol as pure functions. A new broker implements [`Broker`] in a folder of its own.
//!
//! In: what is wanted, as [`Changes`]; the broker's messages. Out: the text messages that bring it about, and [`Event`]s.
//! Promises asked of an implementation: no clock, no I/O, no panic on any bytes; prices exact; a damaged message costs
//! itself only. What a connection must remember (merged deltas) is its [`Broker::Session`], made anew with each connection.

use super::credentials::Credentials;
use super::tick::NativeTick;
use crate::adapter::symbols::{Dialect, FeedExchange, Listing};
use crate::model::Mode;
use crate::policy::refusal::is_auth_error;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

/// A broker's numbers; settings may lower the first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instruments on one connection, counted.
    pub per_connection: usize,
    /// Connections of one account, counted.
    pub connections: usize,
    /// Instruments in one message, counted.
    pub per_message: usize,
    /// Rest between two messages of instruments.
    pub message_gap: Duration,
    /// How often we say that we live; `None` when the protocol has nothing for that.
    pub heartbeat: Option<Duration>,
    /// A connection on which nothing at all was heard for so long is dead.
    pub silence: Duration,
    /// How long the answer to the first message may take; `None` when the upgrade itself is the login.
    pub login: Option<Duration>,
    /// Logins in a row that may be refused before we only look for new credentials.
    pub refusals: u32,
    /// Whether refused credentials may be tried again unchanged (a broker that refuses them for a while after a close).
    pub same_again: bool,
}

/// How to open a connection.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Whole URL; may hold secrets.
    pub url: String,
    /// Headers beyond those of the upgrade; may hold secrets.
    pub headers: Vec<(&'static str, String)>,
    /// What is sent first; may hold secrets.
    pub first: Option<String>,
    /// What is sent once logged in, before anything is subscribed: the order stream of brokers that want to be asked for it.
    pub then: Option<String>,
}

impl Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request(secret)")
    }
}

/// What must change on one connection, at most [`Limits::per_message`] instruments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<T> {
    /// To be stopped, with the mode that is on the wire. Sent first, so that a quota is never exceeded.
    pub unsubscribe: Vec<(T, Mode)>,
    /// On the wire in the first mode, wanted in the second.
    pub change: Vec<(T, Mode, Mode)>,
    /// To be started.
    pub subscribe: Vec<(T, Mode)>,
}

impl<T> Default for Changes<T> {
    fn default() -> Self {
        Changes { unsubscribe: Vec::new(), change: Vec::new(), subscribe: Vec::new() }
    }
}

impl<T> Changes<T> {
    /// Instruments in it, counted.
    pub fn len(&self) -> usize {
        self.unsubscribe.len() + self.change.len() + self.subscribe.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One whole message of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
}

/// What a message of the broker means.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are ticks, and the vector they lie in is reused")]
pub enum Event<T> {
    /// A tick of this instrument.
    Tick(T, NativeTick),
    /// The first message was accepted.
    LoggedIn,
    /// The first message, or the session itself, was refused: the broker's text.
    Refused(String),
    /// One of the user's orders has changed.
    Order(Order<T>),
    /// Text for people: logged.
    Notice(String),
    /// The connection has no room for what a request of ours asked; the mark that the request carried.
    Overfull(String),
    /// Something that cannot be read; counted. What was good before it has been reported.
    Damaged,
}

/// An order update in OpenAlgo's words (protocol 1.7), except that `symbol` and `exchange` are the broker's own until the
/// frame has looked the instrument up, and that whose order it is, is added there too.
#[derive(Clone, Debug, PartialEq)]
pub struct Order<T> {
    /// What it is about, when the broker says so.
    pub token: Option<T>,
    /// The fields, in the order in which they are sent.
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// One broker's protocol. See the module header for what is asked of it.
pub trait Broker: Send + Sync + 'static {
    /// What a tick is addressed by.
    type Token: Clone + Debug + Eq + Hash + Ord + Send + Sync;
    /// What one connection remembers.
    type Session: Default + Send;

    /// Whose instrument files it reads.
    const DIALECT: Dialect;
    /// Where it is, unless the settings say otherwise.
    const URL: &'static str;
    /// What its credentials must hold.
    const CREDENTIALS: &'static [&'static str];
    /// Where order updates come from, at brokers that have a server of its own for them.
    const ORDER_URL: Option<&'static str> = None;
    /// Whether OpenAlgo stores its API key with the token, as `api_key:access_token`.
    const KEY_IN_TOKEN: bool = false;
    /// Whether its requests carry marks, for [`Event::Overfull`].
    const HAS_MARKS: bool = false;

    /// Its numbers.
    fn limits(&self) -> Limits;

    /// The token of a listed instrument; `None` when the listing cannot be the broker's.
    fn token(&self, listing: Listing<'_>) -> Option<Self::Token>;

    /// How a token stands in the broker's files, to find its names.
    fn listing(&self, token: &Self::Token) -> (FeedExchange, String);

    /// How to open a connection to `url` (the setting).
    ///
    /// # Errors
    /// A credential is missing; the text names it.
    fn request(&self, url: &str, credentials: &Credentials) -> Result<Request, String>;

    /// Whether an answer to the upgrade other than 101 means that the credentials are not accepted.
    fn refuses_credentials(&self, status: u16, text: &str) -> bool {
        matches!(status, 400 | 401 | 403) || is_auth_error(text)
    }

    /// What is sent every [`Limits::heartbeat`].
    fn heartbeat(&self) -> Option<&'static str> {
        None
    }

    /// The mode that must be on the wire to serve `mode`: a broker without LTP ticks answers quote.
    fn wire_mode(&self, mode: Mode) -> Mode {
        mode
    }

    /// The text messages that bring `changes` about, in order. A change of mode must leave no gap: the new mode first.
    fn messages(&self, changes: &Changes<Self::Token>) -> Vec<String>;

    /// Says that `token` has just been asked for on this connection, in any mode: what comes for it from now on is ours.
    fn expect(&self, _session: &mut Self::Session, _token: &Self::Token) {}

    /// Says that `token` is being unsubscribed from this connection: what is remembered of it is void.
    fn forget(&self, _session: &mut Self::Session, _token: &Self::Token) {}

    /// How to open the socket of order updates; asked only where there is an [`Broker::ORDER_URL`].
    ///
    /// # Errors
    /// A credential is missing; the text names it.
    fn order_request(&self, url: &str, credentials: &Credentials) -> Result<Request, String> {
        self.request(url, credentials)
    }

    /// Reads one message of that socket; `None` when it says nothing.
    fn decode_order(&self, _message: Message<'_>) -> Option<Event<Self::Token>> {
        None
    }

    /// Reads one message.
    fn decode(&self, session: &mut Self::Session, message: Message<'_>, out: &mut Vec<Event<Self::Token>>);
}
