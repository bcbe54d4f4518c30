//! `waybill drafts …`

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use waybill_proto::waybill::order::v1::{
    CreateDraftOrderRequest, DeleteDraftOrderRequest, DraftOrder, DraftProblem, DraftStatus,
    GetDraftOrderRequest, ListDraftOrdersRequest, ListDraftOrdersResponse, NewOrder, PlaceDraftOrderRequest,
    PriceOrderRequest, UpdateDraftOrderRequest,
};

use super::{orders, request_id};
use crate::args::{DraftStatusArg, DraftsCommand};
use crate::output::{self, line, money, table, time, word};
use crate::session::Session;

/// The most drafts of an answer.
const PAGE: usize = 200;

/// The largest file that is read: more than the service takes.
const MAX_FILE: u64 = 16 << 20;

/// Runs the command.
pub async fn run(session: &Session, command: DraftsCommand, json: bool) -> anyhow::Result<()> {
    let (merchant_id, store_id) = (session.merchant_id.clone(), session.store_id.clone());
    let mut client = session.drafts()?;
    match command {
        DraftsCommand::Price { file } => {
            let request = PriceOrderRequest {
                merchant_id,
                store_id,
                order: Some(order(&file)?),
            };
            let answer = client.price_order(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            if let Some(priced) = &answer.priced {
                orders::show(priced);
            } else {
                line(format!("total: {}", money(answer.total.as_ref())));
            }
            missing(&answer.problems);
            Ok(())
        }
        DraftsCommand::Create { file } => {
            let request = CreateDraftOrderRequest {
                merchant_id,
                store_id,
                request_id: request_id(),
                order: Some(order(&file)?),
            };
            let answer = client.create_draft_order(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            show(&answer.draft.unwrap_or_default());
            Ok(())
        }
        DraftsCommand::List { status, limit } => list(session, status, limit, json).await,
        DraftsCommand::Show { draft_id } => {
            let request = GetDraftOrderRequest {
                merchant_id,
                store_id,
                draft_id,
            };
            let answer = client.get_draft_order(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            show(&answer.draft.unwrap_or_default());
            Ok(())
        }
        DraftsCommand::Update { draft_id, file, etag } => {
            let request = UpdateDraftOrderRequest {
                merchant_id,
                store_id,
                request_id: request_id(),
                draft_id,
                order: Some(order(&file)?),
                etag,
            };
            let answer = client.update_draft_order(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            show(&answer.draft.unwrap_or_default());
            Ok(())
        }
        DraftsCommand::Place { draft_id, etag } => {
            let request = PlaceDraftOrderRequest {
                merchant_id,
                store_id,
                request_id: request_id(),
                draft_id,
                etag,
            };
            let answer = client.place_draft_order(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            orders::show(&answer.order.unwrap_or_default());
            Ok(())
        }
        DraftsCommand::Delete { draft_id, etag } => {
            let request = DeleteDraftOrderRequest {
                merchant_id,
                store_id,
                request_id: request_id(),
                draft_id: draft_id.clone(),
                etag,
            };
            let answer = client.delete_draft_order(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            line(format!("draft {draft_id} is gone"));
            Ok(())
        }
    }
}

/// Reads an order from a file, or from standard input.
fn order(file: &Path) -> anyhow::Result<NewOrder> {
    let mut text = String::new();
    let source: Box<dyn std::io::Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?)
    };
    source
        .take(MAX_FILE)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", file.display()))?;
    output::from_json(&text).with_context(|| {
        format!(
            "{} holds no waybill.order.v1.NewOrder in protobuf JSON",
            file.display()
        )
    })
}

async fn list(
    session: &Session,
    status: Option<DraftStatusArg>,
    limit: usize,
    json: bool,
) -> anyhow::Result<()> {
    let status = match status {
        None => DraftStatus::Unspecified,
        Some(DraftStatusArg::Open) => DraftStatus::Open,
        Some(DraftStatusArg::Placed) => DraftStatus::Placed,
    };
    let mut client = session.drafts()?;
    let mut all = ListDraftOrdersResponse::default();
    while all.drafts.len() < limit {
        let request = ListDraftOrdersRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            page_size: i32::try_from((limit - all.drafts.len()).min(PAGE))?,
            page_token: std::mem::take(&mut all.next_page_token),
            status: status.into(),
        };
        let page = client.list_draft_orders(request).await?.into_inner();
        all.drafts.extend(page.drafts);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    if json {
        return output::json(&all);
    }
    line(
        table(
            &["draft", "status", ">total", "changed (UTC)", "order"],
            all.drafts.iter().map(|draft| {
                [
                    draft.draft_id.clone(),
                    word(draft.status().as_str_name(), "DRAFT_STATUS"),
                    money(draft.total.as_ref()),
                    time(draft.updated_at.as_ref()),
                    draft.order_id.clone(),
                ]
            }),
        )
        .to_string(),
    );
    if !all.next_page_token.is_empty() {
        line("there are more: --limit");
    }
    Ok(())
}

/// Prints a draft.
fn show(draft: &DraftOrder) {
    let status = word(draft.status().as_str_name(), "DRAFT_STATUS");
    line(format!("draft {}: {status}, etag {}", draft.draft_id, draft.etag));
    match &draft.priced {
        Some(priced) => orders::show(priced),
        None if draft.status() == DraftStatus::Placed => line(format!("became order {}", draft.order_id)),
        None => line(format!("total: {}", money(draft.total.as_ref()))),
    }
    if draft.status() == DraftStatus::Open {
        missing(&draft.problems);
        line(format!(
            "forgotten unless it is changed or placed before {} UTC",
            time(draft.expires_at.as_ref())
        ));
    }
}

/// Prints what keeps an order from being placed.
fn missing(problems: &[DraftProblem]) {
    if problems.is_empty() {
        return line("it can be placed");
    }
    line("before it can be placed:");
    line(
        table(
            &["field", "what"],
            problems
                .iter()
                .map(|problem| [problem.field.clone(), problem.description.clone()]),
        )
        .to_string(),
    );
}
