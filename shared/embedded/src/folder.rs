//! The folder of one server: temporary or kept, locked against a second process.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{DataDir, Error};

/// A supervisor whose parent died needs a moment to stop its server and let go of the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOG_TAIL: u64 = 4 * 1024;

pub(crate) struct Folder {
    pub path: PathBuf,
    pub temporary: bool,
    pub lock: File,
}

impl Folder {
    /// Opens or makes `parent/name`, or a fresh temporary folder.
    pub(crate) fn open(data: &DataDir, name: &str) -> Result<Self, Error> {
        let (path, temporary) = match data {
            DataDir::Temp => {
                let made = tempfile::Builder::new()
                    .prefix(&format!("waybill-{name}-"))
                    .tempdir();
                (
                    made.map_err(Error::doing("make a temporary folder"))?.keep(),
                    true,
                )
            }
            DataDir::Kept(parent) => {
                let path = parent.join(name);
                fs::create_dir_all(parent).map_err(Error::io("make the folder", parent))?;
                make_private(&path)?;
                (path.canonicalize().map_err(Error::io("resolve", &path))?, false)
            }
        };
        let lock = lock(&path)?;
        Ok(Self {
            path,
            temporary,
            lock,
        })
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    /// Writes a file that only its owner may read.
    pub(crate) fn write_private(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(text.as_bytes())
        };
        write().map_err(Error::io("write", &path))?;
        Ok(path)
    }

    /// What the server wrote after byte `from`, at most the last few KiB of it.
    pub(crate) fn log_since(&self, from: u64) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(self.log())?;
            let start = from.max(file.metadata()?.len().saturating_sub(LOG_TAIL));
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_or_else(
            |e| format!("(no log: {e})"),
            |bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        )
    }

    pub(crate) fn log_length(&self) -> u64 {
        fs::metadata(self.log()).map_or(0, |m| m.len())
    }
}

/// Makes a folder that only its owner may enter; one that is there stays as it is.
pub(crate) fn make_private(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io("make the folder", path)(e)),
        _ => Ok(()),
    }
}

fn lock(path: &Path) -> Result<File, Error> {
    let file_path = path.join("lock");
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&file_path)
        .map_err(Error::io("open", &file_path))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &file_path)(e)),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                return Err(Error::FolderInUse(path.to_owned()));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
