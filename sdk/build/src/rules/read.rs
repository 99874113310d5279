//! From descriptors to rules.

use std::collections::HashSet;

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FileDescriptor, Kind, MessageDescriptor,
    ServiceDescriptor,
};
use sidelane_proto::model::{
    FieldError, Problem, Rule, Validation, Vocabulary, WrittenMethod, WrittenRule, validation,
};
use sidelane_proto::wire::routing::v1 as wire;

use super::place::{Finder, Sources};
use super::{Defined, RuleSet, Service, every, hash};
use crate::error::{Error, Errors, Place};

/// Services of this package have their rules already.
const PREDEFINED: &str = "sidelane.predefined.v1";

/// Numbers of fields in descriptor.proto, of which the paths of source info are made.
mod field {
    pub(super) const FILE_OPTIONS: i32 = 8;
    pub(super) const SERVICE_NAME: i32 = 1;
    pub(super) const SERVICE_OPTIONS: i32 = 3;
    pub(super) const METHOD_NAME: i32 = 1;
    pub(super) const METHOD_OPTIONS: i32 = 4;
}

/// Reads the rules of all files of the pool.
pub(crate) fn read(
    pool: &DescriptorPool,
    sources: &Sources,
    validations: &[Box<dyn Validation>],
) -> Result<RuleSet, Errors> {
    let mut files: Vec<_> = pool.files().collect();
    // The order of files decides which of two is told to clash with the other.
    files.sort_by(|one, other| one.name().cmp(other.name()));
    let mut reader = Reader {
        sources,
        validations,
        options: Options::of(pool),
        vocabulary: Vocabulary::built_in(),
        set: RuleSet::default(),
        broken: HashSet::new(),
        errors: Vec::new(),
    };
    for file in &files {
        reader.classes(file);
    }
    for file in &files {
        reader.lanes(file);
    }
    for file in &files {
        for service in file.services() {
            reader.service(file, &service);
        }
    }
    Errors::none_of(reader.errors)?;
    Ok(reader.set)
}

/// Our options as the set knows them; a set that does not import them has no rules.
struct Options {
    class: Option<ExtensionDescriptor>,
    lane: Option<ExtensionDescriptor>,
    service: Option<ExtensionDescriptor>,
    method: Option<ExtensionDescriptor>,
}

impl Options {
    fn of(pool: &DescriptorPool) -> Self {
        let option =
            |name: &str| pool.get_extension_by_name(&format!("sidelane.routing.v1.{name}"));
        Self {
            class: option("class"),
            lane: option("lane"),
            service: option("service"),
            method: option("method"),
        }
    }
}

struct Reader<'a> {
    sources: &'a Sources,
    validations: &'a [Box<dyn Validation>],
    options: Options,
    vocabulary: Vocabulary,
    set: RuleSet,
    /// Names of lanes and classes whose definitions were refused.
    broken: HashSet<String>,
    errors: Vec<Error>,
}

