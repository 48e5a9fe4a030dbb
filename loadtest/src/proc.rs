//! What processes and threads cost, from /proc: CPU time, waiting for a core, memory, descriptors; and the machine itself.
//!
//! Linux only. A process that has gone, or that belongs to another user, reads as nothing.

use std::fs;
use std::time::Duration;

/// Kernel ticks a second in /proc/PID/stat; 100 on every Linux since 2.6.
const TICKS_PER_SECOND: u64 = 100;

/// A process under watch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// CPU time of all its threads so far.
    pub(crate) fn cpu(self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        // The name in parentheses may hold blanks; user and system time are the 12th and 13th fields after it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS_PER_SECOND))
    }

    /// Resident memory, bytes.
    pub(crate) fn rss(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    }

    /// Open descriptors, counted.
    pub(crate) fn fds(self) -> Option<u64> {
        Some(fs::read_dir(format!("/proc/{}/fd", self.0)).ok()?.count() as u64)
    }
}

/// Time of one of our own threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Thread {
    pub(crate) name: String,
    /// On a core.
    pub(crate) cpu: Duration,
    /// Ready to run, without a core.
    pub(crate) waited: Duration,
}

/// All our own threads so far.
pub(crate) fn threads() -> Vec<(String, Thread)> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let one = |task: fs::DirEntry| {
        let path = task.path();
        let name = fs::read_to_string(path.join("comm")).ok()?.trim().to_owned();
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        let mut numbers = text.split_whitespace().map(|n| n.parse().map(Duration::from_nanos));
        let (cpu, waited) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some((task.file_name().to_string_lossy().into_owned(), Thread { name, cpu, waited }))
    };
    tasks.flatten().filter_map(one).collect()
}

/// What each thread has used since `before`.
pub(crate) fn threads_since(before: &[(String, Thread)]) -> Vec<Thread> {
    let now = threads().into_iter().map(|(id, mut thread)| {
        if let Some((_, old)) = before.iter().find(|(old, _)| *old == id) {
            thread.cpu = thread.cpu.saturating_sub(old.cpu);
            thread.waited = thread.waited.saturating_sub(old.waited);
        }
        thread
    });
    now.collect()
}

/// Cores, kernel, processor and load, in words.
pub(crate) fn machine() -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    vec![
        ("cores", cores().to_string()),
        ("processor", model.map_or_else(|| "unknown".into(), |(_, model)| model.to_owned())),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("load average", read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")),
    ]
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_and_threads_can_be_read() {
        let process = Process(std::process::id());
        assert!(process.cpu().is_some());
        assert!(process.rss().expect("memory") > 1 << 20);
        assert!(process.fds().expect("descriptors") >= 3);
        let before = threads();
        assert!(!before.is_empty());
        assert!(threads_since(&before).iter().all(|t| t.cpu < Duration::from_secs(60)));
        assert_eq!(Process(u32::MAX).rss(), None);
        assert!(machine().iter().all(|(_, value)| !value.is_empty()));
    }
}
