//! Every kind of channel and of request, asked of a node and of a proxy by everybody: two tables, measured over the wire with a
//! client that asks for anything.
//!
//! Whatever the SSH library hands to one of our two handlers is asked for here: a callback that is written and not asked for fails
//! [`every_callback_is_asked_for`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ring::signature::Ed25519KeyPair;
use teleport_bins::daemon::Os;
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::HostRole;
use teleport_ssh::identity::IdentityStore;

use crate::golden::Table;
use crate::support::cluster::TestCluster;
use crate::support::own_login;
use crate::support::program::{self, run_with};
use crate::support::wire::{Holder, Message, Wire};

/// Where nobody was before: what one connection earns is not the next one's.
fn source() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0x8000);
    NEXT.fetch_add(1, Ordering::SeqCst)
}

/// The system's clock, and later a minute and a half ahead of it.
#[derive(Debug)]
struct Ahead(SystemClock, AtomicBool);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        let ahead = if self.1.load(Ordering::SeqCst) { 90 } else { 0 };
        self.0.now().saturating_add(Duration::from_secs(ahead))
    }
}

macro_rules! asks {
    ($($ask:ident $name:literal $callback:literal;)*) => {
        /// What is asked for: the rows.
        #[derive(Clone, Copy, Debug, PartialEq)]
        enum Ask { $($ask,)* }

        impl Ask {
            const ALL: &[Self] = &[$(Self::$ask,)*];

            const fn name(self) -> &'static str {
                match self { $(Self::$ask => $name,)* }
            }

            /// The callback of the handlers that hears it; empty if the library answers by itself.
            const fn callback(self) -> &'static str {
                match self { $(Self::$ask => $callback,)* }
            }
        }
    };
}

asks! {
    // On a session channel.
    Session           "session"                           "channel_open_session";
    Shell             "  shell"                           "shell_request";
    Exec              "  exec"                            "exec_request";
    Pty               "  pty-req"                         "pty_request";
    Env               "  env LC_TEST"                     "env_request";
    EnvBad            "  env LD_PRELOAD"                  "env_request";
    X11               "  x11-req"                         "x11_request";
    Agent             "  auth-agent-req"                  "agent_request";
    WindowChange      "  window-change"                   "window_change_request";
    Signal            "  signal"                          "signal";
    Sftp              "  subsystem sftp"                  "subsystem_request";
    Proxy             "  subsystem proxy:node:0"          "subsystem_request";
    ProxyHost         "  subsystem proxy:127.0.0.2:22"    "subsystem_request";
    ProxyAuth         "  subsystem proxy:@test.local"     "subsystem_request";
    Subsystem         "  subsystem nonesuch"              "subsystem_request";
    Request           "  nonesuch"                        "";
    // Other channels.
    DirectNode        "direct-tcpip node:22"              "channel_open_direct_tcpip";
    DirectAuth        "direct-tcpip 127.0.0.1:auth"       "channel_open_direct_tcpip";
    DirectMetadata    "direct-tcpip 169.254.169.254:80"   "channel_open_direct_tcpip";
    DirectUnix        "direct-streamlocal"                "channel_open_direct_streamlocal";
    ForwardedTcp      "forwarded-tcpip"                   "channel_open_forwarded_tcpip";
    ForwardedUnix     "forwarded-streamlocal"             "";
    OpenX11           "x11"                               "channel_open_x11";
    OpenAgent         "auth-agent"                        "";
    Tunnel            "tun"                               "";
    Unknown           "nonesuch"                          "";
    // Of the connection.
    ForwardTcp        "tcpip-forward"                     "tcpip_forward";
    CancelTcp         "cancel-tcpip-forward"              "cancel_tcpip_forward";
    ForwardUnix       "streamlocal-forward"               "streamlocal_forward";
    CancelUnix        "cancel-streamlocal-forward"        "cancel_streamlocal_forward";
    Global            "nonesuch@example.com"              "";
}

/// Callbacks by which nothing is asked for: how a client proves who it is (rows A1 to A5 are about that), what follows on a
/// channel that is open, its end.
const NO_ASKS: [&str; 11] = [
    "auth_keyboard_interactive",
    "auth_none",
    "auth_openssh_certificate",
    "auth_password",
    "auth_publickey",
    "auth_publickey_offered",
    "auth_succeeded",
    "channel_close",
    "channel_eof",
    "data",
    "window_adjusted",
];