impl Reader<'_> {
    fn classes(&mut self, file: &FileDescriptor) {
        let finder = Finder::new(file, self.sources);
        for (at, message, definition) in definitions(self.options.class.as_ref(), file) {
            let Some(definition) = self.decode(file, &definition) else {
                continue;
            };
            let origin = finder.origin(&[&at]);
            match self.vocabulary.define_class(&definition, &origin) {
                Ok(what) => self.set.classes.push(defined(file, what, origin)),
                Err(error) => {
                    let place = finder.field(&at, &message, &error.path, &[]);
                    self.refuse(place, &error);
                    self.broken.insert(definition.name);
                }
            }
        }
    }

    fn lanes(&mut self, file: &FileDescriptor) {
        let finder = Finder::new(file, self.sources);
        for (at, message, definition) in definitions(self.options.lane.as_ref(), file) {
            let Some(definition) = self.decode(file, &definition) else {
                continue;
            };
            let origin = finder.origin(&[&at]);
            match self.vocabulary.define_lane(&definition, &origin) {
                Ok(what) => self.set.lanes.push(defined(file, what, origin)),
                Err(error) => {
                    let place = finder.field(&at, &message, &error.path, &[]);
                    self.refuse(place, &error);
                    self.broken.insert(definition.name);
                }
            }
        }
    }

    fn service(&mut self, file: &FileDescriptor, service: &ServiceDescriptor) {
        let finder = Finder::new(file, self.sources);
        let own = service.path();
        let name = [own, &[field::SERVICE_NAME]].concat();
        self.set.services.push(Service {
            name: service.full_name().to_owned(),
            methods: service
                .methods()
                .map(|method| method.name().to_owned())
                .collect(),
            origin: finder.origin(&[&name, own]),
        });
        let Some(methods) = self.methods(file, service) else {
            return;
        };
        let Some(option) = self.options.service.clone() else {
            return;
        };
        let Some(options) = said(&option, &service.options()) else {
            self.methods_alone(&finder, service);
            return;
        };
        let Some(options) = self.decode(file, &options) else {
            return;
        };
        let at = [own, &[field::SERVICE_OPTIONS, number(&option)]].concat();
        let written = WrittenRule {
            service: service.full_name().to_owned(),
            options,
            methods,
            origin: finder.origin(&[&at, own]),
        };
        if service.package_name() == PREDEFINED {
            let text = format!(
                "{} is one of Sidelane's own services and has its rule already; leave the option \
                 out",
                service.full_name()
            );
            self.errors
                .push(Error::at(finder.element_or(&at, own), text));
            return;
        }
        if written.methods.is_empty() {
            let text = format!(
                "{} has a rule and no method, so no call can ever follow it; give it an rpc, or \
                 leave the option out",
                service.full_name()
            );
            self.errors
                .push(Error::at(finder.element_or(&at, own), text));
        }
        for error in self.rule(service, &written) {
            let place = self.place(&finder, service, &option, &error);
            self.refuse(place, &error);
        }
    }

    /// The methods as they are written; `None` where they cannot be read.
    fn methods(
        &mut self,
        file: &FileDescriptor,
        service: &ServiceDescriptor,
    ) -> Option<Vec<WrittenMethod>> {
        let mut methods = Vec::new();
        for method in service.methods() {
            let option = self.options.method.as_ref();
            let options = option.and_then(|option| said(option, &method.options()));
            methods.push(WrittenMethod {
                name: method.name().to_owned(),
                client_streaming: method.is_client_streaming(),
                server_streaming: method.is_server_streaming(),
                options: match options {
                    Some(options) => self.decode(file, &options)?,
                    None => wire::MethodRule::default(),
                },
            });
        }
        Some(methods)
    }

    /// A method cannot refine the rule of a service that has none.
    fn methods_alone(&mut self, finder: &Finder<'_>, service: &ServiceDescriptor) {
        let Some(option) = &self.options.method else {
            return;
        };
        for method in service.methods() {
            if said(option, &method.options()).is_none() {
                continue;
            }
            let at = [method.path(), &[field::METHOD_OPTIONS, number(option)]].concat();
            let text = format!(
                "`{}` has a rule, and its service {} has none; say `option \
                 (sidelane.routing.v1.service) = {{ connection: INTERNAL lane: \"general\" }};` in \
                 the service",
                method.name(),
                service.full_name()
            );
            let place = finder.element_or(&at, method.path());
            self.errors.push(Error::at(place, text));
        }
    }

    /// Takes the rule in, or says everything that is wrong with it.
    fn rule(&mut self, service: &ServiceDescriptor, written: &WrittenRule) -> Vec<FieldError> {
        let (rule, mut errors) = match every::read(written, &self.vocabulary) {
            Ok(rule) => (Some(rule), Vec::new()),
            Err(errors) => (None, errors),
        };
        for (index, method) in service.methods().enumerate() {
            let path = format!("methods[{index}].hash_on");
            let field = &written.methods[index].options.hash_on;
            // What is wrong without the descriptor is known.
            if field.is_empty() || errors.iter().any(|error| error.path == path) {
                continue;
            }
            if let Err(problem) = hash::check(&method, field) {
                errors.push(FieldError::new(path, problem));
            }
        }
        if let Some(rule) = rule {
            errors.extend(self.judge(&rule));
            self.set.rules.push(rule);
        }
        errors
    }

    /// What a project demands of its own rules.
    fn judge(&self, rule: &Rule) -> Vec<FieldError> {
        let each = self.validations.iter().map(AsRef::as_ref);
        each.filter_map(|one| validation::run([one], rule).err())
            .collect()
    }

    fn place(
        &self,
        finder: &Finder<'_>,
        service: &ServiceDescriptor,
        option: &ExtensionDescriptor,
        error: &FieldError,
    ) -> Place {
        let name = [service.path(), &[field::SERVICE_NAME]].concat();
        if let Some((index, path)) = every::method_field(&error.path)
            && let Some(option) = &self.options.method
            && let Some(method) = service.methods().nth(index)
            && let Some(message) = message(option)
        {
            let name = [method.path(), &[field::METHOD_NAME]].concat();
            if path == "name" {
                return finder.element(&name);
            }
            let at = [method.path(), &[field::METHOD_OPTIONS, number(option)]].concat();
            return finder.field(&at, &message, path, &name);
        }
        let at = [service.path(), &[field::SERVICE_OPTIONS, number(option)]].concat();
        match (error.path.as_str(), message(option)) {
            ("service" | "methods", _) | (_, None) => finder.element(&name),
            (path, Some(message)) => finder.field(&at, &message, path, &name),
        }
    }

    fn refuse(&mut self, place: Place, error: &FieldError) {
        // That it is not there was told where it is defined.
        if matches!(&error.problem, Problem::UnknownName { given, .. } if self.broken.contains(given))
        {
            return;
        }
        // The place names the method.
        let path = every::method_field(&error.path).map_or(error.path.as_str(), |(_, path)| path);
        let problem = &error.problem;
        let text = match problem {
            // It names both fields.
            Problem::IllegalPair { .. } => problem.to_string(),
            _ => format!("{path} {problem}"),
        };
        self.errors.push(Error::at(place, text));
    }

    /// Our message in an option, however the set describes it.
    fn decode<T: prost::Message + Default>(
        &mut self,
        file: &FileDescriptor,
        message: &DynamicMessage,
    ) -> Option<T> {
        match message.transcode_to() {
            Ok(message) => Some(message),
            Err(error) => {
                let place = Place {
                    file: file.name().to_owned(),
                    position: None,
                };
                let text = format!(
                    "its routing options are not those of this version of \
                     sidelane/routing/v1/routing.proto: {error}"
                );
                self.errors.push(Error::at(place, text));
                None
            }
        }
    }
}

