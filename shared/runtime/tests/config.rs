//! Settings from file and environment: precedence, secrets, and every fault in one error.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;
use waybill_runtime::config::{ConfigError, Secret, Validate, load, load_from};
use waybill_runtime::service::CommonConfig;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    #[serde(flatten)]
    common: CommonConfig,
    feedback: Feedback,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct Feedback {
    days: u16,
    subject: String,
    key: Secret,
}

impl Default for Feedback {
    fn default() -> Self {
        Feedback {
            days: 5,
            subject: "how was it?".to_owned(),
            key: Secret::default(),
        }
    }
}

impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        self.common.validate(violations);
        violations.require(self.feedback.days <= 90, "feedback.days", "is more than 90");
    }
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

const NEEDED: [(&str, &str); 2] = [
    ("WAYBILL_TEST_DATABASE__URL", "postgres://u:p@h:1/d"),
    ("WAYBILL_TEST_AUTH__JWKS", r#"{"keys":[{"kty":"OKP"}]}"#),
];

fn with_needed(more: &[(&str, &str)]) -> Vec<(String, String)> {
    environment(&[&NEEDED[..], more].concat())
}

fn faults(result: Result<Config, ConfigError>) -> Vec<String> {
    match result.expect_err("there are faults") {
        ConfigError::Faults { faults } => faults,
        other => panic!("not a list of faults: {other}"),
    }
}

#[test]
fn environment_wins_over_file_and_file_over_defaults() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("order.toml");
    let text = "shutdown_grace = 1.5\n[feedback]\ndays = 7\nsubject = \"from file\"\n[peers]\nrefund = \"http://refund:1\"\n";
    std::fs::write(&file, text)?;
    let config: Config = load_from(
        Some(&file),
        "WAYBILL_TEST_",
        with_needed(&[
            ("WAYBILL_TEST_FEEDBACK__DAYS", "9"),
            ("WAYBILL_TEST_PEERS__ORDER", "http://order:2"),
            ("WAYBILL_TEST_DATABASE__MAX_CONNECTIONS", "33"),
            ("WAYBILL_TEST_CONFIG", "elsewhere.toml"),
            ("WAYBILL_OTHER_LISTEN", "not ours"),
        ]),
    )?;
    assert_eq!(config.feedback.days, 9);
    assert_eq!(config.feedback.subject, "from file");
    assert_eq!(config.common.shutdown_grace, Duration::from_millis(1500));
    assert_eq!(config.common.database.max_connections, 33);
    assert_eq!(config.common.listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.common.peers["order"], "http://order:2");
    assert_eq!(config.common.peers["refund"], "http://refund:1");
    assert_eq!(config.common.auth.jwks_json()?, r#"{"keys":[{"kty":"OKP"}]}"#);
    Ok(())
}

#[test]
fn every_fault_is_named_at_once() {
    let found = faults(load_from(
        None,
        "WAYBILL_TEST_",
        environment(&[
            ("WAYBILL_TEST_FEEDBACK__DAYS", "91"),
            ("WAYBILL_TEST_FEEDBACK__DAZE", "1"),
            ("WAYBILL_TEST_PEERS__ORDER", "order:2"),
            ("WAYBILL_TEST_TELEMETRY__SAMPLE_RATIO", "1.5"),
            ("WAYBILL_TEST_LISTENN", "127.0.0.1:1"),
        ]),
    ));
    for expected in [
        "feedback.daze: there is no such setting (set by WAYBILL_TEST_FEEDBACK__DAZE); here are: days, key, subject",
        "listenn: there is no such setting (set by WAYBILL_TEST_LISTENN)",
        "feedback.days: is more than 90",
        "database.url: is required",
        "auth.jwks: is required",
        "peers.order: \"order:2\" is no address",
        "telemetry.sample_ratio: 1.5 is outside 0 to 1",
    ] {
        assert!(
            found.iter().any(|fault| fault.contains(expected)),
            "{expected} is not in {found:#?}"
        );
    }
    assert_eq!(found.len(), 7, "{found:#?}");
}

#[test]
fn a_wrong_type_names_its_key_and_its_variable_and_hides_no_other_fault() {
    let found = faults(load_from(
        None,
        "WAYBILL_TEST_",
        with_needed(&[
            ("WAYBILL_TEST_FEEDBACK__DAYS", "soon"),
            ("WAYBILL_TEST_LIMITS__MAX_CONCURRENT_CALLS", "-1"),
            ("WAYBILL_TEST_LIMITS__DEFAULT_DEADLINE", "0"),
            ("WAYBILL_TEST_PEERS", "none"),
            ("WAYBILL_TEST_LISTENN", "1"),
        ]),
    ));
    assert_eq!(found.len(), 5, "{found:#?}");
    for (start, end) in [
        (
            "feedback.days: invalid type: found string \"soon\", expected u16",
            "(set by WAYBILL_TEST_FEEDBACK__DAYS)",
        ),
        (
            "limits.max_concurrent_calls: invalid ",
            "(set by WAYBILL_TEST_LIMITS__MAX_CONCURRENT_CALLS)",
        ),
        ("peers: invalid type", "(set by WAYBILL_TEST_PEERS)"),
        ("listenn: there is no such setting", ""),
        ("limits.default_deadline: is 0 seconds", ""),
    ] {
        assert!(
            found
                .iter()
                .any(|fault| fault.starts_with(start) && fault.ends_with(end)),
            "{start} is not in {found:#?}"
        );
    }
}

#[test]
fn a_secret_comes_from_a_value_or_a_file_and_is_never_shown() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("key");
    std::fs::write(&file, "s3cret\n")?;
    let path = file.to_str().expect("a path of ASCII");

    let by_file: Config = load_from(
        None,
        "WAYBILL_TEST_",
        with_needed(&[("WAYBILL_TEST_FEEDBACK__KEY__FILE", path)]),
    )?;
    assert_eq!(
        by_file.feedback.key.read("feedback.key")?.expose_secret(),
        "s3cret"
    );
    let by_value: Config = load_from(
        None,
        "WAYBILL_TEST_",
        with_needed(&[("WAYBILL_TEST_FEEDBACK__KEY", "hush")]),
    )?;
    assert_eq!(
        by_value.feedback.key.read("feedback.key")?.expose_secret(),
        "hush"
    );
    assert!(!format!("{by_value:?}").contains("hush"));
    assert!(!serde_json::to_string(&by_value)?.contains("hush"));

    let unset = Secret::default()
        .read("feedback.key")
        .expect_err("nothing is set");
    assert_eq!(
        unset.to_string(),
        "feedback.key is not set: give feedback.key or feedback.key.file"
    );
    let gone = Secret::from_file(folder.path().join("gone"))
        .read("feedback.key")
        .expect_err("no file");
    assert!(gone.to_string().contains("gone of feedback.key"), "{gone}");
    std::fs::write(&file, " \n")?;
    assert!(
        Secret::from_file(&file).read("feedback.key").is_err(),
        "an empty file is no secret"
    );
    Ok(())
}

