//! The registry on a real PostgreSQL server.

mod kept;
mod look;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_lockmgr::{
    ClusterIdentity, EpochRegistry, FenceOutcome, GrantId, JoinRequest, Joined, Member,
    MemberEpoch, MemberState, PastReason, RegistryError, RegistryHint, Revocation, ShardEpoch,
    ShardId, shard_of,
};
use sluice_repo_postgres::server::PostgresServer;
use sluice_repo_postgres::{Database, PostgresRegistry, RegistryOptions};
use sqlx::{Connection, PgConnection};

struct Ground {
    _server: Arc<PostgresServer>,
    url: String,
}

impl Ground {
    fn new() -> Ground {
        let server = PostgresServer::shared().unwrap();
        let url = server.database().unwrap();
        Ground {
            _server: server,
            url,
        }
    }

    async fn registry(&self) -> PostgresRegistry {
        self.registry_with(Duration::from_secs(6)).await
    }

    async fn registry_with(&self, lease: Duration) -> PostgresRegistry {
        open(&self.url, lease).await
    }
}

async fn open(url: &str, lease: Duration) -> PostgresRegistry {
    let options = RegistryOptions {
        lease,
        ..RegistryOptions::default()
    };
    PostgresRegistry::new(Database::open(url).await.unwrap(), options)
}

async fn join(registry: &PostgresRegistry, name: &str) -> Joined {
    let request = JoinRequest {
        name: name.into(),
        advertise: format!("{name}:7480"),
        version: "1".into(),
    };
    registry.join(&request).await.unwrap()
}

/// A plain session on the same tables, as the repository has.
async fn session(url: &str) -> PgConnection {
    let mut conn = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql("SET search_path = sluice")
        .execute(&mut conn)
        .await
        .unwrap();
    conn
}

async fn key_share(conn: &mut PgConnection, me: Member) -> usize {
    sqlx::query("SELECT 1 FROM node_session WHERE member = $1 AND epoch = $2 FOR KEY SHARE")
        .bind(i32::try_from(me.id.0).unwrap())
        .bind(i64::try_from(me.epoch.0).unwrap())
        .fetch_all(conn)
        .await
        .unwrap()
        .len()
}

#[tokio::test]
async fn a_later_life_of_a_name_has_the_same_number_and_a_greater_epoch() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let first = join(&registry, "a").await;
    let other = join(&registry, "b").await;
    assert_ne!(first.member.id, other.member.id);
    registry.leave(first.member).await.unwrap();
    registry.leave(first.member).await.unwrap();
    let again = join(&registry, "a").await;
    assert_eq!(again.member.id, first.member.id);
    assert!(again.member.epoch > other.member.epoch);
    let past = registry.past_members(5).await.unwrap();
    assert_eq!(
        (past[0].member, past[0].why),
        (first.member, PastReason::Left)
    );
}

#[tokio::test]
async fn a_name_is_taken_while_its_process_lives_and_replaced_at_once_when_it_does_not() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let first = join(&registry, "a").await;
    let request = JoinRequest {
        name: "a".into(),
        advertise: "elsewhere:1".into(),
        version: "1".into(),
    };
    let Err(refused) = registry.join(&request).await else {
        panic!("two nodes of one name");
    };
    assert_eq!(
        refused,
        RegistryError::NameTaken {
            advertise: "a:7480".into()
        }
    );
    let dead = first.member;
    drop(first.life);
    let second = loop {
        // The server notices the closed connection a moment later.
        match registry.join(&request).await {
            Ok(joined) => break joined,
            Err(error) => assert!(matches!(error, RegistryError::NameTaken { .. })),
        }
    };
    assert_eq!(registry.renew(dead, &[]).await, Err(RegistryError::Fenced));
    assert_eq!(registry.members().await.unwrap().members.len(), 1);
    registry.renew(second.member, &[]).await.unwrap();
}

