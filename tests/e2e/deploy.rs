//! The files of `examples/deploy` in the programs they are for: nginx before a server, systemd's own check of the unit.

use crate::process::{Folder, PATIENCE, Running, Server, root};
use crate::python::python;
use crate::support::Publisher;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

fn example(name: &str) -> String {
    std::fs::read_to_string(root().join("examples/deploy").join(name)).expect("an example")
}

/// Logs in through TLS, subscribes, and prints the price of the first tick.
const CLIENT: &str = r#"
import json, ssl, sys, websocket
ws = websocket.create_connection(sys.argv[1], sslopt={"cert_reqs": ssl.CERT_NONE, "check_hostname": False}, timeout=20)
def ask(message):
    ws.send(json.dumps(message))
    return json.loads(ws.recv())
print(ask({"action": "authenticate", "api_key": "demo-key"})["status"], flush=True)
print(ask({"action": "subscribe", "symbols": [{"symbol": "INFY", "exchange": "NSE"}], "mode": 1})["status"], flush=True)
print(json.loads(ws.recv())["data"]["ltp"], flush=True)
"#;

#[test]
fn the_example_for_nginx_carries_tls_clients_to_the_server() {
    let server = Server::anywhere(&[]);
    let folder = Folder::new("nginx");
    let at = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (cert, key) =
        (folder.file("cert.pem", &made.cert.pem()), folder.file("key.pem", &made.signing_key.serialize_pem()));
    let site = example("nginx.conf")
        .replace("listen 443 ssl", &format!("listen {at} ssl"))
        .replace("/etc/ssl/ticks.example.org.pem", cert.to_str().expect("UTF-8"))
        .replace("/etc/ssl/ticks.example.org.key", key.to_str().expect("UTF-8"))
        .replace("127.0.0.1:8765", &server.ws.to_string());
    let site = folder.file("site.conf", &site);
    let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {};\n", folder.path(what)))
        .collect();
    let main = format!(
        "daemon off;\nmaster_process off;\npid {};\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{places}include {};\n}}\n",
        folder.path("pid"),
        site.display()
    );
    let main = folder.file("main.conf", &main);
    let mut nginx = Command::new("nginx");
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin");
    nginx.env("PATH", path).args(["-e", "stderr", "-p", folder.0.to_str().expect("UTF-8"), "-c"]).arg(main);
    let mut nginx = Running::new(nginx);
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(at).is_err() {
        if Instant::now() > deadline {
            nginx.kill();
            panic!("nginx does not listen: {}", nginx.stderr());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let mut client = Command::new(python());
    client.args(["-c", CLIENT, &format!("wss://{at}/")]);
    let mut client = Running::new(client);
    assert_eq!([client.line(), client.line()], ["success", "success"]);
    Publisher::connect(server.bus.strip_prefix("tcp://").expect("tcp")).ltp("INFY", 1573.15);
    assert_eq!(client.line(), "1573.15");
}

#[test]
fn systemd_takes_the_unit_as_it_is_and_finds_it_well_guarded() {
    let folder = Folder::new("unit");
    // systemd looks whether the program is there.
    let unit = example("tickcast.service").replace("/usr/local/bin/tickcast", env!("CARGO_BIN_EXE_tickcast"));
    let unit = folder.file("tickcast.service", &unit);
    let analyze = |args: &[&str]| {
        let done = Command::new("systemd-analyze").args(args).arg(&unit).output().expect("systemd-analyze");
        let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{args:?}: {text}");
        text
    };
    assert_eq!(analyze(&["verify", "--man=no"]), "", "no warning");
    // Tenths of exposure: 1.5 today.
    analyze(&["security", "--offline=true", "--threshold=15"]);
}
