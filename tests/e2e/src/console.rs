//! A person at the console of a running stack: the launcher's commands, as they are typed.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser as _;
use waybill_cli::args::Cli;

use crate::shop::Shop;

/// A shop, and a person at its console.
pub struct Console {
    /// The shop.
    pub shop: Shop,
    /// A folder for files of the person's own; goes with the console.
    pub folder: tempfile::TempDir,
    context: PathBuf,
}

impl Console {
    /// Opens a shop with 100 mugs, and its console.
    ///
    /// # Errors
    ///
    /// When the stack does not start.
    pub async fn open() -> anyhow::Result<Self> {
        let shop = Shop::open().await?;
        shop.stock([("MUG", 100)]).await?;
        let folder = tempfile::tempdir()?;
        let context = folder.path().join("context.json");
        shop.stack.context().save(&context)?;
        Ok(Self {
            shop,
            folder,
            context,
        })
    }

    /// Runs a command as a person would.
    ///
    /// # Errors
    ///
    /// The command's own.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let context = self.context.to_str().context("a path in UTF-8")?;
        let arguments = ["waybill", "--context", context]
            .into_iter()
            .chain(arguments.iter().copied());
        waybill_cli::run(Cli::try_parse_from(arguments)?).await
    }
}
