//! What one node may hand in of recordings.

use teleport_bins::daemon::Os;
use teleport_core::audit::EventKind;

use crate::support::cluster::TestCluster;
use crate::support::own_login;
use crate::support::program::run;
use crate::support::wait_for;

#[test]
fn what_is_beyond_the_limit_of_a_day_stays_on_the_node() {
    let cluster = TestCluster::start_as(Os::default(), |settings| {
        settings.auth.as_mut().unwrap().recordings.host_day_recordings = 2;
    });
    cluster.add_node("node", "");
    let alice = cluster.alice();
    let session = |text: &str| {
        let mut ssh = alice.ssh();
        ssh.arg(format!("{}@node.{}", own_login(), crate::support::cluster::CLUSTER))
            .arg(format!("echo {text}"));
        assert_eq!(run(ssh).clean(), format!("{text}\n"), "whoever works does not notice");
    };
    for number in 1..=4 {
        session(&format!("session {number}"));
    }
    let waiting = || {
        let spool = std::fs::read_dir(cluster.dir().join("node/spool")).unwrap();
        let names = spool.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".tprec")).count()
    };
    let refused = cluster.event(EventKind::SessionUploadFailure, |_| true);
    assert!(refused.error.unwrap().contains("2 recordings"));
    wait_for("two recordings in the store", || {
        (cluster.events(|event| event.code == EventKind::SessionUpload).len() == 2).then_some(())
    });
    wait_for("the others in the spool", || (waiting() == 2).then_some(()));
    assert_eq!(cluster.events(|event| event.code == EventKind::SessionUploadFailure).len(), 1);
}
