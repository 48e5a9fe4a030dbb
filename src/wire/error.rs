//! Error codes: the eleven of the audit, plus `MAX_CAPACITY_REACHED`, `INVALID_MODE` and `BROKER_LIST_ERROR`.
//!
//! Each has its cause and what to do about it; `docs/PROTOCOL.md` holds the same table, a test compares the two.
//! The frame itself is written by `reply::error`.

/// The `code` of an error frame or of an entry that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Key missing, unknown or revoked.
    AuthenticationError,
    /// No usable broker.
    BrokerError,
    /// The broker's adapter could not be set up.
    BrokerInitError,
    /// The broker's adapter could not connect.
    BrokerConnectionError,
    /// The action needs authentication.
    NotAuthenticated,
    /// A needed value is missing or unusable.
    InvalidParameters,
    /// Unknown or missing action.
    InvalidAction,
    /// Not JSON (or not MessagePack, in a binary frame of a MessagePack client).
    InvalidJson,
    /// A command could not be carried out.
    ProcessingError,
    /// Anything else, e.g. a message that is no object.
    ServerError,
    /// A limit has been reached.
    LimitExceeded,
    /// The broker's connections are full.
    MaxCapacityReached,
    /// The mode is none of 1, 2, 3, `LTP`, `Quote`, `Depth`.
    InvalidMode,
    /// The broker list could not be made.
    BrokerListError,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [ErrorCode; 14] = [
        ErrorCode::AuthenticationError,
        ErrorCode::BrokerError,
        ErrorCode::BrokerInitError,
        ErrorCode::BrokerConnectionError,
        ErrorCode::NotAuthenticated,
        ErrorCode::InvalidParameters,
        ErrorCode::InvalidAction,
        ErrorCode::InvalidJson,
        ErrorCode::ProcessingError,
        ErrorCode::ServerError,
        ErrorCode::LimitExceeded,
        ErrorCode::MaxCapacityReached,
        ErrorCode::InvalidMode,
        ErrorCode::BrokerListError,
    ];

    /// The code on the wire, and the value of a `code` metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::AuthenticationError => "AUTHENTICATION_ERROR",
            ErrorCode::BrokerError => "BROKER_ERROR",
            ErrorCode::BrokerInitError => "BROKER_INIT_ERROR",
            ErrorCode::BrokerConnectionError => "BROKER_CONNECTION_ERROR",
            ErrorCode::NotAuthenticated => "NOT_AUTHENTICATED",
            ErrorCode::InvalidParameters => "INVALID_PARAMETERS",
            ErrorCode::InvalidAction => "INVALID_ACTION",
            ErrorCode::InvalidJson => "INVALID_JSON",
            ErrorCode::ProcessingError => "PROCESSING_ERROR",
            ErrorCode::ServerError => "SERVER_ERROR",
            ErrorCode::LimitExceeded => "LIMIT_EXCEEDED",
            ErrorCode::MaxCapacityReached => "MAX_CAPACITY_REACHED",
            ErrorCode::InvalidMode => "INVALID_MODE",
            ErrorCode::BrokerListError => "BROKER_LIST_ERROR",
        }
    }

    /// Why it is raised, as in the documentation.
    pub const fn cause(self) -> &'static str {
        match self {
            ErrorCode::AuthenticationError => "the key is missing, unknown or revoked",
            ErrorCode::BrokerError => "the user has no usable broker, or its adapter is not there",
            ErrorCode::BrokerInitError => "the broker's adapter could not be set up",
            ErrorCode::BrokerConnectionError => "the broker's adapter could not connect",
            ErrorCode::NotAuthenticated => "the action needs authentication first",
            ErrorCode::InvalidParameters => "a needed value is missing, or a value cannot be used",
            ErrorCode::InvalidAction => "the action is missing or unknown",
            ErrorCode::InvalidJson => "the message is not JSON, or not MessagePack where that was agreed",
            ErrorCode::ProcessingError => "the server could not carry the command out",
            ErrorCode::ServerError => "the message is JSON but no object, or the server failed",
            ErrorCode::LimitExceeded => "a limit of the client, the user or the server is reached",
            ErrorCode::MaxCapacityReached => "the broker's connections can carry no more instruments",
            ErrorCode::InvalidMode => "the mode is none of 1, 2, 3, LTP, Quote, Depth",
            ErrorCode::BrokerListError => "the list of brokers could not be made",
        }
    }

    /// What the client should do, as in the documentation.
    pub const fn advice(self) -> &'static str {
        match self {
            ErrorCode::AuthenticationError => "check the key; five failures close the connection",
            ErrorCode::BrokerError => "log in to the broker, then send authenticate again",
            ErrorCode::BrokerInitError => "renew the broker login, then send authenticate again",
            ErrorCode::BrokerConnectionError => "wait some seconds, then send authenticate again",
            ErrorCode::NotAuthenticated => "send authenticate and wait for its success",
            ErrorCode::InvalidParameters => "correct the request as the message says",
            ErrorCode::InvalidAction => "use one of the actions of this document",
            ErrorCode::InvalidJson => "send one whole JSON object per message",
            ErrorCode::ProcessingError => "try again; give the operator the id in the message",
            ErrorCode::ServerError => "send a JSON object; otherwise give the operator the id in the message",
            ErrorCode::LimitExceeded => {
                "unsubscribe something, split the request, use a second connection, or ask for a higher limit"
            }
            ErrorCode::MaxCapacityReached => {
                "unsubscribe something; the operator may allow more connections, up to the broker's limit"
            }
            ErrorCode::InvalidMode => "use 1, 2, 3 or their names; \"1\", null, true and 1.0 are refused",
            ErrorCode::BrokerListError => "try again",
        }
    }

    /// Position in [`ErrorCode::ALL`], for arrays of counters.
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_code_once_in_order() {
        for (i, code) in ErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(code.index(), i, "{code:?}");
        }
        assert_eq!(ErrorCode::BrokerListError as usize + 1, ErrorCode::ALL.len());
    }

    #[test]
    fn the_code_on_the_wire_is_the_variant_in_capitals() {
        for code in ErrorCode::ALL {
            assert_eq!(code.as_str().replace('_', ""), format!("{code:?}").to_uppercase());
        }
    }
}