impl Ask {
    /// The whole message, and what asks for more of it: a request stands on a session channel of its own.
    fn message(self, world: &World) -> Message {
        let open = |kind: &str| Message::new(90).string(kind).number(0).number(1 << 20).number(32 << 10);
        let direct = |host: &str, port: u16| {
            open("direct-tcpip").string(host).number(port.into()).string("127.0.0.1").number(1)
        };
        let request = |kind: &str| Message::new(98).number(0).string(kind).raw(&[1]);
        let global = |kind: &str| Message::new(80).string(kind).raw(&[1]);
        match self {
            Self::Session => open("session"),
            Self::Shell => request("shell"),
            Self::Exec => request("exec").string("true"),
            Self::Pty => {
                request("pty-req").string("xterm").number(80).number(25).number(0).number(0).string([0])
            }
            Self::Env => request("env").string("LC_TEST").string("C"),
            Self::EnvBad => request("env").string("LD_PRELOAD").string("/tmp/x.so"),
            Self::X11 => request("x11-req").raw(&[0]).string("MIT-MAGIC-COOKIE-1").string("00").number(0),
            Self::Agent => request("auth-agent-req@openssh.com"),
            Self::WindowChange => request("window-change").number(80).number(25).number(0).number(0),
            Self::Signal => request("signal").string("TERM"),
            Self::Sftp => request("subsystem").string("sftp"),
            Self::Proxy => request("subsystem").string("proxy:node:0"),
            Self::ProxyHost => request("subsystem").string("proxy:127.0.0.2:22"),
            Self::ProxyAuth => request("subsystem").string("proxy:@test.local"),
            Self::Subsystem => request("subsystem").string("nonesuch"),
            Self::Request => request("nonesuch@example.com"),
            Self::DirectNode => direct("node", 22),
            Self::DirectAuth => direct("127.0.0.1", world.cluster.auth().port()),
            Self::DirectMetadata => direct("169.254.169.254", 80),
            Self::DirectUnix => {
                open("direct-streamlocal@openssh.com").string("/run/docker.sock").string("").number(0)
            }
            Self::ForwardedTcp => {
                open("forwarded-tcpip").string("127.0.0.1").number(80).string("127.0.0.1").number(1)
            }
            Self::ForwardedUnix => open("forwarded-streamlocal@openssh.com").string("/tmp/x").string(""),
            Self::OpenX11 => open("x11").string("127.0.0.1").number(6000),
            Self::OpenAgent => open("auth-agent@openssh.com"),
            Self::Tunnel => open("tun@openssh.com").number(1).number(0),
            Self::Unknown => open("nonesuch"),
            Self::ForwardTcp => global("tcpip-forward").string("127.0.0.1").number(0),
            Self::CancelTcp => global("cancel-tcpip-forward").string("127.0.0.1").number(4000),
            Self::ForwardUnix => {
                let path = world.cluster.dir().join("forwarded");
                global("streamlocal-forward@openssh.com").string(path.to_str().unwrap())
            }
            Self::CancelUnix => global("cancel-streamlocal-forward@openssh.com").string("/tmp/x"),
            Self::Global => global("nonesuch@example.com"),
        }
    }

    /// Asks, and says what became of it.
    fn ask(self, wire: &mut Wire, world: &World) -> &'static str {
        let message = self.message(world);
        let on_session = message.bytes[0] == 98;
        if on_session {
            wire.open_session(1 << 20);
        }
        wire.request(&message);
        if matches!(self, Self::Shell | Self::Sftp) {
            // A shell that has nothing to read ends, and so does a server.
            wire.send(&Message::new(96).number(0).bytes);
        }
        let runs = matches!(
            self,
            Self::Shell
                | Self::Exec
                | Self::Sftp
                | Self::Proxy
                | Self::ProxyHost
                | Self::ProxyAuth
                | Self::Subsystem
        );
        let leads = matches!(self, Self::DirectNode);
        if on_session && !runs {
            // Answered after whatever the request is answered with.
            wire.send(&Message::new(80).string("keepalive@openssh.com").raw(&[1]).bytes);
        }
        loop {
            let Some(answer) = wire.answer() else { return "cut" };
            match answer[0] {
                81 | 82 if on_session => return "silent",
                81 | 91 if !leads => return "ok",
                82 | 92 | 100 => return "-",
                99 if !runs => return "ok",
                // What was let through speaks SSH, or ends with a status.
                94 if answer[9..].starts_with(b"SSH-2.0-") => return "node",
                98 if holds(&answer, b"exit-status") => {
                    return if answer[answer.len() - 4..] == [0; 4] { "ok" } else { "-" };
                }
                _ => {}
            }
        }
    }
}

