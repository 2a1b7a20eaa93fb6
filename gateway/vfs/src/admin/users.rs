//! Users and groups, and what the first start makes.

use sluice_repo::{Group, RepoError, User, UserId, fold_name};

use super::{
    Admin, AdminError, AdminResult, FirstStart, GroupRecord, NewUser, Password, ShareChange,
    UserRecord,
};
use crate::accounts::hash_password;
use crate::permission::sid;
use crate::records::Directory;

/// First uid and gid that is given to an account without one: far from those that client machines give to their own users.
const FIRST_ID: u32 = 100_000;
/// The group that users belong to unless told otherwise.
const USERS_GROUP: &str = "users";
/// Counter of relative ids; accounts and groups share it, so a SID is never used again.
const RID_COUNTER: &str = "vfs.rid";
/// Last relative id that is reserved for well-known accounts.
const RID_RESERVED: u64 = 1000;
/// Longest name of a user or group in characters.
const NAME_CHARS_MAX: usize = 64;
/// Longest password in bytes.
const PASSWORD_BYTES_MAX: usize = 1024;
/// Letters of generated passwords: no two that look alike.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Length of a generated password: 80 bits.
const GENERATED_CHARS: usize = 16;
/// What the first start makes.
const FIRST_USER: &str = "admin";
const FIRST_SHARE: &str = "docs";

impl Admin {
    /// On a repository without users and shares: makes the user `admin` with a generated password and the share `docs`. `None` if there
    /// is anything already.
    pub async fn first_start(&self) -> AdminResult<Option<FirstStart>> {
        let directory = self.inner.records.fresh().await?;
        if !directory.users.is_empty() || !directory.entries.is_empty() {
            return Ok(None);
        }
        let password = generated_password()?;
        // The user last: a start that is interrupted before leaves a share, not a user whose password nobody saw.
        self.add_share(FIRST_SHARE, ShareChange::default()).await?;
        self.add_user(NewUser {
            name: FIRST_USER.to_owned(),
            password: Some(Password(password.clone())),
            admin: true,
            ..NewUser::default()
        })
        .await?;
        Ok(Some(FirstStart {
            user: FIRST_USER.to_owned(),
            password,
            share: FIRST_SHARE.to_owned(),
        }))
    }

    /// All users, by name.
    pub async fn users(&self) -> AdminResult<Vec<UserRecord>> {
        let directory = self.inner.records.fresh().await?;
        Ok(directory.users.iter().map(record).collect())
    }

    /// Makes a user.
    pub async fn add_user(&self, new: NewUser) -> AdminResult<UserRecord> {
        check_name("user", &new.name)?;
        let directory = self.inner.records.fresh().await?;
        if directory.user(&new.name).is_some() {
            return Err(AdminError::Exists(format!(
                "there is a user {} already",
                new.name
            )));
        }
        let uid = match new.uid {
            Some(uid) => {
                if let Some(other) = directory.user_of_uid(uid) {
                    let why = format!("uid {uid} belongs to user {}", other.name);
                    return Err(AdminError::Exists(why));
                }
                uid
            }
            None => free_id(|id| directory.user_of_uid(id).is_some()),
        };
        for group in &new.groups {
            self.ensure_group(group).await?;
        }
        let gid = match new.gid {
            Some(gid) => gid,
            None => self.ensure_group(USERS_GROUP).await?,
        };
        let verifiers = match &new.password {
            Some(password) => Some(verifiers(password).await?),
            None => None,
        };
        let (nt_hash, verifier) = verifiers.unzip();
        let user = User {
            id: UserId(0),
            name: new.name,
            uid,
            gid,
            groups: new.groups,
            sid: self.new_sid(&directory).await?,
            admin: new.admin,
            disabled: false,
            nt_hash,
            verifier,
        };
        let name = user.name.clone();
        let user = self
            .inner
            .repo
            .put_user(user)
            .await
            .map_err(|error| match error {
                RepoError::Exists => {
                    AdminError::Exists(format!("the name {name} or the uid {uid} is taken"))
                }
                other => other.into(),
            })?;
        self.inner.records_changed().await?;
        tracing::info!(user = user.name, uid, admin = user.admin, "user added");
        Ok(record(&user))
    }

    /// Sets a password.
    pub async fn set_password(&self, user: &str, password: Password) -> AdminResult<()> {
        let (nt_hash, verifier) = verifiers(&password).await?;
        self.change_user(user, |user| {
            user.nt_hash = Some(nt_hash);
            user.verifier = Some(verifier);
        })
        .await?;
        tracing::info!(user, "password set");
        Ok(())
    }

    /// Lets a user log in, or no longer.
    pub async fn set_disabled(&self, user: &str, disabled: bool) -> AdminResult<()> {
        self.change_user(user, |user| user.disabled = disabled)
            .await?;
        tracing::info!(user, disabled, "user changed");
        Ok(())
    }

