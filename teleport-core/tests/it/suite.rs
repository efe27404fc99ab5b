//! The suite of the API, in process.

use std::sync::Arc;

use teleport_core::api::AuthApi;
use teleport_core::auth::Caller;
use teleport_core::cert::SubjectKeys;
use teleport_core::clock::Timestamp;
use teleport_core::id::ClusterName;
use teleport_core::testing::api_suite::{self, ApiFixture};
use teleport_core::testing::subject_keys;

use crate::cluster::{CLUSTER, Cluster};

impl ApiFixture for Cluster {
    fn as_caller(&self, caller: Caller) -> Arc<dyn AuthApi> {
        Arc::new(self.auth.acting_as(caller))
    }

    fn cluster(&self) -> ClusterName {
        ClusterName::new(CLUSTER).unwrap()
    }

    fn now(&self) -> Timestamp {
        self.now()
    }

    fn keys(&self) -> SubjectKeys {
        subject_keys(self.unique())
    }

    fn unique(&self) -> u64 {
        self.unique()
    }
}

macro_rules! suite {
    ($($test:ident)*) => {
        $(#[tokio::test]
        async fn $test() {
            api_suite::$test(&Cluster::new().await).await;
        })*
    };
}

suite! {
    a_derived_certificate_is_never_wider
    a_host_id_belongs_to_its_keys
    a_locked_user_is_unlocked
    a_token_admits_as_often_as_it_says
    a_user_changes_the_password
    a_user_comes_logs_in_and_goes
    a_user_has_several_devices
    events_carry_who_reports_them
    invites_are_in_the_list_of_tokens
    locks_are_written_under_their_revision
    nodes_come_and_go
    proxies_are_in_the_status
    places_belong_to_their_node
    recordings_belong_to_their_host_and_user
    refused_logins_look_alike
    roles_are_written_under_their_revision
    sessions_are_reported_by_their_own_host
    the_last_device_is_not_removed
    the_policy_table_holds
    tokens_are_changed_without_their_secret
    tokens_are_listed_without_secrets
    users_are_updated
    users_are_written_under_their_revision
    watchers_see_changes
}

#[tokio::test]
async fn the_suite_can_run_twice_on_one_cluster() {
    let cluster = Cluster::new().await;
    api_suite::all(&cluster).await;
    api_suite::all(&cluster).await;
}
