//! LIST, NLST (RFC 959), MLSD, MLST (RFC 3659 7) and STAT with a path. Folders are read and sent page by page.

use std::collections::HashMap;
use std::time::SystemTime;

use bytes::Bytes;
use sluice_vfs::{
    AccessMask, Attributes, Cookie, DirEntry, NodeId, NodeKind, Protocol, Timestamp, Tree, VfsError,
};

use crate::codec::command::Command;
use crate::codec::facts::{Fact, FactSet, FactSource, write_entry};
use crate::codec::{glob, list_line, time};
use crate::context::{Context, Place};
use crate::data::{DataLink, Parts, Sender};
use crate::path::VirtualPath;
use crate::reply::{self, Reply};
use crate::session::{Session, Step};
use crate::work::{ListRequest, ListStyle, Work};

/// Entries read from the file layer at once.
const PAGE_ENTRIES: usize = 1_000;
/// Entries shown by STAT, which fills memory before it can be sent.
const STAT_ENTRIES_MAX: usize = 2_000;

pub(crate) fn decide(session: &Session, command: &Command) -> Step {
    match command {
        Command::List(argument) => transfer(session, argument, ListStyle::Long),
        Command::Nlst(argument) => transfer(session, argument, ListStyle::Names),
        Command::Mlsd(argument) => session.transfer(argument, |path| {
            Work::List(ListRequest {
                path,
                given: argument.clone(),
                style: ListStyle::Facts(session.facts),
                dots: false,
                itself: false,
            })
        }),
        Command::Mlst(argument) => session.work(argument, |path| Work::Facts {
            path,
            facts: session.facts,
        }),
        Command::Stat(argument) if !argument.is_empty() => {
            let (options, given) = split_options(argument);
            session.work(given, |path| {
                Work::StatPath(request(path, given, &options, ListStyle::Long))
            })
        }
        _ => Step::Status,
    }
}

fn transfer(session: &Session, argument: &str, style: ListStyle) -> Step {
    let (options, given) = split_options(argument);
    session.transfer(given, |path| {
        Work::List(request(path, given, &options, style))
    })
}

fn request(path: VirtualPath, given: &str, options: &str, style: ListStyle) -> ListRequest {
    ListRequest {
        path,
        given: given.to_owned(),
        style,
        dots: options.contains('a'),
        itself: options.contains('d'),
    }
}

/// Takes words that begin with `-` off the front: clients pass options of `ls`.
fn split_options(argument: &str) -> (String, &str) {
    let (mut options, mut rest) = (String::new(), argument);
    while let Some(word) = rest.trim_start().strip_prefix('-') {
        let end = word.find(' ').unwrap_or(word.len());
        options.push_str(word.get(..end).unwrap_or_default());
        rest = word.get(end..).unwrap_or_default().trim_start();
    }
    (options, rest)
}

/// What is listed.
enum Source {
    /// The shares.
    Shares,
    /// A folder's entries, perhaps only those that match.
    Folder {
        tree: Tree,
        dir: NodeId,
        pattern: Option<String>,
    },
    /// One entry.
    Single { tree: Tree, node: Box<Attributes> },
}

/// Turns entries into lines.
struct Formatter<'a> {
    cx: &'a Context,
    request: &'a ListRequest,
    prefix: String,
    now: Timestamp,
    owners: HashMap<u32, String>,
    out: String,
}

pub(crate) async fn run(cx: &Context, link: Option<DataLink>, request: &ListRequest) -> Reply {
    let Some(mut link) = link else {
        return reply::DATA_FIRST;
    };
    let source = match link.during(open(cx, request)).await {
        Ok(source) => source,
        Err(refusal) => return refusal,
    };
    match send(cx, link, request, source).await {
        Ok(bytes) => reply::sent(bytes),
        Err(refusal) => refusal,
    }
}

async fn send(
    cx: &Context,
    link: DataLink,
    request: &ListRequest,
    source: Source,
) -> Result<u64, Reply> {
    cx.begin(Reply::fixed(150, "Here comes the listing."));
    let mut sender = link.open_sender(cx).await?;
    let mut formatter = Formatter::new(cx, request, &source);
    let sent = match source {
        Source::Folder { tree, dir, pattern } => {
            formatter.dots(&tree, dir).await;
            send_folder(&mut sender, &mut formatter, &tree, dir, pattern.as_deref()).await
        }
        Source::Shares => {
            formatter.shares().await;
            sender.send(formatter.take()).await
        }
        Source::Single { tree, node } => {
            formatter.single(&tree, &node).await;
            sender.send(formatter.take()).await
        }
    };
    match sent {
        Ok(()) => sender.finish().await,
        Err(refusal) => {
            sender.fail();
            Err(refusal)
        }
    }
}

