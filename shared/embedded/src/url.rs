//! Connection URLs: only what is needed to make one for another user and database out of a given one.

/// The URL of a server on loopback.
pub(crate) fn postgres(user: &str, password: &str, port: u16, database: &str) -> String {
    with(&format!("postgres://127.0.0.1:{port}/"), user, password, database)
}

/// Replaces user, password and database; keeps scheme, hosts and parameters.
pub(crate) fn with(base: &str, user: &str, password: &str, database: &str) -> String {
    let (scheme, rest) = base.split_once("://").unwrap_or(("postgres", base));
    let (place, parameters) = rest
        .split_once('?')
        .map_or((rest, None), |(place, rest)| (place, Some(rest)));
    let authority = place.split('/').next().unwrap_or_default();
    let hosts = authority.rsplit('@').next().unwrap_or_default();
    let (user, password, database) = (encode(user), encode(password), encode(database));
    let tail = parameters.map(|p| format!("?{p}")).unwrap_or_default();
    format!("{scheme}://{user}:{password}@{hosts}/{database}{tail}")
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_user_password_and_database_change() {
        let given = "postgresql://root:p%40ss@db.example:6432/postgres?sslmode=require";
        assert_eq!(
            with(given, "me", "a b/c", "mine"),
            "postgresql://me:a%20b%2Fc@db.example:6432/mine?sslmode=require"
        );
        assert_eq!(
            with("postgres://h1:1,h2:2", "u", "p", "d"),
            "postgres://u:p@h1:1,h2:2/d"
        );
        assert_eq!(
            with("postgres:///x?host=/run/pg", "u", "p", "d"),
            "postgres://u:p@/d?host=/run/pg"
        );
    }

    #[test]
    fn a_password_with_an_at_sign_does_not_become_a_host() {
        assert_eq!(
            postgres("u", "p@q", 1234, "d"),
            "postgres://u:p%40q@127.0.0.1:1234/d"
        );
    }
}
