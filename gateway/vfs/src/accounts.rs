//! Who may come in: password checks of all doors, with growing delay for those that fail.
//!
//! Owns the verifiers' making and checking, and the memory of failures. Never logs a password, never tells whether a name exists.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier as _, SaltString};
use aws_lc_rs::hmac;
use md4::{Digest, Md4};
use parking_lot::Mutex;
use sluice_repo::{NtHash, PasswordVerifier, RepoError, UserId};
use tokio::sync::Semaphore;

use crate::identity::Identity;
use crate::records::Directory;
use crate::vfs::{Inner, Vfs};

/// Why somebody was not let in. Deliberately says no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginRefused {
    /// Unknown user or wrong password.
    #[error("unknown user or wrong password")]
    Wrong,
    /// Too many failures; come back after this time.
    #[error("too many failed logins; wait {0:?}")]
    Throttled(Duration),
    /// The accounts can't be read at the moment.
    #[error("accounts are not available")]
    Unavailable,
}

/// The accounts as heads see them.
#[derive(Clone)]
pub struct Accounts {
    inner: Arc<Inner>,
}

impl Vfs {
    /// The accounts.
    pub fn accounts(&self) -> Accounts {
        Accounts {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl Accounts {
    /// Checks a clear-text password (FTP, admin). Waits out the growing delay after failures from this address or for this name;
    /// takes the same time for unknown users. Names are compared without regard to case.
    pub async fn check_password(
        &self,
        user: &str,
        password: &str,
        from: IpAddr,
    ) -> Result<Arc<Identity>, LoginRefused> {
        let waiting = self.inner.logins.wait_turn(user, from)?;
        tokio::time::sleep(waiting.delay).await;
        let directory = self.directory().await?;
        let known = directory.user(user).filter(|(user, _)| !user.disabled);
        let verifier = known.and_then(|(user, _)| Some((user.id, user.verifier.clone()?)));
        let right = self.inner.logins.verify(verifier, password).await?;
        drop(waiting);
        match known {
            Some((_, identity)) if right => {
                self.login_succeeded(user, from);
                Ok(Arc::clone(identity))
            }
            _ => {
                let delay = self.login_failed(user, from);
                tokio::time::sleep(delay).await;
                Err(LoginRefused::Wrong)
            }
        }
    }

    /// The identity and NT hash (MD4 of the UTF-16LE password) of a user, for challenge-response logins; `None` if unknown.
    /// The caller reports the result with [`Accounts::login_failed`] or [`Accounts::login_succeeded`].
    pub async fn nt_hash(
        &self,
        user: &str,
    ) -> Result<Option<(Arc<Identity>, [u8; 16])>, LoginRefused> {
        let directory = self.directory().await?;
        let known = directory.user(user).filter(|(user, _)| !user.disabled);
        Ok(known.and_then(|(user, identity)| Some((Arc::clone(identity), user.nt_hash?.0))))
    }

    /// Records a failed login and returns how long to wait before answering it.
    pub fn login_failed(&self, user: &str, from: IpAddr) -> Duration {
        let delay = self.inner.logins.failed(user, from, Instant::now());
        tracing::warn!(user, %from, delay_ms = delay.as_millis(), "login failed");
        delay
    }

    /// Records a successful login.
    pub fn login_succeeded(&self, user: &str, from: IpAddr) {
        self.inner.logins.succeeded(user, from);
        tracing::info!(user, %from, "login");
    }

    /// The identity behind an AUTH_SYS credential, before squashing: an account with this uid, or the bare numbers.
    pub async fn unix(
        &self,
        uid: u32,
        gid: u32,
        gids: &[u32],
    ) -> Result<Arc<Identity>, LoginRefused> {
        Ok(self.directory().await?.unix(uid, gid, gids))
    }

    /// Name of the account with this uid, for listings: "`alice`".
    pub async fn name_of_uid(&self, uid: u32) -> Option<String> {
        let directory = self.directory().await.ok()?;
        Some(directory.user_of_uid(uid)?.name.clone())
    }

    async fn directory(&self) -> Result<Arc<Directory>, LoginRefused> {
        self.inner
            .records
            .fresh()
            .await
            .map_err(|error: RepoError| {
                tracing::error!(%error, "the accounts can't be read");
                LoginRefused::Unavailable
            })
    }
}

/// The verifiers of a password.
///
/// # Errors
/// No random numbers, or a password that the hash can't take.
pub(crate) async fn hash_password(
    password: &str,
) -> Result<(NtHash, PasswordVerifier), LoginRefused> {
    let nt_hash = nt_hash_of(password);
    let password = password.to_owned();
    let verifier = tokio::task::spawn_blocking(move || argon2_verifier(&password));
    let verifier = verifier.await.map_err(|_| LoginRefused::Unavailable)?;
    Ok((nt_hash, verifier.ok_or(LoginRefused::Unavailable)?))
}

fn nt_hash_of(password: &str) -> NtHash {
    let utf16: Vec<u8> = password.encode_utf16().flat_map(u16::to_le_bytes).collect();
    NtHash(Md4::digest(&utf16).into())
}

fn argon2_verifier(password: &str) -> Option<PasswordVerifier> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).ok()?;
    let salt = SaltString::encode_b64(&random).ok()?;
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt);
    Some(PasswordVerifier(hash.ok()?.to_string()))
}

