//! What a message says, independent of how it looks: the facts a template is filled with.
//!
//! The facts come from the owners at the time of sending (order, fulfillment, refund) and are dropped afterwards; only
//! the decision about the message is kept.

use serde::Serialize;

use super::brand::Brand;

/// Everything a template may show. Amounts and dates are already text for people.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Facts {
    /// The store.
    pub brand: BrandFacts,
    /// The order.
    pub order: OrderFacts,
    /// The shipment, for stages about one.
    pub shipment: Option<ShipmentFacts>,
    /// The return, for stages about one.
    #[serde(rename = "return")]
    pub returned: Option<ReturnFacts>,
    /// The refund, for stages about one.
    pub refund: Option<RefundFacts>,
}

/// The store as a template sees it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BrandFacts {
    /// Name.
    pub name: String,
    /// Whom to contact.
    pub support_email: String,
    /// Phone of support; may be empty.
    pub support_phone: String,
    /// Address of a logo; may be empty.
    pub logo_url: String,
    /// Main colour, "#rrggbb".
    pub accent_color: String,
}

impl From<&Brand> for BrandFacts {
    fn from(brand: &Brand) -> Self {
        Self {
            name: brand.name.clone(),
            support_email: brand.support_email.clone(),
            support_phone: brand.support_phone.clone(),
            logo_url: brand.logo_url.clone(),
            accent_color: brand.accent_color.clone(),
        }
    }
}

/// The order as a template sees it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct OrderFacts {
    /// The number the customer knows.
    pub number: String,
    /// The customer's name; may be empty.
    pub customer_name: String,
    /// What was ordered.
    pub lines: Vec<LineFacts>,
    /// What is ordered now: with what edits added, without what was cancelled.
    pub lines_now: Vec<LineFacts>,
    /// What the customer pays for that.
    pub due: String,
    /// Goods before discounts.
    pub subtotal: String,
    /// Discounts; empty when there are none.
    pub discounts: String,
    /// Shipping; empty when nothing ships.
    pub shipping: String,
    /// Tax.
    pub tax: String,
    /// True when the prices contain the tax.
    pub tax_included: bool,
    /// What the customer pays.
    pub total: String,
    /// When it is expected to ship.
    pub estimated_ship_date: String,
    /// When it is expected to arrive; may be empty.
    pub estimated_delivery_date: String,
    /// Why it was cancelled; empty otherwise.
    pub cancel_reason: String,
}

/// A line as a template sees it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LineFacts {
    /// What it is.
    pub title: String,
    /// Units.
    pub quantity: i32,
    /// What the customer pays for the line; empty where it does not matter.
    pub total: String,
}

/// A shipment as a template sees it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ShipmentFacts {
    /// The carrier.
    pub carrier: String,
    /// The carrier's number.
    pub tracking_number: String,
    /// Where it can be followed; may be empty.
    pub tracking_url: String,
    /// What is in it.
    pub lines: Vec<LineFacts>,
    /// When it arrived; empty before.
    pub delivered_date: String,
    /// What the carrier said last; may be empty.
    pub last_word: String,
}

/// A return as a template sees it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReturnFacts {
    /// What comes back.
    pub lines: Vec<LineFacts>,
    /// What it will bring.
    pub total: String,
    /// Why it was declined; empty otherwise.
    pub decline_reason: String,
}

/// A refund as a template sees it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RefundFacts {
    /// How much.
    pub amount: String,
    /// When it is expected to arrive; may be empty.
    pub expected_date: String,
    /// How it goes back, for people: "Stripe" …
    pub method: String,
}

/// A message ready to be handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Subject line, one line.
    pub subject: String,
    /// As text.
    pub text: String,
    /// As HTML.
    pub html: String,
}

impl Facts {
    /// Sample facts for a preview in a store's colours.
    #[must_use]
    pub fn sample(brand: &Brand) -> Self {
        let line = |title: &str, quantity, total: &str| LineFacts {
            title: title.to_owned(),
            quantity,
            total: total.to_owned(),
        };
        let lines = vec![
            line("Stoneware mug, blue", 2, "25.60 GBP"),
            line("Wool throw, grey", 1, "64.00 GBP"),
        ];
        let first = lines.iter().take(1).cloned().collect::<Vec<_>>();
        Self {
            brand: brand.into(),
            order: OrderFacts {
                number: "#1042".to_owned(),
                customer_name: "Ada Whitcombe".to_owned(),
                lines: lines.clone(),
                lines_now: vec![
                    line("Stoneware mug, blue", 1, ""),
                    line("Wool throw, grey", 1, ""),
                ],
                due: "76.75 GBP".to_owned(),
                subtotal: "89.60 GBP".to_owned(),
                discounts: "5.00 GBP".to_owned(),
                shipping: "4.95 GBP".to_owned(),
                tax: "14.93 GBP".to_owned(),
                tax_included: true,
                total: "89.55 GBP".to_owned(),
                estimated_ship_date: "Wednesday, 4 November 2026".to_owned(),
                estimated_delivery_date: "Friday, 6 November 2026".to_owned(),
                cancel_reason: "ordered twice".to_owned(),
            },
            shipment: Some(ShipmentFacts {
                carrier: "Royal Mail".to_owned(),
                tracking_number: "RM000001042GB".to_owned(),
                tracking_url: "https://www.royalmail.com/track-your-item".to_owned(),
                lines,
                delivered_date: "Friday, 6 November 2026".to_owned(),
                last_word: "Address could not be found".to_owned(),
            }),
            returned: Some(ReturnFacts {
                lines: first,
                total: "24.32 GBP".to_owned(),
                decline_reason: "the return window ended on 20 October 2026".to_owned(),
            }),
            refund: Some(RefundFacts {
                amount: "24.32 GBP".to_owned(),
                expected_date: "Friday, 13 November 2026".to_owned(),
                method: "Stripe".to_owned(),
            }),
        }
    }
}
