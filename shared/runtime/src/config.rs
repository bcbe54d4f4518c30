//! Reads settings: documented defaults, then a TOML file, then the environment; the later wins.
//!
//! Every fault is reported, not only the first: misspelt keys, wrong types, and what [`Validate`] finds. A message names
//! the key and the way out, and never shows the value of a [`Secret`].
//!
//! What it refuses to do: read files in the background, change settings at run time, or guess. A key that nobody reads
//! is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Value};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{self, DeserializeOwned, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use waybill_kernel::check::Violations;

/// `<PREFIX>CONFIG` names the configuration file.
pub(crate) const CONFIG_VARIABLE: &str = "config";

/// Settings that can say what is wrong with them.
pub trait Validate {
    /// Adds one violation per fault, named by the key as it is written in the file, e.g. `database.url`.
    fn validate(&self, violations: &mut Violations);
}

/// Why settings could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    File {
        /// Where the file was looked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The settings have faults; all of them are listed.
    #[error("the configuration has {} fault(s):{}", faults.len(), list(faults))]
    Faults {
        /// One line per fault, each naming its key.
        faults: Vec<String>,
    },
    /// A secret is needed but neither its value nor its file is set.
    #[error("{key} is not set: give {key} or {key}.file")]
    SecretMissing {
        /// The setting.
        key: String,
    },
    /// The file of a secret could not be read.
    #[error("cannot read the file {} of {key}: {source}", path.display())]
    SecretFile {
        /// The setting.
        key: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn list(faults: &[String]) -> String {
    faults.iter().map(|fault| format!("\n  - {fault}")).collect()
}

/// Loads settings of type `T`.
///
/// `env_prefix` ends with an underscore, e.g. `WAYBILL_ORDER_`. Below it, two underscores go one level down:
/// `WAYBILL_ORDER_DATABASE__URL` sets `database.url`.
///
/// # Errors
///
/// When `file` is given and cannot be read, or when the settings have faults. All faults are in one error.
pub fn load<T>(file: Option<&Path>, env_prefix: &str) -> Result<T, ConfigError>
where
    T: DeserializeOwned + Default + Serialize + Validate,
{
    // A variable that is no text cannot be one of ours: those are read by name.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    load_from(file, env_prefix, environment)
}

/// As [`load`], with the environment as a value.
///
/// # Errors
///
/// As [`load`].
pub fn load_from<T>(
    file: Option<&Path>,
    env_prefix: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError>
where
    T: DeserializeOwned + Default + Serialize + Validate,
{
    let given = Given::read(file, env_prefix, environment)?;
    let (settings, mut faults) = given.extract::<T>();
    if let Some(settings) = settings {
        faults.extend(given.unknown_keys(&settings));
        let mut violations = Violations::new();
        settings.validate(&mut violations);
        faults.extend(violations.iter().map(ToString::to_string));
        if faults.is_empty() {
            return Ok(settings);
        }
    }
    Err(ConfigError::Faults { faults })
}

/// What file and environment say.
struct Given {
    figment: Figment,
    file: Option<PathBuf>,
    /// The variables that set keys.
    variables: BTreeMap<String, String>,
}

impl Given {
    fn read(
        file: Option<&Path>,
        env_prefix: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Given, ConfigError> {
        let mut figment = Figment::new();
        if let Some(path) = file {
            // Read here and not by figment, which takes a missing file for an empty one.
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
                path: path.to_owned(),
                source,
            })?;
            figment = figment.merge(Toml::string(&text));
        }
        let mut variables = BTreeMap::new();
        for (name, value) in environment {
            let Some(key) = name.strip_prefix(env_prefix) else {
                continue;
            };
            let key = key.to_lowercase().replace("__", ".");
            // Names the file itself and is no setting.
            if key == CONFIG_VARIABLE {
                continue;
            }
            let value: Value = value.parse().unwrap_or_else(|never: Infallible| match never {});
            figment = figment.merge((key.as_str(), value));
            variables.insert(key, name);
        }
        Ok(Given {
            figment,
            file: file.map(Path::to_owned),
            variables,
        })
    }

    /// The settings, and what could not be read. A key of a wrong type is replaced by its default, so that the faults
    /// behind it are found as well.
    fn extract<T: DeserializeOwned + Default + Serialize>(&self) -> (Option<T>, Vec<String>) {
        let defaults = Figment::from(Serialized::defaults(T::default()));
        let mut figment = defaults.clone().merge(&self.figment);
        let mut faults = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            let error = match figment.extract() {
                Ok(settings) => return (Some(settings), faults),
                Err(error) => error,
            };
            let mut errors: Vec<(String, figment::Error)> = error
                .into_iter()
                .map(|error| (error.path.join("."), error))
                .collect();
            if errors.iter().any(|(key, _)| key.is_empty()) {
                // Flattened parts lose the name of the key.
                let mut found = self.culprits::<T>(&defaults);
                found.retain(|(key, _)| !seen.contains(key));
                errors = if found.is_empty() { errors } else { found };
            }
            let mut stuck = false;
            for (key, error) in errors {
                faults.push(self.fault(&key, &error));
                match defaults.find_value(&key) {
                    Ok(default) if seen.insert(key.clone()) => {
                        figment = figment.merge((key.as_str(), default));
                    }
                    // Nothing to go on with, or it did not help.
                    _ => stuck = true,
                }
            }
            if stuck {
                return (None, faults);
            }
        }
    }

    /// The keys that cannot be read even alone.
    fn culprits<T: DeserializeOwned>(&self, defaults: &Figment) -> Vec<(String, figment::Error)> {
        let given: Dict = self.figment.extract().unwrap_or_default();
        let mut leaves = Vec::new();
        collect_leaves(&given, "", &mut leaves);
        let alone = |(key, value): (String, Value)| {
            let error = defaults
                .clone()
                .merge((key.as_str(), value))
                .extract::<T>()
                .err()?;
            // Alone it may lack a neighbour, which is no fault of its own.
            (!matches!(error.kind, Kind::MissingField(_))).then_some((key, error))
        };
        leaves.into_iter().filter_map(alone).collect()
    }

    /// What is said of one error. Only its kind is shown: that names types and, unlike the source text, never the value
    /// of a secret.
    fn fault(&self, key: &str, error: &figment::Error) -> String {
        let place = self.place(key);
        match key {
            "" => format!("{}{place}", error.kind),
            _ => format!("{key}: {}{place}", error.kind),
        }
    }

    /// Where a key was set.
    fn place(&self, key: &str) -> String {
        match (self.variables.get(key), &self.file) {
            (Some(variable), _) => format!(" (set by {variable})"),
            (None, Some(file)) => format!(" (in {})", file.display()),
            (None, None) => String::new(),
        }
    }

    /// Keys that were given but that `T` did not keep. Found by writing the settings out again, because serde cannot
    /// refuse unknown keys in a structure with flattened parts.
    fn unknown_keys<T: Serialize>(&self, settings: &T) -> Vec<String> {
        let given: Dict = self.figment.extract().unwrap_or_default();
        let mut unknown = Vec::new();
        // Settings that do not serialize have failed as defaults already.
        if let Ok(Value::Dict(_, known)) = Value::serialize(settings) {
            self.compare(&given, &known, "", &mut unknown);
        }
        unknown
    }

    fn compare(&self, given: &Dict, known: &Dict, path: &str, unknown: &mut Vec<String>) {
        for (key, value) in given {
            let here = below(path, key);
            match (value, known.get(key)) {
                (Value::Dict(_, inner), Some(Value::Dict(_, known))) => {
                    self.compare(inner, known, &here, unknown);
                }
                (_, Some(_)) => {}
                (_, None) => {
                    let near: Vec<&str> = known.keys().map(String::as_str).collect();
                    let place = self.place(&here);
                    unknown.push(format!(
                        "{here}: there is no such setting{place}; here are: {}",
                        near.join(", ")
                    ));
                }
            }
        }
    }
}

