//! Changes of names, attributes, streams and records as the database's function `change_batch` takes them.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use sluice_repo::call::{self, CallId};
use sluice_repo::{
    AttributeChange, CaseMode, ContentId, DosAttributes, ExtendedAttribute, LastLink, Manifest,
    NAME_BYTES_MAX, NewKind, NewNode, NodeId, NodeKind, ObjectId, Replace, RepoError, Result,
    Timestamp, fold_name,
};
use sqlx::postgres::{PgConnection, PgRow};

use crate::commit::{allocated, object_key};
use crate::lane::{Item, Number};
use crate::row::{big, kind_code, node_columns};

/// Longest target of a symbolic link in bytes.
const TARGET_BYTES_MAX: usize = 4096;
/// Most names of one document.
const LINKS_MAX: u32 = 32_000;
/// Most streams of one node.
const STREAMS_MAX: i64 = 1024;
/// Largest value of one extended attribute, and most bytes of all of a node's.
const EA_VALUE_MAX: usize = 65_535;
const EA_TOTAL_MAX: u64 = 1 << 20;

/// A name in a folder, as it is looked for.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) parent: NodeId,
    pub(crate) name: String,
    fold: String,
}

impl Name {
    pub(crate) fn new(parent: NodeId, name: &str) -> Name {
        Name {
            parent,
            name: name.to_owned(),
            fold: fold_name(name),
        }
    }
}

/// One change; see the function of the same name in the database for what it does.
pub(crate) enum Change {
    Create {
        at: Name,
        case: CaseMode,
        new: Box<NewNode>,
        acl: Option<i64>,
    },
    Link {
        node: NodeId,
        at: Name,
        case: CaseMode,
    },
    Unlink {
        at: Name,
        node: Option<NodeId>,
        last: LastLink,
    },
    Release(NodeId),
    Rename {
        from: Name,
        node: Option<NodeId>,
        to: Name,
        case: CaseMode,
        replace: Replace,
    },
    Set {
        node: NodeId,
        change: AttributeChange,
        guard: Option<Timestamp>,
        /// The number of the list to set, or none.
        acl: Option<Option<i64>>,
        eas: Option<Vec<ExtendedAttribute>>,
    },
    CreateStream {
        node: NodeId,
        name: String,
    },
    RenameStream {
        content: ContentId,
        name: String,
        replace: bool,
    },
    DeleteStream(ContentId),
    PutRecord {
        kind: &'static str,
        id: u64,
        name: String,
        body: String,
        /// Values of the body that no other record of the kind may have.
        unique: Value,
    },
    RemoveRecord {
        kind: &'static str,
        id: Option<u64>,
        name: Option<String>,
    },
    /// Stores a list, or finds that it is stored.
    Acl(String),
    Counter(String),
    Setting {
        key: String,
        value: Bytes,
        keep: bool,
    },
    ForgetGarbage(Vec<ObjectId>),
    KeepGarbage(Vec<ObjectId>),
    NoteLocked(NodeId),
    ForgetLocked(Vec<NodeId>),
    ForgetCalls,
    Touch(HashMap<NodeId, Timestamp>),
}

/// Large values of a batch, beside the JSON.
#[derive(Default)]
struct Blobs(Vec<Vec<u8>>);

impl Blobs {
    /// The number by which the database finds it.
    fn add(&mut self, bytes: impl Into<Vec<u8>>) -> usize {
        self.0.push(bytes.into());
        self.0.len()
    }

    fn objects(&mut self, objects: impl Iterator<Item = ObjectId>) -> Vec<usize> {
        objects.map(|id| self.add(object_key(id))).collect()
    }
}

fn insensitive(case: CaseMode) -> bool {
    case == CaseMode::Insensitive
}

/// Puts the fields that are there into an object.
fn put(op: &mut Value, fields: &[(&str, Option<i64>)]) {
    for (key, value) in fields {
        if let (Some(value), Some(map)) = (value, op.as_object_mut()) {
            map.insert((*key).to_owned(), (*value).into());
        }
    }
}

fn put_change(op: &mut Value, change: &AttributeChange) {
    put(
        op,
        &[
            ("mode", change.mode.map(i64::from)),
            ("uid", change.uid.map(i64::from)),
            ("gid", change.gid.map(i64::from)),
            ("atime", change.accessed.map(|t| t.0)),
            ("mtime", change.modified.map(|t| t.0)),
            ("ctime", change.changed.map(|t| t.0)),
            ("btime", change.created.map(|t| t.0)),
            ("dos", change.dos.map(|d| i64::from(d.0))),
        ],
    );
}

/// A set of attribute changes as the database reads it.
pub(crate) fn change_text(change: &AttributeChange) -> String {
    let mut op = json!({});
    if *change != AttributeChange::default() {
        put_change(&mut op, change);
    }
    op.to_string()
}

