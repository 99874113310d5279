//! A file of rules in YAML: the fields of the `.proto` options under the same names. Texts are read
//! here, and nothing is judged that a build, control and the sidecars judge as well; but each field
//! is remembered with its place, so that whoever refuses it, the error names line and column.

mod admission;
mod authorization;

use std::collections::HashMap;
use std::fmt::{self, Display, Write as _};

use serde::Deserialize;
use serde_saphyr::{Error, Location, SnippetMode, Spanned};
use sidelane_process::settings::nearest;
use sidelane_proto::model::{Vocabulary, WrittenMethod, WrittenRule};
use sidelane_proto::wire::routing::v1 as wire;

/// A file with all that can be in one.
pub(crate) const EXAMPLE: &str = "\
classes:                       # connection classes of your own, if a rule brings one
  - number: 40
    name: partner
    lanes: [general]
lanes:                         # lanes of your own, if a rule brings one
  - id: 20
    name: telemetry
    connections: [INTERNAL]
    connections_custom: [partner]
    window: 262144
    max_streams: 64
    connection_window: 1048576 # from here on, all may be left out
    max_connections: 1
    max_waiting: 64
    dscp: 8
    priority: 0
rules:
  - service: shop.v1.Orders
    category: WORKER
    connection: INTERNAL       # or connection_custom: partner
    lane: telemetry
    secure: false
    persistent: true
    load_balancing: CONSISTENT_HASH   # or load_balancing_custom: nearest
    timeout: 2s
    max_timeout: 10s
    retry: { attempts: 3, on: [UNAVAILABLE] }
    breaker:                   # the default: every field may be left out, and so may all of it
      off: false
      consecutive_failures: 5
      success_percent: 50
      min_calls: 20
      interval: 10s
      open: 5s
      max_open: 60s
      probes: 1
      successes: 2
    outlier: { off: false, below_mean: 25, min_calls: 20, max_percent: 50 }
    limits:
      - { requests_per_second: 500, burst: 100, per: [CALLER] }
    concurrency: { max_in_flight: 64, queue: 32, longest_wait: 50ms }
    fault: { abort_percent: 5, abort_status: UNAVAILABLE, header: x-test, header_value: drill }
    authorization:             # who may call; nobody else may
      allow:                   # one entry that fits is enough, and all its fields must fit
        - { identity: \"spiffe://mesh.example/ns/shop/sa/cart\" }
        - { namespace: billing, trust_domain: mesh.example }
        - { prefix: \"spiffe://mesh.example/ns/shop/sa/worker-\", connection: INTERNAL, lane: telemetry }
      dry_run: true            # nobody is refused: counted, and noted in the log
    methods:
      - name: Get
        idempotent: true
        timeout: 800ms
        hash_on: order_id
        retry: { attempts: 2, pause: 10ms, max_pause: 200ms }
        hedge: { after: 50ms, max_attempts: 2 }     # or off: true
        authorization: { allow: [{ anyone: true }] }  # instead of the service's
      - name: Watch
        client_streaming: false
        server_streaming: true
  - service: shop.v1.Billing   # says nothing of where and in which lane: it only tunes
    timeout: 5s
    retry: { attempts: 2, budget_percent: 10, budget_per_second: 5 }
    split:                     # between versions of the service
      label: version           # of the endpoints (`--label version=v1`)
      parts:                   # percentages are 100 together
        - { value: v1, percent: 90 }
        - { value: v2, percent: 10, header: x-canary, header_value: \"yes\" }
      strict: false            # true: a part without endpoints fails its calls
    hash_header: x-user-id     # a key, where calls bring no sidelane-hash
    locality: IGNORE           # or PREFER, as where nothing is said
    slow_start: 10s
    concurrency:               # follows latency, instead of max_in_flight
      adaptive: { min: 1, max: 1000, tolerance_percent: 25, remeasure: 10s }
";

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// `line:column`, from 1; `None` where nobody knows.
    pub(crate) place: Option<Place>,
    /// What is wrong, and what to write.
    pub(crate) problem: String,
}

/// A line and a column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct Written {
    classes: Vec<wire::Class>,
    lanes: Vec<wire::Lane>,
    pub(crate) rules: Vec<Entry>,
    /// Of each field, by its path: `rules[2].methods[0].timeout`.
    places: HashMap<String, Place>,
    /// For origins.
    name: String,
}

/// A rule of a file.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) rule: WrittenRule,
    /// It says nothing of class, lane, secure, persistent and category.
    pub(crate) tuning_only: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    classes: Vec<Class>,
    #[serde(default)]
    lanes: Vec<Lane>,
    #[serde(default)]
    rules: Vec<Rule>,
}