fn defined<T>(file: &FileDescriptor, what: T, origin: String) -> Defined<T> {
    Defined {
        what,
        origin,
        package: file.package_name().to_owned(),
    }
}

/// The definitions in a repeated option of a file: where each is, its type and what it says.
fn definitions(
    option: Option<&ExtensionDescriptor>,
    file: &FileDescriptor,
) -> Vec<(Vec<i32>, MessageDescriptor, DynamicMessage)> {
    let Some((option, message)) = option.and_then(|option| Some((option, message(option)?))) else {
        return Vec::new();
    };
    let options = file.options();
    let value = options.get_extension(option);
    let entries = value.as_list().unwrap_or_default();
    let entries = entries.iter().filter_map(prost_reflect::Value::as_message);
    (0..)
        .zip(entries)
        .map(|(index, entry)| {
            let at = vec![field::FILE_OPTIONS, number(option), index];
            (at, message.clone(), entry.clone())
        })
        .collect()
}

/// What an option says, where it is written.
fn said(option: &ExtensionDescriptor, options: &DynamicMessage) -> Option<DynamicMessage> {
    if !options.has_extension(option) {
        return None;
    }
    options.get_extension(option).as_message().cloned()
}

fn message(option: &ExtensionDescriptor) -> Option<MessageDescriptor> {
    match option.kind() {
        Kind::Message(message) => Some(message),
        _ => None,
    }
}

fn number(option: &ExtensionDescriptor) -> i32 {
    i32::try_from(option.number()).unwrap_or(i32::MAX)
}