fn put_eas(op: &mut Value, eas: &[ExtendedAttribute], blobs: &mut Blobs) {
    let list: Vec<Value> = eas
        .iter()
        .map(|ea| {
            json!({"n": ea.name, "f": ea.name.to_ascii_lowercase(), "v": blobs.add(ea.value.clone())})
        })
        .collect();
    if let Some(map) = op.as_object_mut() {
        map.insert("eas".into(), list.into());
    }
}

/// Refuses names and values that can't be stored.
pub(crate) fn check_eas(eas: &[ExtendedAttribute]) -> Result<()> {
    for ea in eas {
        if ea.name.is_empty() || ea.name.contains('\0') {
            return Err(RepoError::InvalidName);
        }
        if ea.name.len() > NAME_BYTES_MAX || ea.value.len() > EA_VALUE_MAX {
            return Err(RepoError::NameTooLong);
        }
    }
    Ok(())
}

/// Size of the attributes of a new node as MS-FSCC 2.4.12 counts it: the last of equal names counts.
fn ea_size(eas: &[ExtendedAttribute]) -> u64 {
    let last: HashMap<String, (usize, usize)> = eas.iter().fold(HashMap::new(), |mut seen, ea| {
        let name = ea.name.to_ascii_lowercase();
        match ea.value.is_empty() {
            true => seen.remove(&name),
            false => seen.insert(name, (ea.name.len(), ea.value.len())),
        };
        seen
    });
    match last.is_empty() {
        true => 0,
        false => last.values().fold(4, |sum, (name, value)| {
            sum + 5 + *name as u64 + *value as u64
        }),
    }
}

/// Refuses what can't be created, whatever is in the folder.
pub(crate) fn check_new(new: &NewNode) -> Result<()> {
    check_eas(&new.eas)?;
    if ea_size(&new.eas) > EA_TOTAL_MAX {
        return Err(RepoError::TooMany);
    }
    match &new.kind {
        NewKind::File {
            content: Some(manifest),
        } => manifest.check(),
        NewKind::Symlink { target } if target.len() > TARGET_BYTES_MAX => {
            Err(RepoError::NameTooLong)
        }
        _ => Ok(()),
    }
}

/// Refuses names that a stream can't have.
pub(crate) fn check_stream_name(name: &str) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(RepoError::NameTooLong);
    }
    match name.is_empty() || name.bytes().any(|b| matches!(b, b'/' | b':' | b'\\' | 0)) {
        true => Err(RepoError::InvalidName),
        false => Ok(()),
    }
}

fn encode_create(
    at: &Name,
    case: CaseMode,
    new: &NewNode,
    acl: Option<i64>,
    blobs: &mut Blobs,
) -> Value {
    let (kind, size, device) = match &new.kind {
        NewKind::File { content } => (
            NodeKind::File,
            content.as_ref().map_or(0, |c| c.size),
            (0, 0),
        ),
        NewKind::Directory => (NodeKind::Directory, 0, (0, 0)),
        NewKind::Symlink { target } => (NodeKind::Symlink, target.len() as u64, (0, 0)),
        NewKind::Pipe { socket: false } => (NodeKind::Fifo, 0, (0, 0)),
        NewKind::Pipe { socket: true } => (NodeKind::Socket, 0, (0, 0)),
        NewKind::Device {
            block: false,
            numbers,
        } => (NodeKind::CharDevice, 0, *numbers),
        NewKind::Device {
            block: true,
            numbers,
        } => (NodeKind::BlockDevice, 0, *numbers),
    };
    let mut op = json!({
        "k": "create", "p": at.parent.0, "n": at.name, "f": at.fold, "ci": insensitive(case),
        "kind": kind_code(kind), "mode": new.mode & 0o7777, "uid": new.uid, "gid": new.gid, "size": size,
        "dos": new.dos.0 & DosAttributes::STORED, "major": device.0, "minor": device.1, "ea_size": ea_size(&new.eas),
    });
    put(
        &mut op,
        &[
            ("acl", acl),
            ("atime", new.accessed.map(|t| t.0)),
            ("mtime", new.modified.map(|t| t.0)),
            ("btime", new.created.map(|t| t.0)),
        ],
    );
    if let Some(verifier) = new.verifier {
        let verifier = blobs.add(verifier);
        put(&mut op, &[("verifier", Some(verifier as i64))]);
    }
    if let NewKind::Symlink { target } = &new.kind {
        let target = blobs.add(target.as_bytes());
        put(&mut op, &[("target", Some(target as i64))]);
    }
    if !new.eas.is_empty() {
        put_eas(&mut op, &new.eas, blobs);
    }
    if let NewKind::File {
        content: Some(manifest),
    } = &new.kind
        && let Some(map) = op.as_object_mut()
    {
        map.insert("content".into(), encode_content(manifest, new, blobs));
    }
    op
}

