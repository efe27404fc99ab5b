//! What a daemon answers about itself: as load balancers and Prometheus ask.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use crate::support::daemon::{Machine, Process, Services, fixed_port};
use crate::support::pebble::self_signed;
use crate::support::wait_for;

const ALL: Services<'static> = Services { auth: Some(0), proxy: Some((0, 0)), node: Some((0, "")) };
const FREE: &str = "--diag-addr=127.0.0.1:0";

/// What comes back: head and body.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

pub(crate) fn get(address: SocketAddr, path: &str) -> (String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n"))
}

pub(crate) fn readiness(address: SocketAddr) -> (String, serde_json::Value) {
    let (head, body) = get(address, "/readyz");
    (head.lines().next().unwrap().to_owned(), serde_json::from_str(&body).unwrap())
}

pub(crate) fn diagnostics(daemon: &Process) -> SocketAddr {
    daemon.address("diagnosis")
}

/// The names with kind and labels that a parser of others finds in the figures.
fn figures(page: &str) -> Vec<(String, String, serde_json::Value, f64)> {
    let script = "import json, sys\n\
                  from prometheus_client.openmetrics.parser import text_string_to_metric_families\n\
                  for family in text_string_to_metric_families(sys.stdin.read()):\n\
                  \x20   for sample in family.samples: print(json.dumps([sample.name, family.type, sample.labels, sample.value]))\n";
    let mut judge = Command::new("python-openmetrics")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python-openmetrics is not installed; .ci/test installs it");
    judge.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = judge.wait_with_output().unwrap();
    assert!(output.status.success(), "{page}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The rows of the manual's table: name and kind.
fn documented() -> Vec<(String, String)> {
    let manual = include_str!("../../../teleport-core/src/manual/diagnostics.md");
    let rows = manual.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let (name, kind) = (cells.next()?.trim_end_matches('`'), cells.next()?);
        // Other tables are of paths and of traces.
        ["counter", "gauge", "histogram"].contains(&kind).then(|| (name.to_owned(), kind.to_owned()))
    });
    rows.collect()
}

#[test]
fn a_daemon_that_serves_says_so_with_its_figures() {
    let machine = Machine::new();
    let (key, chain) = (machine.path("web.key"), machine.path("web.pem"));
    self_signed(&key, &chain, "DNS:proxy.example.com");
    let pairs =
        format!("  https_keypairs: [{{key_file: {}, cert_file: {}}}]\n", key.display(), chain.display());
    let services =
        ALL.yaml().replace("  local_addresses: yes\n", &format!("  local_addresses: yes\n{pairs}"));
    machine.configure("all", "", &services);
    let daemon = machine.start("all", &[FREE]);
    machine.wait_for_nodes("all", 1);
    let address = diagnostics(&daemon);
    assert!(get(address, "/healthz").0.starts_with("HTTP/1.1 200"));
    // A service may have heard of the node before it knows whom to trust.
    let (_, ready) = wait_for("the daemon to be ready", || {
        let (status, ready) = readiness(address);
        assert_eq!(status.contains("200"), ready["status"] == "ready", "{status} {ready}");
        (ready["status"] == "ready").then_some((status, ready))
    });
    let names: Vec<_> = ready["services"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["auth", "proxy-web", "proxy-ssh", "proxy-tunnel", "proxy-auth", "node"]);

    wait_for("the proxy to know the node", || {
        (figure(address, "teleport_nodes", "proxy-ssh") == 1.0).then_some(())
    });
    let (head, page) = get(address, "/metrics");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    let figures = figures(&page);
    let of_family = |(name, kind): (&String, &String)| {
        // A histogram is several of them.
        let parts = ["_bucket", "_count", "_sum"].iter().filter(|_| kind == "histogram");
        let base = parts.filter_map(|part| name.strip_suffix(part)).next();
        (base.unwrap_or(name).to_owned(), kind.clone())
    };
    let mut seen: Vec<_> = figures.iter().map(|(name, kind, ..)| of_family((name, kind))).collect();
    seen.dedup();
    assert_eq!(seen, documented(), "the manual and the figures");
    let of = |name: &str, service: &str| {
        let found = figures.iter().find(|one| one.0 == name && one.2["service"] == service);
        found.unwrap_or_else(|| panic!("{name} of {service}: {page}")).3
    };
    assert!(of("teleport_connections_accepted_total", "auth") >= 1.0, "{page}");
    assert_eq!(of("teleport_sessions", "node"), 0.0);
    assert_eq!(of("teleport_nodes", "proxy-ssh"), 1.0);
    assert_eq!(of("teleport_tunnels", "proxy-web"), 0.0);
    let of_call = |name: &str, operation: &str| {
        let found = figures.iter().find(|one| one.0 == name && one.2["operation"] == operation);
        found.unwrap_or_else(|| panic!("{name} of {operation}: {page}")).3
    };
    assert!(of_call("teleport_api_calls_total", "announce_node") >= 1.0, "{page}");
    assert!(of_call("teleport_api_call_duration_seconds_count", "announce_node") >= 1.0, "{page}");
    assert_eq!(of_call("teleport_api_watches", "watch_nodes"), 1.0);
    assert!(of_call("teleport_storage_duration_seconds_count", "commit") >= 1.0, "{page}");
    assert_eq!(of("teleport_view_silence_seconds", "node"), 0.0);
    let left = of("teleport_certificate_left_seconds", "proxy-ssh");
    assert!((0.0..=7.0 * 86_400.0).contains(&left), "{left}");
    let own = |name: &str| figures.iter().find(|one| one.0 == name).unwrap().3;
    assert!(own("process_resident_memory_bytes") > 1e6 && own("process_open_fds") > 3.0, "{page}");
    daemon.stop();
}

