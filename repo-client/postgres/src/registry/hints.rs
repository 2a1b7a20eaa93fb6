//! Hints over LISTEN and NOTIFY: quicker than asking, never needed. Sent outside of the transactions that they tell about,
//! because a notifying commit takes a lock of the whole database.

use std::time::Duration;

use sluice_lockmgr::{Member, RegistryHint};
use sqlx::PgConnection;
use sqlx::postgres::PgListener;
use tokio::sync::Mutex;

use super::{Result, told};
use crate::database::Database;

/// The channel on which changes of members and shards are told.
const MEMBERS: &str = "sluice_members";

/// A hint that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(1);

fn mail_channel(member: Member) -> String {
    format!("sluice_mail_{}_{}", member.id.0, member.epoch.0)
}

/// Tells all nodes that members or shards changed; a failure only makes them notice later. Whether the connection is good still.
pub(super) async fn tell_members(conn: &mut PgConnection) -> bool {
    tell(conn, MEMBERS).await
}

/// Tells a member that it has mail.
pub(super) async fn tell_mail(conn: &mut PgConnection, to: Member) -> bool {
    tell(conn, &mail_channel(to)).await
}

async fn tell(conn: &mut PgConnection, channel: &str) -> bool {
    let told = sqlx::query("SELECT pg_notify($1, '')")
        .bind(channel)
        .execute(conn);
    matches!(tokio::time::timeout(PATIENCE, told).await, Ok(Ok(_)))
}

/// The listening connection, made when first asked for.
pub(super) struct Hints {
    database: Database,
    /// Held while waiting: one caller waits at a time.
    listener: Mutex<Option<(Member, PgListener)>>,
}

impl Hints {
    pub(super) fn new(database: Database) -> Hints {
        Hints {
            database,
            listener: Mutex::default(),
        }
    }

    /// Waits for the next hint. After a lost connection the first answer comes at once: something may have been missed.
    pub(super) async fn next(&self, me: Member) -> Result<RegistryHint> {
        let mut held = self.listener.lock().await;
        let fits = held.as_ref().is_some_and(|(member, _)| *member == me);
        if !fits {
            *held = None;
            let listener = self.listen(me).await?;
            *held = Some((me, listener));
            return Ok(RegistryHint::Members);
        }
        let Some((_, listener)) = held.as_mut() else {
            return Ok(RegistryHint::Members);
        };
        match listener.try_recv().await {
            Ok(Some(told)) if told.channel() == MEMBERS => Ok(RegistryHint::Members),
            Ok(Some(_)) => Ok(RegistryHint::Mail),
            Ok(None) => {
                *held = None;
                Ok(RegistryHint::Members)
            }
            Err(error) => {
                *held = None;
                Err(told(error))
            }
        }
    }

    async fn listen(&self, me: Member) -> Result<PgListener> {
        let pool = self.database.pool(1);
        let mut listener = PgListener::connect_with(&pool).await.map_err(told)?;
        listener.eager_reconnect(false);
        listener
            .listen_all([MEMBERS, mail_channel(me).as_str()])
            .await
            .map_err(told)?;
        Ok(listener)
    }
}
