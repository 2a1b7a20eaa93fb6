//! The benchmark: the same work over SMB, NFSv3 and FTP against this gateway and against Debian's smbd, nfs-ganesha and vsftpd, interleaved in
//! one run, at stated durability. Prints rates, p50, p99 and server CPU, and the ratio to the peer. `scripts/bench` starts it in a
//! network namespace of its own.

mod peers;
mod work;

use std::time::Duration;

use peers::Server;
use work::{Case, Sample};

fn main() -> anyhow::Result<()> {
    let mut rounds = 3;
    let mut scale = 1.0_f64;
    let mut only = String::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| anyhow::anyhow!("{argument} wants a value"))
        };
        match argument.as_str() {
            "--rounds" => rounds = value()?.parse()?,
            "--scale" => scale = value()?.parse()?,
            "--only" => only = value()?,
            _ => anyhow::bail!("usage: bench [--rounds N] [--scale F] [--only CASE-OR-PROTOCOL]"),
        }
    }
    let servers = Server::start_all()?;
    let cases: Vec<Case> = work::cases(scale)
        .into_iter()
        .filter(|case| case.title().contains(&only))
        .collect();
    println!(
        "Durability: every write is durable before its last reply on this gateway; SMB clients FLUSH before CLOSE and NFS clients COMMIT, on both sides.\n\
         vsftpd syncs nothing at all, and no peer syncs a rename: `+sync` is the peer with a helper that syncs file and folder after each.\n"
    );
    println!(
        "{:<26} {:<12} {:>14} {:>9} {:>9} {:>12} {:>7}",
        "case", "server", "rate", "p50 us", "p99 us", "CPU us/op", "ratio"
    );
    for case in &cases {
        let rivals: Vec<&Server> = servers
            .iter()
            .filter(|server| server.speaks(case.protocol))
            .filter(|server| server.synced_in.is_none() || case.peers_skip_sync())
            .collect();
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); rivals.len()];
        for round in 0..rounds {
            // A B, B A, ...: drift of the machine hits both alike.
            let mut order: Vec<usize> = (0..rivals.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                samples[at].push(case.run(rivals[at], round)?);
            }
        }
        report(case, &rivals, &samples);
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn report(case: &Case, rivals: &[&Server], samples: &[Vec<Sample>]) {
    let rate = |samples: &[Sample]| median(samples.iter().map(Sample::rate).collect());
    let ours = samples.first().map_or(0.0, |samples| rate(samples));
    for (server, samples) in rivals.iter().zip(samples) {
        let of = |figure: fn(&Sample) -> Duration| {
            median(
                samples
                    .iter()
                    .map(|sample| figure(sample).as_secs_f64() * 1e6)
                    .collect(),
            )
        };
        let unit = if case.counts_bytes() { "MiB/s" } else { "/s" };
        let ratio = ours / rate(samples);
        println!(
            "{:<26} {:<12} {:>8.0} {:<5} {:>9.0} {:>9.0} {:>12.1} {:>7}",
            case.title(),
            server.name,
            rate(samples),
            unit,
            of(|sample| sample.p50),
            of(|sample| sample.p99),
            of(|sample| sample.cpu_per_operation),
            if server.name == "sluice" {
                String::new()
            } else {
                format!("{ratio:.2}x")
            },
        );
    }
}
