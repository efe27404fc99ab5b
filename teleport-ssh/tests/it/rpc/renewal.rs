//! Renewal while the clocks of a host and of the auth service are apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use teleport_ca::CertificateAuthority;
use teleport_core::api::{
    ApiError, ApiResult, HostCredentials, IdentityApi, LoginResponse, ReissueRequest, RenewRequest,
};
use teleport_core::cert::CertIssuer as _;
use teleport_core::cert::danger::unchecked_host_grant;
use teleport_core::clock::{Clock as _, Timestamp};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::HostRole;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_core::testing::ManualClock;
use teleport_ssh::identity::{HostIdentityHandle, HostName, Renewal, renew, renew_at};

use super::world::{authority, host};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// An auth service whose clock is wrong at first: a month ahead, then a month behind.
#[derive(Debug)]
struct Wrong {
    ca: Arc<CertificateAuthority>,
    clock: Arc<ManualClock>,
    right: Timestamp,
    host: HostName,
    calls: AtomicUsize,
}

#[async_trait]
impl IdentityApi for Wrong {
    async fn renew_host(&self, request: RenewRequest) -> ApiResult<HostCredentials> {
        self.clock.set(match self.calls.fetch_add(1, Ordering::SeqCst) {
            0 => self.right.saturating_add(30 * DAY),
            1 => self.right.saturating_sub(30 * DAY),
            _ => self.right,
        });
        let HostName { host_id, name, role } = self.host.clone();
        let grant = unchecked_host_grant(host_id, name, self.ca.cluster().clone(), role, 7 * DAY);
        let certificates = self.ca.issue_host(grant, &request.keys).await.unwrap();
        Ok(HostCredentials { certificates, trust: self.ca.trust_bundle() })
    }

    async fn reissue_user(&self, _: ReissueRequest) -> ApiResult<LoginResponse> {
        Err(ApiError::denied())
    }
}

#[tokio::test(start_paused = true)]
async fn certificates_of_another_time_do_not_replace_good_ones() {
    let clock = Arc::new(ManualClock::default());
    let ca = authority(&clock).await;
    let handle = HostIdentityHandle::new(host(&ca, HostRole::Node, "web-1").await);
    let before = handle.current();
    let due = renew_at(before.valid_after, before.valid_before, 0);
    let own = Arc::new(ManualClock::new(due));
    let (name, calls) = (before.host(), AtomicUsize::new(0));
    let api = Arc::new(Wrong { ca, clock, right: due, host: name, calls });
    let renewal = Renewal {
        identity: handle.clone(),
        store: None,
        api: Arc::clone(&api) as Arc<dyn IdentityApi>,
        addresses: Vec::new(),
        clock: own,
        entropy: Arc::new(SystemEntropy::new()),
    };
    let (mut changes, tasks) = (handle.changes(), TaskScope::new());
    tasks.spawn(renew(renewal, Shutdown::new()));
    let after = tokio::time::timeout(DAY, changes.next()).await.expect("a renewal");
    assert_eq!(api.calls.load(Ordering::SeqCst), 3, "the first two are of no use");
    after.check_valid_at(due).unwrap();
    assert_ne!(after.public_keys(), before.public_keys());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_valid_yet_is_used_when_it_is() {
    let clock = Arc::new(ManualClock::default());
    let ca = authority(&clock).await;
    let handle = HostIdentityHandle::new(host(&ca, HostRole::Node, "web-1").await);
    let before = handle.current();
    let due = renew_at(before.valid_after, before.valid_before, 0);
    let own = Arc::new(ManualClock::new(due));
    // The auth service is ten minutes ahead.
    let right = due.saturating_add(Duration::from_secs(600));
    let api = Arc::new(Wrong { ca, clock, right, host: before.host(), calls: AtomicUsize::new(2) });
    let renewal = Renewal {
        identity: handle.clone(),
        store: None,
        api: Arc::clone(&api) as Arc<dyn IdentityApi>,
        addresses: Vec::new(),
        clock: Arc::clone(&own) as Arc<dyn teleport_core::clock::Clock>,
        entropy: Arc::new(SystemEntropy::new()),
    };
    let (mut changes, tasks) = (handle.changes(), TaskScope::new());
    tasks.spawn(renew(renewal, Shutdown::new()));
    tokio::time::sleep(Duration::from_secs(1200)).await;
    assert_eq!(handle.current().public_keys(), before.public_keys());
    own.advance(Duration::from_secs(600));
    let after = tokio::time::timeout(DAY, changes.next()).await.expect("a renewal");
    after.check_valid_at(own.now()).unwrap();
    assert_eq!(api.calls.load(Ordering::SeqCst), 3, "what was issued was used");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_has_just_jumped_makes_nothing_due() {
    let clock = Arc::new(ManualClock::default());
    let ca = authority(&clock).await;
    let handle = HostIdentityHandle::new(host(&ca, HostRole::Node, "web-1").await);
    let (own, right) = (Arc::new(ManualClock::new(clock.now())), clock.now());
    let api = Arc::new(Wrong { ca, clock, right, host: handle.current().host(), calls: AtomicUsize::new(2) });
    let renewal = Renewal {
        identity: handle.clone(),
        store: None,
        api: Arc::clone(&api) as Arc<dyn IdentityApi>,
        addresses: Vec::new(),
        clock: Arc::clone(&own) as Arc<dyn teleport_core::clock::Clock>,
        entropy: Arc::new(SystemEntropy::new()),
    };
    let tasks = TaskScope::new();
    tasks.spawn(renew(renewal, Shutdown::new()));
    // It looks, and then the clock jumps to where the certificates are due and still good.
    tokio::time::sleep(Duration::from_secs(60)).await;
    own.advance(5 * DAY);
    tokio::time::sleep(Duration::from_secs(1800)).await;
    assert_eq!(api.calls.load(Ordering::SeqCst), 2, "nothing was asked for");
    // A clock that stays there is believed in the end.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    // What is issued by a clock that is so far behind is due at once, and asked for no more often than that is looked at.
    let calls = api.calls.load(Ordering::SeqCst);
    assert!((3..6).contains(&calls), "after an hour it is: {calls}");
}