fn holds(message: &[u8], part: &[u8]) -> bool {
    message.windows(part.len()).any(|window| window == part)
}

/// Who asks: the columns.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Nobody,
    NoRole,
    OtherLogin,
    User,
    Editor,
    Auditor,
    Node,
    ProxyHost,
    Expired,
    Foreign,
    OtherKey,
}

impl Who {
    const ALL: [(Self, &str); 11] = [
        (Self::Nobody, "anon"),
        (Self::NoRole, "no-role"),
        (Self::OtherLogin, "other-login"),
        (Self::User, "user"),
        (Self::Editor, "editor"),
        (Self::Auditor, "auditor"),
        (Self::Node, "node"),
        (Self::ProxyHost, "proxy"),
        (Self::Expired, "expired"),
        (Self::Foreign, "foreign"),
        (Self::OtherKey, "other-key"),
    ];
}

const LEGEND: [&str; 11] = [
    "What is asked of an SSH server of the cluster once somebody has shown a certificate, and what becomes of it.",
    "  login   not let in; what is asked for all the same is not answered",
    "  ok      done",
    "  node    bytes of the node's own SSH",
    "  -       refused",
    "  silent  not answered; nothing happens",
    "  cut     the connection was ended",
    "`user` has the role access, one that denies 169.254.169.254, and the login that is asked for; `other-login` has the role and another login; editor, auditor and",
    "no-role have a certificate and no login. `node` and `proxy` show their host certificates, `expired` and `foreign` those of a user",
    "like `user`, `other-key` the certificate of `user` without its key. `env` and the channel's own requests are asked one by one, on a",
    "channel on which nothing runs.",
];

struct World {
    cluster: TestCluster,
    node: SocketAddr,
    _foreign: TestCluster,
    holders: Vec<(Who, Option<Holder>)>,
}

impl World {
    fn start() -> Self {
        let clock = Arc::new(Ahead(SystemClock::new(), AtomicBool::new(false)));
        let os = Os { clock: clock.clone(), entropy: Arc::new(SystemEntropy::new()) };
        let cluster = TestCluster::start_with(os);
        let node = cluster.add_node("node", "env=test");
        let foreign = TestCluster::start();
        let own = own_login();
        // Nothing leaves this machine because of these tests: a node connects to wherever the roles permit.
        let mut create = program::own("tctl");
        create.arg("--data-dir").arg(cluster.dir().join("cluster")).arg("create");
        let role = b"kind: role\nversion: v1\nmetadata: {name: no-metadata}\nspec: {deny: {permit_open: ['169.254.169.254:*']}}\n";
        run_with(create, role).clean();
        let user = |cluster: &TestCluster, name: &str, roles: &[&str], logins: &[&str]| {
            Holder::of(&cluster.user(name, roles, logins).dir)
        };
        let host = |dir: &str, role: HostRole| {
            let store = cluster.dir().join(dir).join("identity").join(role.as_str());
            let material = IdentityStore::open(&store).unwrap().load(role).unwrap().unwrap();
            Holder::new(&material.ssh, &material.ssh_certificate)
        };
        let expired = {
            let home = cluster.user_for("late", &["access"], &[&own], Some(60));
            Holder::of(&home.dir)
        };
        let holders = Who::ALL.map(|(who, _)| {
            let holder = match who {
                Who::Nobody => return (who, None),
                Who::NoRole => user(&cluster, "nobody", &[], &[]),
                Who::OtherLogin => user(&cluster, "other", &["access"], &["nonesuch"]),
                Who::User => user(&cluster, "alice", &["access", "no-metadata"], &[&own]),
                Who::Editor => user(&cluster, "erin", &["editor"], &[]),
                Who::Auditor => user(&cluster, "audrey", &["auditor"], &[]),
                Who::Node => host("node", HostRole::Node),
                Who::ProxyHost => host("cluster", HostRole::Proxy),
                Who::Expired => return (who, None),
                Who::Foreign => user(&foreign, "alice", &["access"], &[&own]),
                Who::OtherKey => return (who, None),
            };
            (who, Some(holder))
        });
        let mut holders = Vec::from(holders);
        // Its certificate, another key.
        let stolen = holders.iter().find(|(who, _)| *who == Who::User).unwrap().1.as_ref().unwrap();
        let stolen = Holder {
            key: Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap(),
            certificate: stolen.certificate.clone(),
        };
        holders.iter_mut().find(|(who, _)| *who == Who::OtherKey).unwrap().1 = Some(stolen);
        holders.iter_mut().find(|(who, _)| *who == Who::Expired).unwrap().1 = Some(expired);
        clock.1.store(true, Ordering::SeqCst);
        Self { cluster, node, _foreign: foreign, holders }
    }

