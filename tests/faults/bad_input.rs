//! Bad input and bad surroundings: wrong passwords, garbage, huge lengths, a log that can't be written. A clear refusal, and the node goes on for everybody else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sluice_tests::clients::{ftp::FtpClient, smb::SmbClient};
use sluice_tests::node::{TestNode, USER, binary};

#[test]
fn a_wrong_password_is_refused_and_the_delay_grows() {
    let node = TestNode::start().unwrap();
    let address = format!("127.0.0.1:{}", node.ports.smb);
    let refused = |password: &str| {
        let begin = Instant::now();
        let error = SmbClient::connect(&address, USER, password, "docs")
            .err()
            .expect("refused");
        assert!(error.to_string().contains("0xc000006d"), "{error}");
        begin.elapsed()
    };
    let times: Vec<Duration> = (0..4).map(|_| refused("wrong")).collect();
    assert!(times[3] > times[0], "{times:?}");
    let ftp = FtpClient::connect(&format!("127.0.0.1:{}", node.ports.ftp), "nobody-here", "x");
    assert!(ftp.err().expect("refused").to_string().contains("530"));
    let log = node.log();
    assert!(!log.contains("wrong\""), "no password in the log");
}

#[test]
fn garbage_and_huge_lengths_end_the_connection_and_nothing_else() {
    let node = TestNode::start().unwrap();
    let mut huge_rpc = 0xffff_ffff_u32.to_be_bytes().to_vec();
    huge_rpc.extend([0xff; 64]);
    let mut huge_smb = vec![0, 0xff, 0xff, 0xff];
    huge_smb.extend(b"\xfeSMB");
    huge_smb.extend([0xff; 200]);
    let line = vec![b'A'; 1 << 20];
    for (port, bytes) in [
        (node.ports.nfs, huge_rpc),
        (node.ports.smb, huge_smb),
        (node.ports.ftp, line),
        (node.ports.smb, (0..=255).cycle().take(4096).collect()),
        (node.ports.nfs, (0..=255).cycle().take(4096).collect()),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        // The server may close before everything is taken.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "port {port} neither answered nor closed"
            );
        }
    }
    let mut smb = node.smb().unwrap();
    assert!(smb.list("").unwrap().0 >= 2);
    node.nfs("app").unwrap();
    node.ftp().unwrap();
}

#[test]
fn a_log_on_a_full_disk_stops_nothing() {
    let mut node = TestNode::start().unwrap();
    node.stop().unwrap();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut served = Command::new(binary())
        .args(["serve", "--config"])
        .arg(node.dir().join("sluice.toml"))
        .stdout(Stdio::null())
        .stderr(full)
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while !node.is_ready() {
        assert!(begin.elapsed() < Duration::from_secs(20), "it serves");
    }
    let stored = node.ftp().unwrap().store("/docs/a.bin", b"a").unwrap();
    assert_eq!(stored.code, 226, "{}", stored.text);
    node.smb().unwrap();
    let asked = Command::new("kill").arg(served.id().to_string()).status();
    assert!(asked.unwrap().success());
    let ended = served.wait().unwrap();
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_read_only_content_folder_is_told_and_nothing_is_lost() {
    let node = TestNode::start().unwrap();
    let mut ftp = node.ftp().unwrap();
    assert_eq!(ftp.store("/docs/a.bin", &[1; 300_000]).unwrap().code, 226);
    // The content folder is replaced by a file: whoever runs the test, even root, can store nothing there now.
    let content = node.dir().join("content");
    let aside = node.dir().join("aside");
    std::fs::rename(&content, &aside).unwrap();
    std::fs::write(&content, b"").unwrap();
    let refusal = ftp.store("/docs/a.bin", &[2; 9_000_000]).unwrap();
    assert!(
        (450..=552).contains(&refusal.code),
        "a clear refusal: {}",
        refusal.text
    );
    std::fs::remove_file(&content).unwrap();
    std::fs::rename(&aside, &content).unwrap();
    let mut again = node.ftp().unwrap();
    assert_eq!(
        again.retrieve("/docs/a.bin").unwrap().unwrap(),
        vec![1; 300_000]
    );
    assert_eq!(
        again.store("/docs/a.bin", &[3; 9_000_000]).unwrap().code,
        226
    );
}
