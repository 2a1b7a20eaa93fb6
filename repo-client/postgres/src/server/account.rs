//! The account a server runs as when we are root.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::ServerError;

/// An unprivileged account of this machine.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// The account to change to: none unless we are root.
    pub(super) fn needed() -> Result<Option<Account>, ServerError> {
        if !is_root()? {
            return Ok(None);
        }
        let passwd = std::fs::read_to_string("/etc/passwd")
            .map_err(|error| ServerError::new(format!("/etc/passwd can't be read: {error}")))?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| Account::of(&passwd, name))
            .map(Some)
            .ok_or_else(|| {
                ServerError::new(
                    "PostgreSQL does not run as root and there is no account postgres or nobody; run this as an ordinary user",
                )
            })
    }

    fn of(passwd: &str, name: &str) -> Option<Account> {
        let line = passwd
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        let uid = fields.next()?.parse().ok().filter(|uid| *uid != 0)?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account {
            name: name.to_owned(),
            uid,
            gid,
        })
    }

    /// Runs the command as this account.
    pub(super) fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

/// The effective user id, as the kernel tells it.
fn is_root() -> Result<bool, ServerError> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| ServerError::new(format!("/proc/self/status: {error}")))?;
    Ok(status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        == Some("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name_and_root_is_none() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\npostgresql:x:9:9::/:/x\npostgres:x:101:104:P:/v:/b\n";
        let account = Account::of(passwd, "postgres").unwrap();
        assert_eq!((account.uid, account.gid), (101, 104));
        assert!(Account::of(passwd, "root").is_none());
        assert!(Account::of(passwd, "nobody").is_none());
    }
}
