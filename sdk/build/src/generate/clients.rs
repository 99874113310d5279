//! What makes generated clients follow the rules: constructors over the local sidecar that say the
//! rule with each call, the key of `hash_on` on each request, and for typed calls which request is
//! of which method.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use prost_reflect::{
    Cardinality, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ServiceDescriptor,
};
use sidelane_proto::model::Rule;

use super::names::{self, Places};
use crate::error::{Error, Errors};
use crate::rules::RuleSet;

/// Messages of protobuf's own that prost writes as what is in them.
const WRAPPERS: [&str; 9] = [
    "StringValue",
    "BytesValue",
    "BoolValue",
    "Int32Value",
    "Int64Value",
    "UInt32Value",
    "UInt64Value",
    "FloatValue",
    "DoubleValue",
];

/// The code that belongs to each package beside its rules. Clients in `files` are changed, so that
/// they send keys.
pub(super) fn code(
    files: &mut BTreeMap<String, Vec<u8>>,
    rules: &RuleSet,
    pool: &DescriptorPool,
    places: &Places<'_>,
) -> Result<BTreeMap<String, String>, Errors> {
    let mut packages: BTreeMap<String, String> = BTreeMap::new();
    for rule in &rules.rules {
        let package = names::package(&rule.service);
        let Some(service) = pool.get_service_by_name(&rule.service) else {
            continue;
        };
        if !places.is_here(package) {
            continue;
        }
        let writer = Writer {
            package,
            places,
            service: &service,
            rule,
        };
        let mut code = writer.keys() + &writer.requests();
        if let Some(stubs) = files.get_mut(&format!("{}.rs", names::file(package))) {
            code += &writer.client(stubs)?;
        }
        packages
            .entry(package.to_owned())
            .or_default()
            .push_str(&code);
    }
    Ok(packages)
}

struct Writer<'a> {
    package: &'a str,
    places: &'a Places<'a>,
    service: &'a ServiceDescriptor,
    rule: &'a Rule,
}

impl Writer<'_> {
    fn marker(&self) -> String {
        names::service_type(&self.rule.service)
    }

    /// The methods whose calls a field keeps together, and the field.
    fn hashed(&self) -> impl Iterator<Item = (MethodDescriptor, &str)> {
        self.service.methods().filter_map(|method| {
            let field = self.rule.method(method.name())?.hash_on.as_deref()?;
            Some((method, field))
        })
    }

    /// A function a method that finds its key.
    fn keys(&self) -> String {
        let mut functions = String::new();
        for (method, field) in self.hashed() {
            let names: Vec<_> = field.split('.').collect();
            let _ = write!(
                functions,
                "
    /// The key of a call of `{name}`: its request's `{field}`.
    #[must_use]
    pub fn {function}(request: &{request}) -> ::core::option::Option<::sidelane::sender::HashKey> {{
        {key}
    }}
",
                name = method.name(),
                function = key_function(&method),
                request = self.message(&method.input()),
                key = self.key("request", &method.input(), &names),
            );
        }
        if functions.is_empty() {
            return functions;
        }
        format!("\nimpl {} {{{functions}}}\n", self.marker())
    }

    /// The value of a field as a key, as an expression.
    fn key(&self, value: &str, message: &MessageDescriptor, names: &[&str]) -> String {
        const NONE: &str = "::core::option::Option::None";
        let found = names.split_first();
        let Some((field, rest)) =
            found.and_then(|(name, rest)| Some((message.get_field_by_name(name)?, rest)))
        else {
            // The check of the rules has found it.
            return NONE.to_owned();
        };
        let inner = |value: &str| match field.kind() {
            Kind::Message(inner) if !is_wrapper(&inner) => self.key(value, &inner, rest),
            _ => format!("::sidelane::sender::HashKey::of({value})"),
        };
        let some = |path: &str, pattern: &str| {
            let then = inner("it");
            format!("match &{path} {{ {pattern} => {then}, _ => {NONE} }}")
        };
        let choice = field
            .containing_oneof()
            .filter(|choice| !choice.is_synthetic());
        if let Some(choice) = choice {
            let path = format!("{value}.{}", names::field(choice.name()));
            let kind = self.within(message, &names::camel(choice.name()));
            let variant = names::camel(field.name());
            return some(
                &path,
                &format!("::core::option::Option::Some({kind}::{variant}(it))"),
            );
        }
        let path = format!("{value}.{}", names::field(field.name()));
        if is_optional_message(&field) {
            return some(&path, "::core::option::Option::Some(it)");
        }
        inner(&format!("&{path}"))
    }

    /// Which request is of which method, where that is certain.
    fn requests(&self) -> String {
        let unary = || {
            let methods = self.service.methods();
            methods.filter(|method| !method.is_client_streaming() && !method.is_server_streaming())
        };
        let mut code = String::new();
        for method in unary() {
            let same = |other: &MethodDescriptor| other.input() == method.input();
            if unary().filter(same).count() != 1 {
                continue;
            }
            let key = match self.hashed().any(|(hashed, _)| hashed == method) {
                false => String::new(),
                true => format!(
                    "
    fn hash_key(&self) -> ::core::option::Option<::sidelane::sender::HashKey> {{
        {}::{}(self)
    }}
",
                    self.marker(),
                    key_function(&method)
                ),
            };
            let _ = write!(
                code,
                "
impl ::sidelane::sender::RpcRequest<{marker}> for {request} {{
    type Response = {response};
    const METHOD: &'static str = {name:?};
{key}}}
",
                marker = self.marker(),
                request = self.message(&method.input()),
                response = self.message(&method.output()),
                name = method.name(),
            );
        }
        code
    }

    /// Constructors of the service's client, if there is one; its calls are made to send keys.
    fn client(&self, stubs: &mut Vec<u8>) -> Result<String, Errors> {
        let mut text = String::from_utf8_lossy(stubs).into_owned();
        let name = format!("{}Client", names::camel(self.service.name()));
        let Some(module) = module_of(&text, &name).map(str::to_owned) else {
            return Ok(String::new());
        };
        for (method, _) in self.hashed() {
            text = self.send_key(&text, &method)?;
        }
        *stubs = text.into_bytes();
        let mut constructors = String::new();
        for (function, code) in CONSTRUCTORS {
            // A method of this name has its place.
            let mut methods = self.service.methods();
            if !methods.any(|method| names::field(method.name()) == function) {
                constructors.push_str(code);
            }
        }
        Ok(format!(
            "
/// Clients that say the rule of `{service}` with each call.
impl {module}::{name}<::sidelane::sender::Bound<{marker}>> {{{constructors}}}
",
            service = self.rule.service,
            marker = self.marker(),
        ))
    }

    /// The client's method puts the key on its request before it sends it.
    fn send_key(&self, text: &str, method: &MethodDescriptor) -> Result<String, Errors> {
        let service = self.service.full_name();
        let end = marked_call(text, service, method.name()).ok_or_else(|| {
            Error::new(format!(
                "the client of {service} has no method {} that sends a key: tonic's generator has \
                 changed, and sidelane-build has to follow it",
                method.name()
            ))
        })?;
        let code = format!(
            "
            if !req.metadata().contains_key(\"sidelane-hash\") {{
                if let Some(key) = super::{}::{}(req.get_ref()) {{
                    key.put(&mut req);
                }}
            }}",
            self.marker(),
            key_function(method)
        );
        Ok([&text[..end], &code, &text[end..]].concat())
    }

    fn message(&self, message: &MessageDescriptor) -> String {
        let full = message.full_name();
        match full.strip_prefix("google.protobuf.") {
            Some("Empty") => "()".to_owned(),
            Some("StringValue") => "::prost::alloc::string::String".to_owned(),
            Some(name) => format!("::prost_types::{name}"),
            None => self
                .places
                .message(self.package, message.package_name(), full),
        }
    }

    /// What is defined in a message: in the module beside it that has its name.
    fn within(&self, message: &MessageDescriptor, name: &str) -> String {
        let path = self.message(message);
        let (modules, own) = path.rsplit_once("::").unwrap_or(("", &path));
        let module = names::field(own);
        match modules {
            "" => format!("{module}::{name}"),
            modules => format!("{modules}::{module}::{name}"),
        }
    }
}

