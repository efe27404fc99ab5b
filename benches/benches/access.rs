//! Decisions about access, in one process: how long a user's list of nodes takes, and one login.
//!
//! Goals: under 1 µs a node on compiled roles, under 10 ms for 10,000 nodes, growing linearly with nodes and roles.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a bench fails by panicking; its functions are named by a macro"
)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use teleport_core::access::{AccessChecker, RoleSet};
use teleport_core::cert::UserIdentity;
use teleport_core::clock::Timestamp;
use teleport_core::id::{HostId, OsLogin};
use teleport_core::label::Labels;
use teleport_core::resource::{NodeRecord, Role, load_role};
use teleport_core::testing::user_identity;

const NODES: usize = 10_000;

/// Nodes of a company: an environment, a team, a place and some labels that no role asks for.
fn nodes(count: usize) -> Vec<NodeRecord> {
    let labels = |number: usize| -> Labels {
        let env = ["prod", "stage", "test", "dev"].get(number % 4).expect("four");
        let text = format!(
            "arch=x86_64,env={env},kernel=6.1,os=linux,region=eu-{},rack=r{},team=team-{},tier=t{}",
            number % 3,
            number % 40,
            number % 100,
            number % 5
        );
        text.parse().expect("labels")
    };
    let node = |number: usize| NodeRecord {
        host_id: format!("00000000-0000-4000-8000-{number:012x}").parse::<HostId>().expect("an id"),
        name: format!("node-{number}").parse().expect("a name"),
        address: "192.0.2.1:3022".to_owned(),
        labels: labels(number),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    };
    (0..count).map(node).collect()
}

/// What the roles of a bench look like.
#[derive(Clone, Copy)]
enum Style {
    /// Exact values; each role is about one team of a hundred.
    Exact,
    /// An expression instead.
    Expression,
    /// A value with `*` and a regular expression that is one text.
    Patterns,
    /// A regular expression with a choice.
    Regexes,
    /// No role allows anything, and each denies something else: the most that can be asked of a node.
    Worst,
}

fn role(number: usize, style: Style) -> Role {
    let team = format!("team-{number}");
    let allow = match style {
        Style::Exact => json!({ "env": ["prod", "stage"], "team": team }),
        Style::Expression => json!({}),
        Style::Patterns => json!({ "region": "eu-*", "team": format!("^team-{number}$") }),
        Style::Regexes => json!({ "region": "eu-*", "team": format!("^team-(x|{number})$") }),
        Style::Worst => json!({ "env": ["prod", "stage", "test", "dev"], "team": "nobody" }),
    };
    let mut document = json!({
        "kind": "role", "version": "v1", "metadata": { "name": format!("role-{number}") },
        "spec": { "allow": { "logins": ["root", "{{internal.logins}}"], "node_labels": allow } },
    });
    match style {
        Style::Expression => {
            let expression = format!(r#"labels["env"] == "prod" && labels["team"] == "{team}""#);
            document["spec"]["allow"]["node_labels_expression"] = json!(expression);
        }
        Style::Worst => document["spec"]["deny"] = json!({ "node_labels": { "tier": "none", "team": team } }),
        Style::Exact | Style::Patterns | Style::Regexes => {}
    }
    load_role(&document).expect("a role").role
}

/// A user with `count` roles.
fn world(count: usize, style: Style) -> (UserIdentity, RoleSet) {
    let names: Vec<String> = (0..count).map(|number| format!("role-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let identity = user_identity("alice", "example.com", &names, &["root", "alice"], Timestamp::MAX);
    (identity, RoleSet::new((0..count).map(|number| role(number, style))))
}

fn listing(c: &mut Criterion) {
    let nodes = nodes(NODES);
    for (name, style) in [
        ("labels", Style::Exact),
        ("patterns", Style::Patterns),
        ("expressions", Style::Expression),
        ("worst case", Style::Worst),
    ] {
        let mut group = c.benchmark_group(format!("list of 10,000 nodes, {name}"));
        group.throughput(Throughput::Elements(NODES as u64));
        for roles in [1, 10, 100] {
            let (identity, set) = world(roles, style);
            group.bench_function(BenchmarkId::new("roles", roles), |b| {
                b.iter(|| {
                    let checker = AccessChecker::for_identity(&identity, &set);
                    let mut filter = checker.filter();
                    nodes.iter().filter(|node| filter.can_see(black_box(node))).count()
                });
            });
        }
        group.finish();
    }
    for (name, style) in [
        ("labels", Style::Exact),
        ("patterns", Style::Patterns),
        ("regular expressions", Style::Regexes),
        ("worst case", Style::Worst),
    ] {
        let mut group = c.benchmark_group(format!("10,000 nodes, each decided by itself, {name}"));
        group.throughput(Throughput::Elements(NODES as u64));
        for roles in [1, 10, 100] {
            let (identity, set) = world(roles, style);
            let checker = AccessChecker::for_identity(&identity, &set);
            group.bench_function(BenchmarkId::new("roles", roles), |b| {
                b.iter(|| nodes.iter().filter(|node| checker.can_see(black_box(node))).count());
            });
        }
        group.finish();
    }
    let mut group = c.benchmark_group("list with 10 roles");
    let (identity, set) = world(10, Style::Exact);
    for count in [1_000, 10_000, 100_000] {
        let nodes = self::nodes(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("nodes", count), |b| {
            b.iter(|| {
                let checker = AccessChecker::for_identity(&identity, &set);
                let mut filter = checker.filter();
                nodes.iter().filter(|node| filter.can_see(black_box(node))).count()
            });
        });
    }
    group.finish();
}

fn logins(c: &mut Criterion) {
    let nodes = nodes(4);
    let node = nodes.first().expect("a node");
    let root = OsLogin::new("root").expect("a login");
    let mut group = c.benchmark_group("one login, with the checker made for it");
    for roles in [1, 10, 100] {
        let (identity, set) = world(roles, Style::Exact);
        group.bench_function(BenchmarkId::new("roles", roles), |b| {
            b.iter(|| {
                let checker = AccessChecker::for_identity(&identity, &set);
                checker.check_login(&identity, black_box(node), &root).expect("granted")
            });
        });
    }
    group.finish();
    let mut group = c.benchmark_group("compile");
    for (name, style) in
        [("labels", Style::Exact), ("patterns", Style::Patterns), ("expressions", Style::Expression)]
    {
        let roles: Vec<Role> = (0..100).map(|number| role(number, style)).collect();
        group.bench_function(format!("100 roles, {name}"), |b| b.iter(|| RoleSet::new(roles.clone())));
    }
    group.finish();
}

criterion_group!(benches, listing, logins);
criterion_main!(benches);
