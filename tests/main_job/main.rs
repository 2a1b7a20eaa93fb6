//! The main job on real input: a document tree imported by FTP over four connections, listed and read back completely over SMB and
//! NFSv3 with equal SHA-256, edited over SMB, seen at once over NFS and FTP. All through real programs: lftp, smbclient, nfs-cp, curl.
//!
//! `SLUICE_MAIN_JOB_MB` sets the size of the one big file (default 1,100, over 1 GiB).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sluice_tests::node::{PASSWORD, TestNode, USER};
use sluice_tests::tools::{run, run_any};

/// Real documents of this machine: installed packages' documentation, at most `files_max` files without links.
fn collect(from: &Path, to: &Path, files_max: usize) -> usize {
    let mut count = 0;
    let mut folders = vec![from.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && count < files_max {
                let path = entry.path();
                let relative = path.strip_prefix(from).expect("below its folder");
                let target = to.join(relative);
                std::fs::create_dir_all(target.parent().expect("a folder")).expect("mkdir");
                if std::fs::copy(&path, &target).is_ok() {
                    count += 1;
                }
            }
        }
    }
    count
}

fn sums(root: &Path) -> BTreeMap<PathBuf, String> {
    let out = run(Command::new("sh")
        .arg("-c")
        .arg("find . -type f -print0 | xargs -0 -r sha256sum")
        .current_dir(root))
    .unwrap();
    out.lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(sum, path)| (PathBuf::from(path.trim_start_matches("./")), sum.to_owned()))
        .collect()
}

/// Names as SMB shows them, back to what they are: the private-use characters that stand for `"*:<>?\\|`.
fn unmapped(sums: BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, String> {
    let back = |c: char| match c {
        '\u{f020}'..='\u{f027}' => ['"', '*', ':', '<', '>', '?', '\\', '|'][c as usize - 0xf020],
        c => c,
    };
    sums.into_iter()
        .map(|(path, sum)| {
            (
                path.to_string_lossy()
                    .chars()
                    .map(back)
                    .collect::<String>()
                    .into(),
                sum,
            )
        })
        .collect()
}

/// Fails with the differences only: the trees have thousands of documents.
fn assert_same(
    what: &str,
    found: &BTreeMap<PathBuf, String>,
    expected: &BTreeMap<PathBuf, String>,
) {
    let missing: Vec<_> = expected
        .iter()
        .filter(|(path, sum)| found.get(*path) != Some(sum))
        .collect();
    let extra: Vec<_> = found
        .keys()
        .filter(|path| !expected.contains_key(*path))
        .collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "{what}: missing or different {missing:#?}, too many {extra:#?}"
    );
}

#[test]
fn a_real_tree_goes_in_by_ftp_and_comes_back_whole_over_smb_and_nfs() {
    let node = TestNode::start().unwrap();
    let work = tempfile::tempdir().unwrap();
    let source = work.path().join("source");
    let documents = collect(Path::new("/usr/share/doc"), &source.join("doc"), 3000)
        + collect(Path::new("/usr/share/man"), &source.join("man"), 1500)
        + collect(Path::new("/usr/lib/python3"), &source.join("py"), 1500);
    assert!(
        documents >= 1000,
        "this machine has only {documents} documents to offer"
    );
    let big_mb = std::env::var("SLUICE_MAIN_JOB_MB").unwrap_or_else(|_| "1100".into());
    run(Command::new("dd").args([
        "if=/dev/urandom",
        &format!("of={}", source.join("big.bin").display()),
        "bs=1M",
        &format!("count={big_mb}"),
        "status=none",
    ]))
    .unwrap();
    let expected = sums(&source);

    run(Command::new("lftp").arg("-c").arg(format!(
        "set ssl:verify-certificate no; set net:max-retries 1; set cmd:fail-exit yes; \
         open -u {USER},{PASSWORD} -p {} 127.0.0.1; mirror -R --parallel=4 --no-perms {} /docs/in",
        node.ports.ftp,
        source.display()
    )))
    .unwrap();

    let smb_copy = work.path().join("smb");
    std::fs::create_dir(&smb_copy).unwrap();
    run(Command::new("smbclient")
        .args(["//127.0.0.1/docs", "-p", &node.ports.smb.to_string()])
        .arg(format!("-U{USER}%{PASSWORD}"))
        .arg("-c")
        .arg("recurse on; prompt off; cd in; mget *")
        .current_dir(&smb_copy))
    .unwrap();
    assert_same("read back over SMB", &unmapped(sums(&smb_copy)), &expected);
    std::fs::remove_dir_all(&smb_copy).unwrap();

    let (mut nfs, root) = node.nfs("reader").unwrap();
    let (dir, _) = nfs.walk(&root, "in").unwrap().unwrap();
    let nfs_copy = work.path().join("nfs");
    copy_out(&mut nfs, &dir, &nfs_copy);
    assert_same("read back over NFSv3", &sums(&nfs_copy), &expected);

    // Edited over SMB, seen at once through the other doors by their own programs.
    let edited = work.path().join("edited.txt");
    std::fs::write(&edited, "edited over SMB\n").unwrap();
    run(Command::new("smbclient")
        .args(["//127.0.0.1/docs", "-p", &node.ports.smb.to_string()])
        .arg(format!("-U{USER}%{PASSWORD}"))
        .arg("-c")
        .arg(format!(
            "put {} in\\edited.txt; allinfo in\\edited.txt",
            edited.display()
        )))
    .unwrap();
    let ftp = run(Command::new("curl").args([
        "-sS",
        "-u",
        &format!("{USER}:{PASSWORD}"),
        &format!("ftp://127.0.0.1:{}/docs/in/edited.txt", node.ports.ftp),
    ]))
    .unwrap();
    assert_eq!(ftp, "edited over SMB\n");
    let cat = run_any(Command::new("nfs-cat").arg(format!(
        "nfs://127.0.0.1/docs/in/edited.txt?nfsport={0}&mountport={0}&uid=1000&gid=1000",
        node.ports.nfs
    )))
    .unwrap();
    assert_eq!(String::from_utf8_lossy(&cat.stdout), "edited over SMB\n");

    let check = node.cli_ok(&["check"], "").unwrap();
    assert!(!check.contains("problem:"), "{check}");
}

fn copy_out(nfs: &mut sluice_tests::clients::nfs3::Nfs3Client, dir: &[u8], to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in nfs.list(dir).unwrap() {
        let (handle, size) = nfs.lookup(dir, &name).unwrap().unwrap();
        // A folder answers READ with NFS3ERR_ISDIR (21).
        match nfs.read(&handle, 0, 1 << 20).unwrap() {
            Ok((bytes, end)) => {
                let mut file = std::fs::File::create(to.join(&name)).unwrap();
                use std::io::Write;
                file.write_all(&bytes).unwrap();
                let (mut at, mut end) = (bytes.len() as u64, end);
                while !end && at < size {
                    let (more, last) = nfs.read(&handle, at, 1 << 20).unwrap().unwrap();
                    file.write_all(&more).unwrap();
                    at += more.len() as u64;
                    end = last;
                }
            }
            Err(21) => copy_out(nfs, &handle, &to.join(&name)),
            Err(status) => panic!("read of {name}: status {status}"),
        }
    }
}
