#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
use super::*;

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn gate(change: impl FnOnce(&mut Limits)) -> Gate {
    let mut limits = Limits::default();
    change(&mut limits);
    Gate::new(limits)
}

#[test]
fn refusals_grow_from_the_rate_to_certainty() {
    let now = Instant::now();
    let mut gate = gate(|limits| {
        limits.startup_begin = 10;
        limits.startup_rate = 30;
        limits.startup_full = 20;
        limits.per_source = 100;
    });
    let mut expected = vec![0; 10];
    expected.extend([30, 37, 44, 51, 58, 65, 72, 79, 86, 93]);
    for percent in expected {
        assert_eq!(gate.refusal(), percent);
        if percent > 0 {
            assert_eq!(gate.admit(address(1), now, percent - 1), Err(Refused::Startups));
        }
        gate.admit(address(1), now, percent).unwrap();
    }
    assert_eq!(gate.refusal(), 100);
    assert_eq!(gate.admit(address(1), now, 99), Err(Refused::Startups));
}

/// Every event in every state that a connection can be in.
#[test]
fn transitions() {
    let now = Instant::now();
    let all = [
        Outcome::Authenticated,
        Outcome::Crashed,
        Outcome::Failed,
        Outcome::GraceExceeded,
        Outcome::NoAttempt,
        Outcome::Unblamed,
    ];
    for first in all {
        for last in all {
            let mut gate = gate(|limits| limits.per_source = 1);
            let mut startup = gate.admit(address(1), now, 99).unwrap();
            assert_eq!((gate.startups(), gate.connections()), (1, 1));
            assert_eq!(gate.admit(address(1), now, 99), Err(Refused::Source));
            gate.started(&mut startup, first, now);
            assert_eq!((gate.startups(), gate.connections()), (0, 1), "{first:?}");
            gate.started(&mut startup, last, now);
            gate.ended(startup, last, now);
            assert_eq!((gate.startups(), gate.connections()), (0, 0), "{first:?} {last:?}");
            assert!(gate.by_source.is_empty());
            let waits = matches!(gate.admit(address(1), now, 99), Err(Refused::Penalty));
            assert_eq!(waits, first == Outcome::Crashed || last == Outcome::Crashed, "{first:?} {last:?}");
        }
    }
}

#[test]
fn small_offences_add_up_and_are_forgiven() {
    let mut now = Instant::now();
    let mut gate = gate(|_| {});
    let fail = |gate: &mut Gate, now| {
        let startup = gate.admit(address(1), now, 99).unwrap();
        gate.ended(startup, Outcome::Failed, now);
    };
    fail(&mut gate, now);
    fail(&mut gate, now);
    fail(&mut gate, now);
    assert_eq!(gate.admit(address(1), now, 99), Err(Refused::Penalty));
    assert!(gate.admit(address(2), now, 99).is_ok(), "others are unharmed");
    now += Duration::from_secs(14);
    assert_eq!(gate.admit(address(1), now, 99), Err(Refused::Penalty));
    now += Duration::from_secs(1);
    assert!(gate.admit(address(1), now, 99).is_ok());
}

#[test]
fn nobody_waits_longer_than_ten_minutes() {
    let now = Instant::now();
    let mut penalties = Penalties::default();
    let source = Source::of(address(1));
    for _ in 0..1000 {
        penalties.add(source, Outcome::Crashed.penalty(), now);
    }
    assert!(penalties.must_wait(source, now + Duration::from_secs(599)));
    assert!(!penalties.must_wait(source, now + Duration::from_secs(600)));
    assert!(penalties.by_end.is_empty() && penalties.by_source.is_empty());
}

#[test]
fn the_table_is_bounded() {
    let now = Instant::now();
    let mut penalties = Penalties::default();
    for number in 0..70_000_u32 {
        penalties.add(Source::of(Ipv4Addr::from_bits(number).into()), Duration::from_secs(20), now);
    }
    assert_eq!(penalties.by_source.len(), Penalties::SOURCES);
    assert_eq!(penalties.by_end.len(), Penalties::SOURCES);
}

#[test]
fn an_ipv6_network_is_one_source() {
    let source = |text: &str| Source::of(text.parse().unwrap());
    assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
    assert_ne!(source("2001:db8:0:1::1"), source("2001:db8::1"));
    assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
}

#[test]
fn the_proxy_has_no_limit_of_its_own_and_there_is_one_for_all() {
    let now = Instant::now();
    let mut gate = gate(|limits| {
        limits.exempt = vec![address(9)];
        limits.connections = 500;
    });
    for _ in 0..500 {
        let mut startup = gate.admit(address(9), now, 0).unwrap();
        gate.started(&mut startup, Outcome::Crashed, now);
    }
    assert_eq!(gate.admit(address(9), now, 0), Err(Refused::Full));
}

/// What strangers do behind a proxy's back, at its own address or at others, is nothing to the proxy, and the other way round.
#[test]
fn the_proxy_needs_no_strangers_place_and_takes_none() {
    let now = Instant::now();
    let mut gate = gate(|limits| {
        limits.startup_begin = 4;
        limits.startup_full = 4;
        limits.per_exempt = 10;
        limits.exempt = vec![address(9)];
    });
    let strangers: Vec<_> = (1..=4).map(|last| gate.admit(address(last), now, 99).unwrap()).collect();
    assert_eq!(gate.admit(address(5), now, 99), Err(Refused::Startups), "the room of strangers is full");
    let passed: Vec<_> = (0..10).map(|_| gate.admit(address(9), now, 0).unwrap()).collect();
    // What it passes on is bounded, too.
    assert_eq!(gate.admit(address(9), now, 0), Err(Refused::Source));
    assert_eq!((gate.startups(), gate.connections()), (4, 14));
    strangers.into_iter().for_each(|startup| gate.ended(startup, Outcome::NoAttempt, now));
    assert!(gate.admit(address(5), now, 99).is_ok(), "ten of a proxy take no place of strangers");
    passed.into_iter().for_each(|startup| gate.ended(startup, Outcome::Failed, now));
    assert!(gate.admit(address(9), now, 0).is_ok(), "fifty seconds of penalties are not the proxy's");
}

/// An exempt address is one machine: neither its network nor everybody is exempt with it.
#[test]
fn an_exempt_address_stands_for_one_machine() {
    let now = Instant::now();
    let mut gate = gate(|limits| limits.per_source = 1);
    let of = |text: &str| text.parse::<IpAddr>().unwrap();
    gate.exempt(&[of("2001:db8::9"), of("0.0.0.0"), of("::"), of("::ffff:192.0.2.9")]);
    for (proxy, neighbour) in [("2001:db8::9", "2001:db8::8"), ("192.0.2.9", "192.0.2.8")] {
        for _ in 0..2 {
            gate.admit(of(proxy), now, 99).unwrap();
        }
        gate.admit(of(neighbour), now, 99).unwrap();
        assert_eq!(gate.admit(of(neighbour), now, 99), Err(Refused::Source), "{neighbour}");
    }
}
