//! Settings: the only reader of environment and files. Strings in, validated structs out.

pub mod settings;

pub use settings::Settings;
