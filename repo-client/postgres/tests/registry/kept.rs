//! What is kept for NFS clients of members that are gone.

use std::time::Duration;

use sluice_lockmgr::{EpochRegistry, Member, MemberState, RECLAIM_GRACE};
use sluice_repo::{NodeId, RepoError, Repository};
use sluice_repo_postgres::{
    Database, Options as RepositoryOptions, PostgresRegistry, PostgresRepository, Writer,
};

use super::{Ground, join, session};

/// Notes that an NFS client of a member may have locks on a document.
async fn note(ground: &Ground, member: Member, document: u64) -> sluice_repo::Result<()> {
    let database = Database::open(&ground.url).await.unwrap();
    let options = RepositoryOptions::new(Writer::Member(member));
    let repository = PostgresRepository::open(database, options).await?;
    repository.note_locked(NodeId(document)).await
}

/// Lets time pass for what is kept for NFS clients and for leases.
async fn later(ground: &Ground, seconds: u32) {
    let sql = format!(
        "UPDATE past_member SET kept_until = kept_until - interval '{seconds} seconds'; \
         UPDATE node_session SET expires_at = expires_at - interval '{seconds} seconds'"
    );
    let mut conn = session(&ground.url).await;
    let sql = sqlx::AssertSqlSafe(sql);
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
}

/// What is kept: of whom, which documents, and for how long.
async fn kept(registry: &PostgresRegistry) -> Vec<(Member, Vec<u64>, Duration)> {
    let left = registry.left_locks(&[]).await.unwrap();
    let left = left
        .into_iter()
        .map(|left| (left.member, left.documents, left.ends_in));
    left.collect()
}

async fn notes(ground: &Ground) -> i64 {
    let mut conn = session(&ground.url).await;
    let count = sqlx::query_scalar("SELECT count(*) FROM nfs_locked");
    count.fetch_one(&mut conn).await.unwrap()
}

const ALMOST: Duration = Duration::from_secs(15);

#[tokio::test]
async fn what_nfs_clients_of_a_former_member_had_locked_is_told_for_some_time_and_noted_by_members_only()
 {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let (gone, me) = (
        join(&registry, "a").await.member,
        join(&registry, "b").await,
    );
    note(&ground, gone, 7).await.unwrap();
    note(&ground, gone, 5).await.unwrap();
    note(&ground, me.member, 9).await.unwrap();
    assert_eq!(
        registry.left_locks(&[]).await,
        Ok(vec![]),
        "both are members"
    );
    registry.leave(gone).await.unwrap();
    assert_eq!(note(&ground, gone, 8).await, Err(RepoError::Fenced));
    let left = registry.left_locks(&[]).await.unwrap();
    let [left] = left.as_slice() else {
        panic!("{left:?}");
    };
    assert_eq!((left.member, left.node.as_str()), (gone, "a"));
    assert_eq!(left.documents, [5, 7]);
    assert!(left.ends_in <= RECLAIM_GRACE && left.ends_in > ALMOST);
    assert_eq!(registry.left_locks(&[gone.epoch]).await, Ok(vec![]));
    let live = registry.set_state(me.member, me.member, MemberState::Live);
    live.await.unwrap();
    let mut conn = session(&ground.url).await;
    let mut after = async |what: &'static str| {
        sqlx::raw_sql(what).execute(&mut conn).await.unwrap();
        kept(&registry).await
    };
    let kept_for = "UPDATE past_member SET kept_until = kept_until - interval '20 seconds'";
    assert_eq!(after(kept_for).await, [], "it is over");
    assert_eq!(notes(&ground).await, 3, "for when it comes back");
    let no_lease = "UPDATE node_session SET expires_at = clock_timestamp() - interval '1 second'; \
                    UPDATE past_member SET kept_until = kept_until - interval '60 seconds'";
    assert_eq!(after(no_lease).await, []);
    assert_eq!(notes(&ground).await, 3, "nobody can act");
    registry.renew(me.member, &[]).await.unwrap();
    assert_eq!(kept(&registry).await, [], "it was over before");
    assert_eq!(notes(&ground).await, 3, "for when it comes back");
    // It does not.
    let sql = "UPDATE past_member SET at = at - interval '1 day'";
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    let _other = join(&registry, "c").await;
    assert_eq!(notes(&ground).await, 1, "those of a member");
}

