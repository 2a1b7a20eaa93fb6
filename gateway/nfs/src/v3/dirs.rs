//! Listings: READDIR and READDIRPLUS.
//!
//! Cookies: 1 is `.`, 2 is `..`, and an entry's own cookie is shifted by 2. The file layer's cookies are unique and keep their
//! place while the entry lives, so the verifier never changes and no listing can loop.

use sluice_nfs_wire::nfs3::*;
use sluice_vfs::{Attributes as NodeAttributes, Cookie, NodeKind};

use crate::call::{Call, Place};
use crate::handle::HANDLE_BYTES;
use crate::{attr, status};

/// The cookie of `.`.
const COOKIE_DOT: u64 = 1;
/// The cookie of `..`, and what is added to the cookies of entries.
const COOKIE_DOT_DOT: u64 = 2;
/// Cookies hold for ever.
const VERIFIER: CookieVerifier = [0; 8];
/// Largest page.
const PAGE_BYTES_MAX: u32 = 256 * 1024;
/// Most entries fetched for a page.
const PAGE_ENTRIES_MAX: usize = 2048;
/// Bytes of a result beside its entries: status, attributes, verifier, end of list, end of directory.
const RESULT_BYTES: usize = 4 + 4 + ATTRIBUTES_BYTES + 8 + 4 + 4;
/// Length of a name in bytes that the first guess at the number of entries assumes.
const NAME_GUESS_BYTES: usize = 8;

/// One entry before it gets its wire form.
struct Listed {
    name: String,
    cookie: u64,
    attributes: NodeAttributes,
}

/// How much of a listing fits.
struct Budget {
    /// For names, numbers and cookies; a hint that the first entry may exceed.
    names: usize,
    /// Whether no entry has been taken.
    empty: bool,
    /// For everything.
    all: usize,
    /// Whether entries come with attributes and handles.
    plus: bool,
}

impl Budget {
    /// Takes an entry's part; false if it no longer fits.
    fn take(&mut self, name: &str) -> bool {
        let names = Entry::wire_len(name.len());
        let all = if self.plus {
            EntryPlus::wire_len(name.len(), HANDLE_BYTES)
        } else {
            names
        };
        let fits = all <= self.all && (self.empty || names <= self.names);
        if fits {
            self.empty = false;
            self.names = self.names.saturating_sub(names);
            self.all -= all;
        }
        fits
    }

    /// A number of entries that should about fill it.
    fn entries(&self) -> usize {
        let by_names = self.names / Entry::wire_len(NAME_GUESS_BYTES);
        let by_all = if self.plus {
            self.all / EntryPlus::wire_len(NAME_GUESS_BYTES, HANDLE_BYTES)
        } else {
            by_names
        };
        (by_names.min(by_all) + 1).min(PAGE_ENTRIES_MAX)
    }
}

/// The entries after `cookie` that fit, and whether they are the last.
async fn list(
    place: &Place,
    dir: NodeAttributes,
    cookie: u64,
    mut budget: Budget,
) -> Result<(Vec<Listed>, bool), Status> {
    if dir.kind != NodeKind::Directory {
        return Err(Status::NotDir);
    }
    let to_status = |e| status::nfs(&e);
    let after = Cookie(cookie.saturating_sub(COOKIE_DOT_DOT));
    let page = place
        .tree
        .read_dir(place.node, after, budget.entries())
        .await
        .map_err(to_status)?;
    let mut listed = Vec::with_capacity(page.entries.len() + 2);
    if cookie < COOKIE_DOT {
        listed.push(Listed {
            name: ".".to_owned(),
            cookie: COOKIE_DOT,
            attributes: dir,
        });
    }
    if cookie < COOKIE_DOT_DOT {
        listed.push(Listed {
            name: "..".to_owned(),
            cookie: COOKIE_DOT_DOT,
            attributes: place.tree.parent(place.node).await.map_err(to_status)?,
        });
    }
    listed.extend(page.entries.into_iter().map(|entry| Listed {
        name: entry.name,
        cookie: entry.cookie.0.saturating_add(COOKIE_DOT_DOT),
        attributes: entry.attributes,
    }));
    let fitting = listed
        .iter()
        .take_while(|entry| budget.take(&entry.name))
        .count();
    if fitting == 0 && !listed.is_empty() {
        return Err(Status::TooSmall);
    }
    let end = page.end && fitting == listed.len();
    listed.truncate(fitting);
    Ok((listed, end))
}

/// RFC 1813 3.3.16.
pub(super) async fn readdir(call: &Call<'_>, args: ReaddirArgs) -> ReaddirRes {
    let result = async {
        let place = call.place(&args.dir)?;
        let dir = place
            .tree
            .attributes(place.node, false)
            .await
            .map_err(|e| status::nfs(&e))?;
        let dir_attributes = Some(attr::wire(place.share, &dir));
        let room = (args.count.min(PAGE_BYTES_MAX) as usize).saturating_sub(RESULT_BYTES);
        let budget = Budget {
            names: room,
            empty: true,
            all: room,
            plus: false,
        };
        let (listed, eof) = list(&place, dir, args.cookie, budget).await?;
        let entries = listed.into_iter().map(|entry| Entry {
            fileid: entry.attributes.id.0,
            name: FileName::copy_of(entry.name),
            cookie: entry.cookie,
        });
        Ok(ReaddirOk {
            dir_attributes,
            verifier: VERIFIER,
            list: DirList {
                entries: entries.collect(),
                eof,
            },
        })
    };
    match result.await {
        Ok(ok) => ReaddirRes::Ok(ok),
        Err(status) => ReaddirRes::Fail(status, None),
    }
}

/// RFC 1813 3.3.17.
pub(super) async fn readdirplus(call: &Call<'_>, args: ReaddirplusArgs) -> ReaddirplusRes {
    let result = async {
        let place = call.place(&args.dir)?;
        let dir = place
            .tree
            .attributes(place.node, false)
            .await
            .map_err(|e| status::nfs(&e))?;
        let dir_attributes = Some(attr::wire(place.share, &dir));
        let all = args.maxcount.min(PAGE_BYTES_MAX) as usize;
        let budget = Budget {
            names: args.dircount as usize,
            empty: true,
            all: all.saturating_sub(RESULT_BYTES),
            plus: true,
        };
        let (listed, eof) = list(&place, dir, args.cookie, budget).await?;
        let entries = listed.into_iter().map(|entry| EntryPlus {
            fileid: entry.attributes.id.0,
            name: FileName::copy_of(&entry.name),
            cookie: entry.cookie,
            attributes: Some(attr::wire(place.share, &entry.attributes)),
            handle: Some(call.handle(place.share, entry.attributes.id)),
        });
        Ok(ReaddirplusOk {
            dir_attributes,
            verifier: VERIFIER,
            list: DirList {
                entries: entries.collect(),
                eof,
            },
        })
    };
    match result.await {
        Ok(ok) => ReaddirplusRes::Ok(ok),
        Err(status) => ReaddirplusRes::Fail(status, None),
    }
}