/// How a client is made, by function.
const CONSTRUCTORS: [(&str, &str); 3] = [
    (
        "connect",
        "
    /// Through the sidecar that `SIDELANE_TARGET` names, connected.
    ///
    /// # Errors
    /// The variable is malformed, or no sidecar answers there within 5 s.
    pub async fn connect() -> ::core::result::Result<Self, ::sidelane::TargetError> {
        ::core::result::Result::Ok(Self::new(::sidelane::sender::Bound::connect().await?))
    }
",
    ),
    (
        "connect_to",
        "
    /// Through the sidecar at `target`, connected.
    ///
    /// # Errors
    /// No sidecar answers there within 5 s.
    pub async fn connect_to(
        target: &::sidelane::Target,
    ) -> ::core::result::Result<Self, ::sidelane::TargetError> {
        ::core::result::Result::Ok(Self::new(::sidelane::sender::Bound::connect_to(target).await?))
    }
",
    ),
    (
        "over",
        "
    /// Through this sender.
    pub fn over(sender: impl ::sidelane::sender::NetworkSender) -> Self {
        Self::new(::sidelane::sender::Bound::over(sender))
    }
",
    ),
];

fn key_function(method: &MethodDescriptor) -> String {
    format!("{}_key", names::words(method.name()).join("_"))
}

fn is_wrapper(message: &MessageDescriptor) -> bool {
    let name = message.full_name().strip_prefix("google.protobuf.");
    name.is_some_and(|name| WRAPPERS.contains(&name))
}

/// Is it a message that prost writes as an `Option`?
fn is_optional_message(field: &FieldDescriptor) -> bool {
    let Kind::Message(message) = field.kind() else {
        return false;
    };
    field.cardinality() != Cardinality::Required && !is_wrapper(&message)
}

/// The module in which a client is defined.
fn module_of<'a>(text: &'a str, client: &str) -> Option<&'a str> {
    let at = text.find(&format!("pub struct {client}<"))?;
    let (_, module) = text[..at].rsplit_once("pub mod ")?;
    let end = module.find([' ', '{'])?;
    Some(&module[..end])
}

/// Where in a client the statement ends that marks a request as one of this method.
fn marked_call(text: &str, service: &str, method: &str) -> Option<usize> {
    const MARK: &str = "GrpcMethod::new(";
    let wanted = [format!("{service:?}"), format!("{method:?}")];
    let mut marks = text.match_indices(MARK).map(|(at, _)| at + MARK.len());
    marks.find_map(|start| {
        let end = start + text[start..].find(')')?;
        let names = text[start..end].split(',').map(str::trim);
        if !names.filter(|name| !name.is_empty()).eq(&wanted) {
            return None;
        }
        Some(end + text[end..].find(';')? + 1)
    })
}
