//! NLM clients of a node that is lost: a survivor tells them, and they take their locks again there before anybody else comes. Nobody
//! waits for what they had not locked.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sluice_tests::clients::nfs3::Nfs3Client;
use sluice_tests::clients::smb::{Cache, SmbClient, access, disposition, share};
use sluice_tests::cluster::Cluster;

use super::Outcome;

const NLM: u32 = 100_021;
const LOCK: u32 = 2;
const SHARE: u32 = 20;
const GRANTED: u32 = 0;
const DENIED: u32 = 1;
const GRACE_PERIOD: u32 = 4;

const SHARING_VIOLATION: u32 = 0xc000_0043;

const PORTMAPPER: u32 = 100_000;
const MONITOR: u32 = 100_024;
const NOTIFY: u32 = 6;

fn opaque(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u32).to_be_bytes().to_vec();
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Asks for an exclusive lock on the first ten bytes.
fn lock(client: &mut Nfs3Client, machine: &str, file: &[u8], reclaim: bool) -> anyhow::Result<u32> {
    let words = |values: &[u32]| -> Vec<u8> {
        let bytes = values.iter().flat_map(|value| value.to_be_bytes());
        bytes.collect()
    };
    let xid = client.send(
        NLM,
        LOCK,
        &[
            &opaque(b"cookie"),
            &words(&[0, 1]),
            &opaque(machine.as_bytes()),
            &opaque(file),
            &opaque(b"owner"),
            &words(&[7, 0, 10, u32::from(reclaim), 1]),
        ],
    )?;
    let reply = client.receive(xid)?;
    let status = reply.last_chunk().context("a status")?;
    Ok(u32::from_be_bytes(*status))
}

fn create(client: &mut Nfs3Client, root: &[u8], name: &str) -> anyhow::Result<Vec<u8>> {
    let file = client.create(root, name)?;
    file.map_err(|status| anyhow::anyhow!("{status}"))
}

/// Reserves a file: reads it and lets nobody write.
fn reserve(client: &mut Nfs3Client, machine: &str, file: &[u8]) -> anyhow::Result<u32> {
    let name = opaque(machine.as_bytes());
    let (mode_access_reclaim, cookie) = ([0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0], opaque(b"c"));
    let parts = [&cookie, &name, &opaque(file), &name];
    let call: Vec<u8> = parts.into_iter().flatten().copied().collect();
    let xid = client.send(NLM, SHARE, &[&call, &mode_access_reclaim])?;
    let reply = client.receive(xid)?;
    // A number of the sequence follows.
    let status = reply.len().checked_sub(8).and_then(|at| reply.get(at..));
    let status = status.and_then(<[u8]>::first_chunk);
    Ok(u32::from_be_bytes(*status.context("a status")?))
}

/// Opens a document for writing over SMB so that nobody else may write, and closes it again; the status.
fn write_alone(client: &mut SmbClient, name: &str) -> anyhow::Result<u32> {
    let opened = client.create(
        name,
        access::WRITE,
        share::READ,
        disposition::OPEN,
        Cache::None,
    )?;
    match opened {
        Ok(file) => client.close(file),
        Err(status) => Ok(status),
    }
}

/// The client's portmapper and status monitor on one port: waits until the server says that locks are gone. Who is told to be gone.
fn take_notice(socket: &UdpSocket) -> anyhow::Result<Vec<u8>> {
    let mut bytes = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut bytes)?;
        let call = bytes.get(..length).context("a datagram")?;
        let word = |at: usize| {
            let word = call.get(at * 4..)?.first_chunk()?;
            Some(u32::from_be_bytes(*word))
        };
        let (program, procedure) = (word(3).context("a call")?, word(5).context("a call")?);
        let mut reply = call.get(..4).context("a number")?.to_vec();
        for value in [1_u32, 0, 0, 0, 0] {
            reply.extend(value.to_be_bytes());
        }
        if program == PORTMAPPER {
            reply.extend(u32::from(socket.local_addr()?.port()).to_be_bytes());
        }
        socket.send_to(&reply, from)?;
        if program == MONITOR {
            ensure!(procedure == NOTIFY, "{procedure}");
            // Credential and verifier are empty.
            let name = call.get(40..).context("a name")?;
            return Ok(name.to_vec());
        }
    }
}

