//! The effective settings as TOML, each with its origin behind it. Read back as a file it gives the same settings,
//! but for secrets, which are never printed.

use super::brokers::BROKER_KEYS;
use super::keys::{KEYS, SECTIONS};
use super::load::Loaded;
use super::value::quote;
use std::fmt::{self, Write};

/// Column of the origins, so that they can be read down the page.
const ORIGIN_COLUMN: usize = 60;

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (section, _) in SECTIONS {
            match section {
                "brokers" => self.brokers(f)?,
                "scale" => self.scale(f)?,
                _ => {
                    writeln!(f, "[{section}]")?;
                    for key in KEYS.iter().filter(|key| key.section == section) {
                        let line = format!("{} = {}", key.name, (key.print)(&self.settings));
                        self.line(f, &line, &key.path())?;
                    }
                    f.write_char('\n')?;
                }
            }
            if section == "bus" {
                self.sources(f)?;
            }
        }
        Ok(())
    }
}

impl Loaded {
    fn line(&self, f: &mut fmt::Formatter<'_>, line: &str, path: &str) -> fmt::Result {
        writeln!(f, "{line:ORIGIN_COLUMN$} # {}", self.origin(path))
    }

    fn sources(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, source) in self.settings.bus.sources.iter().enumerate() {
            writeln!(f, "[[bus.source]]")?;
            self.line(f, &format!("endpoint = {}", quote(&source.endpoint)), &format!("bus.source[{at}]"))?;
            writeln!(f, "broker = {}\nuser = {}\n", quote(&source.broker), quote(&source.user))?;
        }
        Ok(())
    }

    fn brokers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, broker) in &self.settings.brokers {
            writeln!(f, "[brokers.{name}]")?;
            for key in &BROKER_KEYS {
                if let Some(value) = (key.print)(broker) {
                    self.line(f, &format!("{} = {value}", key.name), &format!("brokers.{name}.{}", key.name))?;
                }
            }
            f.write_char('\n')?;
        }
        Ok(())
    }

    fn scale(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.settings.scale.is_empty() {
            return Ok(());
        }
        writeln!(f, "[scale]")?;
        for (venue, digits) in &self.settings.scale {
            self.line(f, &format!("{} = {digits}", quote(venue)), &format!("scale.{venue}"))?;
        }
        f.write_char('\n')
    }
}
