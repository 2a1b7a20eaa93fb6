//! Looks: what they show is what there is, also where the owners were not read again.

use sluice_lockmgr::{EpochRegistry, ShardEpoch, ShardId, Sight};
use sluice_repo_postgres::PostgresRegistry;

use super::{Ground, join};

async fn look(registry: &PostgresRegistry) -> Sight {
    registry.look(true, &[]).await.unwrap()
}

#[tokio::test]
async fn a_look_shows_the_owners_of_now_whoever_changed_them_since_the_last_one() {
    let ground = Ground::new();
    let (one, two) = (ground.registry().await, ground.registry().await);
    let (a, b) = (join(&one, "a").await.member, join(&two, "b").await.member);
    let first = look(&one).await;
    let nobodys = |sight: &Sight| {
        let map = sight.map.as_ref().unwrap();
        map.iter().all(|(_, row)| row.owner.is_none())
    };
    assert!(nobodys(&first));
    let held = |shards: std::ops::Range<u16>, epoch| -> Vec<_> {
        shards.map(|n| (ShardId(n), ShardEpoch(epoch))).collect()
    };
    for change in 0..6 {
        match change {
            // Known from the answer.
            0 => drop(one.take_shards(a, &held(0..9, 0)).await.unwrap()),
            // By another node.
            1 => drop(two.take_shards(b, &held(5..20, 0)).await.unwrap()),
            // Another one was in between.
            2 => drop(one.take_shards(a, &held(20..30, 0)).await.unwrap()),
            3 => drop(one.take_silent(a, b, 0, &held(9..12, 1)).await.unwrap()),
            // Taken before, and refused.
            4 => drop(one.take_silent(a, b, 0, &held(9..13, 1)).await.unwrap()),
            _ => drop(one.hand_over(a, b, &held(0..3, 1)).await.unwrap()),
        }
        let fresh = look(&ground.registry().await).await;
        assert_eq!(look(&one).await, fresh, "after change {change}");
        assert_eq!(look(&two).await, fresh, "after change {change}");
    }
    assert!(!nobodys(&look(&one).await));
    assert_eq!(one.look(false, &[]).await.unwrap().map, None);
}

#[tokio::test]
async fn a_look_that_misses_a_member_shows_what_it_left_behind() {
    let ground = Ground::new();
    let (one, two) = (ground.registry().await, ground.registry().await);
    let me = join(&one, "me").await.member;
    for round in 0..20 {
        let other = join(&two, "other").await.member;
        let looks = async {
            loop {
                let sight = one.look(true, &[]).await.unwrap();
                let there = sight.members.members.iter().any(|r| r.member == other);
                let left = sight.left.iter().any(|left| left.member == other);
                assert_ne!(there, left, "round {round}");
                if left {
                    return;
                }
            }
        };
        let (_, left) = tokio::join!(looks, two.leave(other));
        left.unwrap();
    }
    let members = one.members().await.unwrap().members;
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].member, me);
}
