//! Page tokens and page sizes of List calls.
//!
//! A token holds the sort key of the last row of a page (keyset paging) and a digest of the filter it belongs to. It is
//! opaque and bound to its filter, but it is not secret and not signed: whoever decodes one must bind its parts as
//! parameters of a query that is restricted to the caller's tenant anyway.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::check::FieldViolation;
use crate::hash;

const VERSION: u8 = 1;
const DIGEST_LEN: usize = 8;
/// Longest token that is looked at.
const MAX_TOKEN_LEN: usize = 4096;

/// Why a page token was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageTokenError {
    /// Not a token of ours.
    #[error(
        "page token is malformed: pass the next_page_token of the previous page unchanged, or none for the first page"
    )]
    Malformed,
    /// A token of another list or filter.
    #[error(
        "page token belongs to another filter: keep the filter while paging, or start again without a token"
    )]
    OtherFilter,
}

/// Makes and reads page tokens.
#[derive(Debug)]
pub struct PageToken;

impl PageToken {
    /// A token for the page after the row with the given sort key.
    ///
    /// `filter_fingerprint` names the list, its filter and its order, such as the output of
    /// [`hash::fingerprint`].
    #[must_use]
    pub fn encode(filter_fingerprint: &str, key: &[String]) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(digest(filter_fingerprint));
        for part in key {
            let length = u32::try_from(part.len()).expect("a sort key is far below 4 GiB");
            bytes.extend(length.to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The sort key in a token.
    ///
    /// # Errors
    /// When the token is not one of ours, or belongs to another filter.
    pub fn decode(token: &str, filter_fingerprint: &str) -> Result<Vec<String>, PageTokenError> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(PageTokenError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| PageTokenError::Malformed)?;
        let (&version, rest) = bytes.split_first().ok_or(PageTokenError::Malformed)?;
        let (filter, mut rest) = rest
            .split_first_chunk::<DIGEST_LEN>()
            .ok_or(PageTokenError::Malformed)?;
        if version != VERSION {
            return Err(PageTokenError::Malformed);
        }
        let mut key = Vec::new();
        while !rest.is_empty() {
            let (length, tail) = rest.split_first_chunk().ok_or(PageTokenError::Malformed)?;
            let length = u32::from_be_bytes(*length) as usize;
            let (part, tail) = tail.split_at_checked(length).ok_or(PageTokenError::Malformed)?;
            key.push(
                std::str::from_utf8(part)
                    .map_err(|_| PageTokenError::Malformed)?
                    .to_owned(),
            );
            rest = tail;
        }
        if *filter == digest(filter_fingerprint) {
            Ok(key)
        } else {
            Err(PageTokenError::OtherFilter)
        }
    }
}

fn digest(filter_fingerprint: &str) -> [u8; DIGEST_LEN] {
    let full = hash::sha256(filter_fingerprint.as_bytes());
    std::array::from_fn(|index| full[index])
}

/// How many rows a page has: the default when none is asked for, at most `max`.
///
/// # Errors
/// When the requested size is negative.
pub fn page_size(requested: i32, default: i64, max: i64) -> Result<i64, FieldViolation> {
    match i64::from(requested) {
        0 => Ok(default.min(max)),
        negative if negative < 0 => Err(FieldViolation {
            field: "page_size".to_owned(),
            description: format!(
                "is {negative}: expected 0 for the default of {default}, or a number up to {max}"
            ),
        }),
        asked => Ok(asked.min(max)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn size_is_defaulted_and_capped() {
        assert_eq!(page_size(0, 50, 200), Ok(50));
        assert_eq!(page_size(7, 50, 200), Ok(7));
        assert_eq!(page_size(i32::MAX, 50, 200), Ok(200));
        let fault = page_size(-1, 50, 200).expect_err("negative");
        assert_eq!(fault.field, "page_size");
    }

    #[test]
    fn a_token_is_bound_to_its_filter() {
        let token = PageToken::encode("orders|open", &["2024-01-01".into(), "42".into()]);
        assert_eq!(
            PageToken::decode(&token, "orders|open"),
            Ok(vec!["2024-01-01".into(), "42".into()])
        );
        assert_eq!(
            PageToken::decode(&token, "orders|all"),
            Err(PageTokenError::OtherFilter)
        );
    }

    #[test]
    fn damaged_tokens_are_refused() {
        let token = PageToken::encode("f", &["key".into()]);
        for damaged in [
            "",
            "AQ",
            "%%%",
            &token[..token.len() - 2],
            &format!("{token}AA"),
            &"A".repeat(5000),
        ] {
            assert_eq!(
                PageToken::decode(damaged, "f"),
                Err(PageTokenError::Malformed),
                "{damaged}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_key_round_trips(filter in ".*", key in proptest::collection::vec(".{0,20}", 0..6)) {
            let token = PageToken::encode(&filter, &key);
            prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(PageToken::decode(&token, &filter), Ok(key));
        }

        #[test]
        fn decoding_never_panics(token in "[A-Za-z0-9_-]{0,80}") {
            let _ = PageToken::decode(&token, "f");
        }
    }
}