#[tokio::test]
async fn a_heartbeat_passes_a_commit_that_holds_the_row_and_a_fence_waits_for_it() {
    let ground = Ground::new();
    let registry = Arc::new(ground.registry_with(Duration::from_millis(300)).await);
    let (me, victim) = (join(&registry, "a").await, join(&registry, "b").await);
    let mut writer = session(&ground.url).await;
    let mut commit = writer.begin().await.unwrap();
    assert_eq!(key_share(&mut commit, victim.member).await, 1);
    registry.renew(victim.member, &[]).await.unwrap();

    drop(victim.life);
    let expires = expired(&registry, me.member, victim.member).await;
    let fence = tokio::spawn({
        let (registry, me, victim) = (registry.clone(), me.member, victim.member);
        async move {
            registry.renew(me, &[]).await.unwrap();
            registry.fence_expired(me, victim, expires).await
        }
    });
    waits_for_a_lock(&ground.url).await;
    assert!(!fence.is_finished());
    commit.commit().await.unwrap();
    assert_eq!(fence.await.unwrap(), Ok(FenceOutcome::Fenced));
    // After the fence the same statement finds nobody to commit for.
    assert_eq!(key_share(&mut writer, victim.member).await, 0);
}

#[tokio::test]
async fn a_commit_that_starts_while_the_fence_is_under_way_waits_and_then_finds_no_row() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let victim = join(&registry, "b").await;
    let mut fencer = session(&ground.url).await;
    let mut fence = fencer.begin().await.unwrap();
    sqlx::query("DELETE FROM node_session WHERE epoch = $1")
        .bind(i64::try_from(victim.member.epoch.0).unwrap())
        .execute(&mut *fence)
        .await
        .unwrap();
    let late = tokio::spawn({
        let (url, victim) = (ground.url.clone(), victim.member);
        async move { key_share(&mut session(&url).await, victim).await }
    });
    waits_for_a_lock(&ground.url).await;
    assert!(!late.is_finished());
    fence.commit().await.unwrap();
    assert_eq!(late.await.unwrap(), 0);
}

#[tokio::test]
async fn a_plain_read_of_the_row_lets_a_fence_pass_and_is_no_check() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let victim = join(&registry, "b").await;
    let mut writer = session(&ground.url).await;
    let mut commit = writer.begin().await.unwrap();
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM node_session")
        .fetch_one(&mut *commit)
        .await
        .unwrap();
    assert_eq!(seen, 1);
    // Returns although the writer believes that it is a member: this is why every change takes FOR KEY SHARE.
    registry.leave(victim.member).await.unwrap();
    sqlx::query("UPDATE cluster_state SET value = value WHERE key = 'epoch'")
        .execute(&mut *commit)
        .await
        .unwrap();
    commit.commit().await.unwrap();
}

#[tokio::test]
async fn a_renewed_lease_is_not_fenced_and_a_node_without_a_lease_fences_nobody() {
    let ground = Ground::new();
    let registry = ground.registry_with(Duration::from_millis(200)).await;
    let (me, victim) = (join(&registry, "a").await, join(&registry, "b").await);
    let expires = expired(&registry, me.member, victim.member).await;
    registry.renew(victim.member, &[]).await.unwrap();
    registry.renew(me.member, &[]).await.unwrap();
    assert_eq!(
        registry
            .fence_expired(me.member, victim.member, expires)
            .await,
        Ok(FenceOutcome::Alive)
    );
    let expires = expired(&registry, me.member, victim.member).await;
    expired(&registry, victim.member, me.member).await;
    assert_eq!(
        registry
            .fence_expired(me.member, victim.member, expires)
            .await,
        Err(RegistryError::Fenced)
    );
    // It froze, and thaws with everything: its row is still there.
    registry.renew(me.member, &[]).await.unwrap();
    registry.renew(victim.member, &[]).await.unwrap();
}

#[tokio::test]
async fn a_dead_process_is_fenced_at_once_and_a_living_one_is_not() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let (me, victim) = (join(&registry, "a").await, join(&registry, "b").await);
    assert_eq!(
        registry.fence_dead(me.member, victim.member).await,
        Ok(FenceOutcome::Alive)
    );
    drop(victim.life);
    loop {
        match registry.fence_dead(me.member, victim.member).await.unwrap() {
            FenceOutcome::Alive => {}
            outcome => {
                assert_eq!(outcome, FenceOutcome::Fenced);
                break;
            }
        }
    }
    assert_eq!(
        registry.fence_dead(me.member, victim.member).await,
        Ok(FenceOutcome::Gone)
    );
    assert_eq!(
        registry.renew(victim.member, &[]).await,
        Err(RegistryError::Fenced)
    );
    assert_eq!(
        registry.past_members(1).await.unwrap()[0].why,
        PastReason::Dead
    );
}

