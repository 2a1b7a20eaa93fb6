//! HASH (draft-bryan-ftpext-hash) and XCRC, XMD5, XSHA1, XSHA256, XSHA512: digests of a document or of a range of it, streamed.

use aws_lc_rs::digest;
use crc_fast::CrcAlgorithm;
use md5::{Digest as _, Md5};
use sluice_vfs::{NodeKind, VfsError};

use crate::codec::command::{Command, HashAlgorithm};
use crate::context::Context;
use crate::path::VirtualPath;
use crate::reply::{self, Reply};
use crate::session::{Session, Step};
use crate::work::{HashStyle, Work};

/// Bytes read and digested between two looks at the rest of the world.
const READ_BYTES: u32 = 1024 * 1024;

pub(crate) fn decide(session: &mut Session, command: Command) -> Step {
    match command {
        Command::XHash {
            algorithm,
            path,
            range,
        } => session.work(&path, |path| Work::Hash {
            path,
            algorithm,
            range,
            style: HashStyle::Bare,
        }),
        Command::Hash(path) => {
            let range = session
                .range
                .take()
                .map(|(start, last)| (start, last.saturating_add(1)));
            let algorithm = session.hash;
            session.work(&path, |path| Work::Hash {
                path,
                algorithm,
                range,
                style: HashStyle::Hash,
            })
        }
        _ => Step::Reply(Reply::fixed(502, "Not offered here.")),
    }
}

enum Hasher {
    Sha(digest::Context),
    Md5(Md5),
    Crc(Box<crc_fast::Digest>),
}

impl Hasher {
    fn new(algorithm: HashAlgorithm) -> Hasher {
        match algorithm {
            HashAlgorithm::Sha256 => Hasher::Sha(digest::Context::new(&digest::SHA256)),
            HashAlgorithm::Sha512 => Hasher::Sha(digest::Context::new(&digest::SHA512)),
            HashAlgorithm::Sha1 => {
                Hasher::Sha(digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY))
            }
            HashAlgorithm::Md5 => Hasher::Md5(Md5::new()),
            HashAlgorithm::Crc32 => {
                Hasher::Crc(Box::new(crc_fast::Digest::new(CrcAlgorithm::Crc32IsoHdlc)))
            }
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Hasher::Sha(context) => context.update(data),
            Hasher::Md5(state) => state.update(data),
            Hasher::Crc(state) => state.update(data),
        }
    }

    fn finish(self) -> String {
        match self {
            Hasher::Sha(context) => hex(context.finish().as_ref()),
            Hasher::Md5(state) => hex(&state.finalize()),
            Hasher::Crc(state) => format!("{:08x}", state.finalize()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Digests `[start, end)` of the document, cut at its end.
pub(crate) async fn run(
    cx: &Context,
    path: &VirtualPath,
    algorithm: HashAlgorithm,
    range: Option<(u64, u64)>,
    style: HashStyle,
) -> Reply {
    let (tree, inside) = match cx.locate_entry(path) {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    let download = match tree.download(&inside).await {
        Ok(download) => download,
        Err(VfsError::IsDirectory) => return reply::no_document(path),
        Err(error) => return reply::refused(path, &error),
    };
    if download.attributes().kind != NodeKind::File {
        return reply::no_document(path);
    }
    let size = download.attributes().size;
    let (start, end) = range.map_or((0, size), |(start, end)| (start, end.min(size)));
    if start > end {
        return reply::beyond_end(path, size);
    }
    let mut hasher = Hasher::new(algorithm);
    let mut at = start;
    while at < end {
        let want = u32::try_from(end - at)
            .unwrap_or(READ_BYTES)
            .min(READ_BYTES);
        let read = match download.read(at, want).await {
            Ok(read) => read,
            Err(error) => return reply::refused(path, &error),
        };
        if read.len == 0 {
            return reply::refused(path, &VfsError::Io);
        }
        read.parts.iter().for_each(|part| hasher.update(part));
        at += read.len as u64;
        // Cached content is ready at once: let the other sessions of this thread in between.
        tokio::task::yield_now().await;
    }
    download.close().await;
    let digest = hasher.finish();
    match style {
        HashStyle::Hash => reply::hash(algorithm, start, end, &digest, path),
        HashStyle::Bare => Reply::text(250, digest.to_ascii_uppercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_gives_the_published_digest_of_abc() {
        for (algorithm, expected) in [
            (
                HashAlgorithm::Sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                HashAlgorithm::Sha1,
                "a9993e364706816aba3e25717850c26c9cd0d89d",
            ),
            (HashAlgorithm::Md5, "900150983cd24fb0d6963f7d28e17f72"),
            (HashAlgorithm::Crc32, "352441c2"),
        ] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"a");
            hasher.update(b"bc");
            assert_eq!(hasher.finish(), expected, "{}", algorithm.name());
        }
    }
}
