//! How a store shows itself, checked.

use chrono_tz::Tz;
use lettre::Address;
use waybill_kernel::check::Violations;

/// The colour of a store that has not chosen one.
pub const NEUTRAL_COLOR: &str = "#33415c";

/// How a store shows itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brand {
    /// Name.
    pub name: String,
    /// Sender of mails.
    pub from_email: String,
    /// Whom to contact with questions.
    pub support_email: String,
    /// Phone of support; may be empty.
    pub support_phone: String,
    /// Address of a logo; may be empty.
    pub logo_url: String,
    /// Main colour, "#rrggbb".
    pub accent_color: String,
    /// Language used when the customer's is not known.
    pub default_locale: String,
    /// Where dates are shown.
    pub time_zone: String,
}

impl Brand {
    /// Fills what may be left out and names every fault.
    pub fn check(mut self) -> Result<Self, Violations> {
        let mut violations = Violations::default();
        self.name.truncate(self.name.trim_end_matches(' ').len());
        let mut limit = |field: &str, text: &str, least: usize, most: usize| {
            let length = text.chars().count();
            if length < least || length > most {
                violations.push(
                    format!("brand.{field}"),
                    format!("has {length} characters; {least} to {most} are allowed"),
                );
            }
            if text.chars().any(char::is_control) {
                violations.push(format!("brand.{field}"), "holds a control character; remove it");
            }
        };
        limit("name", &self.name, 1, 200);
        limit("support_phone", &self.support_phone, 0, 50);
        limit("logo_url", &self.logo_url, 0, 500);
        limit("default_locale", &self.default_locale, 0, 35);
        for (field, text) in [
            ("from_email", &self.from_email),
            ("support_email", &self.support_email),
        ] {
            if text.parse::<Address>().is_err() {
                violations.push(
                    format!("brand.{field}"),
                    format!("{text:?} is not an e-mail address"),
                );
            }
        }
        if !self.logo_url.is_empty() && !self.logo_url.starts_with("https://") {
            violations.push(
                "brand.logo_url",
                format!("{:?} does not begin with https://", self.logo_url),
            );
        }
        if self.accent_color.is_empty() {
            NEUTRAL_COLOR.clone_into(&mut self.accent_color);
        }
        let digits = self.accent_color.strip_prefix('#').unwrap_or_default();
        if digits.len() != 6 || !digits.chars().all(|digit| digit.is_ascii_hexdigit()) {
            violations.push(
                "brand.accent_color",
                format!("{:?} is not a colour like \"#1f5f6b\"", self.accent_color),
            );
        }
        if self.default_locale.is_empty() {
            "en".clone_into(&mut self.default_locale);
        }
        if self.time_zone.is_empty() {
            "UTC".clone_into(&mut self.time_zone);
        }
        if self.time_zone.parse::<Tz>().is_err() {
            violations.push(
                "brand.time_zone",
                format!(
                    "{:?} is not an IANA time zone, e.g. \"Europe/London\"",
                    self.time_zone
                ),
            );
        }
        violations.into_result()?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brand() -> Brand {
        Brand {
            name: "Harbour & Hearth".to_owned(),
            from_email: "orders@shop.example".to_owned(),
            support_email: "help@shop.example".to_owned(),
            support_phone: String::new(),
            logo_url: String::new(),
            accent_color: String::new(),
            default_locale: String::new(),
            time_zone: String::new(),
        }
    }

    #[test]
    fn what_is_left_out_is_filled() {
        let checked = brand().check().expect("a good brand");
        assert_eq!(checked.accent_color, NEUTRAL_COLOR);
        assert_eq!(
            (checked.default_locale.as_str(), checked.time_zone.as_str()),
            ("en", "UTC")
        );
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let bad = Brand {
            name: String::new(),
            from_email: "nobody".to_owned(),
            support_email: "a@b.example\r\nBcc: c@d.example".to_owned(),
            support_phone: "1\n2".to_owned(),
            logo_url: "http://shop.example/logo.png".to_owned(),
            accent_color: "red".to_owned(),
            time_zone: "Mars/Olympus".to_owned(),
            ..brand()
        };
        let text = bad.check().expect_err("seven faults").to_string();
        for field in [
            "name",
            "from_email",
            "support_email",
            "support_phone",
            "logo_url",
            "accent_color",
            "time_zone",
        ] {
            assert!(
                text.contains(&format!("brand.{field}")),
                "{field} is missing in {text}"
            );
        }
    }
}
