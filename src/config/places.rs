//! Values that say where something is: a file, a registry. Tests: `tests/config.rs`, and in `src/adapter/discovery/redis.rs`.

use super::value::{Codec, Raw, quote};
use crate::adapter::discovery::RedisUrl;
use std::path::PathBuf;

/// A path, or `""` for none.
pub(super) struct File;

impl Codec for File {
    type T = Option<PathBuf>;
    fn shape() -> String {
        "path or \"\"".into()
    }
    fn parse(raw: &Raw) -> Result<Option<PathBuf>, String> {
        let text = raw.text().ok_or("write a path, such as \"publishers.db\"")?;
        Ok((!text.is_empty()).then(|| PathBuf::from(text)))
    }
    fn print(value: &Option<PathBuf>) -> String {
        quote(&value.as_ref().map(|path| path.display().to_string()).unwrap_or_default())
    }
}

/// A URL that may hold a password, which is not printed; or `""` for none.
pub(super) struct Redis;

impl Codec for Redis {
    type T = Option<RedisUrl>;
    const SECRET: bool = true;
    fn shape() -> String {
        "URL or \"\"".into()
    }
    fn parse(raw: &Raw) -> Result<Option<RedisUrl>, String> {
        let text = raw.text().ok_or("write a URL, such as \"redis://127.0.0.1:6379/0\"")?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(str::to_owned) }
    }
    fn print(value: &Option<RedisUrl>) -> String {
        quote(&value.as_ref().map(RedisUrl::to_string).unwrap_or_default())
    }
}
