use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn rule(id: u64) -> PolicyRule {
    PolicyRule {
        id,
        share: None,
        path: None,
        protocol: None,
        user: None,
        group: None,
        client: None,
        write: None,
        writers: None,
        on_conflict: None,
        wait_ms: None,
    }
}

fn query(protocol: Protocol, path: &str) -> Query<'_> {
    Query {
        protocol,
        user: "alice",
        groups: &[],
        client: IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
        path,
    }
}

fn decide(rules: &[PolicyRule], query: &Query<'_>) -> WritePolicy {
    let set = rules_of_share(rules, "docs").map(|set| set.rules);
    let rules = set.unwrap_or_default();
    evaluate(&rules, query).into_policy(&rules)
}

#[test]
fn without_rules_smb_and_nfs4_reject_while_ftp_and_nfs3_wait_thirty_seconds() {
    let table = [
        (Protocol::Smb, OnConflict::Reject),
        (Protocol::Nfs4, OnConflict::Reject),
        (Protocol::Ftp, OnConflict::Wait),
        (Protocol::Nfs3, OnConflict::Wait),
    ];
    for (protocol, on_conflict) in table {
        let policy = decide(&[], &query(protocol, "a"));
        assert_eq!(policy.on_conflict, on_conflict, "{protocol:?}");
        assert_eq!(policy.wait, Duration::from_secs(30));
        assert!(policy.allow && policy.rule.is_none());
    }
}

#[test]
fn a_glob_means_what_people_read_in_it() {
    let table = [
        ("in/*", "in/a.txt", true),
        ("in/*", "in/sub/a.txt", false),
        ("in/**", "in/sub/a.txt", true),
        ("in", "in", true),
        ("in", "in/sub/a.txt", true),
        ("in", "inner/a.txt", false),
        ("/in/", "in/a.txt", true),
        ("*.log", "a.log", true),
        ("*.log", "deep/down/a.log", true),
        ("*.log", "a.log.txt", false),
        ("a?.txt", "ab.txt", true),
        ("IN/*.TXT", "in/a.txt", true),
    ];
    for (glob, path, expected) in table {
        let deny = PolicyRule {
            path: Some(glob.to_owned()),
            write: Some(WriteRule::Deny),
            ..rule(1)
        };
        let policy = decide(&[deny], &query(Protocol::Smb, path));
        assert_eq!(!policy.allow, expected, "{glob} {path}");
    }
}

#[test]
fn nfs_means_both_versions_and_nfs3_only_one() {
    for (named, protocol, expected) in [
        (RuleProtocol::Nfs, Protocol::Nfs3, true),
        (RuleProtocol::Nfs, Protocol::Nfs4, true),
        (RuleProtocol::Nfs3, Protocol::Nfs4, false),
        (RuleProtocol::Nfs, Protocol::Smb, false),
        (RuleProtocol::Ftp, Protocol::Ftp, true),
    ] {
        let deny = PolicyRule {
            protocol: Some(named),
            write: Some(WriteRule::Deny),
            ..rule(1)
        };
        let policy = decide(&[deny], &query(protocol, "a"));
        assert_eq!(!policy.allow, expected, "{named:?} {protocol:?}");
    }
}

#[test]
fn the_narrower_rule_wins_in_the_order_share_path_protocol_who_client() {
    let narrow: [(&str, PolicyRule); 7] = [
        ("anything", rule(90)),
        (
            "client",
            PolicyRule {
                client: Some("10.0.0.0/8".to_owned()),
                ..rule(80)
            },
        ),
        (
            "smaller network",
            PolicyRule {
                client: Some("10.1.2.3".to_owned()),
                ..rule(70)
            },
        ),
        (
            "user",
            PolicyRule {
                user: Some("ALICE".to_owned()),
                ..rule(60)
            },
        ),
        (
            "protocol",
            PolicyRule {
                protocol: Some(RuleProtocol::Smb),
                ..rule(50)
            },
        ),
        (
            "path",
            PolicyRule {
                path: Some("a/**".to_owned()),
                ..rule(40)
            },
        ),
        (
            "share",
            PolicyRule {
                share: Some("Docs".to_owned()),
                ..rule(30)
            },
        ),
    ];
    for pair in narrow.windows(2) {
        let [(wide_name, wide), (narrow_name, narrow)] = pair else {
            panic!("windows of two");
        };
        let rules = [
            PolicyRule {
                on_conflict: Some(RuleOnConflict::Fork),
                ..wide.clone()
            },
            PolicyRule {
                on_conflict: Some(RuleOnConflict::Wait),
                ..narrow.clone()
            },
        ];
        let policy = decide(&rules, &query(Protocol::Smb, "a/b"));
        assert_eq!(
            policy.on_conflict,
            OnConflict::Wait,
            "{narrow_name} before {wide_name}"
        );
    }
}

#[test]
fn each_key_comes_from_the_first_rule_that_states_it() {
    let rules = [
        PolicyRule {
            path: Some("a/b".to_owned()),
            writers: Some(RuleWriters::Exclusive),
            ..rule(1)
        },
        PolicyRule {
            on_conflict: Some(RuleOnConflict::Wait),
            wait_ms: Some(1500),
            ..rule(2)
        },
    ];
    let policy = decide(&rules, &query(Protocol::Smb, "a/b"));
    assert_eq!(policy.writers, Writers::Exclusive);
    assert_eq!(policy.on_conflict, OnConflict::Wait);
    assert_eq!(policy.wait, Duration::from_millis(1500));
    assert!(policy.rule.is_some_and(|rule| rule.starts_with('2')));
}

