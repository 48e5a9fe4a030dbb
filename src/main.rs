//! argv and exit code; everything else is the library's.
fn main() {}
