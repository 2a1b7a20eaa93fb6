//! The programs that people use for FTP, against a real node: curl, lftp, Python's ftplib; and a client that dies half way.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use sluice_tests::node::{PASSWORD, TestNode, USER};
use sluice_tests::tools::run;

type Outcome = anyhow::Result<()>;

fn url(node: &TestNode, path: &str) -> String {
    format!("ftp://127.0.0.1:{}/{path}", node.ports.ftp)
}

fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    let login = format!("{USER}:{PASSWORD}");
    command
        .args(["-sS", "--max-time", "60", "-u", &login])
        .args(arguments);
    command
}

/// Some folders with some files, one of them empty and one with spaces and an umlaut in its name.
fn make_tree(root: &Path) -> Outcome {
    for folder in 0..6 {
        let dir = root.join(format!("folder {folder}"));
        std::fs::create_dir_all(&dir)?;
        for file in 0..12 {
            let bytes = vec![b'a' + file; usize::from(file) * 3_000];
            std::fs::write(dir.join(format!("{file} ä.bin")), bytes)?;
        }
    }
    Ok(())
}

#[test]
fn every_command_of_ftplib_works_plain_and_under_tls_in_many_sessions_at_once() -> Outcome {
    let node = TestNode::start()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("ftp_clients/session.py");
    let port = node.ports.ftp.to_string();
    let mut python = Command::new("python3");
    python
        .arg(script)
        .args(["127.0.0.1", &port, USER, PASSWORD]);
    ensure!(run(&mut python)?.contains("ok"));
    node.wait_for_no_locks()
}

#[test]
fn every_command_of_ftplib_works_over_ipv6() -> Outcome {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return Ok(());
    }
    let mut node = TestNode::start()?;
    node.stop()?;
    let (config, port) = (node.dir().join("sluice.toml"), node.ports.ftp);
    let text = std::fs::read_to_string(&config)?;
    let (old, both) = (
        format!("[\"127.0.0.1:{port}\"]"),
        format!("[\"127.0.0.1:{port}\", \"[::1]:{port}\"]"),
    );
    ensure!(text.contains(&old));
    std::fs::write(&config, text.replace(&old, &both))?;
    node.spawn()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("ftp_clients/session.py");
    let mut python = Command::new("python3");
    python
        .arg(script)
        .args(["::1", &port.to_string(), USER, PASSWORD]);
    ensure!(run(&mut python)?.contains("ok"));
    node.wait_for_no_locks()
}

#[test]
fn curl_uploads_resumes_and_downloads_plain_and_with_tls_required() -> Outcome {
    let node = TestNode::start()?;
    let (file, half, back) = (
        node.dir().join("f"),
        node.dir().join("h"),
        node.dir().join("b"),
    );
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    std::fs::write(&file, &bytes)?;
    std::fs::write(&half, &bytes[..1_000_000])?;
    let (file, half, back_text) = (
        file.display().to_string(),
        half.display().to_string(),
        back.display().to_string(),
    );
    for tls in [&[][..], &["--ssl-reqd", "-k"][..]] {
        let at = url(&node, "docs/new/folder/file");
        run(curl(tls).args(["--ftp-create-dirs", "-T", &half, &at]))?;
        run(curl(tls).args(["-C", "-", "-T", &file, &at]))?;
        run(curl(tls).args(["-o", &back_text, &at]))?;
        ensure!(std::fs::read(&back)? == bytes, "the resumed upload differs");
        run(curl(tls).args(["-r", "100-199", "-o", &back_text, &at]))?;
        ensure!(
            std::fs::read(&back)? == bytes[100..200],
            "the range differs"
        );
        let listing = run(curl(tls).args([
            "-l",
            "-Q",
            "RNFR docs/new/folder/file",
            "-Q",
            "RNTO docs/new/folder/renamed",
            &url(&node, "docs/new/folder/"),
        ]))?;
        ensure!(listing.trim() == "renamed", "{listing}");
    }
    Ok(())
}

#[test]
fn lftp_mirrors_a_tree_both_ways_in_parallel_and_keeps_times() -> Outcome {
    let node = TestNode::start()?;
    let (tree, back) = (node.dir().join("tree"), node.dir().join("back"));
    make_tree(&tree)?;
    run(Command::new("touch")
        .args(["-d", "2020-03-04 05:06:07 UTC"])
        .arg(tree.join("folder 1/3 ä.bin")))?;
    let script = format!(
        "set net:max-retries 2; set ssl:verify-certificate no; open -u {USER},{PASSWORD} -p {} 127.0.0.1; \
         mirror -R --parallel=4 '{}' docs/tree; mirror --parallel=4 docs/tree '{}'; rm -r docs/tree",
        node.ports.ftp,
        tree.display(),
        back.display()
    );
    run(Command::new("lftp").args(["-c", &script]))?;
    run(Command::new("diff").arg("-r").arg(&tree).arg(&back))?;
    let time = |root: &Path| std::fs::metadata(root.join("folder 1/3 ä.bin"))?.modified();
    ensure!(time(&tree)? == time(&back)?, "the time was lost on the way");
    Ok(())
}

/// The kernel closes a killed program's data connection in order: it looks like the end of the upload.
#[test]
fn an_upload_whose_client_is_killed_leaves_the_old_document() -> Outcome {
    let node = TestNode::start()?;
    let mut watcher = node.ftp()?;
    ensure!(watcher.store("/docs/kept", b"old")?.code == 226);
    for _ in 0..5 {
        let mut upload = curl(&["-T", "-"]);
        upload
            .arg(url(&node, "docs/kept"))
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        let mut upload = upload.spawn().context("curl")?;
        let mut source = upload.stdin.take().context("stdin")?;
        source.write_all(&[b'n'; 300_000])?;
        node.wait_for_holder("/docs/kept", "ftp")?;
        upload.kill()?;
        upload.wait()?;
        drop(source);
        node.wait_for_no_locks()?;
        let got = watcher.retrieve("/docs/kept")?;
        ensure!(
            got.as_deref() == Ok(b"old".as_slice()),
            "{:?}",
            got.map(|bytes| bytes.len())
        );
    }
    Ok(())
}
