//! `tickcast top` as a user runs it: one plain screen, a live one on a pseudo-terminal, and nobody there.

mod process;
mod support;

use process::{run, tickcast};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::{Client, PATIENCE, Server};

/// A server with small buffers, and a client of it that reads.
fn server() -> (Server, Client) {
    let server = Server::start(|s| {
        s.fanout.send_buffer_bytes = 16 << 10;
        s.limits.ping_interval = Duration::ZERO;
    });
    let mut healthy = server.client();
    healthy.subscribe(&["OTHER"], 1);
    (server, healthy)
}

/// A client that has stopped reading, and is known to.
fn stalled(server: &Server) -> Client {
    let mut stalled = server.client();
    stalled.subscribe(&["A", "B"], 1);
    let mut publisher = server.publisher();
    let deadline = Instant::now() + PATIENCE;
    loop {
        publisher.batch_counting(&["A", "B"], 1..2000);
        let report: Value = serde_json::from_str(&server.admin_get("/sessions").1).expect("JSON");
        if report["lagging"] == 1 && report["sessions"][0]["verdict"] == "client" {
            return stalled;
        }
        assert!(Instant::now() < deadline, "{report}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn once_shows_a_stalled_client_first_with_the_verdict_and_the_reason() {
    let (server, _healthy) = server();
    let stalled = stalled(&server);
    let (code, stdout, stderr) = run(&["top", "--once", "--url", &format!("http://{}", server.admin)], &[]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    println!("{stdout}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 80 && !line.contains('\x1b')), "{stdout}");
    assert!(lines[0].starts_with("tickcast ") && lines[0].ends_with("ready"), "{stdout}");
    assert!(lines[1].starts_with("clients  2 (2 json, 0 msgpack)  lagging 1"), "{stdout}");
    assert!(lines[2].starts_with("ticks    in ") && lines[2].contains("/s  out "), "rates, after two looks: {stdout}");
    assert_eq!((lines[3], lines[5]), ("feeds    1 live", "2 of 2 sessions by lag"), "{stdout}");
    let peer = stalled.tcp.local_addr().expect("connected").to_string();
    assert!(
        lines[7].starts_with("demo         ") && lines[7].contains(&peer) && lines[7].ends_with(" client"),
        "{stdout}"
    );
    assert!(lines[8].starts_with("  its receive window is closed: it has not been reading for "), "{stdout}");
    // On a busy machine its worker may be late just now.
    assert!(lines[9].ends_with(" ok") || lines[9].ends_with(" us"), "{stdout}");
    let (code, stdout, _) = run(&["top", "--top", "1", "--by", "merged", "--url", &server.admin.to_string()], &[]);
    assert_eq!(code, 0);
    assert!(stdout.contains("\n1 of 2 sessions by merged\n"), "no terminal, so once without being asked: {stdout}");
}

#[test]
fn nobody_there_is_told_with_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let (code, stdout, stderr) = run(&["top", "--url", &format!("http://{free}")], &[]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    for part in ["cannot reach the admin port", &free.to_string(), "Is tickcast running?", "admin=HOST:PORT", "--url"] {
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
    let (code, _, stderr) = run(&["top", "--url", "https://127.0.0.1:9464"], &[]);
    assert_eq!(code, 2);
    assert!(stderr.contains("no TLS") && stderr.contains("http://HOST:PORT"), "{stderr}");
    let (server, _healthy) = server();
    let (code, _, stderr) = run(&["top", "--url", &format!("http://{}", server.ws)], &[]);
    assert_eq!(code, 1);
    assert!(stderr.contains(&server.ws.to_string()) && stderr.contains("/metrics answered 4"), "{stderr}");
}

/// Pieces of a screen on their way to the test.
const SHOWN_MAX: usize = 1000;

/// `tickcast top` on a terminal of 100 columns and 30 rows.
struct Terminal {
    child: Child,
    /// The user's side.
    keys: File,
    /// The program's side, to see how it was left.
    line: File,
    shown: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn start(server: &Server, env: &[(&str, &str)]) -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&user).expect("ours");
        unlockpt(&user).expect("open");
        let name = ptsname(&user, Vec::new()).expect("a name");
        let name = std::ffi::OsStr::from_bytes(name.to_bytes());
        let line = OpenOptions::new().read(true).write(true).open(name).expect("its other side");
        tcsetwinsize(&line, Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
        let side = || Stdio::from(line.try_clone().expect("a copy"));
        let mut command = tickcast(&["top", "--url", &server.admin.to_string()], env);
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().expect("the program starts");
        let keys = File::from(user);
        let mut screen = keys.try_clone().expect("a copy");
        let (show, shown) = mpsc::sync_channel(SHOWN_MAX);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = screen.read(&mut bytes) {
                if show.send(bytes[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { child, keys, line, shown, seen: String::new() }
    }

    /// Reads until the screen has shown `part`.
    fn until(&mut self, part: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(part) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(_) => panic!("{part:?} was never shown: {:?}", self.seen),
            }
        }
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.line).expect("a terminal").local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SHOWN: &str = "\x1b[?1049h";
const GIVEN_BACK: &str = "\x1b[?25h\x1b[?1049l";

#[test]
fn on_a_terminal_it_refreshes_until_q_ctrl_c_or_sigterm_and_gives_the_terminal_back() {
    let (server, _healthy) = server();
    for end in ["q", "ctrl-c", "TERM"] {
        let mut top = Terminal::start(&server, &[]);
        assert!(!top.is_raw());
        // In colour.
        top.until("\x1b[32mok\x1b[0m");
        assert!(top.seen.contains(SHOWN) && top.is_raw(), "{:?}", top.seen);
        // The second look has rates.
        top.until("ticks    in 0/s");
        match end {
            "q" => top.keys.write_all(b"xq").expect("typed"),
            // The terminal makes a signal of it for whoever is in the foreground; without a session of its own, we send it.
            signal => {
                let name = if signal == "TERM" { "-TERM" } else { "-INT" };
                let id = top.child.id().to_string();
                assert!(std::process::Command::new("kill").args([name, &id]).status().expect("kill").success());
            }
        }
        top.until(GIVEN_BACK);
        assert_eq!(top.child.wait().expect("ended").code(), Some(0), "{end}");
        assert!(!top.is_raw(), "{end}: the terminal is as it was");
    }
}

#[test]
fn no_color_is_respected_and_a_server_that_goes_away_is_waited_for() {
    let (server, healthy) = server();
    let mut top = Terminal::start(&server, &[("NO_COLOR", "1")]);
    top.until(" ok");
    assert!(!top.seen.contains("\x1b[3") && !top.seen.contains("\x1b[1m"), "{:?}", top.seen);
    drop(healthy);
    assert!(server.stop());
    top.until("trying again: cannot reach the admin port");
    top.keys.write_all(b"q").expect("typed");
    top.until(GIVEN_BACK);
    assert_eq!(top.child.wait().expect("ended").code(), Some(0));
}
