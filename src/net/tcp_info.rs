//! `struct tcp_info` of Linux, read by offset: kernels append fields, so an older one gives fewer bytes and a newer one more.
//!
//! In: as many bytes as the kernel gave. Out: [`Tcp`], `None` for what it did not give. The system call is in `sys.rs`. Offsets are
//! those of `include/uapi/linux/tcp.h`, which never moves one. Tests: below; against the real kernel in `sys.rs`.

use crate::policy::diagnosis::Tcp;
use std::time::Duration;

/// Room for all that we read, and what newer kernels append.
pub(super) const BYTES: usize = 256;
/// What every kernel since 2.6.10 gives, up to and with `tcpi_total_retrans`.
const BYTES_MIN: usize = 104;

/// Reads what the kernel gave. `None` when that is less than any kernel we run on gives.
pub(super) fn read(info: &[u8], send_queue: Option<u32>) -> Option<Tcp> {
    if info.len() < BYTES_MIN {
        return None;
    }
    let u32_at = |at: usize| info.get(at..at + 4).map(|b| u32::from_ne_bytes(b.try_into().expect("four bytes")));
    let u64_at = |at: usize| info.get(at..at + 8).map(|b| u64::from_ne_bytes(b.try_into().expect("eight bytes")));
    let micros = |at| Duration::from_micros(u32_at(at).unwrap_or_default().into());
    let count = |at| u32_at(at).unwrap_or_default();
    Some(Tcp {
        timeouts: info[2],                                // tcpi_retransmits
        segment: count(16),                               // tcpi_snd_mss
        unacked: count(24),                               // tcpi_unacked
        lost: count(32),                                  // tcpi_lost
        silence: Duration::from_millis(count(56).into()), // tcpi_last_ack_recv
        rtt: micros(68),                                  // tcpi_rtt
        rtt_var: micros(72),                              // tcpi_rttvar
        retransmits: count(100),                          // tcpi_total_retrans
        notsent: u32_at(144),                             // tcpi_notsent_bytes, 4.6
        delivery_rate: u64_at(160),                       // tcpi_delivery_rate, 4.9
        window: u32_at(228),                              // tcpi_snd_wnd, 5.4
        send_queue,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field is its own offset.
    fn info(len: usize) -> Vec<u8> {
        let mut info: Vec<u8> = (0..BYTES as u32 / 4).flat_map(|word| (4 * word).to_ne_bytes()).collect();
        info[2] = 3;
        info.truncate(len);
        info
    }

    #[test]
    fn fields_stand_where_linux_puts_them() {
        let got = read(&info(BYTES), Some(7)).expect("enough");
        assert_eq!((got.timeouts, got.segment, got.unacked, got.lost, got.retransmits), (3, 16, 24, 32, 100));
        assert_eq!((got.rtt, got.rtt_var), (Duration::from_micros(68), Duration::from_micros(72)));
        assert_eq!((got.silence, got.send_queue), (Duration::from_millis(56), Some(7)));
        assert_eq!((got.notsent, got.window), (Some(144), Some(228)));
        assert_eq!(
            got.delivery_rate.map(|rate| rate.to_ne_bytes()),
            Some([160, 164].map(u32::to_ne_bytes).concat().try_into().expect("eight"))
        );
    }

    #[test]
    fn a_kernel_that_gives_less_leaves_out_what_it_does_not_know() {
        for (len, notsent, rate, window) in [
            (104, None, None, None),
            (148, Some(144), None, None),
            (192, Some(144), Some(()), None),
            (232, Some(144), Some(()), Some(228)),
        ] {
            let got = read(&info(len), None).expect("enough");
            assert_eq!((got.notsent, got.delivery_rate.map(drop), got.window), (notsent, rate, window), "{len} bytes");
            assert_eq!(got.retransmits, 100);
        }
        // A field that is there in part is not there.
        assert_eq!(read(&info(231), None).and_then(|tcp| tcp.window), None);
        assert_eq!(read(&info(103), None), None);
        assert_eq!(read(&[], None), None);
    }
}