async fn send_folder(
    sender: &mut Sender<'_>,
    formatter: &mut Formatter<'_>,
    tree: &Tree,
    dir: NodeId,
    pattern: Option<&str>,
) -> Result<(), Reply> {
    let mut after = Cookie(0);
    loop {
        let page = tree.read_dir(dir, after, PAGE_ENTRIES).await;
        let page = page.map_err(|error| reply::refused(&formatter.request.path, &error))?;
        for entry in page.entries.iter().filter(|entry| wanted(entry, pattern)) {
            formatter.entry(tree, &entry.attributes, &entry.name).await;
        }
        sender.send(formatter.take()).await?;
        match page.entries.last() {
            Some(last) if !page.end => after = last.cookie,
            _ => return Ok(()),
        }
    }
}

fn wanted(entry: &DirEntry, pattern: Option<&str>) -> bool {
    pattern.is_none_or(|pattern| glob::matches(pattern, &entry.name))
}

/// Finds what the path means: `/`, a folder, another node, or a pattern in the folder above.
async fn open(cx: &Context, request: &ListRequest) -> Result<Source, Reply> {
    let path = &request.path;
    let refused = |error: VfsError| reply::refused(path, &error);
    let (tree, inside) = match cx.locate(path).map_err(refused)? {
        Place::Top => return Ok(Source::Shares),
        Place::Inside(tree, inside) => (tree, inside),
    };
    match tree.resolve_following(&inside).await {
        Ok(node) if node.kind == NodeKind::Directory && !request.itself => {
            may_list(&tree, node.id).await.map_err(refused)?;
            Ok(Source::Folder {
                tree,
                dir: node.id,
                pattern: None,
            })
        }
        Ok(_) if matches!(request.style, ListStyle::Facts(_)) => Err(Reply::text(
            501,
            format!("{} is not a directory; use MLST.", reply::quoted(path)),
        )),
        Ok(node) => Ok(Source::Single {
            tree,
            node: Box::new(node),
        }),
        Err(VfsError::NotFound) => match inside.split_last() {
            Some((parent, name))
                if glob::is_pattern(name) && !matches!(request.style, ListStyle::Facts(_)) =>
            {
                let dir = tree.resolve_following(&parent).await.map_err(refused)?.id;
                may_list(&tree, dir).await.map_err(refused)?;
                Ok(Source::Folder {
                    tree,
                    dir,
                    pattern: Some(name.to_owned()),
                })
            }
            _ => Err(refused(VfsError::NotFound)),
        },
        Err(error) => Err(refused(error)),
    }
}

/// A refusal must come before the 150.
async fn may_list(tree: &Tree, dir: NodeId) -> Result<(), VfsError> {
    let granted = tree.access(dir, AccessMask(AccessMask::READ_DATA)).await?;
    if granted.has(AccessMask::READ_DATA) {
        Ok(())
    } else {
        Err(VfsError::AccessDenied)
    }
}

impl<'a> Formatter<'a> {
    fn new(cx: &'a Context, request: &'a ListRequest, source: &Source) -> Formatter<'a> {
        Formatter {
            cx,
            request,
            prefix: name_prefix(&request.given, source),
            now: time::from_system(SystemTime::now()),
            owners: HashMap::new(),
            out: String::new(),
        }
    }

    fn take(&mut self) -> Parts {
        Parts::from(Bytes::from(std::mem::take(&mut self.out)))
    }

    async fn shares(&mut self) {
        for share in self.cx.vfs.shares(Protocol::Ftp) {
            let Ok(path) = VirtualPath::default().join(&share.name) else {
                continue;
            };
            // A share that this caller may not enter is not shown.
            if let Ok((tree, node)) = self.cx.node(&path).await {
                self.entry(&tree, &node, &share.name).await;
            }
        }
    }

    async fn dots(&mut self, tree: &Tree, dir: NodeId) {
        if !self.request.dots || self.request.style != ListStyle::Long {
            return;
        }
        if let Ok(node) = tree.attributes(dir, false).await {
            self.entry(tree, &node, ".").await;
        }
        if let Ok(node) = tree.parent(dir).await {
            self.entry(tree, &node, "..").await;
        }
    }

    async fn single(&mut self, tree: &Tree, node: &Attributes) {
        let name = if self.request.given.is_empty() {
            "."
        } else {
            &self.request.given
        };
        self.entry(tree, node, name).await;
    }

    async fn entry(&mut self, tree: &Tree, node: &Attributes, name: &str) {
        match self.request.style {
            ListStyle::Names => {
                self.out.push_str(&self.prefix);
                list_line::push_name(&mut self.out, name);
            }
            ListStyle::Facts(facts) => write_facts(&mut self.out, tree, node, facts, name).await,
            ListStyle::Long => {
                let target = match node.kind {
                    NodeKind::Symlink => tree.read_link(node.id).await.ok(),
                    _ => None,
                };
                self.learn_owner(node.uid).await;
                let owner = self.owners.get(&node.uid).map_or("-", String::as_str);
                list_line::write_long(
                    &mut self.out,
                    node,
                    owner,
                    name,
                    target.as_deref(),
                    self.now,
                );
            }
        }
        self.out.push_str("\r\n");
    }

    async fn learn_owner(&mut self, uid: u32) {
        if self.owners.contains_key(&uid) {
            return;
        }
        let name = self.cx.vfs.accounts().name_of_uid(uid).await;
        // A name with a space would shift the columns.
        let shown = name
            .filter(|name| !name.contains(' '))
            .unwrap_or_else(|| uid.to_string());
        self.owners.insert(uid, shown);
    }
}