#[test]
fn a_silent_auth_service_is_told_and_makes_nobody_unready() {
    let machine = Machine::new();
    let port = fixed_port();
    machine.configure("auth", "", &Services { auth: Some(port), proxy: None, node: None }.yaml());
    let auth = machine.start("auth", &[]);
    let (token, pin) = machine.token("auth", &["--type=node"]);
    let server = format!("  auth_server: 127.0.0.1:{port}\n");
    machine.configure("node", &server, &Services { auth: None, proxy: None, node: Some((0, "")) }.yaml());
    let node = machine.start("node", &[FREE, &format!("--token={token}"), &format!("--ca-pin={pin}")]);
    machine.wait_for_nodes("auth", 1);
    let address = diagnostics(&node);
    wait_for("the node to be ready", || (readiness(address).1["status"] == "ready").then_some(()));
    auth.kill();
    wait_for("the silence", || {
        let (status, ready) = readiness(address);
        assert!(status.contains("200") && ready["status"] == "ready", "{ready}");
        (ready["services"][0]["silence"].as_u64().unwrap() >= 1).then_some(())
    });
    // Who has never heard of anybody to trust can let nobody in.
    node.stop();
    let node = machine.start("node", &[FREE]);
    let (status, ready) = readiness(diagnostics(&node));
    assert!(status.contains("503") && ready["status"] == "unready", "{ready}");
    let reason = ready["services"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("the auth service has not answered since the start"), "{reason}");
    assert!(get(diagnostics(&node), "/healthz").0.starts_with("HTTP/1.1 200"));
}

