//! Take-overs from members that are silent, and the turns that arbitrate them.

use std::sync::Arc;
use std::time::Duration;

use sluice_lockmgr::{EpochRegistry, Member, RegistryError, ShardEpoch, ShardId};
use sluice_repo_postgres::PostgresRegistry;
use sqlx::PgConnection;

use super::{Ground, join, session, waits_for_a_lock};

#[tokio::test]
async fn shards_of_a_silent_member_are_taken_under_its_turn_only() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let (a, b) = (join(&registry, "a").await, join(&registry, "b").await);
    let shards = [(ShardId(3), ShardEpoch(0)), (ShardId(4), ShardEpoch(0))];
    let owned = registry.take_shards(a.member, &shards).await.unwrap();
    let before = registry.shard_map().await.unwrap().version;
    assert_eq!(registry.draw_turn(a.member, 1).await, Ok(before));
    let take = |turn, shards| registry.take_silent(b.member, a.member, turn, shards);
    assert_eq!(take(0, &owned).await, Ok(Vec::new()), "its turn is over");
    assert_eq!(take(2, &owned).await, Ok(Vec::new()), "nobody drew that");
    assert_eq!(take(1, &shards).await, Ok(Vec::new()), "an older epoch");
    let taken = take(1, &owned[..1]).await.unwrap();
    assert_eq!(taken, [(ShardId(3), ShardEpoch(2))]);
    let version = registry.shard_map().await.unwrap().version;
    // The answer may have been lost.
    assert_eq!(take(1, &owned[..1]).await, Ok(taken.clone()), "once");
    assert_eq!(registry.shard_map().await.unwrap().version, version);
    // A turn that was drawn late takes nothing back.
    assert_eq!(registry.draw_turn(a.member, 0).await, Ok(before + 1));
    assert_eq!(take(1, &owned[1..]).await.unwrap().len(), 1);
    registry.draw_turn(a.member, 2).await.unwrap();
    let late = take(1, &owned[1..]).await;
    assert_eq!(late, Ok(Vec::new()), "its turn is over");

    registry.leave(a.member).await.unwrap();
    assert_eq!(
        registry.draw_turn(a.member, 3).await,
        Err(RegistryError::Fenced)
    );
    assert_eq!(take(2, &owned).await, Ok(Vec::new()), "it is no member");
    assert_eq!(
        registry.take_silent(a.member, b.member, 0, &taken).await,
        Err(RegistryError::Fenced)
    );
}

/// A take-over from `a` by `b` that waits for a commit in shard 7; the end of the commit lets it go on.
async fn waiting_take_over(
    ground: &Ground,
    registry: &Arc<PostgresRegistry>,
    (a, b): (Member, Member),
) -> (
    PgConnection,
    tokio::task::JoinHandle<Result<Vec<(ShardId, ShardEpoch)>, RegistryError>>,
) {
    let shard = [(ShardId(7), ShardEpoch(0))];
    let owned = registry.take_shards(a, &shard).await.unwrap();
    let mut commit = session(&ground.url).await;
    sqlx::raw_sql("BEGIN; SELECT 1 FROM lock_shard WHERE shard = 7 AND epoch = 1 FOR KEY SHARE")
        .execute(&mut commit)
        .await
        .unwrap();
    let take = tokio::spawn({
        let registry = Arc::clone(registry);
        async move { registry.take_silent(b, a, 0, &owned).await }
    });
    waits_for_a_lock(&ground.url).await;
    assert!(!take.is_finished());
    (commit, take)
}

async fn end(mut commit: PgConnection) {
    sqlx::raw_sql("COMMIT").execute(&mut commit).await.unwrap();
}

