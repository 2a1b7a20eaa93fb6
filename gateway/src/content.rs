//! The content store that the settings name, made sure to be this repository's.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use sluice_config::{ContentUri, MetadataUri, Repository as RepositorySettings, S3 as S3Settings};
use sluice_repo::{ContentStore, Repository};
use sluice_repo_content::{Folder, Objects, Options, S3, S3Options, Store};

/// Objects on their way to a bucket at once: what hides the time of a request.
const S3_UPLOADS: usize = 16;

/// Opens the content store. `uploader` is the member epoch of this process in its cluster, 0 without one.
pub(crate) async fn open(
    settings: &RepositorySettings,
    repository: &dyn Repository,
    uploader: u64,
) -> anyhow::Result<Arc<dyn ContentStore>> {
    let mut options = Options {
        uploader,
        ..Options::default()
    };
    let (objects, place): (Arc<dyn Objects>, String) = match &settings.content {
        ContentUri::Folder(folder) => {
            crate::node::make_folder(folder, "repository.content")?;
            let place = folder.display().to_string();
            // SQLite has one process; what several nodes write to they must be able to read with what their systems cache.
            let alone = matches!(settings.metadata, MetadataUri::Sqlite(_));
            (open_folder(folder, alone)?, place)
        }
        ContentUri::S3 { bucket, prefix } => {
            options.uploads = S3_UPLOADS;
            let place = format!("s3://{bucket}/{prefix}");
            let objects = S3::new(s3_options(bucket, prefix, settings.s3.as_ref()))
                .context("repository.s3: the bucket can't be used")?;
            (Arc::new(objects), place)
        }
    };
    let unusable = || format!("repository.content: {place} can't be used");
    let store = Store::new(objects, options).with_context(unusable)?;
    claim(repository, &store).await.with_context(unusable)?;
    Ok(Arc::new(store))
}

fn open_folder(folder: &Path, alone: bool) -> anyhow::Result<Arc<dyn Objects>> {
    let open = if alone { Folder::alone } else { Folder::open };
    let opened = open(folder.to_owned())
        .with_context(|| format!("repository.content: {} can't be used", folder.display()))?;
    Ok(Arc::new(opened))
}

fn s3_options(bucket: &str, prefix: &str, settings: Option<&S3Settings>) -> S3Options {
    let mut options = S3Options::new(bucket, prefix);
    if let Some(s3) = settings {
        options.endpoint = s3.endpoint.clone();
        options.region = s3.region.clone();
        options.credentials = s3.access_key_id.clone().zip(s3.secret_access_key.clone());
        options.allow_http = s3.allow_http;
    }
    options
}

/// Makes sure that content and metadata belong together: garbage collection with the wrong metadata would delete everything.
async fn claim(repository: &dyn Repository, content: &dyn ContentStore) -> anyhow::Result<()> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    let made = format!("{:032x}", u128::from_le_bytes(random));
    let identity = repository.setting_or("repository_id", made.into()).await?;
    content.claim(&String::from_utf8_lossy(&identity)).await?;
    Ok(())
}
