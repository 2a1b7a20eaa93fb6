//! Three nodes on one PostgreSQL server and one bucket.

use sluice_s3_tests::{BUCKET, KEY_ID, S3Server, SECRET};
use sluice_tests::cluster::Cluster;
use sluice_tests::load::Load;

#[test]
fn nodes_share_content_in_a_bucket_and_one_order_explains_it_through_a_kill() -> anyhow::Result<()>
{
    let runtime = tokio::runtime::Runtime::new()?;
    let server = runtime.block_on(S3Server::start())?;
    let bucket = format!(
        "[repository.s3]\nendpoint = \"{}\"\nregion = \"us-east-1\"\naccess_key_id = \"{KEY_ID}\"\n\
         secret_access_key = \"{SECRET}\"\nallow_http = true\n",
        server.endpoint()
    );
    let mut cluster = Cluster::start_with_content(&format!("s3://{BUCKET}/nodes"), &bucket)?;
    let big: Vec<u8> = (0..6_u32 << 20).map(|n| (n % 251) as u8).collect();
    let stored = cluster.node(0).ftp()?.store("/docs/big.bin", &big)?;
    anyhow::ensure!(stored.code == 226, "{}", stored.text);
    let ports: Vec<_> = cluster.nodes.iter().map(|node| node.ports).collect();
    let load = Load::start(&ports)?;
    load.progress(100)?;
    cluster.nodes[1].kill()?;
    load.progress(100)?;
    cluster.nodes[1].spawn()?;
    load.progress(50)?;
    cluster.wait_until_ready()?;
    load.finish(&ports[0])?;
    let (mut nfs, root) = cluster.node(2).nfs("reader")?;
    let found = nfs.lookup(&root, "big.bin")?;
    let (file, _) = found.map_err(|status| anyhow::anyhow!("status {status}"))?;
    anyhow::ensure!(
        nfs.read_all(&file)? == big,
        "another node reads what one has stored"
    );
    Ok(())
}
