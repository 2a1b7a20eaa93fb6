//! The administration's records as the file layer uses them: an immutable snapshot of users, groups, shares and policy, replaced as a whole
//! when they change. Lookups are without I/O; never changes a record itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use sluice_repo::{
    Group, PolicyRule, RepoError, Repository, Share as ShareEntry, ShareId, Sid, User, fold_name,
};

use crate::error::VfsError;
use crate::identity::Identity;
use crate::permission::sid;
use crate::policy::PolicySet;
use crate::share::Share;

/// AUTH_SYS identities kept in one snapshot.
const UNIX_IDENTITIES_MAX: usize = 4096;

/// uid, gid and further gids as a client states them.
type UnixKey = (u32, u32, Vec<u32>);

/// One state of the records.
pub(crate) struct Directory {
    generation: u64,
    /// Changes of other nodes that it was read after.
    doubts: u64,
    /// `S-1-5-21-a-b-c` of this repository.
    pub(crate) domain: Sid,
    pub(crate) users: Vec<User>,
    pub(crate) groups: Vec<Group>,
    pub(crate) entries: Vec<ShareEntry>,
    pub(crate) rules: Vec<PolicyRule>,
    pub(crate) policy: PolicySet,
    by_name: HashMap<String, usize>,
    by_uid: HashMap<u32, usize>,
    uid_by_sid: HashMap<Sid, u32>,
    gid_by_sid: HashMap<Sid, u32>,
    sid_by_gid: HashMap<u32, Sid>,
    identities: Vec<Arc<Identity>>,
    shares: Vec<Arc<Share>>,
    share_by_name: HashMap<String, usize>,
    share_by_id: HashMap<ShareId, usize>,
    /// Guards the map only. Dropped with the snapshot, so that it never outlives a change of accounts.
    unix: Mutex<HashMap<UnixKey, Arc<Identity>>>,
}

impl Directory {
    async fn load(repo: &dyn Repository, doubts: u64) -> Result<Directory, RepoError> {
        // Read before the records: a change in between makes the snapshot look older than it is, and it is loaded again.
        let generation = repo.records_generation();
        let domain = sid::domain(repo).await?;
        let users = repo.users().await?;
        let groups = repo.groups().await?;
        let entries = repo.shares().await?;
        let rules = repo.policies().await?;
        let shares: Vec<_> = entries.iter().map(|e| Arc::new(Share::of(e))).collect();
        let names = shares.iter().map(|share| (share.id, share.name.as_str()));
        let mut directory = Directory {
            generation,
            doubts,
            domain,
            policy: PolicySet::new(&rules, names),
            by_name: index(&users, |user| fold_name(&user.name)),
            by_uid: index(&users, |user| user.uid),
            uid_by_sid: users.iter().map(|u| (u.sid.clone(), u.uid)).collect(),
            gid_by_sid: groups.iter().map(|g| (g.sid.clone(), g.gid)).collect(),
            sid_by_gid: groups.iter().map(|g| (g.gid, g.sid.clone())).collect(),
            identities: Vec::new(),
            share_by_name: index(&shares, |share| fold_name(&share.name)),
            share_by_id: index(&shares, |share| share.id),
            unix: Mutex::default(),
            users,
            groups,
            entries,
            rules,
            shares,
        };
        directory.identities = directory
            .users
            .iter()
            .map(|user| Arc::new(directory.account(user)))
            .collect();
        Ok(directory)
    }

    fn account(&self, user: &User) -> Identity {
        let named = |name: &String| {
            let same = |group: &&Group| fold_name(&group.name) == fold_name(name);
            self.groups.iter().find(same).map(|group| group.gid)
        };
        let gids: Vec<u32> = user.groups.iter().filter_map(named).collect();
        Identity {
            user: Some(user.id),
            name: user.name.clone(),
            uid: user.uid,
            gid: user.gid,
            groups: self.group_names(user.gid, &gids),
            group_sids: self.group_sids(user.gid, &gids),
            gids,
            sid: user.sid.clone(),
            admin: user.admin,
        }
    }

    fn group_names(&self, gid: u32, gids: &[u32]) -> Vec<String> {
        let member = |group: &&Group| group.gid == gid || gids.contains(&group.gid);
        let groups = self.groups.iter().filter(member);
        groups.map(|group| group.name.clone()).collect()
    }

    fn group_sids(&self, gid: u32, gids: &[u32]) -> Vec<Sid> {
        let mut sids = vec![self.sid_of_gid(gid)];
        for gid in gids {
            let sid = self.sid_of_gid(*gid);
            if !sids.contains(&sid) {
                sids.push(sid);
            }
        }
        sids
    }

    /// A user by login name, without regard to case.
    pub(crate) fn user(&self, name: &str) -> Option<(&User, &Arc<Identity>)> {
        let place = *self.by_name.get(&fold_name(name))?;
        Some((self.users.get(place)?, self.identities.get(place)?))
    }

    /// The account with this uid.
    pub(crate) fn user_of_uid(&self, uid: u32) -> Option<&User> {
        self.users.get(*self.by_uid.get(&uid)?)
    }

    /// SID of a uid: the account's, or one made of the bare number.
    pub(crate) fn sid_of_uid(&self, uid: u32) -> Sid {
        self.user_of_uid(uid)
            .map_or_else(|| sid::of_bare_uid(uid), |user| user.sid.clone())
    }

    /// SID of a gid: the group's, or one made of the bare number.
    pub(crate) fn sid_of_gid(&self, gid: u32) -> Sid {
        self.sid_by_gid
            .get(&gid)
            .cloned()
            .unwrap_or_else(|| sid::of_bare_gid(gid))
    }

