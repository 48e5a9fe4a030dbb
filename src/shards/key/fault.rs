//! Why a subscription did not work, as a client hears it.

use std::sync::Arc;

/// Whose fault it was that something did not work, as a client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultCode {
    /// The broker said no to this instrument; the message is the adapter's own.
    Refused,
    /// No usable broker or adapter, or it failed or did not answer.
    Broker,
    /// The adapter could not be initialised.
    BrokerInit,
    /// The adapter could not connect.
    BrokerConnection,
    /// The broker's connections can carry no more instruments.
    Capacity,
    /// A limit of ours.
    Limit,
    /// The session left before the outcome was known.
    Cancelled,
}

impl FaultCode {
    /// The client protocol's code.
    pub const fn code(self) -> &'static str {
        match self {
            FaultCode::Refused => "SUBSCRIPTION_ERROR",
            FaultCode::Broker | FaultCode::Cancelled => "BROKER_ERROR",
            FaultCode::BrokerInit => "BROKER_INIT_ERROR",
            FaultCode::BrokerConnection => "BROKER_CONNECTION_ERROR",
            FaultCode::Capacity => "MAX_CAPACITY_REACHED",
            FaultCode::Limit => "LIMIT_EXCEEDED",
        }
    }
}

/// Why something did not work: a code and a text for humans, ready for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Kind of fault.
    pub code: FaultCode,
    /// For the client; faults of the BROKER_* kind end in a correlation id that our log has too.
    pub message: Arc<str>,
}

impl Fault {
    /// A fault with this code and text.
    pub fn new(code: FaultCode, message: impl Into<Arc<str>>) -> Self {
        Fault { code, message: message.into() }
    }
}
