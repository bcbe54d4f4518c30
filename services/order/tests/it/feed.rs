//! Files of orders, and the stream that brings one.

use anyhow::Result;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::ImportFormat;
use waybill_proto::waybill::order::v1::import_orders_request::Part;

use crate::shop::Shop;

/// The columns of a file.
pub(crate) const HEADER: &str = "Name,Email,Financial Status,Paid at,Currency,Shipping,Taxes,Total,Created at,Lineitem quantity,\
                      Lineitem name,Lineitem price,Lineitem sku,Shipping Name,Shipping Country,Payment Method,Payment ID";

/// An order of one or more rows, each of one unit at 5.00.
pub(crate) fn csv_order(number: u32, rows: u32) -> String {
    let total = 5 * rows;
    let first = format!(
        "#{number},jo@example.org,paid,2025-02-01 10:15:00 +0000,EUR,0.00,0.00,{total}.00,2025-02-01 10:15:00 +0000,1,Tea,\
         5.00,TEA-1,Jo Doe,DE,stripe,pi_{number}\n"
    );
    let more = format!("#{number},jo@example.org,,,,,,,,1,Tea,5.00,TEA-2,,,,\n");
    first + &more.repeat(rows as usize - 1)
}

/// A file of orders with these numbers; every third has two rows.
pub(crate) fn csv(numbers: std::ops::Range<u32>) -> String {
    let orders = numbers.map(|number| csv_order(number, if number % 3 == 0 { 2 } else { 1 }));
    format!("{HEADER}\n{}", orders.collect::<String>())
}

pub(crate) fn opening(id: &str, format: ImportFormat) -> proto::ImportOpening {
    proto::ImportOpening {
        import_id: id.into(),
        format: format.into(),
        ..proto::ImportOpening::default()
    }
}

/// A running import, as its caller sees it.
pub(crate) struct Feed {
    shop: Shop,
    pub(crate) sender: mpsc::Sender<proto::ImportOrdersRequest>,
    answers: Streaming<proto::ImportOrdersResponse>,
    /// Where it stood when it was opened.
    pub(crate) opened: proto::Import,
}

impl Shop {
    pub(crate) fn import_message(&self, part: Part) -> proto::ImportOrdersRequest {
        proto::ImportOrdersRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            part: Some(part),
        }
    }

    pub(crate) async fn open_import(&self, opening: proto::ImportOpening) -> Result<Feed, Status> {
        self.open_with(self.import_message(Part::Open(opening))).await
    }

    pub(crate) async fn open_with(&self, first: proto::ImportOrdersRequest) -> Result<Feed, Status> {
        let (sender, receiver) = mpsc::channel(8);
        sender.send(first).await.expect("there is room");
        let answers = self
            .client
            .clone()
            .import_orders(ReceiverStream::new(receiver))
            .await?;
        let mut answers = answers.into_inner();
        let first = answers.message().await?.expect("an opened import is told");
        assert_eq!(first.outcomes, []);
        Ok(Feed {
            shop: self.clone(),
            sender,
            answers,
            opened: first.import.expect("an answer has the import"),
        })
    }

    /// Imports a whole file in pieces of this size.
    pub(crate) async fn import(
        &self,
        opening: proto::ImportOpening,
        file: &[u8],
        piece: usize,
    ) -> Result<(proto::Import, Vec<proto::ImportOutcome>), Status> {
        let feed = self.open_import(opening).await?;
        let sending = feed.sender();
        let file = file.to_vec();
        let begin = feed.opened.bytes_done;
        tokio::spawn(async move { sending.send(&file, begin, piece, true).await });
        feed.rest().await
    }

    pub(crate) async fn get_import(&self, id: &str) -> Result<proto::GetImportResponse, Status> {
        let request = proto::GetImportRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            import_id: id.into(),
        };
        Ok(self.client.clone().get_import(request).await?.into_inner())
    }

    pub(crate) async fn count(&self) -> Result<i64, Status> {
        let request = proto::CountOrdersRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            filter: None,
        };
        Ok(self
            .client
            .clone()
            .count_orders(request)
            .await?
            .into_inner()
            .count)
    }
}

/// The sending half of an import.
pub(crate) struct Sender {
    shop: Shop,
    sender: mpsc::Sender<proto::ImportOrdersRequest>,
}

impl Sender {
    pub(crate) async fn chunk(&self, offset: i64, data: &[u8], is_last: bool) {
        let chunk = proto::ImportChunk {
            offset,
            data: data.to_vec(),
            is_last,
        };
        // The service may have refused what came before.
        let _ = self
            .sender
            .send(self.shop.import_message(Part::Chunk(chunk)))
            .await;
    }

    /// Sends a file from this byte on.
    pub(crate) async fn send(&self, file: &[u8], from: i64, piece: usize, to_its_end: bool) {
        let mut offset = usize::try_from(from).expect("it is in the file");
        loop {
            let end = (offset + piece).min(file.len());
            let is_last = to_its_end && end == file.len();
            self.chunk(offset as i64, &file[offset..end], is_last).await;
            if end == file.len() {
                return;
            }
            offset = end;
        }
    }
}

impl Feed {
    pub(crate) fn sender(&self) -> Sender {
        Sender {
            shop: self.shop.clone(),
            sender: self.sender.clone(),
        }
    }

    pub(crate) async fn answer(&mut self) -> Result<Option<proto::ImportOrdersResponse>, Status> {
        self.answers.message().await
    }

    /// Everything that is still answered; sends nothing more.
    pub(crate) async fn rest(self) -> Result<(proto::Import, Vec<proto::ImportOutcome>), Status> {
        let Feed {
            sender,
            mut answers,
            opened: mut import,
            ..
        } = self;
        drop(sender);
        let mut outcomes = Vec::new();
        while let Some(answer) = answers.message().await? {
            import = answer.import.expect("an answer has the import");
            outcomes.extend(answer.outcomes);
        }
        Ok((import, outcomes))
    }
}