/// What a node knows of documents that its clients had locked.
async fn noted(ground: &Ground, member: Member) -> Vec<NodeId> {
    let database = Database::open(&ground.url).await.unwrap();
    let options = RepositoryOptions::new(Writer::Member(member));
    let repository = PostgresRepository::open(database, options).await.unwrap();
    repository.noted_locked().await.unwrap()
}

#[tokio::test]
async fn a_node_that_comes_back_after_long_knows_what_its_former_lives_noted_until_it_forgets_it() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let stays = join(&registry, "other").await;
    let other = stays.member;
    let live = registry.set_state(other, other, MemberState::Live);
    live.await.unwrap();
    note(&ground, other, 3).await.unwrap();
    for document in [5, 7] {
        let life = join(&registry, "a").await.member;
        note(&ground, life, document).await.unwrap();
        note(&ground, life, 9).await.unwrap();
        registry.leave(life).await.unwrap();
    }
    let mut conn = session(&ground.url).await;
    let sql = "UPDATE past_member SET kept_until = kept_until - interval '60 seconds', at = at - interval '1 day'";
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    assert_eq!(kept(&registry).await, []);
    let me = join(&registry, "a").await.member;
    assert_eq!(kept(&registry).await, [], "not anew: others could act");
    assert_eq!(noted(&ground, me).await, [5, 7, 9].map(NodeId));
    note(&ground, me, 9).await.unwrap();
    forget(&ground, me, &[3, 5, 7]).await;
    assert_eq!(noted(&ground, me).await, [NodeId(9)]);
    forget(&ground, me, &[9]).await;
    assert_eq!(noted(&ground, me).await, []);
    assert_eq!(noted(&ground, other).await, [NodeId(3)], "another's");
}

async fn forget(ground: &Ground, member: Member, documents: &[u64]) {
    let database = Database::open(&ground.url).await.unwrap();
    let options = RepositoryOptions::new(Writer::Member(member));
    let repository = PostgresRepository::open(database, options).await.unwrap();
    let documents = documents.iter().copied().map(NodeId).collect();
    repository.forget_locked(documents).await.unwrap();
}

#[tokio::test]
async fn the_time_in_which_nfs_locks_are_kept_begins_anew_where_no_member_could_act() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let (gone, last) = (join(&registry, "a").await, join(&registry, "b").await);
    note(&ground, gone.member, 7).await.unwrap();
    note(&ground, last.member, 9).await.unwrap();
    registry.leave(gone.member).await.unwrap();
    // All are cut off from the database, and come back.
    later(&ground, 60).await;
    assert_eq!(kept(&registry).await, []);
    registry.renew(last.member, &[]).await.unwrap();
    let again = kept(&registry).await;
    let [(of, documents, ends_in)] = again.as_slice() else {
        panic!("{again:?}");
    };
    assert_eq!((*of, documents.as_slice()), (gone.member, [7].as_slice()));
    assert!(*ends_in > ALMOST);
    // The last one goes too, and somebody comes when the time is over.
    registry.leave(last.member).await.unwrap();
    later(&ground, 25).await;
    assert_eq!(kept(&registry).await, []);
    let first = join(&registry, "c").await;
    let again = kept(&registry).await;
    assert!(again.iter().all(|(.., ends_in)| *ends_in > ALMOST));
    assert_eq!(again.len(), 2, "{again:?}");
    // Who is only joining can't act.
    later(&ground, 3).await;
    let other = join(&registry, "d").await;
    let again = kept(&registry).await;
    assert!(
        again
            .iter()
            .all(|(.., ends_in)| *ends_in > RECLAIM_GRACE - Duration::from_secs(2))
    );
    assert_eq!(again.len(), 2, "{again:?}");
    // Once it has run out while somebody could act, it is over.
    let live = registry.set_state(first.member, first.member, MemberState::Live);
    live.await.unwrap();
    let over = "UPDATE past_member SET kept_until = kept_until - interval '40 seconds'";
    let mut conn = session(&ground.url).await;
    sqlx::raw_sql(over).execute(&mut conn).await.unwrap();
    let second = join(&registry, "f").await;
    assert_eq!(kept(&registry).await, []);
    drop((first, second, other));
    later(&ground, 60).await;
    let _third = join(&registry, "e").await;
    assert_eq!(kept(&registry).await, []);
}