/// A figure of a service, as it stands on the page.
pub(crate) fn figure(address: SocketAddr, name: &str, service: &str) -> f64 {
    let page = get(address, "/metrics").1;
    let begin = format!("{name}{{service=\"{service}\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&begin));
    line.unwrap_or_else(|| panic!("{begin}: {page}")).parse().unwrap()
}

#[test]
fn what_a_proxy_knows_of_nodes_has_an_age() {
    let machine = Machine::new();
    let port = fixed_port();
    machine.configure("auth", "", &Services { auth: Some(port), proxy: None, node: None }.yaml());
    let auth = machine.start("auth", &[]);
    let (token, pin) = machine.token("auth", &["--type=proxy"]);
    let server = format!("  auth_server: 127.0.0.1:{port}\n");
    let services = Services { auth: None, proxy: Some((0, 0)), node: None };
    machine.configure("proxy", &server, &services.yaml());
    let proxy = machine.start("proxy", &[FREE, &format!("--token={token}"), &format!("--ca-pin={pin}")]);
    let address = diagnostics(&proxy);
    let silence = || figure(address, "teleport_nodes_silence_seconds", "proxy-ssh");
    wait_for("the first list", || (silence() == 0.0).then_some(()));
    auth.kill();
    wait_for("the silence", || (silence() > 0.0).then_some(()));
    let _auth = machine.start("auth", &[]);
    wait_for("the list again", || (silence() == 0.0).then_some(()));
}

#[test]
fn a_daemon_is_watched_from_a_terminal() {
    let machine = Machine::new();
    machine.configure("all", "", &ALL.yaml());
    let daemon = machine.start("all", &[FREE]);
    machine.wait_for_nodes("all", 1);
    let at = format!("--diag-addr=http://{}/", diagnostics(&daemon));
    let sample = wait_for("the proxy to know the node", || {
        let sample = machine.tctl("all", &["top", &at, "--interval=1s", "--format=json"]).clean();
        let sample: serde_json::Value = serde_json::from_str(&sample).unwrap();
        (sample["nodes"] == 1).then_some(sample)
    });
    assert!(sample["memory_bytes"].as_u64().unwrap() > 1_000_000, "{sample}");
    assert_eq!(sample["sessions"], 0, "{sample}");
    assert_eq!(sample["watches"]["watch_nodes"], 1, "{sample}");
    let names = |of: &str| {
        let calls = sample[of].as_array().unwrap().iter();
        calls.map(|call| call["operation"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("storage"), ["commit", "get", "range", "watch"]);
    assert!(names("calls").contains(&"announce_node".to_owned()), "{sample}");
    // Where no terminal shows it, text is one sample as well.
    let text = machine.tctl("all", &["top", &at, "--interval=1s"]).clean();
    assert!(text.contains("Memory") && text.contains("announce_node"), "{text}");

    let wrong = |arguments: &[&str]| {
        let output = machine.tctl("all", &[&["top"], arguments].concat());
        assert!(!output.status.success());
        output.stderr
    };
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let line = wrong(&[&format!("--diag-addr={nobody}")]);
    assert!(line.contains("no diagnostics at") && line.contains("--diag-addr"), "{line}");
    assert!(wrong(&["--diag-addr=here"]).contains("host:port"));
    assert!(wrong(&[&at, "--interval=0s"]).contains("longer than nothing"));
    let auth = format!("--diag-addr={}", daemon.address("auth"));
    wrong(&[&auth]);
    daemon.stop();
}

#[test]
fn the_inventory_has_what_there_is_and_its_version() {
    let machine = Machine::new();
    machine.configure("all", "", &ALL.yaml());
    let daemon = machine.start("all", &[]);
    machine.wait_for_nodes("all", 1);
    let list = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let fixed = ["inventory", "ls", "--format=json"];
        serde_json::from_str(&machine.tctl("all", &[&fixed, arguments].concat()).clean()).unwrap()
    };
    let both = wait_for("the proxy and the node", || Some(list(&[])).filter(|found| found.len() == 2));
    let of = |service: &str| both.iter().find(|one| one["service"] == service).unwrap();
    for service in ["node", "proxy"] {
        assert!(of(service)["online"] == true && of(service)["version"].is_string(), "{both:?}");
        let alone = list(&[&format!("--services={service}")]);
        assert_eq!(alone.len(), 1);
        assert_eq!(alone[0]["host_id"], of(service)["host_id"]);
    }
    let version = of("node")["version"].as_str().unwrap();
    assert_eq!(list(&[&format!("--version-is={version}")]).len(), 2);
    assert!(list(&[&format!("--version-is-not={version}")]).is_empty());
    assert!(list(&["--silent-for=1h"]).is_empty() && list(&["--services=openssh"]).is_empty());
    let text = machine.tctl("all", &["inventory", "ls"]).clean();
    assert!(text.contains("Service") && text.contains(of("proxy")["host_id"].as_str().unwrap()), "{text}");
    daemon.stop();
}

#[test]
fn what_is_no_question_is_answered_shortly() {
    let machine = Machine::new();
    machine.configure("all", "", &ALL.yaml());
    let daemon = machine.start("all", &[FREE]);
    let address = diagnostics(&daemon);
    for (request, code, part) in [
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "405", "allow: GET, HEAD"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404", "/healthz, /readyz and /metrics"),
        ("GET /metrics/../healthz HTTP/1.1\r\nHost: x\r\n\r\n", "404", "/healthz"),
        ("nonsense\r\n\r\n", "400", ""),
    ] {
        let (head, body) = ask(address, request);
        assert!(head.starts_with(&format!("HTTP/1.1 {code}")), "{request}: {head}");
        assert!(head.contains(part) || body.contains(part), "{request}: {head}\n{body}");
    }
    let (head, body) = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}");
    // Those who say nothing take the places of others like them, and go in a few seconds.
    let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    wait_for("an answer after the silent ones", || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
    drop(silent);
    daemon.stop();
}

#[test]
fn a_port_that_cannot_be_had_is_named() {
    let machine = Machine::new();
    machine.configure("all", "", &ALL.yaml());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let line = machine.cannot_start("all", &[&format!("--diag-addr={address}")]);
    assert!(line.contains("diagnostics") && line.contains(&address.to_string()), "{line}");
    let line = machine.cannot_start("all", &["--diag-addr=3000"]);
    assert!(line.contains("diag_addr") && line.contains("127.0.0.1:3000"), "{line}");
    machine.configure("all", "  diag_addr: nowhere\n", &ALL.yaml());
    assert!(machine.cannot_start("all", &[]).contains("nowhere"));
    // It is said that nobody has to log in.
    machine.configure("all", "  diag_addr: 0.0.0.0:0\n", &ALL.yaml());
    let daemon = machine.start("all", &[]);
    assert!(daemon.logged().contains("nobody has to log in"), "{}", daemon.logged());
    daemon.stop();
}
