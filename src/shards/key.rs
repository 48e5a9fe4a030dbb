//! Who wants which instrument: one state machine a key. (written with its room)

/// All keys of one shard.
#[derive(Debug, Default)]
pub struct KeyTable {}
