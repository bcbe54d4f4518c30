//! As whom Postgres runs. It refuses to be root, so root steps down: into a user namespace of one user (files stay
//! root's, no account is made, any folder will do), or, where namespaces are off, to the user `nobody`.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;

const NAMESPACE: &[&str] = &["unshare", "--user", "--map-user=1000", "--map-group=1000"];
const STEP_DOWN: &[&str] = &[
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--no-new-privs",
    "--inh-caps=-all",
];
const NOBODY: u32 = 65_534;

/// As whom Postgres runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunAs {
    /// As the ordinary user we are.
    Ourselves,
    /// As root seen from outside, as an ordinary user seen from inside.
    Namespace,
    /// As uid 65534, which must be able to reach the programs and the data.
    Nobody,
}

impl RunAs {
    pub(crate) fn choose() -> Result<Self, Error> {
        if !we_are_root()? {
            Ok(Self::Ourselves)
        } else if works(NAMESPACE) {
            Ok(Self::Namespace)
        } else if works(STEP_DOWN) {
            Ok(Self::Nobody)
        } else {
            Err(Error::CannotStepDown)
        }
    }

    /// The whole command line that runs `program` as this user.
    pub(crate) fn command(self, program: &Path, arguments: &[OsString]) -> Vec<OsString> {
        let prefix: &[&str] = match self {
            Self::Ourselves => &[],
            Self::Namespace => NAMESPACE,
            Self::Nobody => STEP_DOWN,
        };
        let mut words: Vec<OsString> = prefix.iter().map(OsString::from).collect();
        words.push(program.as_os_str().to_owned());
        words.extend_from_slice(arguments);
        words
    }

    /// Hands a file or folder to the user the server runs as.
    pub(crate) fn give(self, path: &Path) -> Result<(), Error> {
        match self {
            Self::Nobody => {
                chown(path, Some(NOBODY), Some(NOBODY)).map_err(Error::io("change the owner of", path))
            }
            Self::Ourselves | Self::Namespace => Ok(()),
        }
    }
}

/// Judged by whom a file belongs to that we make.
fn we_are_root() -> Result<bool, Error> {
    let owner = tempfile::tempfile()
        .and_then(|file| file.metadata())
        .map(|metadata| metadata.uid());
    Ok(owner.map_err(Error::doing("make a temporary file"))? == 0)
}

fn works(prefix: &[&str]) -> bool {
    Command::new(prefix[0])
        .args(&prefix[1..])
        .arg("true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