    /// The uid that a SID stands for.
    pub(crate) fn uid_of_sid(&self, sid: &Sid) -> Option<u32> {
        let known = self.uid_by_sid.get(sid).copied();
        known.or_else(|| sid::bare_uid(sid))
    }

    /// The gid that a SID stands for.
    pub(crate) fn gid_of_sid(&self, sid: &Sid) -> Option<u32> {
        let known = self.gid_by_sid.get(sid).copied();
        known.or_else(|| sid::bare_gid(sid))
    }

    /// Who an AUTH_SYS credential is. Never an administrator: anybody can state any number.
    pub(crate) fn unix(&self, uid: u32, gid: u32, gids: &[u32]) -> Arc<Identity> {
        let key = (uid, gid, gids.to_vec());
        let mut cache = self.unix.lock();
        if let Some(known) = cache.get(&key) {
            return Arc::clone(known);
        }
        let identity = Arc::new(self.make_unix(uid, gid, gids));
        if cache.len() >= UNIX_IDENTITIES_MAX {
            cache.clear();
        }
        cache.insert(key, Arc::clone(&identity));
        identity
    }

    fn make_unix(&self, uid: u32, gid: u32, stated: &[u32]) -> Identity {
        let place = self.by_uid.get(&uid);
        let account = place.and_then(|place| self.identities.get(*place));
        let mut gids = Vec::with_capacity(stated.len());
        let own = account.map(|account| (account.gid, &account.gids));
        let own = own.into_iter().flat_map(|(gid, gids)| {
            std::iter::once(&gid)
                .chain(gids)
                .copied()
                .collect::<Vec<_>>()
        });
        for further in stated.iter().copied().chain(own) {
            if further != gid && !gids.contains(&further) {
                gids.push(further);
            }
        }
        Identity {
            user: account.and_then(|account| account.user),
            name: account.map_or_else(|| format!("uid {uid}"), |account| account.name.clone()),
            uid,
            gid,
            groups: self.group_names(gid, &gids),
            group_sids: self.group_sids(gid, &gids),
            gids,
            sid: self.sid_of_uid(uid),
            admin: false,
        }
    }

    /// Shares in name order.
    pub(crate) fn shares(&self) -> &[Arc<Share>] {
        &self.shares
    }

    /// A share by name, without regard to case.
    pub(crate) fn share(&self, name: &str) -> Option<&Arc<Share>> {
        self.shares.get(*self.share_by_name.get(&fold_name(name))?)
    }

    /// A share by id.
    pub(crate) fn share_by_id(&self, id: ShareId) -> Option<&Arc<Share>> {
        self.shares.get(*self.share_by_id.get(&id)?)
    }
}

fn index<T, K: std::hash::Hash + Eq>(items: &[T], key: impl Fn(&T) -> K) -> HashMap<K, usize> {
    let places = items.iter().enumerate();
    places.map(|(place, item)| (key(item), place)).collect()
}

/// The present snapshot, and how it is replaced.
pub(crate) struct Records {
    repo: Arc<dyn Repository>,
    current: RwLock<Arc<Directory>>,
    /// How often another node has changed them.
    doubts: AtomicU64,
    /// One reload at a time; never taken together with `current` across an await.
    reload: tokio::sync::Mutex<()>,
}

impl Records {
    /// Reads everything once.
    pub(crate) async fn load(repo: &Arc<dyn Repository>) -> Result<Records, VfsError> {
        let directory = Directory::load(repo.as_ref(), 0).await?;
        Ok(Records {
            repo: Arc::clone(repo),
            current: RwLock::new(Arc::new(directory)),
            doubts: AtomicU64::new(0),
            reload: tokio::sync::Mutex::default(),
        })
    }

    /// The snapshot that holds now.
    pub(crate) fn current(&self) -> Arc<Directory> {
        Arc::clone(&self.current.read())
    }

    fn holds(&self, directory: &Directory) -> bool {
        directory.generation == self.repo.records_generation()
            && directory.doubts == self.doubts.load(Ordering::Acquire)
    }

    /// Another node has changed the records: they are read again before the next use that asks for fresh ones.
    pub(crate) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::Release);
    }

    /// The snapshot after all changes that were answered before this call; one comparison if nothing changed.
    pub(crate) async fn fresh(&self) -> Result<Arc<Directory>, RepoError> {
        let current = self.current();
        if self.holds(&current) {
            return Ok(current);
        }
        let _one = self.reload.lock().await;
        let current = self.current();
        if self.holds(&current) {
            return Ok(current);
        }
        // Before the records are read: a change in between makes them stale again. Until they are read, the old ones don't hold.
        let doubts = self.doubts.load(Ordering::Acquire);
        let directory = Arc::new(Directory::load(self.repo.as_ref(), doubts).await?);
        *self.current.write() = Arc::clone(&directory);
        Ok(directory)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluice_repo_sqlite::{Options, SqliteRepository};
    use sluice_repo_suite::{Fault, FaultyRepository};

    use super::*;

    #[tokio::test]
    async fn nobody_gets_the_old_records_while_doubted_ones_are_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let sqlite = SqliteRepository::open(Options::new(folder.path().join("meta.db")));
        let faults = FaultyRepository::new(Arc::new(sqlite.await.expect("opens")));
        let faults = Arc::new(faults);
        let repo: Arc<dyn Repository> = faults.clone();
        let records = Records::load(&repo).await.expect("reads");
        let old = records.current();
        records.doubt();
        faults.inject("users", 0, Fault::Delay(Duration::from_millis(20)));
        let (first, second) = tokio::join!(records.fresh(), records.fresh());
        for new in [first, second] {
            assert!(!Arc::ptr_eq(&new.expect("reads"), &old));
        }
        assert_eq!(faults.pending(), 0);
    }
}