fn encode_content(manifest: &Arc<Manifest>, new: &NewNode, blobs: &mut Blobs) -> Value {
    let mut content = json!({
        "allocated": allocated(manifest), "author": &*new.origin.author, "protocol": &*new.origin.protocol,
        "body": blobs.add(manifest.encode()),
    });
    if !manifest.objects.is_empty()
        && let Some(map) = content.as_object_mut()
    {
        let objects = blobs.objects(manifest.objects.iter().map(|o| o.id));
        map.insert("objects".into(), json!(objects));
    }
    content
}

fn encode_rename(
    from: &Name,
    node: Option<NodeId>,
    to: &Name,
    case: CaseMode,
    replace: Replace,
) -> Value {
    let mut op = json!({
        "k": "rename", "p": from.parent.0, "n": from.name, "f": from.fold,
        "p2": to.parent.0, "n2": to.name, "f2": to.fold, "ci": insensitive(case),
    });
    put(&mut op, &[("id", node.map(|n| big(n.0)))]);
    if let (Replace::Node(node, last), Some(map)) = (replace, op.as_object_mut()) {
        map.insert("replace".into(), node.0.into());
        map.insert("orphan".into(), (last == LastLink::Orphan).into());
    }
    op
}

fn encode_set(
    node: NodeId,
    change: &AttributeChange,
    guard: Option<Timestamp>,
    acl: Option<Option<i64>>,
    eas: Option<&[ExtendedAttribute]>,
    blobs: &mut Blobs,
) -> Value {
    let mut op = json!({"k": "set", "id": node.0, "max": EA_TOTAL_MAX});
    put_change(&mut op, change);
    put(&mut op, &[("guard", guard.map(|t| t.0))]);
    if let (Some(acl), Some(map)) = (acl, op.as_object_mut()) {
        map.insert("set_acl".into(), json!(acl));
    }
    if let Some(eas) = eas {
        put_eas(&mut op, eas, blobs);
    }
    op
}

impl Change {
    fn encode(&self, blobs: &mut Blobs) -> Value {
        match self {
            Change::Create { at, case, new, acl } => encode_create(at, *case, new, *acl, blobs),
            Change::Link { node, at, case } => json!({
                "k": "link", "id": node.0, "p": at.parent.0, "n": at.name, "f": at.fold, "ci": insensitive(*case),
                "max": LINKS_MAX,
            }),
            Change::Unlink { at, node, last } => {
                let mut op = json!({
                    "k": "unlink", "p": at.parent.0, "n": at.name, "f": at.fold, "orphan": *last == LastLink::Orphan,
                });
                put(&mut op, &[("id", node.map(|n| big(n.0)))]);
                op
            }
            Change::Release(node) => json!({"k": "release", "id": node.0}),
            Change::Rename {
                from,
                node,
                to,
                case,
                replace,
            } => encode_rename(from, *node, to, *case, *replace),
            Change::Set {
                node,
                change,
                guard,
                acl,
                eas,
            } => encode_set(*node, change, *guard, *acl, eas.as_deref(), blobs),
            Change::CreateStream { node, name } => json!({
                "k": "stream", "do": "create", "id": node.0, "n": name, "f": fold_name(name), "max": STREAMS_MAX,
            }),
            Change::RenameStream {
                content,
                name,
                replace,
            } => json!({
                "k": "stream", "do": "rename", "id": content.node.0, "stream": content.stream, "n": name,
                "f": fold_name(name), "replace": replace,
            }),
            Change::DeleteStream(content) => json!({
                "k": "stream", "do": "delete", "id": content.node.0, "stream": content.stream,
            }),
            other => other.encode_administration(blobs),
        }
    }

    fn encode_administration(&self, blobs: &mut Blobs) -> Value {
        match self {
            Change::PutRecord {
                kind,
                id,
                name,
                body,
                unique,
            } => json!({
                "k": "record", "do": "put", "kind": kind, "id": id, "name": name, "body": body, "unique": unique,
            }),
            Change::RemoveRecord { kind, id, name } => json!({
                "k": "record", "do": "remove", "kind": kind, "id": id, "name": name,
            }),
            Change::Acl(body) => json!({"k": "acl", "body": body}),
            Change::Counter(key) => json!({"k": "counter", "key": key}),
            Change::Setting { key, value, keep } => json!({
                "k": "setting", "key": key, "value": blobs.add(value.to_vec()), "keep": keep,
            }),
            Change::ForgetGarbage(objects) => json!({
                "k": "garbage", "do": "forget", "objects": blobs.objects(objects.iter().copied()),
            }),
            Change::KeepGarbage(objects) => json!({
                "k": "garbage", "do": "keep", "objects": blobs.objects(objects.iter().copied()),
            }),
            Change::NoteLocked(document) => json!({
                "k": "locked", "do": "note", "documents": [big(document.0)],
            }),
            Change::ForgetLocked(documents) => {
                let documents: Vec<i64> = documents.iter().map(|d| big(d.0)).collect();
                json!({"k": "locked", "do": "forget", "documents": documents})
            }
            Change::ForgetCalls => json!({"k": "calls"}),
            Change::Touch(times) => {
                let times: serde_json::Map<String, Value> = times
                    .iter()
                    .map(|(node, at)| (node.0.to_string(), at.0.into()))
                    .collect();
                json!({"k": "touch", "times": times})
            }
            _ => Value::Null,
        }
    }

