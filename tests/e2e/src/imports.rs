//! Importing files of orders, as the command line does.

use std::io::Write as _;

use tempfile::NamedTempFile;
use waybill_cli::import::Source;
use waybill_cli::session::Session;
use waybill_proto::waybill::order::v1::{Import, ImportOpening, ImportOrdersResponse, ImportOutcome};

/// What became of an import, and what was told on the way.
#[derive(Debug)]
pub struct Imported {
    /// Where it stands.
    pub import: Import,
    /// What became of each order, in the order of the file.
    pub outcomes: Vec<ImportOutcome>,
}

/// Imports a file, from wherever its import is.
pub async fn import(session: &Session, file: &[u8], opening: ImportOpening) -> anyhow::Result<Imported> {
    let mut kept = NamedTempFile::new()?;
    kept.write_all(file)?;
    let source = Source::new(kept.path(), opening).await?;
    let mut outcomes = Vec::new();
    let mut told = |answer: &ImportOrdersResponse| outcomes.extend(answer.outcomes.iter().cloned());
    let import = source.send(session, &mut told).await?;
    Ok(Imported { import, outcomes })
}