#[tokio::test]
async fn a_lost_life_connection_is_told_and_the_lock_can_be_taken_again() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let mut joined = join(&registry, "a").await;
    let taken = registry.hold_life(joined.member).await;
    assert!(matches!(taken, Err(RegistryError::Refused(_))));
    let mut admin = session(&ground.url).await;
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .execute(&mut admin)
    .await
    .unwrap();
    tokio::time::timeout(Duration::from_secs(5), joined.life.lost())
        .await
        .expect("told of the loss");
    let _again = registry.hold_life(joined.member).await.unwrap();
    registry.renew(joined.member, &[]).await.unwrap();
}

#[tokio::test]
async fn shards_of_no_member_are_taken_over_once_and_those_of_a_member_are_not() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let (a, b) = (join(&registry, "a").await, join(&registry, "b").await);
    let map = registry.shard_map().await.unwrap();
    let all: Vec<_> = map.iter().map(|(shard, o)| (shard, o.epoch)).collect();
    let (left, right) = tokio::join!(
        registry.take_shards(a.member, &all),
        registry.take_shards(b.member, &all)
    );
    assert_eq!(left.unwrap().len() + right.unwrap().len(), all.len());
    let taken = registry.shard_map().await.unwrap();
    assert!(taken.version > map.version);
    assert!(
        taken
            .iter()
            .all(|(_, o)| o.epoch == ShardEpoch(1) && o.owner.is_some())
    );
    let now: Vec<_> = taken.iter().map(|(shard, o)| (shard, o.epoch)).collect();
    assert_eq!(registry.take_shards(a.member, &now).await, Ok(Vec::new()));

    registry.leave(a.member).await.unwrap();
    assert_eq!(
        registry.take_shards(a.member, &now).await,
        Err(RegistryError::Fenced)
    );
    let taken = registry.take_shards(b.member, &now).await.unwrap();
    assert!(taken.iter().all(|(_, epoch)| *epoch == ShardEpoch(2)));
}

#[tokio::test]
async fn a_hand_over_moves_own_shards_to_members_only() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let (a, b) = (join(&registry, "a").await, join(&registry, "b").await);
    let shards = [(ShardId(3), ShardEpoch(0)), (ShardId(4), ShardEpoch(0))];
    let taken = registry.take_shards(a.member, &shards).await.unwrap();
    assert_eq!(
        registry.hand_over(b.member, a.member, &taken).await,
        Ok(Vec::new())
    );
    let stranger = Member {
        epoch: MemberEpoch(999),
        ..b.member
    };
    assert_eq!(
        registry.hand_over(a.member, stranger, &taken).await,
        Ok(Vec::new())
    );
    let given = registry
        .hand_over(a.member, b.member, &taken)
        .await
        .unwrap();
    assert_eq!(given.len(), 2);
    let owner = registry.shard_map().await.unwrap().owner(ShardId(3));
    assert_eq!((owner.owner, owner.epoch), (Some(b.member), ShardEpoch(2)));
}

#[tokio::test]
async fn a_take_over_waits_for_commits_under_the_old_shard_epoch() {
    let ground = Ground::new();
    let registry = Arc::new(ground.registry().await);
    let a = join(&registry, "a").await;
    let mut writer = session(&ground.url).await;
    let mut commit = writer.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM lock_shard WHERE shard = 7 AND epoch = 0 FOR KEY SHARE")
        .execute(&mut *commit)
        .await
        .unwrap();
    let take = tokio::spawn({
        let (registry, me) = (registry.clone(), a.member);
        async move {
            registry
                .take_shards(me, &[(ShardId(7), ShardEpoch(0))])
                .await
        }
    });
    waits_for_a_lock(&ground.url).await;
    assert!(!take.is_finished());
    commit.commit().await.unwrap();
    assert_eq!(take.await.unwrap(), Ok(vec![(ShardId(7), ShardEpoch(1))]));
}

