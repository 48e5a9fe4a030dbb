//! Decisions as pure functions: no I/O, no clock (time and chance are arguments), no metrics.
//!
//! - [`pacing`]: how long to let ticks gather after a flush.
//! - [`backoff`]: when to try again.
//! - [`admission`]: how many commands or attempts a peer may make.
//! - [`conflation`]: what may be merged, and when a held tick is due.
//! - [`diagnosis`]: why a session is behind: network, client or us.
//! - [`slow_consumer`]: when a session that does not read is given up.
//! - [`feed_health`] and [`market_hours`]: whether a feed lives, and whether its silence means something.
//! - [`overload`]: how much the server sheds.
//! - [`refusal`]: whether a broker's words mean that it refuses credentials.

pub mod admission;
pub mod backoff;
pub mod conflation;
pub mod diagnosis;
pub mod feed_health;
pub mod market_hours;
pub mod overload;
pub mod pacing;
pub mod refusal;
pub mod slow_consumer;
