//! Token bucket per address for failed authentications.
//!
//! Bounded without a lock: two rows of atomic slots, an address has one slot in each, chosen by two keyed hashes, and is
//! refused only while both are exhausted. So two addresses share a fate only if they meet in both rows, and no
//! sender can choose whom to meet. A slot is one number (GCRA): the time until which its tokens are spent.
//! Time is an argument. 512 KiB, whatever addresses come.

use ahash::RandomState;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SLOTS_PER_ROW: usize = 32_768;

/// Counts failures of each address; see the module.
pub struct FailureLimiter {
    rows: [Row; 2],
    /// Microseconds until one failure is forgiven; 0 = no limit.
    refill_us: u64,
    /// Microseconds' worth of failures that may be outstanding.
    burst_us: u64,
}

struct Row {
    hasher: RandomState,
    spent_until_us: Box<[AtomicU64]>,
}

impl FailureLimiter {
    /// Forgives `per_minute` failures a minute, and allows as many at once; 0 = no limit.
    pub fn new(per_minute: u32) -> Self {
        let refill_us = if per_minute == 0 { 0 } else { (60_000_000 / u64::from(per_minute)).max(1) };
        let row = || Row {
            hasher: RandomState::new(),
            spent_until_us: (0..SLOTS_PER_ROW).map(|_| AtomicU64::new(0)).collect(),
        };
        FailureLimiter { rows: [row(), row()], refill_us, burst_us: refill_us * u64::from(per_minute) }
    }

    /// Whether `ip` may try again, `now` after the server's start.
    pub fn allows(&self, ip: IpAddr, now: Duration) -> bool {
        let now = micros(now);
        let has_token = |slot: &AtomicU64| slot.load(Ordering::Relaxed) + self.refill_us <= now + self.burst_us;
        self.refill_us == 0 || self.slots(ip).into_iter().any(has_token)
    }

    /// Takes a token from `ip`.
    pub fn failed(&self, ip: IpAddr, now: Duration) {
        let now = micros(now);
        for slot in self.slots(ip) {
            // Capped at a full burst, so that many failures in flight at once do not lock an address out for long.
            let spend = |until: u64| Some((until.max(now) + self.refill_us).min(now + self.burst_us));
            let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        }
    }

    fn slots(&self, ip: IpAddr) -> [&AtomicU64; 2] {
        let ip = bucket_address(ip);
        self.rows.each_ref().map(|row| &row.spent_until_us[row.hasher.hash_one(ip) as usize % SLOTS_PER_ROW])
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX >> 1)
}

/// One IPv6 customer owns a whole /64, so that counts as one address.
fn bucket_address(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn failures_spend_the_burst_and_time_gives_it_back() {
        let limiter = FailureLimiter::new(6);
        let (a, start) = (ip("10.0.0.1"), Duration::from_secs(100));
        for n in 0..6 {
            assert!(limiter.allows(a, start), "failure {n}");
            limiter.failed(a, start);
        }
        assert!(!limiter.allows(a, start));
        assert!(!limiter.allows(a, start + Duration::from_secs(9)));
        assert!(limiter.allows(a, start + Duration::from_secs(10)));
        limiter.failed(a, start + Duration::from_secs(10));
        assert!(!limiter.allows(a, start + Duration::from_secs(10)));
    }

    #[test]
    fn one_address_does_not_spend_the_tokens_of_another() {
        let limiter = FailureLimiter::new(1);
        limiter.failed(ip("10.0.0.1"), Duration::ZERO);
        assert!(!limiter.allows(ip("10.0.0.1"), Duration::ZERO));
        let shared = (2..=255).filter(|n| !limiter.allows(ip(&format!("10.0.0.{n}")), Duration::ZERO)).count();
        assert_eq!(shared, 0);
    }

    #[test]
    fn an_ipv6_customer_is_one_address_and_a_mapped_one_is_ipv4() {
        let limiter = FailureLimiter::new(1);
        limiter.failed(ip("2001:db8::1"), Duration::ZERO);
        limiter.failed(ip("::ffff:10.0.0.1"), Duration::ZERO);
        assert!(!limiter.allows(ip("2001:db8::ffff"), Duration::ZERO));
        assert!(limiter.allows(ip("2001:db8:0:1::1"), Duration::ZERO));
        assert!(!limiter.allows(ip("10.0.0.1"), Duration::ZERO));
    }

    #[test]
    fn failures_in_flight_together_do_not_lock_an_address_out_beyond_one_burst() {
        let limiter = FailureLimiter::new(60);
        for _ in 0..10_000 {
            limiter.failed(ip("10.0.0.1"), Duration::ZERO);
        }
        assert!(limiter.allows(ip("10.0.0.1"), Duration::from_secs(1)));
    }

    #[test]
    fn zero_means_no_limit() {
        let limiter = FailureLimiter::new(0);
        limiter.failed(ip("10.0.0.1"), Duration::ZERO);
        assert!(limiter.allows(ip("10.0.0.1"), Duration::ZERO));
    }
}
