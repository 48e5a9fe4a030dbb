//! Close: one reason type for every goodbye.
//!
//! [`CloseReason`] maps totally to close code (CONTRACTS 3.3), text, metric label and retry advice, so that nobody
//! invents a code or a string at the place where a session ends. `docs/PROTOCOL.md` holds the same table for users;
//! a test compares the two.

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client sent a Close frame; we echo its code.
    PeerClosed,
    /// The connection broke without a Close frame. Nothing is sent.
    PeerGone,
    /// The server drains.
    GoingAway,
    /// The client broke RFC 6455.
    Protocol,
    /// Text or a close reason was not UTF-8.
    InvalidUtf8,
    /// A message was larger than allowed.
    TooLarge,
    /// Our fault.
    Internal,
    /// No pong in time.
    PingTimeout,
    /// The server restarts.
    Restarting,
    /// A limit of this user or key, known only after authentication.
    UserLimit,
    /// Not authenticated in time.
    AuthTimeout,
    /// Too many failed authentications.
    AuthAttempts,
    /// The key has been revoked.
    KeyRevoked,
    /// More bytes waited in the lossless lane than may.
    OutboxFull,
    /// The lossless lane made no progress for too long.
    Stalled,
    /// Order updates or `every` ticks could not be handed over without loss.
    LosslessGap,
    /// All outboxes together grew too large, or overload evicts the slowest.
    Shed,
    /// Commands came faster than allowed.
    CommandRate,
    /// More commands waited than may.
    CommandBacklog,
}

/// Whether and when a client should connect again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The client decided; nothing to advise.
    AsYouLike,
    /// At once, then with growing delays.
    Soon,
    /// After at least a second, with growing delays and jitter.
    Later,
    /// Not before the program or its settings are changed.
    AfterFix,
}