#[tokio::test]
async fn a_token_that_is_taken_away_is_told_to_its_holder_until_it_has_heard() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let (owner, holder) = (join(&registry, "a").await, join(&registry, "b").await);
    // A name: there is no such document, and nobody commits it.
    let document = (1 << 63) | 77;
    let shard = (shard_of(document), ShardEpoch(0));
    let taken = registry.take_shards(owner.member, &[shard]).await.unwrap();
    let epoch = taken[0].1;
    let of_holder = Revocation {
        document,
        grant: GrantId { epoch, number: 5 },
        holder: holder.member,
    };
    let refused = registry.force_fence(holder.member, &of_holder, epoch).await;
    assert!(matches!(refused, Err(RegistryError::Refused(_))));
    let none = registry.renew(holder.member, &[]).await.unwrap().revoked;
    assert_eq!(none, []);
    let fence = registry
        .force_fence(owner.member, &of_holder, epoch)
        .await
        .unwrap();
    assert!(fence > epoch.fence() && ShardEpoch::of_fence(fence) == epoch);
    for _ in 0..2 {
        let told = registry.renew(holder.member, &[]).await.unwrap().revoked;
        let [token] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert_eq!(
            (token.document, token.grant, token.fence),
            (document, of_holder.grant, fence)
        );
    }
    let told = registry.renew(owner.member, &[]).await.unwrap().revoked;
    assert_eq!(told, [], "only its holder is told");
    let heard = registry.renew(holder.member, &[]).await.unwrap().revoked[0].id;
    for _ in 0..2 {
        let told = registry.renew(holder.member, &[heard]).await.unwrap();
        assert_eq!(told.revoked, []);
    }
}

#[tokio::test]
async fn mail_arrives_in_order_once_and_only_for_members() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let (a, b) = (join(&registry, "a").await, join(&registry, "b").await);
    let mail = |from: u8| (from..from + 3).map(|n| Bytes::from(vec![n])).collect();
    assert_eq!(registry.hint(b.member).await, Ok(RegistryHint::Members));
    registry
        .mailbox_put(a.member, b.member, mail(0))
        .await
        .unwrap();
    registry
        .mailbox_put(a.member, b.member, mail(3))
        .await
        .unwrap();
    assert_eq!(registry.hint(b.member).await, Ok(RegistryHint::Mail));
    let mut got = registry.mailbox_take(b.member, 4).await.unwrap();
    got.extend(registry.mailbox_take(b.member, 4).await.unwrap());
    let bodies: Vec<u8> = got.iter().map(|(_, body)| body[0]).collect();
    assert_eq!(bodies, [0, 1, 2, 3, 4, 5]);
    assert!(got.iter().all(|(from, _)| *from == a.member));

    registry.leave(a.member).await.unwrap();
    assert_eq!(
        registry.mailbox_put(a.member, b.member, mail(0)).await,
        Err(RegistryError::Fenced)
    );
    registry
        .mailbox_put(b.member, a.member, mail(0))
        .await
        .unwrap();
    assert!(registry.mailbox_take(b.member, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_first_identity_stays_and_states_are_counted() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let mine = ClusterIdentity {
        id: [1; 16],
        secret_proof: [2; 32],
        schema: 1,
    };
    let other = ClusterIdentity {
        id: [9; 16],
        ..mine.clone()
    };
    assert_eq!(registry.identity(&mine).await, Ok(mine.clone()));
    assert_eq!(registry.identity(&other).await, Ok(mine));
    let a = join(&registry, "a").await;
    let before = registry.renew(a.member, &[]).await.unwrap();
    registry
        .set_state(a.member, a.member, MemberState::Live)
        .await
        .unwrap();
    assert!(registry.renew(a.member, &[]).await.unwrap().members > before.members);
    assert_eq!(
        registry.members().await.unwrap().members[0].state,
        MemberState::Live
    );
}

#[tokio::test]
async fn a_command_that_has_the_repository_to_itself_keeps_nodes_out_until_its_lease_is_over() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let mut command = session(&ground.url).await;
    let lease = |left: &'static str| {
        sqlx::query(
            "INSERT INTO node_session(member, epoch, name, addr, version, state, expires_at) \
             VALUES (0, 1000, 'a command', '', '1', 0, clock_timestamp() + $1::text::interval) \
             ON CONFLICT (member, epoch) DO UPDATE SET expires_at = EXCLUDED.expires_at",
        )
        .bind(left)
    };
    lease("1 hour").execute(&mut command).await.unwrap();
    let request = JoinRequest {
        name: "a".into(),
        advertise: "a:1".into(),
        version: "1".into(),
    };
    assert!(matches!(
        registry.join(&request).await,
        Err(RegistryError::Refused(_))
    ));
    assert!(registry.members().await.unwrap().members.is_empty());
    lease("-1 second").execute(&mut command).await.unwrap();
    registry.join(&request).await.unwrap();
}

