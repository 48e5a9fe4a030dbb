//! Angel One's SmartStream (WebSocket 2.0), spoken by ourselves.

pub mod decode;