impl Retry {
    /// The advice in words, as in the documentation.
    pub const fn text(self) -> &'static str {
        match self {
            Retry::AsYouLike => "as you like",
            Retry::Soon => "yes, at once, then with growing delays",
            Retry::Later => "yes, after 1 s or more, with growing delays and jitter",
            Retry::AfterFix => "no, not before the cause is fixed",
        }
    }
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [CloseReason; 19] = [
        CloseReason::PeerClosed,
        CloseReason::PeerGone,
        CloseReason::GoingAway,
        CloseReason::Protocol,
        CloseReason::InvalidUtf8,
        CloseReason::TooLarge,
        CloseReason::Internal,
        CloseReason::PingTimeout,
        CloseReason::Restarting,
        CloseReason::UserLimit,
        CloseReason::AuthTimeout,
        CloseReason::AuthAttempts,
        CloseReason::KeyRevoked,
        CloseReason::OutboxFull,
        CloseReason::Stalled,
        CloseReason::LosslessGap,
        CloseReason::Shed,
        CloseReason::CommandRate,
        CloseReason::CommandBacklog,
    ];

    /// The close code. [`CloseReason::PeerGone`] is 1006, which no frame ever carries.
    pub const fn code(self) -> u16 {
        match self {
            CloseReason::PeerClosed => 1000,
            CloseReason::GoingAway => 1001,
            CloseReason::Protocol => 1002,
            CloseReason::PeerGone => 1006,
            CloseReason::InvalidUtf8 => 1007,
            CloseReason::TooLarge => 1009,
            CloseReason::Internal | CloseReason::PingTimeout => 1011,
            CloseReason::Restarting => 1012,
            CloseReason::UserLimit => 1013,
            CloseReason::AuthTimeout | CloseReason::AuthAttempts => 4401,
            CloseReason::KeyRevoked => 4403,
            CloseReason::OutboxFull | CloseReason::Stalled | CloseReason::LosslessGap | CloseReason::Shed => 4408,
            CloseReason::CommandRate | CloseReason::CommandBacklog => 4429,
        }
    }

    /// The reason text of the Close frame, at most 123 bytes.
    pub const fn text(self) -> &'static str {
        match self {
            CloseReason::PeerClosed => "bye",
            CloseReason::PeerGone => "connection lost",
            CloseReason::GoingAway => "server going away",
            CloseReason::Protocol => "protocol error",
            CloseReason::InvalidUtf8 => "text is not UTF-8",
            CloseReason::TooLarge => "message too large",
            CloseReason::Internal => "internal error",
            CloseReason::PingTimeout => "ping timeout",
            CloseReason::Restarting => "server restarting",
            CloseReason::UserLimit => "too many sessions of this user",
            CloseReason::AuthTimeout => "auth timeout",
            CloseReason::AuthAttempts => "too many attempts",
            CloseReason::KeyRevoked => "key revoked",
            CloseReason::OutboxFull => "too slow: too much waiting",
            CloseReason::Stalled => "too slow: nothing read",
            CloseReason::LosslessGap => "too slow: lossless delivery impossible",
            CloseReason::Shed => "too slow: server overloaded",
            CloseReason::CommandRate => "too many requests",
            CloseReason::CommandBacklog => "too many requests waiting",
        }
    }

    /// Value of the `reason` label of `tickcast_sessions_closed_total`.
    pub const fn label(self) -> &'static str {
        match self {
            CloseReason::PeerClosed => "peer_closed",
            CloseReason::PeerGone => "peer_gone",
            CloseReason::GoingAway => "going_away",
            CloseReason::Protocol => "protocol",
            CloseReason::InvalidUtf8 => "invalid_utf8",
            CloseReason::TooLarge => "too_large",
            CloseReason::Internal => "internal",
            CloseReason::PingTimeout => "ping_timeout",
            CloseReason::Restarting => "restarting",
            CloseReason::UserLimit => "user_limit",
            CloseReason::AuthTimeout => "auth_timeout",
            CloseReason::AuthAttempts => "auth_attempts",
            CloseReason::KeyRevoked => "key_revoked",
            CloseReason::OutboxFull => "outbox_full",
            CloseReason::Stalled => "stalled",
            CloseReason::LosslessGap => "lossless_gap",
            CloseReason::Shed => "shed",
            CloseReason::CommandRate => "command_rate",
            CloseReason::CommandBacklog => "command_backlog",
        }
    }

    /// Whether and when the client should connect again.
    pub const fn retry(self) -> Retry {
        match self {
            CloseReason::PeerClosed => Retry::AsYouLike,
            CloseReason::PeerGone | CloseReason::PingTimeout => Retry::Soon,
            CloseReason::GoingAway
            | CloseReason::Internal
            | CloseReason::Restarting
            | CloseReason::UserLimit
            | CloseReason::AuthTimeout
            | CloseReason::OutboxFull
            | CloseReason::Stalled
            | CloseReason::LosslessGap
            | CloseReason::Shed
            | CloseReason::CommandRate
            | CloseReason::CommandBacklog => Retry::Later,
            CloseReason::Protocol
            | CloseReason::InvalidUtf8
            | CloseReason::TooLarge
            | CloseReason::AuthAttempts
            | CloseReason::KeyRevoked => Retry::AfterFix,
        }
    }

    /// Position in [`CloseReason::ALL`], for arrays of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether a Close frame can be sent at all.
    pub const fn sends_frame(self) -> bool {
        !matches!(self, CloseReason::PeerGone)
    }

    /// Whether `server.close_style = "drop"` ends this goodbye without a Close frame: drain, restart and eviction,
    /// after which OpenAlgo's web UI reconnects only then.
    pub const fn may_drop_silently(self) -> bool {
        matches!(
            self,
            CloseReason::GoingAway
                | CloseReason::Restarting
                | CloseReason::OutboxFull
                | CloseReason::Stalled
                | CloseReason::LosslessGap
                | CloseReason::Shed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn all_lists_every_reason_once_in_order_with_its_own_label() {
        for (i, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), i, "{reason:?}");
            assert!(reason.text().len() <= 123, "a close reason fits a control frame");
        }
        let labels: BTreeSet<_> = CloseReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), CloseReason::ALL.len());
        assert_eq!(CloseReason::CommandBacklog as usize + 1, CloseReason::ALL.len());
    }

    #[test]
    fn codes_are_those_of_the_contract() {
        let codes: BTreeSet<_> = CloseReason::ALL.iter().filter(|r| r.sends_frame()).map(|r| r.code()).collect();
        let want = [1000, 1001, 1002, 1007, 1009, 1011, 1012, 1013, 4401, 4403, 4408, 4429];
        assert_eq!(codes, want.into_iter().collect());
    }

    #[test]
    fn the_words_that_clients_match_on_stay() {
        assert_eq!(CloseReason::AuthTimeout.text(), "auth timeout");
        assert_eq!(CloseReason::AuthAttempts.text(), "too many attempts");
    }
}
