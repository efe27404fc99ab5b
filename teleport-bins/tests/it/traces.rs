//! Traces, read by OpenTelemetry's own definition of what a collector is sent.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::daemon::{Machine, Process, Services, fixed_port};
use crate::support::program::{own, run, run_with};
use crate::support::user::User;
use crate::support::{own_login, wait_for};

/// Takes what comes by HTTP, as it came and as a line for each span.
const COLLECTOR: &str = r#"
import http.server, json, sys
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
lines, raw = open(sys.argv[1], 'a', buffering=1), open(sys.argv[2], 'ab', buffering=0)
def named(attributes):
    values = {}
    for one in attributes:
        values[one.key] = getattr(one.value, one.value.WhichOneof('value'))
    return values
class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        raw.write(body)
        assert self.path == '/v1/traces' and self.headers['content-type'] == 'application/x-protobuf'
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                lines.write(json.dumps({'name': span.name, 'trace': span.trace_id.hex(), 'id': span.span_id.hex(),
                    'parent': span.parent_span_id.hex(), 'kind': span.kind, 'failed': span.status.code == 2,
                    'took': span.end_time_unix_nano - span.start_time_unix_nano, 'of': named(resource.resource.attributes),
                    'events': len(span.events), 'at': named(span.attributes)}) + '\n')
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header('content-type', 'application/x-protobuf')
        self.send_header('content-length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Collector)
print(server.server_port, flush=True)
server.serve_forever()
"#;

struct Collector {
    child: Child,
    port: u16,
    lines: PathBuf,
    raw: PathBuf,
}

impl Collector {
    fn start(machine: &Machine) -> Self {
        let (lines, raw) = (machine.path("spans"), machine.path("raw"));
        let mut command = Command::new("python-otlp");
        command.args(["-c", COLLECTOR]).arg(&lines).arg(&raw);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python-otlp is not installed; .ci/test installs it");
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { child, port: port.trim().parse().unwrap(), lines, raw }
    }

    /// All that came so far. The last line may not be whole yet.
    fn spans(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.lines).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All services in one process, whose spans go to this port.
fn start(machine: &Machine, port: u16) -> (Process, [u16; 2]) {
    let [web, ssh] = [(); 2].map(|()| fixed_port());
    let services = Services { auth: Some(0), proxy: Some((web, ssh)), node: Some((0, "")) };
    machine.configure("all", "", &services.yaml());
    let daemon = machine.start_with("all", &[], |command| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"));
        command.env("OTEL_BSP_SCHEDULE_DELAY", "100");
    });
    machine.wait_for_nodes("all", 1);
    (daemon, [web, ssh])
}

/// A user who logs in and runs something; returns the secrets of it.
fn session(machine: &Machine, web: u16) -> Vec<String> {
    let home = machine.path("home");
    let printed = machine.tctl("all", &["users", "add", "alice", &format!("--logins={}", own_login())]);
    let mut alice = User::accept("alice", &printed.clean(), &home);
    let tsh = |arguments: &[&str]| {
        let mut command = own("tsh");
        command.env("TELEPORT_HOME", &home).args(arguments);
        command
    };
    let proxy = format!("--proxy=127.0.0.1:{web}");
    // A password in the place of the name: it is nobody's name, and must not get out.
    let mut wrong = tsh(&["login", &proxy]);
    wrong.arg("--user=correct-horse-nobody");
    assert!(!run_with(wrong, format!("{}\n123456\n", alice.password).as_bytes()).status.success());
    let login = alice.login(tsh(&["login", &proxy]));
    assert!(login.status.success(), "{login:?}");
    let said = run(tsh(&["ssh", &format!("{}@all", own_login()), "echo", "planted-$((40 + 2))"]));
    assert_eq!(said.out(), "planted-42\n", "{said:?}");
    vec![alice.password, alice.app.secret, "correct-horse-nobody".to_owned(), "planted-".to_owned()]
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

#[test]
fn a_login_and_a_session_are_seen_by_a_collector() {
    let machine = Machine::new();
    let collector = Collector::start(&machine);
    let (daemon, [web, _]) = start(&machine, collector.port);
    let secrets = session(&machine, web);
    // What is left is sent at the end.
    daemon.stop();
    let spans = collector.spans();
    let by_id: HashMap<&str, &Value> = spans.iter().map(|span| (text(span, "id"), span)).collect();
    let named = |name: &str| spans.iter().filter(|span| span["name"] == name).collect::<Vec<_>>();
    let above = |span: &Value| by_id.get(text(span, "parent")).copied();
    let called = |span: &&&Value, operation: &str| text(&span["at"], "operation") == operation;

    // The proxy asks, the auth service answers, and what that does is below it: one trace.
    let logins = named("login");
    assert_eq!(logins.len(), 2, "{logins:?}");
    for login in &logins {
        let call = above(login).expect("a login is part of a call");
        assert!(call["name"] == "call" && call["kind"] == 2, "{call}");
        let request = above(call).expect("a call is part of a request");
        assert!(request["name"] == "request" && request["kind"] == 3, "{request}");
        assert!(called(&&request, "login") && called(&&call, "login"), "{request} {call}");
        assert_eq!([&call["trace"], &request["trace"]], [&login["trace"]; 2]);
        assert!(login["took"].as_u64() <= request["took"].as_u64(), "{login} {request}");
    }
    let failed = named("call").into_iter().filter(|call| called(&call, "login") && call["failed"] == true);
    assert_eq!(failed.map(|call| text(&call["at"], "error.type")).collect::<Vec<_>>(), ["Denied"]);
    assert!(named("commit").iter().any(|commit| above(commit).is_some_and(|above| above["name"] == "login")));
    let mut joined: Vec<_> = named("join").iter().map(|join| text(&join["at"], "role").to_owned()).collect();
    joined.sort_unstable();
    assert_eq!(joined, ["auth", "node", "proxy"]);
    let dials: Vec<_> = named("dial").iter().map(|dial| text(&dial["at"], "node").to_owned()).collect();
    assert_eq!(dials, ["all"]);
    let sessions = named("session");
    let of = |span: &Value| [text(&span["at"], "user").to_owned(), text(&span["at"], "login").to_owned()];
    assert_eq!(sessions.iter().map(|span| of(span)).collect::<Vec<_>>(), [["alice".to_owned(), own_login()]]);

    for span in &spans {
        assert_eq!([&span["of"]["service.name"], &span["of"]["host.name"]], ["teleport", "all"], "{span}");
        assert_eq!(span["events"], 0, "lines of the log are none of it: {span}");
    }
    assert_eq!(one_time_codes(&spans), Vec::<String>::new());
    let raw = std::fs::read(&collector.raw).unwrap();
    for secret in secrets {
        assert!(!contains(&raw, secret.as_bytes()), "{secret}");
    }
    assert!(contains(&raw, b"alice"), "what is looked through holds text");
}

/// What is in spans and could be a code.
fn one_time_codes(spans: &[Value]) -> Vec<String> {
    let attributes = spans.iter().filter_map(|span| span["at"].as_object()).flat_map(|at| at.values());
    let texts = attributes.filter_map(Value::as_str);
    texts
        .filter(|text| text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn lines_about_it(log: &Path) -> usize {
    let logged = std::fs::read_to_string(log).unwrap();
    logged.lines().filter(|line| line.contains("the collector of traces takes none")).count()
}

#[test]
fn a_collector_that_is_away_ends_nothing_and_is_told_of_once() {
    let machine = Machine::new();
    // It listens, and nobody accepts: connections are made, and nothing is ever answered.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (daemon, [web, _]) = start(&machine, silent.local_addr().unwrap().port());
    session(&machine, web);
    daemon.stop();

    // Nobody listens at all.
    drop(silent);
    let (daemon, _) = start(&machine, fixed_port());
    wait_for("the log to tell", || (lines_about_it(&daemon.log) > 0).then_some(()));
    machine.tctl("all", &["tokens", "add", "--type=node"]).clean();
    let log = daemon.log.clone();
    daemon.stop();
    assert_eq!(lines_about_it(&log), 1, "it is told once");
}

#[test]
fn a_protocol_that_is_not_spoken_is_refused() {
    let machine = Machine::new();
    let services = Services { auth: Some(0), proxy: None, node: None };
    machine.configure("all", "", &services.yaml());
    let mut command = own("teleport");
    command.arg("start").arg("-c").arg(machine.path("all.yaml"));
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let line = run(command).refusal();
    assert!(line.contains("OTEL_EXPORTER_OTLP_PROTOCOL") && line.contains("use http/protobuf"), "{line}");
}
