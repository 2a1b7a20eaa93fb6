//! Users and groups, and what the first start makes.

use super::{Admin, AdminResult, FirstStart, GroupRecord, NewUser, Password, UserRecord};

impl Admin {
    /// On a repository without users and shares: makes the user `admin` with a generated password and the share `docs`. `None` if there
    /// is anything already.
    pub async fn first_start(&self) -> AdminResult<Option<FirstStart>> {
        todo!()
    }

    /// All users, by name.
    pub async fn users(&self) -> AdminResult<Vec<UserRecord>> {
        todo!()
    }

    /// Makes a user.
    pub async fn add_user(&self, new: NewUser) -> AdminResult<UserRecord> {
        todo!()
    }

    /// Sets a password.
    pub async fn set_password(&self, user: &str, password: Password) -> AdminResult<()> {
        todo!()
    }

    /// Lets a user log in, or no longer.
    pub async fn set_disabled(&self, user: &str, disabled: bool) -> AdminResult<()> {
        todo!()
    }

    /// Removes a user; what he owns stays.
    pub async fn remove_user(&self, user: &str) -> AdminResult<()> {
        todo!()
    }

    /// All groups, by name.
    pub async fn groups(&self) -> AdminResult<Vec<GroupRecord>> {
        todo!()
    }
}
