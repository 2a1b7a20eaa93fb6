//! A client's call that comes again through another node is carried out once, and every node knows that it was.

mod common;

use common::Scratch;
use sluice_lockmgr::{Member, MemberEpoch, MemberId};
use sluice_repo::call::{CallId, within};
use sluice_repo::{CaseMode, LastLink, NameRef, ROOT, RepoError, Repository};
use sluice_repo_postgres::{Database, Options, PostgresRepository, Writer};
use sluice_repo_suite::{file, made};

const CASE: CaseMode = CaseMode::Sensitive;

async fn members(scratch: &Scratch) -> [PostgresRepository; 2] {
    let database = scratch.database().await;
    scratch
        .sql(
            "INSERT INTO node_session(member, epoch, name, addr, version, state, expires_at)
             SELECT n, 10 + n, 'n' || n, '', '', 1, clock_timestamp() + interval '1 hour'
             FROM generate_series(1, 2) AS n",
        )
        .await;
    [member(&database, 1).await, member(&database, 2).await]
}

async fn member(database: &Database, id: u32) -> PostgresRepository {
    let member = Member {
        id: MemberId(id),
        epoch: MemberEpoch(10 + u64::from(id)),
    };
    PostgresRepository::open(database.clone(), Options::new(Writer::Member(member)))
        .await
        .expect("open")
}

fn named(name: &str) -> NameRef<'_> {
    NameRef {
        parent: ROOT,
        name,
        node: None,
    }
}

#[tokio::test]
async fn a_call_that_comes_again_through_another_node_changes_nothing() {
    let scratch = Scratch::new();
    let [a, b] = members(&scratch).await;
    made(&a, ROOT, "name").await;
    let call = CallId([1; 16]);
    within(call, a.unlink(named("name"), LastLink::Delete))
        .await
        .expect("removed");
    made(&a, ROOT, "name").await;
    let again = within(call, b.unlink(named("name"), LastLink::Delete)).await;
    assert_eq!(again.err(), Some(RepoError::Repeated));
    b.lookup(ROOT, "name", CASE)
        .await
        .expect("the later one stays");
    for node in [&a, &b] {
        assert_eq!(node.carried_out(call).await, Ok(true));
        assert_eq!(node.carried_out(CallId([2; 16])).await, Ok(false));
    }
}

#[tokio::test]
async fn a_refused_call_and_further_changes_of_a_call_are_made() {
    let scratch = Scratch::new();
    let [a, b] = members(&scratch).await;
    let call = CallId([3; 16]);
    let refused = within(call, a.unlink(named("late"), LastLink::Delete)).await;
    assert_eq!(refused.err(), Some(RepoError::NotFound));
    assert_eq!(b.carried_out(call).await, Ok(false));
    made(&b, ROOT, "late").await;
    within(call, async {
        b.unlink(named("late"), LastLink::Delete).await?;
        file(&b, ROOT, "second").await
    })
    .await
    .expect("both changes");
    assert_eq!(a.carried_out(call).await, Ok(true));
}
