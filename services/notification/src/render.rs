//! Templates into messages.
//!
//! A message has two files a language, `templates/<language>/<stage>.txt` and `.html`; the first line of the text is the
//! subject. A language that is not there falls back: `de-AT` to `de`, then to the store's language, then to `en`, which
//! has every stage. HTML is escaped, text is not, and a variable that is not there is an error and not a gap.

use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};

use crate::domain::message::{Facts, Rendered};
use crate::domain::stage::Stage;

/// The language that has every stage.
const LAST_RESORT: &str = "en";

macro_rules! templates {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../templates/", $name)))),*]
    };
}

const TEMPLATES: &[(&str, &str)] = templates![
    "layout.html",
    "parts.html",
    "en/base.html",
    "en/contact.txt",
    "en/order_confirmed.html",
    "en/order_confirmed.txt",
    "en/order_edited.html",
    "en/order_edited.txt",
    "en/order_cancelled.html",
    "en/order_cancelled.txt",
    "en/shipped.html",
    "en/shipped.txt",
    "en/in_transit.html",
    "en/in_transit.txt",
    "en/out_for_delivery.html",
    "en/out_for_delivery.txt",
    "en/delivered.html",
    "en/delivered.txt",
    "en/exception.html",
    "en/exception.txt",
    "en/feedback.html",
    "en/feedback.txt",
    "en/return_requested.html",
    "en/return_requested.txt",
    "en/return_approved.html",
    "en/return_approved.txt",
    "en/return_declined.html",
    "en/return_declined.txt",
    "en/return_received.html",
    "en/return_received.txt",
    "en/refund_started.html",
    "en/refund_started.txt",
    "en/refund_succeeded.html",
    "en/refund_succeeded.txt",
    "en/refund_failed.html",
    "en/refund_failed.txt",
];

/// A template that cannot be read or filled.
#[derive(Debug, thiserror::Error)]
#[error("the template of {stage} cannot be rendered")]
pub struct RenderError {
    stage: &'static str,
    source: minijinja::Error,
}

/// All templates, read once.
#[derive(Debug)]
pub struct Renderer {
    environment: Environment<'static>,
}

impl Renderer {
    /// Reads the built-in templates.
    pub fn new() -> Result<Self, RenderError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|name| {
            if name.ends_with(".html") {
                AutoEscape::Html
            } else {
                AutoEscape::None
            }
        });
        for (name, source) in TEMPLATES {
            environment
                .add_template(name, source)
                .map_err(|source| RenderError { stage: name, source })?;
        }
        Ok(Self { environment })
    }

    /// Fills the templates of a stage, in the first of these languages that has it.
    pub fn render(&self, stage: Stage, locales: &[&str], facts: &Facts) -> Result<Rendered, RenderError> {
        let fail = |source| RenderError {
            stage: stage.key(),
            source,
        };
        let language = self.language(stage, locales);
        let context = context! { lang => language.as_str(), ..Value::from(Serde(facts)) };
        let fill = |kind: &str| {
            let name = format!("{language}/{}.{kind}", stage.key());
            self.environment
                .get_template(&name)
                .and_then(|template| template.render(&context))
                .map_err(fail)
        };
        let (text, html) = (fill("txt")?, fill("html")?);
        let (first, rest) = text.split_once('\n').unwrap_or((text.as_str(), ""));
        Ok(Rendered {
            // A name in the subject must not be able to begin a header of its own.
            subject: first
                .trim_start_matches("Subject:")
                .replace(char::is_control, " ")
                .trim()
                .to_owned(),
            text: rest.trim_start_matches('\n').to_owned(),
            html,
        })
    }

    fn language(&self, stage: Stage, locales: &[&str]) -> String {
        locales
            .iter()
            .flat_map(|locale| {
                let whole = locale.to_ascii_lowercase();
                let language = whole.split(['-', '_']).next().unwrap_or_default().to_owned();
                [whole, language]
            })
            .find(|language| {
                self.environment
                    .get_template(&format!("{language}/{}.txt", stage.key()))
                    .is_ok()
            })
            .unwrap_or_else(|| LAST_RESORT.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::brand::Brand;

    fn brand() -> Brand {
        Brand {
            name: "Harbour & Hearth".to_owned(),
            from_email: "orders@shop.example".to_owned(),
            support_email: "help@shop.example".to_owned(),
            support_phone: "+44 1947 555 0100".to_owned(),
            logo_url: String::new(),
            accent_color: "#1f5f6b".to_owned(),
            default_locale: "en".to_owned(),
            time_zone: "UTC".to_owned(),
        }
    }

    #[test]
    fn every_stage_renders_with_support_contact_and_number() {
        let renderer = Renderer::new().expect("templates");
        let facts = Facts::sample(&brand());
        for stage in Stage::ALL {
            let message = renderer
                .render(stage, &["de-AT", "en-GB"], &facts)
                .expect("a message");
            assert!(
                message.subject.contains("#1042"),
                "{stage:?}: {}",
                message.subject
            );
            for body in [&message.text, &message.html] {
                assert!(body.contains("help@shop.example"), "{stage:?}: {body}");
                assert!(body.contains("Ada Whitcombe"), "{stage:?}: {body}");
            }
            assert!(
                message.html.contains("Harbour &amp; Hearth"),
                "{stage:?}: html is escaped"
            );
            assert!(
                message.text.contains("Harbour & Hearth"),
                "{stage:?}: text is not"
            );
        }
    }

    #[test]
    fn a_confirmation_says_what_was_promised() {
        let renderer = Renderer::new().expect("templates");
        let message = renderer
            .render(Stage::OrderConfirmed, &[], &Facts::sample(&brand()))
            .expect("a message");
        for body in [&message.text, &message.html] {
            for part in [
                "Stoneware mug, blue",
                "89.55 GBP",
                "Wednesday, 4 November 2026",
                "help@shop.example",
            ] {
                assert!(body.contains(part), "{part} is missing in {body}");
            }
        }
    }

    #[test]
    fn an_edit_says_what_is_ordered_now_and_what_it_costs() {
        let renderer = Renderer::new().expect("templates");
        let message = renderer
            .render(Stage::OrderEdited, &[], &Facts::sample(&brand()))
            .expect("a message");
        for body in [&message.text, &message.html] {
            assert!(body.contains("Wool throw, grey"), "{body}");
            assert!(body.contains("76.75 GBP"), "{body}");
            assert!(!body.contains("89.55 GBP"), "that was before: {body}");
        }
    }

    #[test]
    fn what_a_customer_wrote_can_break_neither_html_nor_headers() {
        let renderer = Renderer::new().expect("templates");
        let mut facts = Facts::sample(&brand());
        facts.order.customer_name = "<script>alert(1)</script>".to_owned();
        facts.order.number = "1\r\nBcc: thief@example.com".to_owned();
        let message = renderer
            .render(Stage::OrderConfirmed, &[], &facts)
            .expect("a message");
        assert!(!message.html.contains("<script>"), "{}", message.html);
        assert!(!message.subject.contains(['\r', '\n']), "{:?}", message.subject);
    }
}