#[test]
fn a_secret_that_looks_like_a_number_is_refused_without_being_shown() {
    for value in ["0123456", "true", "12.5", "-7"] {
        let found = faults(load_from(
            None,
            "WAYBILL_TEST_",
            with_needed(&[("WAYBILL_TEST_FEEDBACK__KEY", value)]),
        ));
        assert!(found[0].contains("must be in quotes"), "{found:?}");
        assert!(!found[0].contains(value) || value == "true", "{found:?}");
    }
    let quoted: Config = load_from(
        None,
        "WAYBILL_TEST_",
        with_needed(&[("WAYBILL_TEST_FEEDBACK__KEY", "\"0123456\"")]),
    )
    .expect("quoted");
    assert_eq!(
        quoted.feedback.key.read("k").expect("set").expose_secret(),
        "0123456"
    );
}

#[test]
fn value_and_file_of_a_secret_exclude_each_other() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("order.toml");
    std::fs::write(&file, "[feedback]\nkey = { value = \"a\", file = \"b\" }\n")?;
    let found = faults(load_from(Some(&file), "WAYBILL_TEST_", with_needed(&[])));
    assert!(
        found[0].contains("feedback.key: give either `value` or `file`"),
        "{found:?}"
    );
    Ok(())
}

#[test]
fn a_missing_file_and_a_broken_one_are_told() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let missing =
        load::<Config>(Some(&folder.path().join("none.toml")), "WAYBILL_NONE_").expect_err("no file");
    assert!(missing.to_string().contains("none.toml"), "{missing}");
    let file = folder.path().join("broken.toml");
    std::fs::write(&file, "[feedback\n")?;
    let found = faults(load_from(Some(&file), "WAYBILL_TEST_", with_needed(&[])));
    assert!(found[0].contains("broken.toml"), "{found:?}");
    Ok(())
}