/// What NLST puts before each name, so that the names can be used as they are.
fn name_prefix(given: &str, source: &Source) -> String {
    match source {
        Source::Folder {
            pattern: Some(_), ..
        } => given
            .rsplit_once('/')
            .map_or(String::new(), |(dir, _)| format!("{dir}/")),
        Source::Folder { .. } | Source::Shares if given.is_empty() || given == "." => String::new(),
        Source::Folder { .. } | Source::Shares => format!("{}/", given.trim_end_matches('/')),
        Source::Single { .. } => String::new(),
    }
}

async fn write_facts(out: &mut String, tree: &Tree, node: &Attributes, facts: FactSet, name: &str) {
    let access = if facts.has(Fact::Perm) {
        tree.access(node.id, AccessMask(AccessMask::FILE_ALL))
            .await
            .ok()
    } else {
        None
    };
    let source = FactSource {
        attributes: node,
        share: tree.share().id.0,
        access,
    };
    write_entry(out, facts, &source, name);
}

/// MLST: one entry over the control connection.
pub(crate) async fn facts(cx: &Context, path: &VirtualPath, facts: FactSet) -> Reply {
    // MLST tells about a symbolic link itself, so that clients see what MLSD showed them.
    let found = match cx.locate(path) {
        Ok(Place::Top) => {
            let line = if facts.has(Fact::Type) {
                " type=dir; /"
            } else {
                "  /"
            };
            return Reply::lines(250, "Listing", vec![line.to_owned()], "End");
        }
        Ok(Place::Inside(tree, inside)) => match tree.resolve(&inside).await {
            Err(VfsError::IsSymlink(_)) => tree
                .resolve_following(&inside)
                .await
                .map(|node| (tree, node)),
            found => found.map(|node| (tree, node)),
        },
        Err(error) => Err(error),
    };
    match found {
        Ok((tree, node)) => {
            let mut line = String::from(" ");
            write_facts(&mut line, &tree, &node, facts, &path.to_string()).await;
            Reply::lines(250, "Listing", vec![line], "End")
        }
        Err(error) => reply::refused(path, &error),
    }
}

/// STAT with a path: LIST over the control connection (RFC 959 4.1.3).
pub(crate) async fn over_control(cx: &Context, request: &ListRequest) -> Reply {
    let source = match open(cx, request).await {
        Ok(source) => source,
        Err(refusal) => return refusal,
    };
    let mut formatter = Formatter::new(cx, request, &source);
    let code = if matches!(source, Source::Single { .. }) {
        213
    } else {
        212
    };
    match source {
        Source::Shares => formatter.shares().await,
        Source::Single { tree, node } => formatter.single(&tree, &node).await,
        Source::Folder { tree, dir, pattern } => {
            formatter.dots(&tree, dir).await;
            match tree.read_dir(dir, Cookie(0), STAT_ENTRIES_MAX).await {
                Ok(page) => {
                    for entry in page
                        .entries
                        .iter()
                        .filter(|entry| wanted(entry, pattern.as_deref()))
                    {
                        formatter.entry(&tree, &entry.attributes, &entry.name).await;
                    }
                    if !page.end {
                        formatter.out.push_str("(more entries: use LIST)\r\n");
                    }
                }
                Err(error) => return reply::refused(&request.path, &error),
            }
        }
    }
    let lines = formatter.out.lines().map(str::to_owned).collect();
    Reply::lines(code, "Status:", lines, "End of status.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_ls_are_taken_off_the_front() {
        assert_eq!(split_options("-la sub dir"), ("la".to_owned(), "sub dir"));
        assert_eq!(split_options("-a -l"), ("al".to_owned(), ""));
        assert_eq!(split_options("a -l"), (String::new(), "a -l"));
        assert_eq!(split_options(""), (String::new(), ""));
    }

    #[test]
    fn nlst_names_can_be_used_as_they_are() {
        assert_eq!(name_prefix("", &Source::Shares), "");
        assert_eq!(name_prefix(".", &Source::Shares), "");
        assert_eq!(name_prefix("/", &Source::Shares), "/");
        assert_eq!(name_prefix("sub/", &Source::Shares), "sub/");
    }
}
