//! How documents go from node to node as SMB clients see it: the same clients against a cluster of this gateway, which it starts, or against
//! any other cluster whose addresses it is given. Prints rates, p50 and p99.
//!
//! `sluice-bench-nodes [--smb ADDRESS,ADDRESS] [--seconds S] [--losses N] [--lose COMMAND --mend COMMAND]`: the addresses of two nodes
//! with a share `docs` and the test user; shell commands that kill the second node and bring it back, to see how long what its client had
//! stays closed, so many times. With `--seconds 0` nothing else is measured.

use std::cell::RefCell;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sluice_tests::clients::smb::{Cache, File, SmbClient, access, disposition, status};
use sluice_tests::cluster::Cluster;
use sluice_tests::node::{PASSWORD, USER};

const RIGHTS: u32 = access::READ | access::WRITE;
/// Clients of the throughput case.
const CLIENTS: usize = 6;

/// Longer than any node's own patience.
const PATIENCE: Duration = Duration::from_secs(300);

struct Plan {
    addresses: Vec<String>,
    length: Duration,
}

fn connect(address: &str) -> anyhow::Result<SmbClient> {
    SmbClient::connect(address, USER, PASSWORD, "docs")
}

/// An open that denies everything to everybody else; `None` if somebody else has the document.
fn open(client: &mut SmbClient, name: &str) -> anyhow::Result<Option<File>> {
    match client.create(name, RIGHTS, 0, disposition::OPEN_IF, Cache::None)? {
        Ok(file) => Ok(Some(file)),
        Err(status::SHARING_VIOLATION) => Ok(None),
        Err(other) => anyhow::bail!("open of {name}: NTSTATUS {other:#010x}"),
    }
}

fn close(client: &mut SmbClient, file: File) -> anyhow::Result<()> {
    let closed = client.close(file)?;
    ensure!(closed == status::OK, "close: NTSTATUS {closed:#010x}");
    Ok(())
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    let at = |share: usize| {
        let place = (times.len() * share).div_ceil(100).saturating_sub(1);
        times.get(place.min(last)).copied().unwrap_or_default()
    };
    format!("p50 {:>10.1?}  p99 {:>10.1?}", at(50), at(99))
}

fn print(case: &str, mut times: Vec<Duration>, length: Duration) {
    let rate = times.len() as f64 / length.as_secs_f64();
    println!("{case:<58} {rate:>9.0}/s  {}", percentiles(&mut times));
}

/// Opens and closes on one node, of a document that nobody else uses.
fn alone(plan: &Plan) -> anyhow::Result<()> {
    let mut client = connect(&plan.addresses[0])?;
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < plan.length {
        let asked = Instant::now();
        let file = open(&mut client, "alone")?.context("nobody else uses it")?;
        close(&mut client, file)?;
        times.push(asked.elapsed());
    }
    print("exclusive open+close, one node", times, begin.elapsed());
    Ok(())
}

/// Each node in turn; nobody waits for anybody.
fn in_turn(plan: &Plan) -> anyhow::Result<()> {
    let clients = plan.addresses.iter().take(2).map(|at| connect(at));
    let mut clients: Vec<_> = clients.collect::<Result<_, _>>()?;
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < plan.length {
        for client in &mut clients {
            let asked = Instant::now();
            let file = open(client, "turns")?.context("its turn")?;
            close(client, file)?;
            times.push(asked.elapsed());
        }
    }
    print(
        "exclusive open+close, two nodes in turn",
        times,
        begin.elapsed(),
    );
    Ok(())
}