    fn cell(&self, to: SocketAddr, holder: Option<&Holder>, ask: Ask) -> &'static str {
        let mut wire = Wire::connect(source(), to).exchange_keys().greeted();
        let let_in = holder.is_some_and(|holder| wire.log_in(&own_login(), holder) == 52);
        if let_in {
            return ask.ask(&mut wire, self);
        }
        if ask.message(self).bytes[0] == 98 {
            wire.send(&Ask::Session.message(self).bytes);
        }
        wire.request(&ask.message(self));
        let answers = wire.finish();
        assert!(answers.iter().all(|kind| matches!(kind, 1 | 3 | 51)), "{ask:?}: {answers:?}");
        "login"
    }

    fn table(&self, to: SocketAddr) -> Table {
        let mut table = Table::new(&LEGEND, "asked", 33, &Who::ALL.map(|(_, name)| name));
        for ask in Ask::ALL.iter().copied() {
            let cells: Vec<_> =
                self.holders.iter().map(|(_, holder)| self.cell(to, holder.as_ref(), ask)).collect();
            table.row(ask.name(), &cells);
        }
        table
    }
}

#[test]
fn c1_c3_matrix_of_ssh_at_the_node_and_at_the_proxy() {
    let world = World::start();
    world.table(world.node).is_golden("matrix-ssh-node.txt");
    world.table(world.cluster.ssh()).is_golden("matrix-ssh-proxy.txt");
}

/// Row C7: a proxy listens for nobody, and a node for whoever may log in, on the connection that asks; what another connection listens
/// on is not there to be ended. Read in the tables that are measured above.
#[test]
fn c7_nobody_ends_or_takes_the_listener_of_another() {
    let node = include_str!("../golden/matrix-ssh-node.txt");
    let proxy = include_str!("../golden/matrix-ssh-proxy.txt");
    for (table, listens) in [(node, true), (proxy, false)] {
        for (ask, may) in [
            (Ask::ForwardTcp, listens),
            (Ask::ForwardUnix, listens),
            (Ask::CancelTcp, false),
            (Ask::CancelUnix, false),
            (Ask::ForwardedTcp, false),
            (Ask::ForwardedUnix, false),
        ] {
            let row = table.lines().find_map(|line| line.strip_prefix(ask.name())).unwrap();
            let cells: Vec<&str> = row.split_whitespace().collect();
            assert_eq!(cells.len(), Who::ALL.len(), "{ask:?}: {cells:?}");
            for ((who, _), cell) in Who::ALL.iter().zip(cells) {
                let allowed = may && *who == Who::User;
                assert!(
                    if allowed { cell == "ok" } else { matches!(cell, "-" | "login") },
                    "{ask:?} {who:?}: {cell}"
                );
            }
        }
    }
}

/// A callback is where a kind of channel or request enters: none is written that nobody asks for here.
#[test]
fn every_callback_is_asked_for() {
    let asked: BTreeSet<&str> = Ask::ALL.iter().map(|ask| ask.callback()).chain(NO_ASKS).collect();
    for handler in [
        include_str!("../../../teleport-ssh/src/node/handler.rs"),
        include_str!("../../../teleport-ssh/src/proxy/handler.rs"),
    ] {
        let (_, callbacks) = handler.split_once("impl Handler for Connection").unwrap();
        let names: Vec<&str> = callbacks
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("async fn "))
            .filter_map(|rest| rest.split(['(', '<']).next())
            .collect();
        assert!(names.len() > 15, "{names:?}");
        for name in names {
            assert!(asked.contains(name) || name == "extended_data", "{name} has no row");
        }
    }
}
