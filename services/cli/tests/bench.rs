//! The benchmarks at their smallest, so that they do not rot: they run, count right and answer with the keys that the
//! recorded table has. No figure is looked at: a test says nothing about speed.

use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;

const WAYBILL: &str = env!("CARGO_BIN_EXE_waybill");

/// A benchmark's report; it must consist of numbers and the machine.
fn report(arguments: &[&str]) -> anyhow::Result<Value> {
    let output = Command::new(WAYBILL)
        .args([&["--json", "bench"], arguments].concat())
        .env_remove("WAYBILL_INFRA_POSTGRES_URL")
        .env_remove("WAYBILL_INFRA_NATS_URL")
        .output()?;
    ensure!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout)?;
    for part in ["figures", "floors", "ratios"] {
        let entries = report[part].as_object().context("an object")?;
        for (key, value) in entries {
            ensure!(value.is_f64(), "{part}.{key} is {value}");
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            ensure!(key.chars().all(plain), "{part}.{key} is no plain key");
        }
    }
    for key in ["cpu", "cores", "postgres", "fsync", "nats", "build"] {
        ensure!(!report["machine"][key].is_null(), "machine.{key} is missing");
    }
    ensure!(
        report["machine"]["fsync"] == "on",
        "commits do not wait for the disk"
    );
    Ok(report)
}

fn has(report: &Value, part: &str, keys: &[&str]) -> anyhow::Result<()> {
    for key in keys {
        ensure!(!report[part][key].is_null(), "{part}.{key} is missing");
    }
    Ok(())
}

const PARTS: [&str; 6] = [
    "insert_per_second",
    "read_per_second",
    "publish_per_second",
    "fetch_per_second",
    "fold_per_second",
    "backbone_per_second",
];

#[test]
fn the_floor_is_measured() -> anyhow::Result<()> {
    let report = report(&["floor", "--events", "500", "--rounds", "1", "--batch", "100"])?;
    has(&report, "floors", &PARTS)?;
    has(
        &report,
        "floors",
        &["insert_single_per_second", "grpc_echo_per_second"],
    )
}

#[test]
fn the_backbone_is_measured_beside_its_floor() -> anyhow::Result<()> {
    let small = [
        "--events",
        "1000",
        "--rounds",
        "1",
        "--singles",
        "3",
        "--loaded-seconds",
        "1",
    ];
    let report = report(&[&["backbone", "--lanes", "2"], small.as_slice()].concat())?;
    has(&report, "floors", &PARTS)?;
    has(&report, "ratios", &["events_to_floor"])?;
    has(
        &report,
        "figures",
        &[
            "events_per_second",
            "append_batch_mean",
            "relay_page_mean",
            "fold_batch_mean",
            "cpu_us_per_event",
            "cpu_postgres_us_per_event",
            "cpu_nats_us_per_event",
            "idle_arrival_p50_ms",
            "idle_effect_p50_ms",
            "idle_effect_p99_ms",
            "loaded_effect_p50_ms",
            "loaded_effect_p99_ms",
        ],
    )
}

#[test]
fn orders_are_measured_beside_their_floor() -> anyhow::Result<()> {
    let report = report(&["orders", "--orders", "400", "--calls", "60", "--rounds", "1"])?;
    let floors = [
        "order_insert_single_per_second",
        "order_insert_single_p50_ms",
        "order_insert_set_per_second",
        "order_echo_per_second",
        "order_read_per_second",
        "order_place_per_second",
        "order_get_per_second",
    ];
    has(&report, "floors", &floors)?;
    let ratios = [
        "place_to_single",
        "place_to_floor",
        "get_to_floor",
        "place_256_full_to_empty",
        "get_full_to_empty",
        "list_full_to_empty",
    ];
    has(&report, "ratios", &ratios)?;
    for suffix in ["", "_full"] {
        for key in [
            "place_1_per_second",
            "place_32_per_second",
            "place_256_per_second",
            "place_1_p50_ms",
            "place_256_p99_ms",
            "get_per_second",
            "list_per_second",
        ] {
            has(&report, "figures", &[&format!("{key}{suffix}")])?;
        }
    }
    Ok(())
}

#[test]
fn idleness_is_measured() -> anyhow::Result<()> {
    let report = report(&["idle", "--seconds", "1", "--settle-seconds", "0"])?;
    let keys = [
        "idle_cpu_percent",
        "idle_cpu_postgres_percent",
        "idle_cpu_nats_percent",
    ];
    has(&report, "figures", &keys)
}
