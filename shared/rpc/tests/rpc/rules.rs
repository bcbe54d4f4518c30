//! Contracts that cannot be enforced are refused before anything is served.

use std::path::Path;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_proto::waybill::analytics::v1::analytics_service_server::AnalyticsServiceServer;
use waybill_proto::waybill::r#type::v1::Tenancy;
use waybill_rpc::access::{Rules, RulesError};
use waybill_rpc::auth::{Issuer, Verifier};
use waybill_rpc::server::{Limits, ServeError, Server};

use crate::support::Canned;

/// The descriptors of a contract with these methods.
fn contract(methods: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        r#"
        syntax = "proto3";
        package waybill.test.v1;
        import "waybill/type/v1/access.proto";
        service TestService {{ {methods} }}
        message Whole {{ string merchant_id = 1; string store_id = 2; }}
        message Merchant {{ string merchant_id = 1; bytes store_id = 2; }}
        message Swapped {{ string store_id = 1; string merchant_id = 2; }}
        message Empty {{}}
        "#
    );
    std::fs::write(folder.path().join("test.proto"), text).expect("a file");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut compiler = protox::Compiler::new([folder.path(), &ours]).expect("folders");
    compiler
        .include_imports(true)
        .open_file("test.proto")
        .expect("a contract");
    compiler.encode_file_descriptor_set()
}

fn method(name: &str, request: &str, option: &str) -> String {
    format!("rpc {name}({request}) returns (Empty) {{ {option} }}")
}

fn access(scope: &str, tenancy: &str) -> String {
    format!(r#"option (waybill.type.v1.access) = {{ scope: "{scope}" tenancy: {tenancy} }};"#)
}

fn faults(methods: &str) -> Vec<String> {
    match Rules::from_descriptors(&contract(methods)) {
        Err(RulesError::Methods(faults)) => faults,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_usable_option_becomes_a_rule() {
    let methods = [
        method(
            "ByStore",
            "stream Whole",
            &access("orders:write", "TENANCY_STORE"),
        ),
        method(
            "ByMerchant",
            "Merchant",
            &access("orders:read", "TENANCY_MERCHANT"),
        ),
        method("BySystem", "Empty", &access("events:read", "TENANCY_SYSTEM")),
    ];
    let rules = Rules::from_descriptors(&contract(&methods.concat())).expect("rules");
    assert_eq!(rules.iter().count(), 3);
    let rule = rules.get("/waybill.test.v1.TestService/ByStore").expect("a rule");
    assert_eq!(
        (rule.scope.as_str(), rule.tenancy),
        ("orders:write", Tenancy::Store)
    );
    assert!(rule.client_streaming && !rule.server_streaming);
    assert_eq!(rule.request, "waybill.test.v1.Whole");
}

#[test]
fn every_method_that_cannot_be_guarded_is_named() {
    let methods = [
        method("Bare", "Whole", ""),
        method("NoScope", "Whole", &access("", "TENANCY_STORE")),
        method(
            "NoTenancy",
            "Whole",
            &access("orders:read", "TENANCY_UNSPECIFIED"),
        ),
        method("NoFields", "Empty", &access("orders:read", "TENANCY_MERCHANT")),
        method("Bytes", "Merchant", &access("orders:read", "TENANCY_STORE")),
        method("Turned", "Swapped", &access("orders:read", "TENANCY_STORE")),
        method("Fine", "Whole", &access("orders:read", "TENANCY_STORE")),
    ];
    let expected = [
        "waybill.test.v1.TestService.Bare: it has none",
        "waybill.test.v1.TestService.NoScope: its scope is empty",
        "waybill.test.v1.TestService.NoTenancy: its tenancy is not set",
        "waybill.test.v1.TestService.NoFields: field 1 of waybill.test.v1.Empty must be `string merchant_id`",
        "waybill.test.v1.TestService.Bytes: field 2 of waybill.test.v1.Merchant must be `string store_id`",
        "waybill.test.v1.TestService.Turned: field 1 of waybill.test.v1.Swapped must be `string merchant_id`",
    ];
    assert_eq!(faults(&methods.concat()), expected);
}

#[tokio::test]
async fn a_server_with_such_a_method_does_not_start() -> anyhow::Result<()> {
    let descriptors: &'static [u8] = contract(&method("Bare", "Whole", "")).leak();
    let verifier = Verifier::new(&Issuer::generate().jwks_json(), "waybill", "waybill")?;
    let server = Server::new("test", verifier, Limits::default())
        .add(AnalyticsServiceServer::new(Canned::default()), descriptors);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let error = server
        .serve(listener, CancellationToken::new())
        .await
        .expect_err("it must not start");
    assert!(matches!(&error, ServeError::Rules(_)), "{error}");
    assert!(
        error.to_string().contains("waybill.test.v1.TestService.Bare"),
        "{error}"
    );
    Ok(())
}
