//! Reflection, as `grpcurl` uses it: what a caller needs who has an address and a token and no contract.

use anyhow::{Context as _, ensure};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use secrecy::SecretString;
use tonic::transport::Channel;
use tonic_reflection::pb::{v1, v1alpha};
use waybill_e2e::orders::{line, money, order};
use waybill_e2e::raw::Raw;
use waybill_e2e::shop::Shop;

/// What a version of the protocol is asked. Both have the same messages under other names.
macro_rules! reflection_client {
    ($name:ident, $version:ident) => {
        mod $name {
            use super::*;
            use $version::server_reflection_client::ServerReflectionClient;
            use $version::server_reflection_request::MessageRequest;
            use $version::server_reflection_response::MessageResponse;

            async fn ask(url: &str, question: MessageRequest) -> anyhow::Result<MessageResponse> {
                let channel = Channel::from_shared(url.to_owned())?.connect().await?;
                let request = $version::ServerReflectionRequest {
                    host: String::new(),
                    message_request: Some(question),
                };
                let mut client = ServerReflectionClient::new(channel);
                let mut answers = client
                    .server_reflection_info(tokio_stream::once(request))
                    .await?
                    .into_inner();
                let answer = answers.message().await?.context("no answer")?;
                answer
                    .message_response
                    .context("an answer without a message")
            }

            /// The services of an endpoint.
            pub async fn services(url: &str) -> anyhow::Result<Vec<String>> {
                match ask(url, MessageRequest::ListServices(String::new())).await? {
                    MessageResponse::ListServicesResponse(list) => Ok(list
                        .service
                        .into_iter()
                        .map(|service| service.name)
                        .collect()),
                    other => anyhow::bail!("not a list of services: {other:?}"),
                }
            }

            /// The files that answer a question about a symbol.
            pub async fn files_with(url: &str, symbol: &str) -> anyhow::Result<Vec<FileDescriptorProto>> {
                read(ask(url, MessageRequest::FileContainingSymbol(symbol.to_owned())).await?)
            }

            /// The file of a service with all that it imports, fetched one by one, as `grpcurl` does.
            pub async fn pool(url: &str, service: &str) -> anyhow::Result<DescriptorPool> {
                let mut files = files_with(url, service).await?;
                let mut next = 0;
                while let Some(file) = files.get(next) {
                    next += 1;
                    for name in file.dependency.clone() {
                        if !files.iter().any(|file| file.name() == name) {
                            files.extend(read(ask(url, MessageRequest::FileByFilename(name)).await?)?);
                        }
                    }
                }
                let mut pool = DescriptorPool::new();
                pool.add_file_descriptor_set(FileDescriptorSet { file: files })?;
                Ok(pool)
            }

            fn read(answer: MessageResponse) -> anyhow::Result<Vec<FileDescriptorProto>> {
                match answer {
                    MessageResponse::FileDescriptorResponse(files) => {
                        let files = files.file_descriptor_proto.iter();
                        Ok(files
                            .map(|file| FileDescriptorProto::decode(&file[..]))
                            .collect::<Result<_, _>>()?)
                    }
                    other => anyhow::bail!("not a file: {other:?}"),
                }
            }
        }
    };
}

reflection_client!(stable, v1);
reflection_client!(alpha, v1alpha);

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_contracts_finds_its_way() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let endpoints = shop.stack.context().endpoints.clone();
    ensure!(endpoints.len() == 5, "{} endpoints", endpoints.len());
    for (endpoint, url) in &endpoints {
        let own = format!(
            "waybill.{endpoint}.v1.{}{}Service",
            endpoint[..1].to_uppercase(),
            &endpoint[1..]
        );
        let expected = [
            own.as_str(),
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ];
        for services in [stable::services(url).await?, alpha::services(url).await?] {
            for name in expected {
                ensure!(
                    services.iter().any(|service| service == name),
                    "{endpoint} lists {services:?}, not {name}"
                );
            }
        }
        for files in [
            stable::files_with(url, &own).await?,
            alpha::files_with(url, &own).await?,
        ] {
            let services = || {
                files
                    .iter()
                    .flat_map(|file| file.service.iter().map(move |service| (file, service)))
            };
            let (file, service) = services()
                .next()
                .with_context(|| format!("no service in the file of {own}"))?;
            ensure!(
                format!("{}.{}", file.package(), service.name()) == own,
                "{} instead of {own}",
                service.name()
            );
            ensure!(!service.method.is_empty(), "{own} has no methods");
        }
    }
    let (url, service) = (&endpoints["order"], "waybill.order.v1.OrderService");
    for pool in [
        stable::pool(url, service).await?,
        alpha::pool(url, service).await?,
    ] {
        call_from_json(&shop, url, &pool).await?;
    }
    shop.close().await
}

/// Reads an order with nothing but the address, the token, and JSON.
async fn call_from_json(shop: &Shop, url: &str, pool: &DescriptorPool) -> anyhow::Result<()> {
    // The second time it is the same order.
    let placed = shop
        .place(order("R1", "EUR", vec![line("MUG", 3, money("EUR", 450))]))
        .await?;
    let service = pool
        .get_service_by_name("waybill.order.v1.OrderService")
        .context("the service")?;
    let method = service
        .methods()
        .find(|method| method.name() == "GetOrder")
        .context("the method")?;
    let question = serde_json::json!({
        "merchantId": shop.session.merchant_id,
        "storeId": shop.session.store_id,
        "number": "R1",
    });
    let request = DynamicMessage::deserialize(method.input(), question)?;
    let token = SecretString::from(shop.stack.context().token.clone());
    let path = format!("/{}/{}", service.full_name(), method.name());
    let answer = Raw::new(url)?
        .call(&path, Some(&token), request.encode_to_vec(), false)
        .await?;
    let answer = DynamicMessage::decode(method.output(), answer.context("an answer")?)?;
    let answer = answer.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())?;
    assert_eq!(answer["order"]["orderId"], placed.order_id);
    assert_eq!(answer["order"]["status"], "ORDER_STATUS_OPEN");
    assert_eq!(
        answer["order"]["totals"]["total"],
        serde_json::json!({ "currencyCode": "EUR", "minorUnits": "1350" })
    );
    Ok(())
}