#[test]
fn clients_with_locks_of_a_lost_node_are_told_by_another_and_take_them_again_before_others()
-> Outcome {
    // Where the server looks for a client's portmapper; an ordinary user may not take it.
    let monitor = match UdpSocket::bind(("127.0.0.1", 111)) {
        Ok(monitor) => monitor,
        Err(error) => {
            println!("not run: port 111 can't be had: {error}");
            return Ok(());
        }
    };
    monitor.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut cluster = Cluster::start()?;
    let (mut a, root) = cluster.node(0).nfs("client-a")?;
    let mut made = |name| create(&mut a, &root, name);
    let files = [made("again")?, made("left")?, made("away")?];
    let free = [made("free-1")?, made("free-2")?, made("free-3")?];
    for file in &files {
        ensure!(lock(&mut a, "client-a", file, false)? == GRANTED);
    }
    let (mut b, _) = cluster.node(1).nfs("client-b")?;
    let (mut c, _) = cluster.node(2).nfs("client-c")?;
    let (mut again, _) = cluster.node(2).nfs("client-a")?;
    for file in &files {
        ensure!(lock(&mut b, "client-b", file, false)? == DENIED);
    }
    let mut challengers = [cluster.node(1).smb()?, cluster.node(2).smb()?];
    let lost = Instant::now();
    cluster.nodes[0].kill()?;
    // At once: while the loss is not known everywhere, and when it is.
    let mut others = [(&mut b, "client-b"), (&mut c, "client-c")];
    for (file, (client, name)) in free.iter().zip(&mut others) {
        let answer = lock(client, name, file, false)?;
        ensure!(answer == GRANTED, "{name}: {answer}");
        println!("{name} has locked another file after {:?}", lost.elapsed());
        ensure!(lost.elapsed() < Duration::from_secs(3), "at once");
    }
    for smb in &mut challengers {
        for name in ["again", "left"] {
            ensure!(write_alone(smb, name)? == SHARING_VIOLATION, "{name}");
        }
    }
    println!("refused after {:?}", lost.elapsed());
    let listed = cluster.node(1).cli_ok(&["locks", "list"], "")?;
    ensure!(listed.contains("kept for NFS clients"), "{listed}");
    let notice = take_notice(&monitor)?;
    println!("told after {:?}", lost.elapsed());
    ensure!(notice.starts_with(&opaque(b"127.0.0.1")), "{notice:?}");
    for (client, name) in &mut others {
        for file in &files {
            let answer = lock(client, name, file, false)?;
            ensure!(answer == GRACE_PERIOD, "{name}: {answer}");
        }
        let file = create(client, &root, name)?;
        ensure!(lock(client, name, &file, false)? == GRANTED, "a new one");
    }
    let [taken, left, away] = &files;
    ensure!(lock(&mut again, "client-a", taken, true)? == GRANTED);
    for (client, name) in &mut others {
        let answer = lock(client, name, taken, false)?;
        ensure!(
            answer == DENIED,
            "{name}: its client has it again: {answer}"
        );
    }
    let [first, second] = &mut challengers;
    ensure!(write_alone(second, "again")? == SHARING_VIOLATION);
    while write_alone(first, "left")? != 0 {
        ensure!(lost.elapsed() < Duration::from_secs(40), "it ends");
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("opened after {:?}", lost.elapsed());
    ensure!(lost.elapsed() > Duration::from_secs(19), "kept for so long");
    let mut answer = GRACE_PERIOD;
    while answer == GRACE_PERIOD {
        ensure!(lost.elapsed() < Duration::from_secs(40), "it ends");
        std::thread::sleep(Duration::from_millis(100));
        answer = lock(&mut b, "client-b", left, false)?;
    }
    println!("new locks after {:?}", lost.elapsed());
    ensure!(answer == GRANTED, "nobody took it again: {answer}");
    let answer = lock(&mut b, "client-b", taken, false)?;
    ensure!(answer == DENIED, "its client has it again: {answer}");
    ensure!(write_alone(second, "again")? == SHARING_VIOLATION);
    // A client that knows the node by its own address only comes when that is back.
    cluster.nodes[0].spawn()?;
    let (mut d, _) = cluster.node(0).nfs("client-d")?;
    let (mut a, _) = cluster.node(0).nfs("client-a")?;
    let answer = lock(&mut d, "client-d", away, false)?;
    ensure!(answer == GRACE_PERIOD, "kept until then: {answer}");
    let [.., unknown] = &free;
    ensure!(lock(&mut d, "client-d", unknown, false)? == GRANTED);
    ensure!(lock(&mut a, "client-a", away, true)? == GRANTED);
    println!("taken again through the node after {:?}", lost.elapsed());
    Ok(())
}

#[test]
fn what_a_client_of_a_node_has_reserved_stays_so_while_that_node_is_stopped() -> Outcome {
    let mut cluster = Cluster::start()?;
    let (mut a, root) = cluster.node(0).nfs("client-a")?;
    let file = a.create(&root, "reserved")?;
    let file = file.map_err(|status| anyhow::anyhow!("{status}"))?;
    ensure!(reserve(&mut a, "client-a", &file)? == GRANTED);
    let mut challenger = cluster.node(1).smb()?;
    ensure!(write_alone(&mut challenger, "reserved")? == SHARING_VIOLATION);
    drop(a);
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            let mut end = None;
            while end.is_none_or(|end| Instant::now() < end) {
                let answer = write_alone(&mut challenger, "reserved")?;
                ensure!(
                    answer == SHARING_VIOLATION,
                    "{answer:x} when asked {asked} times"
                );
                asked += 1;
                if end.is_none() && stopped.load(Ordering::SeqCst) {
                    end = Some(Instant::now() + Duration::from_secs(2));
                }
            }
            Ok(asked)
        });
        let stop = cluster.nodes[0].stop();
        stopped.store(true, Ordering::SeqCst);
        stop?;
        let asked = asking
            .join()
            .map_err(|_| anyhow::anyhow!("it panicked"))??;
        println!("asked {asked} times");
        ensure!(asked > 10, "{asked}");
        Ok(())
    })
}
