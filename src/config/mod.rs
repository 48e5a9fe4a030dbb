//! Settings: the only reader of environment and files. Strings in, validated structs out.
//!
//! In: a TOML file, an OpenAlgo `.env`, the environment, flags ([`Sources`]). Out: [`Loaded`], the merged [`Settings`]
//! with the origin of every value, or every mistake at once ([`Problem`]), each with its place and what would be right.
//! One table (`keys`) drives reading, printing, the nearest-name search and `docs/SETTINGS.md`.
//! Promise: no port is opened and nothing is written here; secrets never appear in any output.
//! It does not know what the settings do; each room below declares its own small `Config` for that.
//! Tests: in the files, `tests/config.rs`.

mod brokers;
mod docs;
mod endpoint;
mod env_file;
mod keys;
mod load;
mod openalgo;
mod pieces;
mod places;
mod print;
mod relations;
pub mod settings;
mod sources;
mod toml;
mod value;

pub use docs::settings_markdown;
pub use load::{Loaded, Origin, Problem, Sources, load, process_env};
pub use settings::Settings;
