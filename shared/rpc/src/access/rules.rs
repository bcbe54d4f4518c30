//! Which method needs what, read from the contracts: the option `(waybill.type.v1.access)` of every method.
//!
//! What it refuses to do: guess. A method of a Waybill package without the option, or whose request does not carry the
//! fields that its tenancy needs, stops the server from starting.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, ExtensionDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value};
use waybill_proto::waybill::r#type::v1::Tenancy;

const OPTION: &str = "waybill.type.v1.access";
const PACKAGES: &str = "waybill.";

/// What a call of one method must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The scope that the token must list.
    pub scope: String,
    /// How the call is bound to a tenant.
    pub tenancy: Tenancy,
    /// Whether the caller sends a stream of messages.
    pub client_streaming: bool,
    /// Whether the service answers with a stream of messages.
    pub server_streaming: bool,
    /// Full name of the request message.
    pub request: String,
}

/// Why the contracts cannot be enforced.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The descriptors cannot be read.
    #[error("the file descriptor set cannot be read: {0}")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    /// Methods lack the option, or cannot keep it.
    #[error("methods without a usable option ({OPTION}): {}", .0.join("; "))]
    Methods(Vec<String>),
}

/// The rules of all methods by path, e.g. `/waybill.order.v1.OrderService/GetOrder`.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    by_path: BTreeMap<String, Rule>,
}

impl Rules {
    /// Reads the rules from an encoded `FileDescriptorSet`.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or for any method of a Waybill package that has no usable rule; all are named.
    pub fn from_descriptors(file_descriptor_set: &[u8]) -> Result<Rules, RulesError> {
        let pool = DescriptorPool::decode(file_descriptor_set)?;
        let option = pool.get_extension_by_name(OPTION);
        let mut by_path = BTreeMap::new();
        let mut faults = Vec::new();
        let services = pool
            .services()
            .filter(|service| service.full_name().starts_with(PACKAGES));
        for method in services.flat_map(|service| service.methods().collect::<Vec<_>>()) {
            match rule(&method, option.as_ref()) {
                Ok(rule) => {
                    by_path.insert(
                        format!("/{}/{}", method.parent_service().full_name(), method.name()),
                        rule,
                    );
                }
                Err(fault) => faults.push(format!("{}: {fault}", method.full_name())),
            }
        }
        if faults.is_empty() {
            Ok(Rules { by_path })
        } else {
            Err(RulesError::Methods(faults))
        }
    }

    /// The rule of a method.
    pub fn get(&self, path: &str) -> Option<&Rule> {
        self.by_path.get(path)
    }

    /// All methods with their rules, in the order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.by_path.iter().map(|(path, rule)| (path.as_str(), rule))
    }

    pub(crate) fn extend(&mut self, other: Rules) {
        self.by_path.extend(other.by_path);
    }

    /// The rules of Waybill's own contracts; none when those cannot be read, which a server would have refused.
    pub(crate) fn own() -> &'static Rules {
        static OWN: LazyLock<Rules> =
            LazyLock::new(|| Rules::from_descriptors(waybill_proto::FILE_DESCRIPTOR_SET).unwrap_or_default());
        &OWN
    }
}

fn rule(method: &MethodDescriptor, option: Option<&ExtensionDescriptor>) -> Result<Rule, String> {
    let options = method.options();
    let access = option
        .filter(|option| options.has_extension(option))
        .map(|option| options.get_extension(option))
        .ok_or("it has none")?;
    let access = access.as_message().ok_or("it is no message")?;
    let scope = access
        .get_field_by_name("scope")
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default();
    if scope.is_empty() {
        return Err("its scope is empty".to_owned());
    }
    let tenancy = access
        .get_field_by_name("tenancy")
        .and_then(|value| Value::as_enum_number(&value))
        .unwrap_or_default();
    let tenancy = Tenancy::try_from(tenancy).unwrap_or(Tenancy::Unspecified);
    let request = method.input();
    match tenancy {
        Tenancy::Unspecified => return Err("its tenancy is not set".to_owned()),
        Tenancy::System => {}
        Tenancy::Merchant => field(&request, 1, "merchant_id")?,
        Tenancy::Store => {
            field(&request, 1, "merchant_id")?;
            field(&request, 2, "store_id")?;
        }
    }
    Ok(Rule {
        scope,
        tenancy,
        client_streaming: method.is_client_streaming(),
        server_streaming: method.is_server_streaming(),
        request: request.full_name().to_owned(),
    })
}

fn field(request: &MessageDescriptor, number: u32, name: &str) -> Result<(), String> {
    let fits = request
        .get_field(number)
        .is_some_and(|field| field.name() == name && field.kind() == Kind::String && !field.is_list());
    if fits {
        Ok(())
    } else {
        Err(format!(
            "field {number} of {} must be `string {name}`",
            request.full_name()
        ))
    }
}
