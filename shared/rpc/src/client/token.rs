//! Where the token of outgoing calls comes from.
//!
//! What it refuses to do: call an identity provider. A deployment keeps a fresh token in a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};

use crate::auth::{Claims, Issuer};

/// How often a token file is read again.
const FILE_AGE: Duration = Duration::from_secs(30);

/// Where the token of outgoing calls comes from. Clones share what they remember.
#[derive(Clone)]
pub struct TokenSource {
    source: Arc<Source>,
}

enum Source {
    None,
    Fixed(SecretString),
    File {
        path: PathBuf,
        read: Mutex<Option<Held>>,
    },
    Minted {
        issuer: Box<Issuer>,
        claims: Claims,
        ttl: Duration,
        minted: Mutex<Option<Held>>,
    },
}

struct Held {
    token: SecretString,
    since: Instant,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is no token.
    #[error("the token holds characters that a header cannot")]
    Malformed,
}

impl TokenSource {
    /// No token: for open methods.
    pub fn none() -> TokenSource {
        TokenSource::of(Source::None)
    }

    /// This token, for as long as it is good.
    pub fn fixed(token: SecretString) -> TokenSource {
        TokenSource::of(Source::Fixed(token))
    }

    /// The token in a file, read again every half minute, so that it can be renewed there.
    pub fn file(path: impl Into<PathBuf>) -> TokenSource {
        TokenSource::of(Source::File {
            path: path.into(),
            read: Mutex::default(),
        })
    }

    /// Tokens made here, each used for half of its time.
    pub fn minted(issuer: Issuer, claims: Claims, ttl: Duration) -> TokenSource {
        TokenSource::of(Source::Minted {
            issuer: Box::new(issuer),
            claims,
            ttl,
            minted: Mutex::default(),
        })
    }

    fn of(source: Source) -> TokenSource {
        TokenSource {
            source: Arc::new(source),
        }
    }

    /// The header `authorization`, when there is a token.
    pub(super) fn header(&self) -> Result<Option<HeaderValue>, TokenError> {
        let token = match &*self.source {
            Source::None => return Ok(None),
            Source::Fixed(token) => token.clone(),
            Source::File { path, read } => held(read, FILE_AGE, || read_file(path))?,
            Source::Minted {
                issuer,
                claims,
                ttl,
                minted,
            } => held(minted, *ttl / 2, || Ok(issuer.mint(claims, *ttl)))?,
        };
        let mut header = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
            .map_err(|_| TokenError::Malformed)?;
        // Kept out of debug output and of the header compression table.
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

fn held(
    place: &Mutex<Option<Held>>,
    age: Duration,
    make: impl FnOnce() -> Result<SecretString, TokenError>,
) -> Result<SecretString, TokenError> {
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(held) = place.as_ref().filter(|held| held.since.elapsed() < age) {
        return Ok(held.token.clone());
    }
    let token = make()?;
    *place = Some(Held {
        token: token.clone(),
        since: Instant::now(),
    });
    Ok(token)
}

fn read_file(path: &Path) -> Result<SecretString, TokenError> {
    let text = std::fs::read_to_string(path).map_err(|source| TokenError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(SecretString::from(text.trim().to_owned()))
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.source {
            Source::None => "TokenSource(none)",
            Source::Fixed(_) => "TokenSource(fixed)",
            Source::File { .. } => "TokenSource(file)",
            Source::Minted { .. } => "TokenSource(minted)",
        })
    }
}