type Text = Option<Spanned<String>>;
type Flag = Option<Spanned<bool>>;
type Number = Option<Spanned<u32>>;
type Texts = Option<Vec<Spanned<String>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    number: Number,
    name: Spanned<String>,
    lanes: Texts,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lane {
    id: Number,
    name: Spanned<String>,
    connections: Texts,
    connections_custom: Texts,
    window: Number,
    max_streams: Number,
    connection_window: Number,
    max_connections: Number,
    max_waiting: Number,
    dscp: Number,
    priority: Number,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    service: Spanned<String>,
    category: Text,
    connection: Text,
    connection_custom: Text,
    lane: Text,
    secure: Flag,
    persistent: Flag,
    load_balancing: Text,
    load_balancing_custom: Text,
    timeout: Text,
    max_timeout: Text,
    hash_header: Text,
    locality: Text,
    slow_start: Text,
    retry: Option<Retry>,
    breaker: Option<Breaker>,
    outlier: Option<Outlier>,
    split: Option<Split>,
    #[serde(default)]
    limits: Vec<admission::Limit>,
    concurrency: Option<admission::Concurrency>,
    fault: Option<admission::Fault>,
    authorization: Option<authorization::Authorization>,
    #[serde(default)]
    methods: Vec<Method>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    label: Text,
    parts: Vec<SplitPart>,
    strict: Flag,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SplitPart {
    value: Spanned<String>,
    percent: Number,
    header: Text,
    header_value: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    attempts: Spanned<u32>,
    on: Texts,
    budget_percent: Number,
    budget_per_second: Number,
    pause: Text,
    max_pause: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Breaker {
    off: Flag,
    consecutive_failures: Number,
    success_percent: Number,
    min_calls: Number,
    interval: Text,
    open: Text,
    max_open: Text,
    probes: Number,
    successes: Number,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outlier {
    off: Flag,
    below_mean: Number,
    min_calls: Number,
    max_percent: Number,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hedge {
    after: Text,
    max_attempts: Number,
    off: Flag,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Method {
    name: Spanned<String>,
    idempotent: Flag,
    timeout: Text,
    hash_on: Text,
    retry: Option<Retry>,
    hedge: Option<Hedge>,
    #[serde(default)]
    limits: Vec<admission::Limit>,
    fault: Option<admission::Fault>,
    authorization: Option<authorization::Authorization>,
    client_streaming: Flag,
    server_streaming: Flag,
}

/// Reads the text of a file; `name` is for origins.
pub(crate) fn read(name: &str, text: &str) -> Result<Written, Vec<Wrong>> {
    // Of twice as many rules as may be applied, with ten methods each.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 16_000_000,
            max_nodes: 8_000_000,
        },
    };
    let document: Option<Document> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| vec![wrong_yaml(&error)])?;
    let mut reader = Reader::default();
    let written =
        document.map_or_else(Written::default, |document| reader.document(name, document));
    if reader.wrong.is_empty() {
        return Ok(Written {
            places: reader.places,
            name: name.to_owned(),
            ..written
        });
    }
    Err(reader.wrong)
}

impl Written {
    /// Sidelane's own lanes and classes, and those that the file defines.
    pub(crate) fn vocabulary(&self) -> Result<Vocabulary, Vec<Wrong>> {
        let mut vocabulary = Vocabulary::built_in();
        let mut wrong = Vec::new();
        for (index, class) in self.classes.iter().enumerate() {
            let path = format!("classes[{index}]");
            if let Err(error) = vocabulary.define_class(class, &self.origin(&path)) {
                wrong.push(self.wrong(error.within(path)));
            }
        }
        for (index, lane) in self.lanes.iter().enumerate() {
            let path = format!("lanes[{index}]");
            if let Err(error) = vocabulary.define_lane(lane, &self.origin(&path)) {
                wrong.push(self.wrong(error.within(path)));
            }
        }
        if wrong.is_empty() {
            Ok(vocabulary)
        } else {
            Err(wrong)
        }
    }

    /// Does a rule name a lane or a class that is not among these? A running mesh may know it.
    pub(crate) fn names_others(&self, vocabulary: &Vocabulary) -> bool {
        let (lanes, classes) = (vocabulary.lanes(), vocabulary.classes());
        self.rules.iter().any(|entry| {
            let options = &entry.rule.options;
            let (lane, class) = (&options.lane, &options.connection_custom);
            let lane_known = lanes.iter().any(|known| known.name() == lane);
            let class_known = classes.iter().any(|known| known.name() == class);
            (!lane.is_empty() && !lane_known) || (!class.is_empty() && !class_known)
        })
    }

    /// The rules that are meant, among these lanes and classes.
    pub(crate) fn rules(
        &self,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<wire::PushedRule>, Vec<Wrong>> {
        let (mut rules, mut wrong) = (Vec::with_capacity(self.rules.len()), Vec::new());
        for (index, Entry { rule, tuning_only }) in self.rules.iter().enumerate() {
            match rule.read_with(vocabulary) {
                Ok(rule) => rules.push(pushed(rule, *tuning_only)),
                Err(error) => {
                    let error = error.within(format_args!("rules[{index}]"));
                    wrong.push(self.wrong(error));
                }
            }
        }
        if wrong.is_empty() {
            Ok(rules)
        } else {
            Err(wrong)
        }
    }

    /// What is wrong with a field, with the place where it stands.
    pub(crate) fn at(&self, field: &str, problem: impl Display) -> Wrong {
        Wrong {
            place: self.place(field),
            problem: format!("{field} {problem}"),
        }
    }

    fn wrong(&self, error: sidelane_proto::model::FieldError) -> Wrong {
        self.at(&error.path, error.problem)
    }

    /// Of a field that is not written, that of what it would be in.
    fn place(&self, field: &str) -> Option<Place> {
        let mut field = field;
        loop {
            if let Some(place) = self.places.get(field) {
                return Some(*place);
            }
            field = &field[..field.rfind(['.', '['])?];
        }
    }

    fn origin(&self, path: &str) -> String {
        let line = self.place(path).map_or(0, |place| place.line);
        format!("{}:{line}", self.name)
    }
}

fn pushed(rule: sidelane_proto::model::Rule, tuning_only: bool) -> wire::PushedRule {
    let pushed = sidelane_proto::model::PushedRule {
        rule: rule.into(),
        tuning_only,
        version: 0,
    };
    (&pushed).into()
}

/// Texts become options; places and mistakes are collected.
#[derive(Default)]
struct Reader {
    places: HashMap<String, Place>,
    wrong: Vec<Wrong>,
}

impl Reader {
    fn document(&mut self, name: &str, document: Document) -> Written {
        let classes = document.classes.into_iter().enumerate();
        let classes = classes.map(|(index, class)| self.class(&format!("classes[{index}]"), class));
        let classes = classes.collect();
        let lanes = document.lanes.into_iter().enumerate();
        let lanes = lanes.map(|(index, lane)| self.lane(&format!("lanes[{index}]"), lane));
        let lanes = lanes.collect();
        let rules = document.rules.into_iter().enumerate();
        let rules = rules.map(|(index, rule)| self.rule(name, &format!("rules[{index}]"), rule));
        let rules = rules.collect();
        Written {
            classes,
            lanes,
            rules,
            ..Written::default()
        }
    }

    fn class(&mut self, path: &str, class: Class) -> wire::Class {
        wire::Class {
            number: self.take(path, "number", class.number),
            name: self.first(path, "name", class.name),
            lanes: self.texts(path, "lanes", class.lanes),
        }
    }

    fn lane(&mut self, path: &str, lane: Lane) -> wire::Lane {
        let connections = self.texts(path, "connections", lane.connections);
        let connections = connections.iter().enumerate().map(|(index, word)| {
            let path = format!("{path}.connections[{index}]");
            self.connection(&path, word)
        });
        let connections = connections.collect();
        wire::Lane {
            name: self.first(path, "name", lane.name),
            id: self.take(path, "id", lane.id),
            connections,
            connections_custom: self.texts(path, "connections_custom", lane.connections_custom),
            window: self.take(path, "window", lane.window),
            max_streams: self.take(path, "max_streams", lane.max_streams),
            connection_window: self.take(path, "connection_window", lane.connection_window),
            max_connections: self.take(path, "max_connections", lane.max_connections),
            max_waiting: self.take(path, "max_waiting", lane.max_waiting),
            dscp: self.take(path, "dscp", lane.dscp),
            priority: self.take(path, "priority", lane.priority),
            class_definitions: Vec::new(),
        }
    }

    fn rule(&mut self, name: &str, path: &str, rule: Rule) -> Entry {
        let line = rule.service.referenced.line();
        let tuning_only = rule.category.is_none()
            && rule.connection.is_none()
            && rule.connection_custom.is_none()
            && rule.lane.is_none()
            && rule.secure.is_none()
            && rule.persistent.is_none();
        let service = self.first(path, "service", rule.service);
        let category = self.word(path, "category", rule.category, &CATEGORIES, |name| {
            wire::Category::from_str_name(name).map(i32::from)
        });
        let connection = self.take(path, "connection", rule.connection);
        let connection = match connection.as_str() {
            "" => 0,
            word => self.connection(&format!("{path}.connection"), word),
        };
        let load_balancing = self.word(
            path,
            "load_balancing",
            rule.load_balancing,
            &STRATEGIES,
            |name| wire::LoadBalancing::from_str_name(name).map(i32::from),
        );
        let mut options = wire::ServiceRule {
            category,
            connection,
            lane: self.take(path, "lane", rule.lane),
            secure: self.take(path, "secure", rule.secure),
            persistent: self.take(path, "persistent", rule.persistent),
            load_balancing,
            timeout: self.take(path, "timeout", rule.timeout),
            load_balancing_custom: self.take(
                path,
                "load_balancing_custom",
                rule.load_balancing_custom,
            ),
            connection_custom: self.take(path, "connection_custom", rule.connection_custom),
            retry: rule.retry.map(|retry| self.retry(path, retry)),
            max_timeout: self.take(path, "max_timeout", rule.max_timeout),
            hash_header: self.take(path, "hash_header", rule.hash_header),
            locality: self.word(path, "locality", rule.locality, &LOCALITIES, |name| {
                wire::LocalityPreference::from_str_name(name).map(i32::from)
            }),
            slow_start: self.take(path, "slow_start", rule.slow_start),
            breaker: rule.breaker.map(|breaker| self.breaker(path, breaker)),
            outlier: rule.outlier.map(|outlier| self.outlier(path, outlier)),
            split: rule.split.map(|split| self.split(path, split)),
            limits: self.limits(path, rule.limits),
            concurrency: rule.concurrency.map(|it| self.concurrency(path, it)),
            fault: rule.fault.map(|fault| self.fault(path, fault)),
            authorization: rule.authorization.map(|it| self.authorization(path, it)),
        };
        if tuning_only {
            // It stands for nothing: a rule that only tunes leaves it as it is.
            options.connection = wire::Connection::Internal.into();
            "general".clone_into(&mut options.lane);
        }
        let methods = rule.methods.into_iter().enumerate();
        let methods =
            methods.map(|(index, method)| self.method(&format!("{path}.methods[{index}]"), method));
        let rule = WrittenRule {
            service,
            options,
            methods: methods.collect(),
            origin: format!("{name}:{line}"),
        };
        Entry { rule, tuning_only }
    }

    fn method(&mut self, path: &str, method: Method) -> WrittenMethod {
        WrittenMethod {
            name: self.first(path, "name", method.name),
            client_streaming: self.take(path, "client_streaming", method.client_streaming),
            server_streaming: self.take(path, "server_streaming", method.server_streaming),
            options: wire::MethodRule {
                idempotent: self.take(path, "idempotent", method.idempotent),
                timeout: self.take(path, "timeout", method.timeout),
                hash_on: self.take(path, "hash_on", method.hash_on),
                retry: method.retry.map(|retry| self.retry(path, retry)),
                hedge: method.hedge.map(|hedge| self.hedge(path, hedge)),
                limits: self.limits(path, method.limits),
                fault: method.fault.map(|fault| self.fault(path, fault)),
                authorization: method.authorization.map(|it| self.authorization(path, it)),
            },
        }
    }

    fn retry(&mut self, path: &str, retry: Retry) -> wire::Retry {
        let path = format!("{path}.retry");
        wire::Retry {
            attempts: self.first(&path, "attempts", retry.attempts),
            on: self.texts(&path, "on", retry.on),
            budget_percent: self.said(&path, "budget_percent", retry.budget_percent),
            budget_per_second: self.said(&path, "budget_per_second", retry.budget_per_second),
            pause: self.take(&path, "pause", retry.pause),
            max_pause: self.take(&path, "max_pause", retry.max_pause),
        }
    }

    fn hedge(&mut self, path: &str, hedge: Hedge) -> wire::Hedge {
        let path = format!("{path}.hedge");
        wire::Hedge {
            after: self.take(&path, "after", hedge.after),
            max_attempts: self.said(&path, "max_attempts", hedge.max_attempts),
            off: self.take(&path, "off", hedge.off),
        }
    }

    fn breaker(&mut self, path: &str, breaker: Breaker) -> wire::Breaker {
        let path = format!("{path}.breaker");
        let mut said = |field, value| self.said(&path, field, value);
        let consecutive_failures = said("consecutive_failures", breaker.consecutive_failures);
        let success_percent = said("success_percent", breaker.success_percent);
        let min_calls = said("min_calls", breaker.min_calls);
        let probes = said("probes", breaker.probes);
        let successes = said("successes", breaker.successes);
        wire::Breaker {
            off: self.take(&path, "off", breaker.off),
            consecutive_failures,
            success_percent,
            min_calls,
            interval: self.take(&path, "interval", breaker.interval),
            open: self.take(&path, "open", breaker.open),
            max_open: self.take(&path, "max_open", breaker.max_open),
            probes,
            successes,
        }
    }

    fn outlier(&mut self, path: &str, outlier: Outlier) -> wire::Outlier {
        let path = format!("{path}.outlier");
        wire::Outlier {
            off: self.take(&path, "off", outlier.off),
            below_mean: self.said(&path, "below_mean", outlier.below_mean),
            min_calls: self.said(&path, "min_calls", outlier.min_calls),
            max_percent: self.said(&path, "max_percent", outlier.max_percent),
        }
    }

    fn split(&mut self, path: &str, split: Split) -> wire::Split {
        let path = format!("{path}.split");
        let parts = split.parts.into_iter().enumerate();
        let parts = parts.map(|(index, part)| {
            let path = format!("{path}.parts[{index}]");
            wire::SplitPart {
                value: self.first(&path, "value", part.value),
                percent: self.take(&path, "percent", part.percent),
                header: self.take(&path, "header", part.header),
                header_value: self.take(&path, "header_value", part.header_value),
            }
        });
        wire::Split {
            parts: parts.collect(),
            label: self.take(&path, "label", split.label),
            strict: self.take(&path, "strict", split.strict),
        }
    }

    fn connection(&mut self, path: &str, word: &str) -> i32 {
        let known = wire::Connection::from_str_name(word).map(i32::from);
        self.known(path, word, "connection", &CONNECTIONS, known)
    }

    /// The field that everything has: its place is also that of the whole.
    fn first<T>(&mut self, path: &str, field: &str, value: Spanned<T>) -> T {
        self.note(path.to_owned(), value.referenced);
        self.note(format!("{path}.{field}"), value.referenced);
        value.value
    }

    fn take<T: Default>(&mut self, path: &str, field: &str, value: Option<Spanned<T>>) -> T {
        let Some(value) = value else {
            return T::default();
        };
        self.note(format!("{path}.{field}"), value.referenced);
        value.value
    }

    /// A number whose absence is not zero.
    fn said(&mut self, path: &str, field: &str, value: Number) -> Option<u32> {
        let value = value?;
        self.note(format!("{path}.{field}"), value.referenced);
        Some(value.value)
    }

    fn texts(&mut self, path: &str, field: &str, values: Texts) -> Vec<String> {
        let values = values.unwrap_or_default().into_iter().enumerate();
        let texts = values.map(|(index, value)| {
            self.note(format!("{path}.{field}[{index}]"), value.referenced);
            value.value
        });
        texts.collect()
    }

    /// One of the words of an enumeration.
    fn word(
        &mut self,
        path: &str,
        field: &str,
        value: Text,
        words: &[&str],
        number: impl Fn(&str) -> Option<i32>,
    ) -> i32 {
        let word = self.take(path, field, value);
        if word.is_empty() {
            return 0;
        }
        let known = number(&word);
        self.known(&format!("{path}.{field}"), &word, field, words, known)
    }

    fn known(
        &mut self,
        path: &str,
        word: &str,
        what: &str,
        words: &[&str],
        it: Option<i32>,
    ) -> i32 {
        if let Some(number) = it.filter(|number| *number != 0) {
            return number;
        }
        let nearest = nearest(word, words.iter().copied()).unwrap_or_default();
        let known = words.join(", ");
        let what = what.replace('_', " ");
        self.wrong.push(Wrong {
            place: self.places.get(path).copied(),
            problem: format!(
                "{path} `{word}` is not a known {what}; did you mean `{nearest}`? (known are \
                 {known})"
            ),
        });
        0
    }

    fn note(&mut self, path: String, location: Location) {
        if let Some(place) = Place::of(location) {
            self.places.insert(path, place);
        }
    }
}

const CONNECTIONS: [&str; 2] = ["INTERNAL", "EXTERNAL"];
const CATEGORIES: [&str; 6] = [
    "METADATA", "ADMIN", "WORKER", "INGRESS", "BIFROST", "GOSSIP",
];
const STRATEGIES: [&str; 6] = [
    "ROUND_ROBIN",
    "LEAST_CONNECTIONS",
    "CONSISTENT_HASH",
    "RANDOM",
    "NONE",
    "PEAK_EWMA",
];
const LOCALITIES: [&str; 2] = ["PREFER", "IGNORE"];

impl Place {
    fn of(location: Location) -> Option<Self> {
        let place = Self {
            line: location.line(),
            column: location.column(),
        };
        (place.line > 0).then_some(place)
    }
}

impl Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.line, self.column)
    }
}

impl Wrong {
    /// The error as editors and terminals make links of.
    pub(crate) fn text(&self, file: &str) -> String {
        let mut text = file.to_owned();
        if let Some(place) = self.place {
            // Writing into a String cannot fail.
            let _ = write!(text, ":{place}");
        }
        format!("{text}: {}", self.problem)
    }
}

fn wrong_yaml(error: &Error) -> Wrong {
    let error = error.without_snippet();
    let problem = match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => {
            let nearest = nearest(field, expected.iter().copied()).unwrap_or_default();
            format!(
                "`{field}` is not a key here; did you mean `{nearest}`? (keys are {})",
                expected.join(", ")
            )
        }
        Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing"),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("`{key}` is there twice"),
        other => {
            let options = serde_saphyr::render_options! { snippets: SnippetMode::Off };
            other.render_with_options(options)
        }
    };
    Wrong {
        place: error.location().and_then(Place::of),
        problem,
    }
}

#[cfg(test)]
mod tests;