fn argon2_matches(verifier: &str, password: &str) -> bool {
    let Ok(hash) = PasswordHash::new(verifier) else {
        return false;
    };
    let result = Argon2::default().verify_password(password.as_bytes(), &hash);
    result.is_ok()
}

/// Checked for unknown users, so that they take the time of known ones.
fn nobodys_verifier() -> &'static str {
    static NOBODY: OnceLock<String> = OnceLock::new();
    NOBODY.get_or_init(|| argon2_verifier("").map_or_else(String::new, |verifier| verifier.0))
}

/// Failures that are remembered.
const FAILURES_MAX: usize = 16_384;
/// Logins that may wait out a delay at the same time from one address for one name.
const WAITERS_MAX: u32 = 8;
/// After this time without a failure everything is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// Delay after the first failure; doubles with each further one.
const DELAY_FIRST: Duration = Duration::from_millis(250);
/// Longest delay.
const DELAY_MAX: Duration = Duration::from_secs(10);
/// Failures of one address under any name that count as one of a name: an address may be shared by many people.
const ADDRESS_SHARE: u32 = 10;

/// Folded user name and address; an empty name stands for all names of the address.
type LoginKey = (String, IpAddr);

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
    waiters: u32,
}

/// What a password was found right with, so that the slow hash is not computed at each login of a busy client. Keyed by a
/// secret of this process: worthless outside of it.
struct Proven {
    verifier: PasswordVerifier,
    tag: hmac::Tag,
}

/// Remembers failed logins and proven passwords; bounds the work that logins can cause.
pub(crate) struct LoginGuard {
    /// Guards the map only.
    failures: Mutex<HashMap<LoginKey, Failures>>,
    /// Guards the map only; never taken together with `failures`.
    proven: Mutex<HashMap<UserId, Proven>>,
    key: Option<hmac::Key>,
    /// Slow hashes at the same time.
    hashing: Semaphore,
}

impl Default for LoginGuard {
    fn default() -> Self {
        let mut secret = [0u8; 32];
        let key = getrandom::fill(&mut secret)
            .is_ok()
            .then(|| hmac::Key::new(hmac::HMAC_SHA256, &secret));
        LoginGuard {
            failures: Mutex::default(),
            proven: Mutex::default(),
            key,
            hashing: Semaphore::new(2),
        }
    }
}

/// A login that waits its delay out; counted until it is dropped.
struct Waiting<'a> {
    guard: &'a LoginGuard,
    key: LoginKey,
    delay: Duration,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(known) = self.guard.failures.lock().get_mut(&self.key) {
            known.waiters = known.waiters.saturating_sub(1);
        }
    }
}

impl LoginGuard {
    fn wait_turn(&self, user: &str, from: IpAddr) -> Result<Waiting<'_>, LoginRefused> {
        let now = Instant::now();
        let key = login_key(user, from);
        let mut failures = self.failures.lock();
        let by_address = failures.get(&login_key("", from)).copied();
        let by_address =
            by_address.map_or(Duration::ZERO, |known| left(&known, ADDRESS_SHARE, now));
        let mut delay = by_address;
        if let Some(known) = failures.get_mut(&key) {
            delay = delay.max(left(known, 1, now));
            if known.waiters >= WAITERS_MAX {
                return Err(LoginRefused::Throttled(delay.max(DELAY_FIRST)));
            }
            known.waiters += 1;
        }
        Ok(Waiting {
            guard: self,
            key,
            delay,
        })
    }

    fn failed(&self, user: &str, from: IpAddr, now: Instant) -> Duration {
        let mut failures = self.failures.lock();
        make_room(&mut failures, now);
        for key in [login_key("", from), login_key(user, from)] {
            let known = failures.entry(key).or_insert(Failures {
                count: 0,
                last: now,
                waiters: 0,
            });
            if now.duration_since(known.last) > FORGET_AFTER {
                known.count = 0;
            }
            known.count = known.count.saturating_add(1);
            known.last = now;
        }
        let key = login_key(user, from);
        failures
            .get(&key)
            .map_or(DELAY_FIRST, |known| delay_after(known.count))
    }

    fn succeeded(&self, user: &str, from: IpAddr) {
        self.failures.lock().remove(&login_key(user, from));
    }

    async fn verify(
        &self,
        verifier: Option<(UserId, PasswordVerifier)>,
        password: &str,
    ) -> Result<bool, LoginRefused> {
        if let (Some((user, verifier)), Some(key)) = (&verifier, &self.key) {
            let proven = self.proven.lock();
            let same = proven
                .get(user)
                .filter(|proven| proven.verifier == *verifier);
            if same.is_some_and(|p| hmac::verify(key, password.as_bytes(), p.tag.as_ref()).is_ok())
            {
                return Ok(true);
            }
        }
        let permit = self.hashing.acquire().await;
        let (checked, against) = (verifier.clone(), password.to_owned());
        let right = tokio::task::spawn_blocking(move || match checked {
            Some((_, verifier)) => argon2_matches(&verifier.0, &against),
            None => {
                argon2_matches(nobodys_verifier(), &against);
                false
            }
        });
        let right = right.await.map_err(|_| LoginRefused::Unavailable)?;
        drop(permit);
        if let (true, Some((user, verifier)), Some(key)) = (right, verifier, &self.key) {
            let tag = hmac::sign(key, password.as_bytes());
            self.proven.lock().insert(user, Proven { verifier, tag });
        }
        Ok(right)
    }
}