#[tokio::test]
async fn a_take_over_that_waits_holds_up_no_renewal_of_the_silent_member() {
    let ground = Ground::new();
    let registry = Arc::new(ground.registry().await);
    let (a, b) = (join(&registry, "a").await, join(&registry, "b").await);
    let (commit, take) = waiting_take_over(&ground, &registry, (a.member, b.member)).await;
    registry.renew(a.member, &[]).await.unwrap();
    registry.renew(b.member, &[]).await.unwrap();
    assert!(!take.is_finished());
    end(commit).await;
    assert_eq!(take.await.unwrap(), Ok(vec![(ShardId(7), ShardEpoch(2))]));
}

#[tokio::test]
async fn a_turn_that_is_drawn_during_a_take_over_waits_for_it_and_tells_of_it() {
    let ground = Ground::new();
    let registry = Arc::new(ground.registry().await);
    let (a, b) = (join(&registry, "a").await, join(&registry, "b").await);
    let (commit, take) = waiting_take_over(&ground, &registry, (a.member, b.member)).await;
    let before = registry.shard_map().await.unwrap().version;
    let mut draw = tokio::spawn({
        let (registry, me) = (registry.clone(), a.member);
        async move { registry.draw_turn(me, 1).await }
    });
    let early = tokio::time::timeout(Duration::from_millis(100), &mut draw).await;
    assert!(early.is_err(), "not before the take-over is over");
    end(commit).await;
    assert_eq!(take.await.unwrap().unwrap().len(), 1);
    assert_eq!(draw.await.unwrap(), Ok(before + 1));
}

#[tokio::test]
async fn a_take_over_waits_for_a_turn_that_is_being_drawn_and_is_refused() {
    let ground = Ground::new();
    let registry = Arc::new(ground.registry().await);
    let (a, b) = (join(&registry, "a").await, join(&registry, "b").await);
    let shard = [(ShardId(7), ShardEpoch(0))];
    let owned = registry.take_shards(a.member, &shard).await.unwrap();
    let mut draw = session(&ground.url).await;
    sqlx::raw_sql("BEGIN; UPDATE node_turn SET turn = 1")
        .execute(&mut draw)
        .await
        .unwrap();
    let take = tokio::spawn({
        let (registry, a, b) = (registry.clone(), a.member, b.member);
        async move { registry.take_silent(b, a, 0, &owned).await }
    });
    waits_for_a_lock(&ground.url).await;
    end(draw).await;
    assert_eq!(take.await.unwrap(), Ok(Vec::new()));
    let owner = registry.shard_map().await.unwrap().owner(ShardId(7));
    assert_eq!(owner.owner, Some(a.member));
}

#[tokio::test]
async fn take_overs_turns_hand_overs_and_the_end_of_members_do_not_stand_crosswise() {
    let ground = Ground::new();
    let registry = Arc::new(ground.registry().await);
    let (a, b) = (join(&registry, "a").await, join(&registry, "b").await);
    let shards: Vec<_> = (0..64).map(|n| (ShardId(n), ShardEpoch(0))).collect();
    registry.take_shards(a.member, &shards).await.unwrap();
    let (a, b) = (a.member, b.member);
    for turn in 0..20 {
        let map = registry.shard_map().await.unwrap();
        let all: Vec<_> = map.iter().take(64).map(|(s, row)| (s, row.epoch)).collect();
        let (one, other, drawn, given, first, second) = tokio::join!(
            registry.take_silent(b, a, turn, &all),
            registry.take_silent(a, b, turn, &all),
            registry.draw_turn(a, turn + 1),
            registry.hand_over(b, a, &all),
            registry.renew(a, &[]),
            registry.renew(b, &[]),
        );
        assert!(
            one.is_ok() && other.is_ok() && given.is_ok(),
            "{one:?} {other:?}"
        );
        assert!(
            drawn.is_ok() && first.is_ok() && second.is_ok(),
            "{drawn:?}"
        );
    }
    let (taken, left) = tokio::join!(
        registry.take_silent(b, a, 20, &[(ShardId(0), ShardEpoch(0))]),
        registry.leave(a)
    );
    assert_eq!((taken, left), (Ok(Vec::new()), Ok(())));
}