    /// Nodes that it is known to change.
    fn locks(&self, locks: &mut Vec<i64>) {
        let mut lock = |node: NodeId| locks.push(big(node.0));
        match self {
            Change::Create { at, .. } => lock(at.parent),
            Change::Link { node, at, .. } => {
                lock(*node);
                lock(at.parent);
            }
            Change::Unlink { at, node, .. } => {
                lock(at.parent);
                node.iter().copied().for_each(lock);
            }
            Change::Rename {
                from,
                node,
                to,
                replace,
                ..
            } => {
                lock(from.parent);
                lock(to.parent);
                if let Replace::Node(replaced, _) = replace {
                    lock(*replaced);
                }
                node.iter().copied().for_each(lock);
            }
            Change::Release(node)
            | Change::Set { node, .. }
            | Change::CreateStream { node, .. } => {
                lock(*node);
            }
            Change::RenameStream { content, .. } | Change::DeleteStream(content) => {
                lock(content.node);
            }
            _ => {}
        }
    }

    /// The name whose node it changes, if it does not say which that is.
    fn name(&self) -> Option<&Name> {
        match self {
            Change::Unlink { at, node: None, .. } => Some(at),
            Change::Rename {
                from, node: None, ..
            } => Some(from),
            _ => None,
        }
    }
}

const SEND: &str = concat!(
    "SELECT a.op, a.role, a.code, a.detail, ",
    node_columns!("(a.node)"),
    ", pg_current_xact_id()::text::bigint FROM change_batch($1, $2, $3, $4, $5::jsonb, $6, $7, $8, $9) AS a"
);

/// A change, and the client's call that it is the change of.
pub(crate) struct Asked {
    change: Change,
    call: Option<CallId>,
}

impl Asked {
    /// A change on behalf of the call whose work this is, if it is one that must not be made twice.
    pub(crate) fn now(change: Change) -> Asked {
        let once = matches!(
            change,
            Change::Create { .. }
                | Change::Link { .. }
                | Change::Unlink { .. }
                | Change::Rename { .. }
                | Change::Set { .. }
        );
        Asked {
            call: call::current().filter(|_| once),
            change,
        }
    }

    /// A change of nobody's call.
    pub(crate) fn by_itself(change: Change) -> Asked {
        Asked { change, call: None }
    }

    pub(crate) fn is_of_a_call(&self) -> bool {
        self.call.is_some()
    }

    fn encode(&self, blobs: &mut Blobs) -> Value {
        let mut op = self.change.encode(blobs);
        if let Some(call) = self.call {
            let call = blobs.add(call.0);
            put(&mut op, &[("call", Some(call as i64))]);
        }
        op
    }
}

#[async_trait]
impl Item for Asked {
    fn weight(&self) -> usize {
        match &self.change {
            Change::Create { new, .. } => match &new.kind {
                NewKind::File {
                    content: Some(manifest),
                } => manifest.inline.len() + manifest.objects.len() * 280,
                _ => 200,
            },
            Change::Set { eas: Some(eas), .. } => eas.iter().map(|ea| ea.value.len()).sum(),
            _ => 200,
        }
    }

    fn clashes(&self, _other: &Self) -> bool {
        // They are carried out one after the other.
        false
    }

    async fn send(
        conn: &mut PgConnection,
        number: Number,
        items: &[&Self],
    ) -> sqlx::Result<Vec<PgRow>> {
        let mut blobs = Blobs::default();
        let ops: Vec<Value> = items.iter().map(|item| item.encode(&mut blobs)).collect();
        let mut locks = Vec::new();
        items.iter().for_each(|item| item.change.locks(&mut locks));
        let (parents, folds): (Vec<i64>, Vec<&str>) = items
            .iter()
            .filter_map(|item| item.change.name())
            .map(|name| (big(name.parent.0), name.fold.as_str()))
            .unzip();
        sqlx::query(SEND)
            .bind(number.member())
            .bind(number.epoch())
            .bind(number.lane)
            .bind(number.batch)
            .bind(Value::Array(ops).to_string())
            .bind(&blobs.0)
            .bind(&locks)
            .bind(&parents)
            .bind(&folds)
            .fetch_all(conn)
            .await
    }
}