fn collect_leaves(given: &Dict, path: &str, leaves: &mut Vec<(String, Value)>) {
    for (key, value) in given {
        let here = below(path, key);
        match value {
            Value::Dict(_, inner) => collect_leaves(inner, &here, leaves),
            leaf => leaves.push((here, leaf.clone())),
        }
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A secret setting: its value, or the file that holds it. Prefer the file: an environment can be read by others.
///
/// In TOML `url = "…"` or `url = { file = "/run/secrets/url" }`; in the environment `…URL` or `…URL__FILE`. Debug and
/// serialization never show the value.
#[derive(Clone, Default)]
pub struct Secret {
    source: Source,
}

#[derive(Clone, Default)]
enum Source {
    #[default]
    Unset,
    Value(SecretString),
    File(PathBuf),
}

impl Secret {
    /// A secret with this value.
    pub fn from_value(value: impl Into<String>) -> Secret {
        Secret {
            source: Source::Value(SecretString::from(value.into())),
        }
    }

    /// A secret that is read from this file when it is needed.
    pub fn from_file(path: impl Into<PathBuf>) -> Secret {
        Secret {
            source: Source::File(path.into()),
        }
    }

    /// Whether a value or a file is set.
    pub fn is_set(&self) -> bool {
        !matches!(self.source, Source::Unset)
    }

    /// Reads the secret; `key` names the setting in the error. White space around the text of a file is dropped, since
    /// editors end files with a line feed.
    ///
    /// # Errors
    ///
    /// When it is not set, empty, or its file cannot be read.
    pub fn read(&self, key: &str) -> Result<SecretString, ConfigError> {
        let value = match &self.source {
            Source::Unset => {
                return Err(ConfigError::SecretMissing { key: key.to_owned() });
            }
            Source::Value(value) => value.clone(),
            Source::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| ConfigError::SecretFile {
                    key: key.to_owned(),
                    path: path.clone(),
                    source,
                })?;
                SecretString::from(text.trim().to_owned())
            }
        };
        if value.expose_secret().is_empty() {
            return Err(ConfigError::SecretMissing { key: key.to_owned() });
        }
        Ok(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Secret {
        Secret::from_value(value)
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Secret {
        Secret::from_value(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Unset => f.write_str("Secret(unset)"),
            Source::Value(_) => f.write_str("Secret(value)"),
            Source::File(path) => write!(f, "Secret(file {})", path.display()),
        }
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.source {
            Source::Unset => {}
            Source::Value(_) => map.serialize_entry("value", "<hidden>")?,
            Source::File(path) => map.serialize_entry("file", path)?,
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

struct SecretVisitor;

const QUOTE_IT: &str = "a secret that looks like a number or true/false must be in quotes, or in a file";

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or a table with one of `value` and `file`")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Secret, E> {
        Ok(Secret::from_value(value))
    }

    // The default errors of these would print the value.
    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
        Err(E::custom(QUOTE_IT))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
        Err(E::custom(QUOTE_IT))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        Err(E::custom(QUOTE_IT))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        Err(E::custom(QUOTE_IT))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
        let (mut value, mut file) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "value" => value = Some(map.next_value::<Secret>()?),
                "file" => file = Some(map.next_value::<PathBuf>()?),
                other => return Err(de::Error::unknown_field(other, &["value", "file"])),
            }
        }
        match (value, file) {
            (Some(_), Some(_)) => Err(de::Error::custom("give either `value` or `file`, not both")),
            (Some(value), None) => Ok(value),
            (None, Some(path)) => Ok(Secret::from_file(path)),
            (None, None) => Ok(Secret::default()),
        }
    }
}

/// A [`Duration`] written as seconds, whole or with a fraction: `#[serde(with = "seconds")]`.
pub mod seconds {
    use super::{Deserialize, Deserializer, Duration, Serializer, de};

    /// Writes the duration as seconds.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    /// Reads seconds; refuses negative and endless ones.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds)
            .map_err(|_| de::Error::custom(format!("{seconds} is not a number of seconds: give 0 or more")))
    }
}