fn login_key(user: &str, from: IpAddr) -> LoginKey {
    // A name that no account can have is not worth its memory.
    let name: String = user.chars().take(64).collect();
    (sluice_repo::fold_name(&name), from.to_canonical())
}

fn delay_after(count: u32) -> Duration {
    match count {
        0 => Duration::ZERO,
        _ => DELAY_FIRST
            .saturating_mul(1 << (count - 1).min(10))
            .min(DELAY_MAX),
    }
}

/// How much of the delay after `known` is left; `share` failures count as one.
fn left(known: &Failures, share: u32, now: Instant) -> Duration {
    let since = now.duration_since(known.last);
    if since > FORGET_AFTER {
        return Duration::ZERO;
    }
    delay_after(known.count / share).saturating_sub(since)
}

/// Forgets what is old; if that does not help, the older half.
fn make_room(failures: &mut HashMap<LoginKey, Failures>, now: Instant) {
    if failures.len() + 2 <= FAILURES_MAX {
        return;
    }
    failures.retain(|_, known| now.duration_since(known.last) <= FORGET_AFTER);
    if failures.len() + 2 > FAILURES_MAX {
        let mut lasts: Vec<Instant> = failures.values().map(|known| known.last).collect();
        let middle = lasts.len() / 2;
        let (_, &mut median, _) = lasts.select_nth_unstable(middle);
        failures.retain(|_, known| known.last > median || known.waiters > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn the_nt_hash_is_md4_of_utf16() {
        let known = [
            0x88, 0x46, 0xf7, 0xea, 0xee, 0x8f, 0xb1, 0x17, 0xad, 0x06, 0xbd, 0xd8, 0x30, 0xb7,
            0x58, 0x6c,
        ];
        assert_eq!(nt_hash_of("password").0, known);
    }

    #[test]
    fn a_verifier_takes_its_password_only() {
        let verifier = argon2_verifier("secret").expect("a verifier");
        assert!(argon2_matches(&verifier.0, "secret"));
        assert!(!argon2_matches(&verifier.0, "Secret"));
        assert!(!argon2_matches("rubbish", "secret"));
    }

    #[test]
    fn the_delay_grows_with_each_failure_and_ends_with_a_success() {
        let guard = LoginGuard::default();
        let now = Instant::now();
        let first = guard.failed("Alice", HERE, now);
        let second = guard.failed("alice", HERE, now);
        assert_eq!((first, second), (DELAY_FIRST, DELAY_FIRST * 2));
        for _ in 0..40 {
            assert!(guard.failed("alice", HERE, now) <= DELAY_MAX);
        }
        guard.succeeded("ALICE", HERE);
        assert_eq!(guard.failed("alice", HERE, now), DELAY_FIRST);
    }

    #[test]
    fn failures_of_one_name_do_not_hold_up_another() {
        let guard = LoginGuard::default();
        for _ in 0..5 {
            guard.failed("alice", HERE, Instant::now());
        }
        let bob = guard.wait_turn("bob", HERE).expect("bob may try");
        assert_eq!(bob.delay, Duration::ZERO);
        let alice = guard.wait_turn("alice", HERE).expect("alice waits");
        assert!(alice.delay > Duration::from_secs(3));
    }

    #[test]
    fn only_so_many_logins_of_one_name_wait_at_once() {
        let guard = LoginGuard::default();
        guard.failed("alice", HERE, Instant::now());
        let waiting: Vec<_> = (0..WAITERS_MAX)
            .map(|_| guard.wait_turn("alice", HERE).expect("waits"))
            .collect();
        assert!(guard.wait_turn("alice", HERE).is_err());
        drop(waiting);
        assert!(guard.wait_turn("alice", HERE).is_ok());
    }

    #[test]
    fn the_memory_of_failures_is_bounded() {
        let guard = LoginGuard::default();
        let now = Instant::now();
        for n in 0..FAILURES_MAX + 10 {
            guard.failed(
                &format!("user{n}"),
                HERE,
                now + Duration::from_millis(n as u64),
            );
        }
        assert!(guard.failures.lock().len() <= FAILURES_MAX);
    }
}
