//! Network Lock Manager: version 4 (RFC 1813 appendix II) and, with 32-bit ranges, versions 1 and 3.

use crate::nfs3::FileHandle;
use crate::xdr::{Decoder, Encoder, Opaque, XdrError};

/// Program number.
pub const PROGRAM: u32 = 100_021;
/// Lowest and highest versions served.
pub const VERSIONS: (u32, u32) = (1, 4);
/// The version with 64-bit ranges.
pub const VERSION_64: u32 = 4;
/// Longest client name.
pub const CALLER_NAME_MAX: u32 = 1024;
/// Longest cookie or owner (`netobj`).
pub const NETOBJ_MAX: u32 = 1024;

/// A cookie or owner: opaque to everyone but its maker.
pub type NetObj = Opaque<NETOBJ_MAX>;
/// A client's name.
pub type CallerName = Opaque<CALLER_NAME_MAX>;

xdr_enum! {
    /// Procedures; the `Msg` forms are answered by calls of the `Res` forms.
    pub enum Procedure {
        /// Do nothing.
        Null = 0,
        /// Would this lock be granted?
        Test = 1,
        /// Lock.
        Lock = 2,
        /// Withdraw a waiting lock.
        Cancel = 3,
        /// Unlock.
        Unlock = 4,
        /// Server to client: a waiting lock is granted.
        Granted = 5,
        /// Asynchronous TEST.
        TestMsg = 6,
        /// Asynchronous LOCK.
        LockMsg = 7,
        /// Asynchronous CANCEL.
        CancelMsg = 8,
        /// Asynchronous UNLOCK.
        UnlockMsg = 9,
        /// Asynchronous GRANTED.
        GrantedMsg = 10,
        /// Answer to `TestMsg`.
        TestRes = 11,
        /// Answer to `LockMsg`.
        LockRes = 12,
        /// Answer to `CancelMsg`.
        CancelRes = 13,
        /// Answer to `UnlockMsg`.
        UnlockRes = 14,
        /// Answer to `GrantedMsg`.
        GrantedRes = 15,
        /// DOS share reservation.
        Share = 20,
        /// Give a share reservation back.
        Unshare = 21,
        /// Lock without monitoring.
        NmLock = 22,
        /// Drop all that a client holds.
        FreeAll = 23,
    }
}

xdr_enum! {
    /// Outcomes (`nlm4_stats`); versions 1 and 3 know them up to `DeniedGracePeriod`.
    pub enum Stat {
        /// Granted.
        Granted = 0,
        /// Denied by another lock.
        Denied = 1,
        /// No lock resources.
        DeniedNoLocks = 2,
        /// Waiting; GRANTED follows.
        Blocked = 3,
        /// The server waits for reclaims.
        DeniedGracePeriod = 4,
        /// A deadlock would arise.
        Deadlock = 5,
        /// Read-only file system.
        RoFs = 6,
        /// The handle is stale.
        StaleFh = 7,
        /// Offset or length too large.
        FBig = 8,
        /// Other failure.
        Failed = 9,
    }
}

impl Stat {
    /// The nearest outcome that a protocol version knows.
    pub fn for_version(self, version: u32) -> Self {
        if version >= VERSION_64 || (self as u32) <= Self::DeniedGracePeriod as u32 {
            self
        } else {
            Self::DeniedNoLocks
        }
    }
}

/// Reads an offset or length: 64 bits in version 4, 32 bits before.
fn get_wide(d: &mut Decoder, version: u32) -> Result<u64, XdrError> {
    if version >= VERSION_64 {
        d.u64()
    } else {
        d.u32().map(u64::from)
    }
}

/// Appends an offset or length; what a 32-bit field can't hold becomes its largest value.
fn put_wide(e: &mut Encoder, version: u32, value: u64) {
    if version >= VERSION_64 {
        e.u64(value);
    } else {
        e.u32(u32::try_from(value).unwrap_or(u32::MAX));
    }
}

/// A lock as a client describes it (`nlm4_lock`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The client's name.
    pub caller_name: CallerName,
    /// The file.
    pub file: FileHandle,
    /// The owner on the client.
    pub owner: NetObj,
    /// The owner's process number.
    pub svid: i32,
    /// First byte.
    pub offset: u64,
    /// Bytes; 0 means to the end of the file and beyond.
    pub len: u64,
}

impl Lock {
    /// Reads the form of a protocol version.
    pub fn decode(d: &mut Decoder, version: u32) -> Result<Self, XdrError> {
        Ok(Self {
            caller_name: d.get()?,
            file: d.get()?,
            owner: d.get()?,
            svid: d.get()?,
            offset: get_wide(d, version)?,
            len: get_wide(d, version)?,
        })
    }

    /// Appends the form of a protocol version.
    pub fn encode(&self, e: &mut Encoder, version: u32) {
        e.put(&self.caller_name);
        e.put(&self.file);
        e.put(&self.owner);
        e.put(&self.svid);
        put_wide(e, version, self.offset);
        put_wide(e, version, self.len);
    }
}