#[test]
fn of_two_rules_of_one_width_the_newer_holds() {
    let with = |id, on_conflict| PolicyRule {
        on_conflict: Some(on_conflict),
        ..rule(id)
    };
    let rules = [
        with(1, RuleOnConflict::Fork),
        with(2, RuleOnConflict::Reject),
    ];
    let policy = decide(&rules, &query(Protocol::Ftp, "a"));
    assert_eq!(policy.on_conflict, OnConflict::Reject);
}

#[test]
fn a_group_rule_needs_membership() {
    let deny = PolicyRule {
        group: Some("Editors".to_owned()),
        write: Some(WriteRule::Deny),
        ..rule(1)
    };
    let groups = ["editors".to_owned()];
    let mut member = query(Protocol::Smb, "a");
    member.groups = &groups;
    assert!(!decide(std::slice::from_ref(&deny), &member).allow);
    assert!(decide(&[deny], &query(Protocol::Smb, "a")).allow);
}

#[test]
fn a_denial_that_cannot_be_read_denies_more_not_less() {
    let broken = PolicyRule {
        path: Some("a/[".to_owned()),
        write: Some(WriteRule::Deny),
        ..rule(1)
    };
    assert!(!decide(&[broken], &query(Protocol::Smb, "elsewhere")).allow);
}

#[test]
fn rules_of_another_share_cost_nothing_here() {
    let other = PolicyRule {
        share: Some("other".to_owned()),
        write: Some(WriteRule::Deny),
        ..rule(1)
    };
    assert!(rules_of_share(&[other], "docs").is_none());
}

#[test]
fn the_explanation_names_the_first_condition_that_fails() {
    let rules = [
        PolicyRule {
            protocol: Some(RuleProtocol::Ftp),
            write: Some(WriteRule::Deny),
            ..rule(1)
        },
        PolicyRule {
            user: Some("alice".to_owned()),
            write: Some(WriteRule::Deny),
            ..rule(2)
        },
    ];
    let set = rules_of_share(&rules, "docs").expect("rules");
    let told = explain(&set.rules, &query(Protocol::Smb, "a"));
    let applies: Vec<bool> = told.iter().map(|(applies, _)| *applies).collect();
    assert_eq!(applies, [false, true]);
    assert_eq!(told[0].1, "it is for ftp, the request comes through smb");
}

fn any_rule() -> impl Strategy<Value = PolicyRule> {
    let path = prop::option::of(prop::sample::select(vec!["a", "a/*", "**/c", "*.txt"]));
    let protocol = prop::option::of(prop::sample::select(vec![
        RuleProtocol::Smb,
        RuleProtocol::Nfs,
        RuleProtocol::Ftp,
    ]));
    let user = prop::option::of(prop::sample::select(vec!["alice", "bob"]));
    let write = prop::option::of(prop::sample::select(vec![
        WriteRule::Allow,
        WriteRule::Deny,
    ]));
    let on_conflict = prop::option::of(prop::sample::select(vec![
        RuleOnConflict::Reject,
        RuleOnConflict::Wait,
        RuleOnConflict::Fork,
    ]));
    (path, protocol, user, write, on_conflict).prop_map(
        |(path, protocol, user, write, on_conflict)| PolicyRule {
            path: path.map(str::to_owned),
            protocol,
            user: user.map(str::to_owned),
            write,
            on_conflict,
            ..rule(0)
        },
    )
}

proptest! {
    #[test]
    fn the_order_in_which_rules_are_stored_does_not_matter(
        rules in prop::collection::vec(any_rule(), 0..8),
        path in prop::sample::select(vec!["a", "a/b", "a/b/c", "x.txt", ""]),
    ) {
        let numbered: Vec<PolicyRule> = rules
            .into_iter()
            .zip(1..)
            .map(|(source, id)| PolicyRule { id, ..source })
            .collect();
        let mut reversed = numbered.clone();
        reversed.reverse();
        let query = query(Protocol::Smb, path);
        let (a, b) = (decide(&numbered, &query), decide(&reversed, &query));
        prop_assert_eq!((a.allow, a.on_conflict, a.rule), (b.allow, b.on_conflict, b.rule));
    }

    #[test]
    fn what_decides_applies_and_nothing_before_it_states_the_key(
        rules in prop::collection::vec(any_rule(), 1..8),
    ) {
        let numbered: Vec<PolicyRule> = rules
            .into_iter()
            .zip(1..)
            .map(|(source, id)| PolicyRule { id, ..source })
            .collect();
        let set = rules_of_share(&numbered, "docs").expect("rules");
        let query = query(Protocol::Ftp, "a/b");
        let decision = evaluate(&set.rules, &query);
        let told = explain(&set.rules, &query);
        let first = set
            .rules
            .iter()
            .zip(&told)
            .position(|(rule, (applies, _))| *applies && rule.source.write.is_some());
        prop_assert_eq!(decision.write.by, first);
    }
}
