//! The tickcast program as a child process: started on port 0, spoken to over its ports, ended by its handle.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod account;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Lines of stdout that wait to be read by the test; a child that writes more waits.
const LINES_MAX: usize = 100_000;

/// A folder of its own for one test, removed when dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        // Short, since the path of an ipc socket may have only 107 bytes.
        let path = std::env::temp_dir().join(format!("tc-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program with an environment of nothing but `PATH`: the one under test, or the one in `SERVER_BINARY`.
pub fn tickcast(args: &[&str], env: &[(&str, &str)]) -> Command {
    let program = std::env::var_os("SERVER_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_tickcast").into());
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(env.iter().copied()).stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Exit code, stdout, stderr of the program run to its end.
pub fn run(args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let mut child = Running::new(tickcast(args, env));
    let status = child.wait(PATIENCE);
    (status.code().expect("ended by itself"), child.rest_of_stdout(), child.stderr())
}

/// A child whose stdout and stderr are read as they come; killed when dropped.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    pub fn new(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let (sender, lines) = mpsc::sync_channel(LINES_MAX);
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut stderr = child.stderr.take().expect("piped");
        let stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Running { child, lines, stderr: Some(stderr) }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("piped, and taken once")
    }

    /// The next line of stdout; on its end or after `PATIENCE` a panic with what stderr says.
    pub fn line(&mut self) -> String {
        match self.line_within(PATIENCE) {
            Some(line) => line,
            None => {
                self.kill();
                panic!("no further line on stdout; stderr:\n{}", self.stderr());
            }
        }
    }

    pub fn line_within(&mut self, patience: Duration) -> Option<String> {
        self.lines.recv_timeout(patience).ok()
    }

    /// What stdout still holds, after the end.
    pub fn rest_of_stdout(&mut self) -> String {
        let mut text = String::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            text += &line;
            text += "\n";
        }
        text
    }

    /// All of stderr, after the end.
    pub fn stderr(&mut self) -> String {
        self.stderr.take().map(|thread| thread.join().expect("read")).unwrap_or_default()
    }

    /// Waits for the end; a child that is still there after `patience` fails the test.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            if Instant::now() > deadline {
                self.kill();
                panic!("still running after {patience:?}; stderr:\n{}", self.stderr());
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Open file descriptors, counted.
    pub fn fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("a living child").count()
    }

    /// Sends the named signal, e.g. `TERM`.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What [`again`] tells the child.
const WORDS: &str = "CHILD_WORDS";

/// This test binary once more as a process of its own: only its ignored test `name`, which finds these words in [`words`]. It is
/// to end with its stdin.
pub fn again(name: &str, words: &[&str]) -> (Running, ChildStdin) {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args([name, "--ignored", "--nocapture"]).env(WORDS, words.join(" ")).stdin(Stdio::piped());
    let mut child = Running::new(command);
    let stdin = child.stdin();
    (child, stdin)
}

/// What the child that we are was told.
pub fn words() -> Vec<String> {
    let words = std::env::var_os(WORDS).and_then(|words| words.into_string().ok()).expect("other tests start this");
    words.split(' ').map(str::to_owned).collect()
}

/// A running server.
pub struct Server {
    pub process: Running,
    /// The first line on stdout.
    pub ready: String,
    pub ws: SocketAddr,
    pub admin: SocketAddr,
    /// The bus endpoints, joined by commas.
    pub bus: String,
    /// The control channel.
    pub control: String,
}

/// Every port picked by the kernel; ticks from the bus.
pub const ANYWHERE: &[&str] = &["--listen", "127.0.0.1:0", "--set", "adapters.default=bus"];
/// The bus on a port picked by the kernel.
pub const ANY_BUS: &[&str] = &["--set", "bus.bind=tcp://127.0.0.1:0"];

impl Server {
    /// Starts with these arguments and variables, and reads the ready line.
    pub fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut process = Running::new(tickcast(args, env));
        let ready = process.line();
        let fields = ready_fields(&ready);
        let address = |name: &str| fields[name].parse().unwrap_or_else(|_| panic!("{name} in {ready}"));
        Server {
            ws: address("ws"),
            admin: address("admin"),
            bus: fields["bus"].clone(),
            control: fields["control"].clone(),
            process,
            ready,
        }
    }

    /// On ports of the kernel's choice, with more arguments.
    pub fn anywhere(more: &[&str]) -> Self {
        Self::start(&[ANYWHERE, ANY_BUS, more].concat(), &[])
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.ws)
    }

    /// The body of an admin page.
    pub fn page(&self, path: &str) -> String {
        let mut tcp = TcpStream::connect(self.admin).expect("the admin port listens");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(tcp, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin).expect("sent");
        let mut text = String::new();
        tcp.read_to_string(&mut text).expect("a response");
        text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}")).1.to_owned()
    }

    /// Sum of all series of the metric with this name whose line contains all of `parts`.
    pub fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        let text = self.page("/metrics");
        let named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let lines = text.lines().filter(named).filter(|line| parts.iter().all(|part| line.contains(part)));
        lines.map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).expect("a number")).sum()
    }

    /// Waits until the metric is `want`.
    pub fn await_metric(&self, name: &str, parts: &[&str], want: f64) {
        self.await_that(&format!("{name}{parts:?} is {want}"), || self.metric(name, parts) == want);
    }

    /// Waits until `holds`, looking again every few milliseconds.
    pub fn await_that(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "never: {what}\n{}", self.page("/metrics"));
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// SIGTERM; must end with 0 within 5 s. Gives stderr.
    pub fn stop(mut self) -> String {
        self.process.signal("TERM");
        let status = self.process.wait(Duration::from_secs(5));
        let stderr = self.process.stderr();
        assert_eq!(status.code(), Some(0), "{stderr}");
        stderr
    }
}

/// The fields of a ready line, whose form is checked to the letter.
pub fn ready_fields(line: &str) -> BTreeMap<String, String> {
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[..2], ["tickcast", "ready"], "{line}");
    let pairs: Vec<(&str, &str)> = words[2..].iter().map(|w| w.split_once('=').expect("name=value")).collect();
    let names: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["ws", "admin", "bus", "control", "pid"], "{line}");
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
