//! What the system knows of this process, under the names that Prometheus' client libraries have given it.
//!
//! In: /proc. Out: lines of the metrics page, read at the scrape, on the thread that serves it. What /proc does not tell is left out.
//! Written as text, because CPU seconds are a counter with a fraction and the exporter's counters are whole. Tests: below.

use std::fmt::Write;
use std::fs;

/// Kernel ticks a second in /proc/self/stat: part of Linux' interface, whatever the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends the facts to a page of metrics.
pub(super) fn render(out: &mut String) {
    let stat = Stat::read();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let open = fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as f64);
    let facts = [
        ("process_cpu_seconds_total", "counter", "CPU time of all threads, user and system", stat.cpu_seconds()),
        ("process_open_fds", "gauge", "Open file descriptors", open),
        ("process_max_fds", "gauge", "Most file descriptors that may be open: the soft limit", max_fds(&limits)),
        ("process_resident_memory_bytes", "gauge", "Resident memory", bytes(&status, "VmRSS:")),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory", bytes(&status, "VmSize:")),
        ("process_threads", "gauge", "Threads", number(&status, "Threads:")),
        ("process_start_time_seconds", "gauge", "Start of the process since the UNIX epoch", stat.started()),
    ];
    for (name, kind, help, value) in facts {
        let Some(value) = value else { continue };
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
            .expect("a string takes every write");
    }
}

/// The numbers of /proc/self/stat behind the name.
struct Stat(Vec<f64>);

impl Stat {
    fn read() -> Self {
        let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name stands in parentheses and may hold blanks; the state behind it is a letter.
        let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        Stat(fields.map(|field| field.parse().unwrap_or(f64::NAN)).collect())
    }

    /// Field `at` of proc(5), in seconds.
    fn seconds(&self, at: usize) -> Option<f64> {
        self.0.get(at - 3).map(|ticks| ticks / TICKS_PER_SECOND)
    }

    fn cpu_seconds(&self) -> Option<f64> {
        Some(self.seconds(14)? + self.seconds(15)?)
    }

    fn started(&self) -> Option<f64> {
        let boot = number(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
        Some(boot + self.seconds(22)?)
    }
}

/// The soft limit.
fn max_fds(limits: &str) -> Option<f64> {
    number(limits, "Max open files")
}

/// The first number behind `name` at the start of a line.
fn number(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The same where the unit is kB.
fn bytes(text: &str, name: &str) -> Option<f64> {
    number(text, name).map(|kib| kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> impl Fn(&str) -> f64 {
        let mut text = String::new();
        render(&mut text);
        move |name| number(&text, &format!("{name} ")).unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    #[test]
    fn the_facts_of_this_process_follow_what_it_does() {
        let before = facts();
        assert!((1e6..1e11).contains(&before("process_resident_memory_bytes")), "bytes, not pages or kB");
        assert!(before("process_virtual_memory_bytes") >= before("process_resident_memory_bytes"));
        assert!(before("process_max_fds") >= before("process_open_fds"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - before("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");

        let held: Vec<_> = (0..200).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(0);
        let thread = std::thread::spawn(move || stopped.recv().is_err());
        while facts()("process_cpu_seconds_total") < before("process_cpu_seconds_total") + 0.03 {
            std::hint::black_box((0..100_000).sum::<u64>());
        }
        let after = facts();
        // Other tests of this process come and go meanwhile.
        assert!(after("process_open_fds") >= 200.0);
        assert!(after("process_threads") >= 2.0);
        drop((held, stop));
        assert!(thread.join().unwrap());
    }

    #[test]
    fn a_limit_without_a_number_is_no_limit() {
        assert_eq!(
            max_fds("Max processes  1 1 processes\nMax open files            1024                 4096\n"),
            Some(1024.0)
        );
        assert_eq!(max_fds("Max open files            unlimited            unlimited            files\n"), None);
    }
}