/// Arguments of TEST, LOCK, CANCEL, UNLOCK, GRANTED; each uses a part (see [`LockArgs::decode`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockArgs {
    /// Returned with the answer.
    pub cookie: NetObj,
    /// Wait if it can't be granted (LOCK, CANCEL).
    pub block: bool,
    /// A write lock (all but UNLOCK).
    pub exclusive: bool,
    /// The lock.
    pub lock: Lock,
    /// Restated after a server restart (LOCK).
    pub reclaim: bool,
    /// NSM state of the client (LOCK).
    pub state: i32,
}

/// Which fields of [`LockArgs`] a procedure has on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockForm {
    /// LOCK, NM_LOCK: all.
    Lock,
    /// TEST, GRANTED: cookie, exclusive, lock.
    Test,
    /// CANCEL: cookie, block, exclusive, lock.
    Cancel,
    /// UNLOCK: cookie, lock.
    Unlock,
}

impl LockArgs {
    /// Reads the arguments of a procedure and protocol version.
    pub fn decode(d: &mut Decoder, form: LockForm, version: u32) -> Result<Self, XdrError> {
        let cookie = d.get()?;
        let block = matches!(form, LockForm::Lock | LockForm::Cancel) && d.bool()?;
        let exclusive = form != LockForm::Unlock && d.bool()?;
        let lock = Lock::decode(d, version)?;
        let (reclaim, state) = if form == LockForm::Lock {
            (d.bool()?, d.get()?)
        } else {
            (false, 0)
        };
        Ok(Self {
            cookie,
            block,
            exclusive,
            lock,
            reclaim,
            state,
        })
    }

    /// Appends the arguments of a procedure and protocol version.
    pub fn encode(&self, e: &mut Encoder, form: LockForm, version: u32) {
        e.put(&self.cookie);
        if matches!(form, LockForm::Lock | LockForm::Cancel) {
            e.put(&self.block);
        }
        if form != LockForm::Unlock {
            e.put(&self.exclusive);
        }
        self.lock.encode(e, version);
        if form == LockForm::Lock {
            e.put(&self.reclaim);
            e.put(&self.state);
        }
    }
}

xdr_struct! {
    /// Answer of all lock procedures but TEST (`nlm4_res`).
    pub struct LockRes {
        /// The request's cookie.
        pub cookie: NetObj,
        /// The outcome.
        pub stat: Stat,
    }
}

/// Who holds a lock in conflict (`nlm4_holder`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Whether it is a write lock.
    pub exclusive: bool,
    /// The holder's process number.
    pub svid: i32,
    /// The holder.
    pub owner: NetObj,
    /// First byte.
    pub offset: u64,
    /// Bytes; 0 means without end.
    pub len: u64,
}

/// Answer of TEST (`nlm4_testres`): the holder stands there when the outcome is [`Stat::Denied`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestRes {
    /// The request's cookie.
    pub cookie: NetObj,
    /// Denied by this holder, or another outcome.
    pub outcome: Result<Stat, Holder>,
}

impl TestRes {
    /// Reads the form of a protocol version.
    pub fn decode(d: &mut Decoder, version: u32) -> Result<Self, XdrError> {
        let cookie = d.get()?;
        let outcome = match d.get()? {
            Stat::Denied => Err(Holder {
                exclusive: d.get()?,
                svid: d.get()?,
                owner: d.get()?,
                offset: get_wide(d, version)?,
                len: get_wide(d, version)?,
            }),
            stat => Ok(stat),
        };
        Ok(Self { cookie, outcome })
    }

    /// Appends the form of a protocol version.
    pub fn encode(&self, e: &mut Encoder, version: u32) {
        e.put(&self.cookie);
        match &self.outcome {
            Ok(stat) => e.put(&stat.for_version(version)),
            Err(holder) => {
                e.put(&Stat::Denied);
                e.put(&holder.exclusive);
                e.put(&holder.svid);
                e.put(&holder.owner);
                put_wide(e, version, holder.offset);
                put_wide(e, version, holder.len);
            }
        }
    }
}

xdr_struct! {
    /// Arguments of SHARE and UNSHARE (`nlm4_shareargs`).
    pub struct ShareArgs {
        /// Returned with the answer.
        pub cookie: NetObj,
        /// The client's name.
        pub caller_name: CallerName,
        /// The file.
        pub file: FileHandle,
        /// The owner on the client.
        pub owner: NetObj,
        /// Denied to others: 1 reading, 2 writing (`fsh4_mode`).
        pub mode: u32,
        /// Wanted: 1 reading, 2 writing (`fsh4_access`).
        pub access: u32,
        /// Restated after a server restart.
        pub reclaim: bool,
    }
}

xdr_struct! {
    /// Answer of SHARE and UNSHARE (`nlm4_shareres`).
    pub struct ShareRes {
        /// The request's cookie.
        pub cookie: NetObj,
        /// The outcome.
        pub stat: Stat,
        /// Of no meaning today.
        pub sequence: i32,
    }
}

xdr_struct! {
    /// Arguments of FREE_ALL (`nlm4_notify`): a client has restarted.
    pub struct NotifyArgs {
        /// The client's name.
        pub name: CallerName,
        /// Its NSM state.
        pub state: i32,
    }
}