/// Runs one client on each of two nodes at the same time; each returns what it measured.
fn together(
    plan: &Plan,
    work: impl Fn(usize, &str, &AtomicBool) -> anyhow::Result<Vec<Duration>> + Sync,
) -> anyhow::Result<(Vec<Duration>, Duration)> {
    let (stop, begin) = (AtomicBool::new(false), Instant::now());
    let (work, stopped) = (&work, &stop);
    let times = std::thread::scope(|scope| {
        let addresses = plan.addresses.iter().take(2).enumerate();
        let clients: Vec<_> = addresses
            .map(|(at, address)| scope.spawn(move || work(at, address, stopped)))
            .collect();
        std::thread::sleep(plan.length);
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for client in clients {
            let times = client
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
            all.extend(times);
        }
        anyhow::Ok(all)
    })?;
    Ok((times, begin.elapsed()))
}

/// Both want it all the time; who is refused asks again at once.
fn contended(plan: &Plan) -> anyhow::Result<()> {
    let (times, took) = together(plan, |_, address, stop| {
        let mut client = connect(address)?;
        let (mut times, mut since) = (Vec::new(), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            if let Some(file) = open(&mut client, "contended")? {
                close(&mut client, file)?;
                times.push(since.elapsed());
                since = Instant::now();
            }
        }
        Ok(times)
    })?;
    print("exclusive open+close, two nodes at once", times, took);
    Ok(())
}

/// The work of CTDB's `ping_pong`: lock the next byte, give the last one back. With one client there is nobody to wait for.
fn ping_pong(plan: &Plan, nodes: usize) -> anyhow::Result<()> {
    let one = Plan {
        addresses: plan.addresses.iter().take(nodes).cloned().collect(),
        length: plan.length,
    };
    let bytes = nodes as u64 + 1;
    let (times, took) = together(&one, |at, address, stop| {
        let mut client = connect(address)?;
        let created = client.create("ping_pong", RIGHTS, 7, disposition::OPEN_IF, Cache::None)?;
        let file = created.map_err(|code| anyhow::anyhow!("open: NTSTATUS {code:#010x}"))?;
        let (exclusive, unlock) = (2, 4);
        let mut here = at as u64;
        ensure!(
            client.lock(file, here, 1, exclusive)? == status::OK,
            "the first byte"
        );
        let mut times = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let (asked, next) = (Instant::now(), (here + 1) % bytes);
            ensure!(
                client.lock(file, next, 1, exclusive)? == status::OK,
                "the next byte"
            );
            ensure!(
                client.lock(file, here, 1, unlock)? == status::OK,
                "the last byte"
            );
            times.push(asked.elapsed());
            here = next;
        }
        client.lock(file, here, 1, unlock)?;
        close(&mut client, file)?;
        Ok(times)
    })?;
    print(
        &format!("byte-range lock+unlock (ping_pong), nodes: {nodes}"),
        times,
        took,
    );
    Ok(())
}

/// Opens, writes 4 KiB and closes, each client its own document, over so many nodes.
fn spread(plan: &Plan, nodes: usize) -> anyhow::Result<()> {
    let (begin, stop) = (Instant::now(), &AtomicBool::new(false));
    let times = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let address = &plan.addresses[number % nodes];
                scope.spawn(move || {
                    let mut client = connect(address)?;
                    let (name, mut times) = (format!("own{number}"), Vec::new());
                    while !stop.load(Ordering::Relaxed) {
                        let asked = Instant::now();
                        let file = open(&mut client, &name)?.context("its own")?;
                        client.write(file, 0, &[7; 4096])?;
                        close(&mut client, file)?;
                        times.push(asked.elapsed());
                    }
                    anyhow::Ok(times)
                })
            })
            .collect();
        std::thread::sleep(plan.length);
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for client in clients {
            all.extend(
                client
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))??,
            );
        }
        anyhow::Ok(all)
    })?;
    let case = format!("open, write 4 KiB, close: {CLIENTS} clients, nodes: {nodes}");
    print(&case, times, begin.elapsed());
    Ok(())
}

/// Something that happens to the second node.
type Event<'a> = &'a mut dyn FnMut() -> anyhow::Result<()>;