    /// Removes a user; what he owns stays.
    pub async fn remove_user(&self, user: &str) -> AdminResult<()> {
        let known = self.user(user).await?;
        self.inner.repo.remove_user(known.id).await?;
        self.inner.records_changed().await?;
        tracing::info!(user, "user removed");
        Ok(())
    }

    /// All groups, by name.
    pub async fn groups(&self) -> AdminResult<Vec<GroupRecord>> {
        let directory = self.inner.records.fresh().await?;
        let members = |group: &Group| {
            let within = |user: &&User| {
                let name = fold_name(&group.name);
                user.gid == group.gid || user.groups.iter().any(|g| fold_name(g) == name)
            };
            let users = directory.users.iter().filter(within);
            users.map(|user| user.name.clone()).collect()
        };
        let groups = directory.groups.iter().map(|group| GroupRecord {
            name: group.name.clone(),
            gid: group.gid,
            sid: group.sid.0.clone(),
            members: members(group),
        });
        Ok(groups.collect())
    }

    async fn user(&self, name: &str) -> AdminResult<User> {
        let directory = self.inner.records.fresh().await?;
        let known = directory.user(name).map(|(user, _)| user.clone());
        known.ok_or_else(|| AdminError::NotFound(format!("there is no user {name}")))
    }

    async fn change_user(&self, name: &str, change: impl FnOnce(&mut User)) -> AdminResult<()> {
        let mut user = self.user(name).await?;
        change(&mut user);
        self.inner.repo.put_user(user).await?;
        self.inner.records_changed().await?;
        Ok(())
    }

    /// The gid of a group, which is made if there is none of this name.
    async fn ensure_group(&self, name: &str) -> AdminResult<u32> {
        check_name("group", name)?;
        let directory = self.inner.records.fresh().await?;
        let wanted = fold_name(name);
        let known = directory
            .groups
            .iter()
            .find(|g| fold_name(&g.name) == wanted);
        if let Some(group) = known {
            return Ok(group.gid);
        }
        let group = Group {
            name: name.to_owned(),
            gid: free_id(|id| directory.groups.iter().any(|group| group.gid == id)),
            sid: self.new_sid(&directory).await?,
        };
        let gid = group.gid;
        self.inner.repo.put_group(group).await?;
        Ok(gid)
    }

    async fn new_sid(&self, directory: &Directory) -> AdminResult<sluice_repo::Sid> {
        let number = self.inner.repo.next_counter(RID_COUNTER).await?;
        Ok(sid::in_domain(&directory.domain, RID_RESERVED + number))
    }
}

fn record(user: &User) -> UserRecord {
    UserRecord {
        name: user.name.clone(),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
        sid: user.sid.0.clone(),
        admin: user.admin,
        disabled: user.disabled,
        password_set: user.verifier.is_some(),
    }
}

async fn verifiers(
    password: &Password,
) -> AdminResult<(sluice_repo::NtHash, sluice_repo::PasswordVerifier)> {
    if password.0.is_empty() || password.0.len() > PASSWORD_BYTES_MAX {
        return Err(AdminError::Invalid(format!(
            "a password has 1 to {PASSWORD_BYTES_MAX} bytes"
        )));
    }
    hash_password(&password.0)
        .await
        .map_err(|_| AdminError::Invalid("the password can't be hashed".to_owned()))
}

/// The lowest free number from [`FIRST_ID`].
fn free_id(taken: impl Fn(u32) -> bool) -> u32 {
    (FIRST_ID..).find(|id| !taken(*id)).unwrap_or(FIRST_ID)
}

/// Names that every protocol can say: no path or domain separators, nothing that NTLM or LDAP quote.
fn check_name(what: &str, name: &str) -> AdminResult<()> {
    let bad = |c: char| c.is_control() || "/\\:*?\"<>|[];=,+@".contains(c);
    let count = name.chars().count();
    if count == 0 || count > NAME_CHARS_MAX || name.contains(bad) || name.trim() != name {
        return Err(AdminError::Invalid(format!(
            "the {what} name \"{}\" is not valid: 1 to {NAME_CHARS_MAX} characters, none of / \\ : * ? \" < > | [ ] ; = , + @",
            name.escape_debug()
        )));
    }
    Ok(())
}

fn generated_password() -> AdminResult<String> {
    let mut random = [0u8; GENERATED_CHARS];
    getrandom::fill(&mut random)
        .map_err(|_| AdminError::Invalid("the system gives no random numbers".to_owned()))?;
    let letter = |byte: &u8| char::from(LETTERS[usize::from(byte % 32)]);
    Ok(random.iter().map(letter).collect())
}