#[tokio::test]
async fn a_fenced_process_that_still_holds_on_shows_as_rogue() {
    let ground = Ground::new();
    let registry = ground.registry().await;
    let (a, b) = (join(&registry, "a").await, join(&registry, "b").await);
    registry.leave(b.member).await.unwrap();
    let survey = registry.survey().await.unwrap();
    assert_eq!(survey.rogues, [b.member]);
    assert_eq!(survey.leases.len(), 1);
    let (member, left) = survey.leases[0];
    assert_eq!(member, a.member);
    assert!(left.is_some_and(|left| left <= Duration::from_secs(6)));
}

#[tokio::test]
async fn a_restart_of_the_server_keeps_members_and_owners() {
    let mut server = PostgresServer::temporary().unwrap();
    let registry = open(&server.url(), Duration::from_secs(6)).await;
    let mut a = join(&registry, "a").await;
    registry
        .take_shards(a.member, &[(ShardId(1), ShardEpoch(0))])
        .await
        .unwrap();
    server.kill().unwrap();
    a.life.lost().await;
    // Others of the killed server's processes may live on for a moment.
    let refused = loop {
        if let Err(error) = registry.renew(a.member, &[]).await {
            break error;
        }
    };
    assert!(
        matches!(refused, RegistryError::Unavailable(_)),
        "{refused}"
    );
    server.start().unwrap();
    renewed(&registry, a.member).await.unwrap();
    let _life = registry.hold_life(a.member).await.unwrap();
    assert_eq!(
        registry.shard_map().await.unwrap().owner(ShardId(1)).owner,
        Some(a.member)
    );
}

#[tokio::test]
async fn a_promoted_synchronous_standby_thaws_everybody() {
    let mut server = PostgresServer::temporary().unwrap();
    let registry = open(&server.url(), Duration::from_secs(6)).await;
    let a = join(&registry, "a").await;
    let mut standby = server.standby().unwrap();
    server.synchronous(true).unwrap();
    for _ in 0..20 {
        registry.renew(a.member, &[]).await.unwrap();
    }
    server.kill().unwrap();
    fail_over(&mut server, &mut standby);
    renewed(&registry, a.member).await.unwrap();
}

#[tokio::test]
async fn a_promoted_standby_that_lost_answered_commits_is_noticed_and_nobody_thaws() {
    let mut server = PostgresServer::temporary().unwrap();
    let registry = open(&server.url(), Duration::from_secs(6)).await;
    let a = join(&registry, "a").await;
    let mut standby = server.standby().unwrap();
    server.synchronous(false).unwrap();
    standby.cut_replication().unwrap();
    registry.renew(a.member, &[]).await.unwrap();
    server.kill().unwrap();
    fail_over(&mut server, &mut standby);
    let outcome = renewed(&registry, a.member).await;
    assert!(
        matches!(outcome, Err(RegistryError::HistoryLost(_))),
        "{outcome:?}"
    );
    assert!(matches!(
        registry.members().await,
        Err(RegistryError::HistoryLost(_))
    ));
}

/// The standby becomes the primary behind the old primary's address.
fn fail_over(server: &mut PostgresServer, standby: &mut PostgresServer) {
    standby.promote().unwrap();
    standby.stop().unwrap();
    server.exchange_ports(standby);
    standby.start().unwrap();
}

/// Renews until the database answers.
async fn renewed(
    registry: &PostgresRegistry,
    me: Member,
) -> Result<sluice_lockmgr::Heartbeat, RegistryError> {
    loop {
        match registry.renew(me, &[]).await {
            Err(RegistryError::Unavailable(_)) => {}
            outcome => return outcome,
        }
    }
}

/// Waits until a member's lease is over on the database's clock; when it ended. The asker stays a member.
async fn expired(
    registry: &PostgresRegistry,
    me: Member,
    member: Member,
) -> sluice_lockmgr::RegistryTime {
    loop {
        let list = registry.members().await.unwrap();
        let of = |wanted: Member| {
            list.members
                .iter()
                .find(|row| row.member == wanted)
                .unwrap()
                .expires
        };
        // Leases have one length, so one that was renewed later by that length proves the other one over.
        registry.renew(me, &[]).await.unwrap();
        if of(me).0 > of(member).0 + 400_000 {
            return of(member);
        }
    }
}

/// Waits until some session of this database stands before a row lock.
async fn waits_for_a_lock(url: &str) {
    let mut conn = session(url).await;
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
        )
        .fetch_one(&mut conn)
        .await
        .unwrap();
        if waiting > 0 {
            return;
        }
    }
}