/// The second node dies while its client has a document: how long that stays closed, and the longest answer meanwhile.
fn lost(plan: &Plan, round: usize, lose: Event) -> anyhow::Result<(Duration, Duration)> {
    let name = format!("lost{round}");
    let mut owner = connect(&plan.addresses[1])?;
    let mut asker = connect(&plan.addresses[0])?;
    asker.set_patience(PATIENCE)?;
    open(&mut owner, &name)?.context("a fresh document")?;
    ensure!(open(&mut asker, &name)?.is_none(), "it is the other's");
    let begin = Instant::now();
    lose()?;
    let mut longest = Duration::ZERO;
    loop {
        let asked = Instant::now();
        let opened = open(&mut asker, &name)?;
        longest = longest.max(asked.elapsed());
        if let Some(file) = opened {
            let free = begin.elapsed();
            close(&mut asker, file)?;
            return Ok((free, longest));
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "still refused after {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn lose_often(plan: &Plan, losses: usize, lose: Event, mend: Event) -> anyhow::Result<()> {
    let (mut free, mut longest) = (Vec::new(), Vec::new());
    for round in 0..losses {
        let (after, answer) = lost(plan, round, lose)?;
        println!("loss {round}: free again after {after:.1?}, longest answer {answer:.1?}");
        free.push(after);
        longest.push(answer);
        mend()?;
    }
    println!(
        "a lost node's document is free again: {}",
        percentiles(&mut free)
    );
    println!(
        "the longest answer meanwhile: {}",
        percentiles(&mut longest)
    );
    Ok(())
}

fn shell(command: &str) -> anyhow::Result<()> {
    let done = Command::new("sh").args(["-c", command]).status()?;
    ensure!(done.success(), "{command}: {done}");
    Ok(())
}

const USAGE: &str = "usage: sluice-bench-nodes [--smb ADDRESS,ADDRESS] [--seconds S] [--losses N] [--lose COMMAND --mend COMMAND]";

#[derive(Default)]
struct Options {
    addresses: Vec<String>,
    seconds: f64,
    losses: usize,
    lose: Option<String>,
    mend: Option<String>,
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options {
        seconds: 3.0,
        losses: 1,
        ..Options::default()
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{argument} wants a value; {USAGE}"))?;
        match argument.as_str() {
            "--smb" => options.addresses = value.split(',').map(str::to_owned).collect(),
            "--seconds" => options.seconds = value.parse()?,
            "--losses" => options.losses = value.parse()?,
            "--lose" => options.lose = Some(value),
            "--mend" => options.mend = Some(value),
            _ => anyhow::bail!(USAGE),
        }
    }
    Ok(options)
}

fn measure(plan: &Plan) -> anyhow::Result<()> {
    if plan.length.is_zero() {
        return Ok(());
    }
    alone(plan)?;
    in_turn(plan)?;
    contended(plan)?;
    ping_pong(plan, 1)?;
    ping_pong(plan, 2)?;
    for nodes in 1..=plan.addresses.len() {
        spread(plan, nodes)?;
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    let length = Duration::from_secs_f64(options.seconds);
    if !options.addresses.is_empty() {
        ensure!(options.addresses.len() >= 2, "two nodes at least");
        let plan = Plan {
            addresses: options.addresses,
            length,
        };
        measure(&plan)?;
        if let (Some(lose), Some(mend)) = (options.lose, options.mend) {
            lose_often(&plan, options.losses, &mut || shell(&lose), &mut || {
                shell(&mend)
            })?;
        }
        return Ok(());
    }
    let cluster = RefCell::new(Cluster::start()?);
    let ports: Vec<_> = cluster
        .borrow()
        .nodes
        .iter()
        .map(|node| node.ports.smb)
        .collect();
    let plan = Plan {
        addresses: ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect(),
        length,
    };
    measure(&plan)?;
    lose_often(
        &plan,
        options.losses,
        &mut || cluster.borrow_mut().nodes[1].kill(),
        &mut || {
            cluster.borrow_mut().nodes[1].spawn()?;
            cluster.borrow().wait_until_ready()
        },
    )
}
