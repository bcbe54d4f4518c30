//! Where the server programs come from: the pinned wheels, else this machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;
use crate::run_as::RunAs;
use crate::wheels::Wheels;

const POSTGRES_AT_LEAST: Version = Version(15, 0);
const NATS_AT_LEAST: Version = Version(2, 10);

/// Major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

/// The programs of one Postgres.
#[derive(Clone, Debug)]
pub(crate) struct PostgresPrograms {
    pub bin: PathBuf,
    pub major: u32,
}

pub(crate) fn postgres(run_as: RunAs) -> Result<PostgresPrograms, Error> {
    let mut tried = String::new();
    let wheel = Wheels::get(run_as).map(|wheels| wheels.postgres_bin());
    for bin in wheel_first(wheel, &mut tried, on_path("postgres").chain(postgres_folders())) {
        match version(&bin.join("postgres"), POSTGRES_AT_LEAST) {
            Ok(Version(major, _)) if bin.join("initdb").is_file() => {
                return Ok(PostgresPrograms { bin, major });
            }
            Ok(_) => note(&mut tried, &format!("{} has no initdb beside it", bin.display())),
            Err(why) => note(&mut tried, &why),
        }
    }
    note(
        &mut tried,
        "no other postgres on the PATH or in /usr/lib/postgresql",
    );
    Err(Error::NothingFound {
        wanted: "postgres",
        tried,
    })
}

pub(crate) fn nats_server() -> Result<PathBuf, Error> {
    let mut tried = String::new();
    let wheel = Wheels::get(RunAs::Ourselves).map(|wheels| {
        wheels
            .nats_server()
            .parent()
            .map_or_else(PathBuf::new, Path::to_path_buf)
    });
    for bin in wheel_first(wheel, &mut tried, on_path("nats-server")) {
        let program = bin.join("nats-server");
        match version(&program, NATS_AT_LEAST) {
            Ok(_) => return Ok(program),
            Err(why) => note(&mut tried, &why),
        }
    }
    note(&mut tried, "no other nats-server on the PATH");
    Err(Error::NothingFound {
        wanted: "nats-server",
        tried,
    })
}

fn note(tried: &mut String, line: &str) {
    if !tried.is_empty() {
        tried.push('\n');
    }
    tried.push_str("- ");
    tried.push_str(line);
}

fn wheel_first(
    wheel: Result<PathBuf, String>,
    tried: &mut String,
    machine: impl Iterator<Item = PathBuf>,
) -> Vec<PathBuf> {
    let first = wheel
        .map_err(|why| note(tried, &format!("pinned wheels: {why}")))
        .ok();
    first.into_iter().chain(machine).collect()
}

fn on_path(program: &'static str) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .collect::<Vec<_>>()
        .into_iter()
        .filter(move |folder| folder.join(program).is_file())
}

/// Where packages put a Postgres they do not put on the PATH, newest first.
fn postgres_folders() -> impl Iterator<Item = PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            let bin = entry.path().join("bin");
            if let Some(number) = number
                && bin.join("postgres").is_file()
            {
                found.push((number, bin));
            }
        }
    }
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, bin)| bin)
}

fn version(program: &Path, at_least: Version) -> Result<Version, String> {
    let name = program.display();
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{name} cannot be run: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let found = parse(&said).ok_or_else(|| format!("{name} does not tell its version: {:?}", said.trim()))?;
    if found < at_least {
        let (Version(major, minor), Version(least_major, least_minor)) = (found, at_least);
        return Err(format!(
            "{name} is {major}.{minor}, older than {least_major}.{least_minor}"
        ));
    }
    Ok(found)
}

/// Reads `postgres (PostgreSQL) 15.8 (Debian …)`, `postgres (PostgreSQL) 19beta1` and `nats-server: v2.10.22`.
fn parse(said: &str) -> Option<Version> {
    said.split_whitespace().find_map(|word| {
        let mut numbers = word
            .strip_prefix('v')
            .unwrap_or(word)
            .split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next().and_then(|minor| minor.parse().ok()).unwrap_or(0);
        Some(Version(major, minor))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        assert_eq!(parse("postgres (PostgreSQL) 18.6\n"), Some(Version(18, 6)));
        assert_eq!(
            parse("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"),
            Some(Version(15, 18))
        );
        assert_eq!(parse("postgres (PostgreSQL) 19beta1"), Some(Version(19, 0)));
        assert_eq!(parse("nats-server: v2.10.22"), Some(Version(2, 10)));
        assert_eq!(parse("command not found"), None);
    }

    #[test]
    fn an_old_program_is_refused_by_its_number() {
        assert!(Version(14, 9) < POSTGRES_AT_LEAST);
        assert!(Version(2, 9) < NATS_AT_LEAST);
        assert!(Version(2, 10) >= NATS_AT_LEAST);
    }
}
