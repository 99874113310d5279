//! Swimlanes: the kinds of traffic. Four are Sidelane's own; a project can add more, with bounds of
//! their own. What a rule that comes over the wire says of its lane is enough to follow it.

use super::class::{ConnectionClass, OwnClass, same_text};
use super::error::{FieldError, Problem};
use super::registry::Registry;
use crate::wire::routing::v1 as wire;

/// The first number that a project may give to a lane.
pub const FIRST_OWN_LANE: u16 = 16;
/// The longest name of a lane or a class, in bytes.
pub const PLAIN_NAME_LIMIT: usize = 63;
/// The most lanes of projects that one process learns from others.
pub const LEARNED_LANES_LIMIT: usize = 64;

/// A swimlane: the kind of traffic. Two lanes never share a connection, a flow-control window or
/// a queue. Two with the same number and name are the same.
#[derive(Clone, Copy)]
pub struct Lane(&'static LaneDefinition);

/// What is said of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneDefinition {
    /// From [`FIRST_OWN_LANE`] for a project's own, unique in the mesh.
    pub id: u16,
    /// As rules, headers and metrics have it: lower-case letters, digits and `_`.
    pub name: &'static str,
    /// The classes with which it goes.
    pub classes: &'static [ConnectionClass],
    /// What it promises; `None` for Sidelane's own, whose figures the sidecar has.
    pub bounds: Option<LaneBounds>,
}

/// What a lane of a project promises, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneBounds {
    /// Bytes that one stream may send before it is read: 16 KiB to 64 MiB.
    pub window: u32,
    /// Bytes that all streams of a connection may send before they are read: at least four
    /// windows, so that fewer slow readers do not stall the others.
    pub connection_window: u32,
    /// Calls open at once on one connection: 1 to 65,536.
    pub max_streams: u32,
    /// Connections to one peer: 1 to 16.
    pub max_connections: u32,
    /// Calls that wait for a connection to one peer while it is being dialled: 1 to 65,536.
    pub max_waiting: u32,
    /// Differentiated services code point (RFC 2474) of every packet: 0 to 63.
    pub dscp: u8,
    /// `SO_PRIORITY` of the socket: 0 to 6; more needs rights.
    pub priority: u8,
}

static KNOWN: Registry<Lane> = Registry::new();

const BOTH: &[ConnectionClass] = &ConnectionClass::BUILT_IN;
const INTERNAL: &[ConnectionClass] = &[ConnectionClass::Internal];
const EXTERNAL: &[ConnectionClass] = &[ConnectionClass::External];

impl Lane {
    /// Ordinary calls.
    pub const GENERAL: Self = built_in(&LaneDefinition {
        id: 0,
        name: "general",
        classes: BOTH,
        bounds: None,
    });
    /// Heartbeats and membership: small and quick.
    pub const GOSSIP: Self = built_in(&LaneDefinition {
        id: 1,
        name: "gossip",
        classes: INTERNAL,
        bounds: None,
    });
    /// Replicated log and other bulk data.
    pub const BIFROST_DATA: Self = built_in(&LaneDefinition {
        id: 2,
        name: "bifrost_data",
        classes: INTERNAL,
        bounds: None,
    });
    /// What users send in.
    pub const INGRESS_DATA: Self = built_in(&LaneDefinition {
        id: 3,
        name: "ingress_data",
        classes: EXTERNAL,
        bounds: None,
    });
    /// Sidelane's own, in the order of their numbers.
    pub const BUILT_IN: [Self; 4] = [
        Self::GENERAL,
        Self::GOSSIP,
        Self::BIFROST_DATA,
        Self::INGRESS_DATA,
    ];

    /// A lane of a project, for constants.
    ///
    /// # Panics
    /// At compile time, where it is used in a constant: the number is Sidelane's own, the name is
    /// none, no class goes with it, or it has no bounds or such that cannot be.
    #[must_use]
    pub const fn define(definition: &'static LaneDefinition) -> Self {
        assert!(
            definition.id >= FIRST_OWN_LANE,
            "numbers of lanes below 16 are Sidelane's own"
        );
        assert!(
            is_plain_name(definition.name),
            "the name of a lane has lower-case letters, digits and `_`, at most 63"
        );
        assert!(
            !is_built_in(definition.name),
            "this name is that of a lane of Sidelane's own"
        );
        assert!(
            !definition.classes.is_empty(),
            "a lane goes with at least one connection class"
        );
        match &definition.bounds {
            None => panic!("a lane of one's own has bounds"),
            Some(bounds) => {
                if let Err((_, problem)) = bounds.check() {
                    panic!("{}", problem);
                }
            }
        }
        Self(definition)
    }

    /// What was said of it.
    #[must_use]
    pub const fn definition(self) -> &'static LaneDefinition {
        self.0
    }

    /// The lane's number.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.0.id
    }

    /// The lane's name as it is written in rules, headers and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// What it promises, where a project defined it.
    #[must_use]
    pub const fn bounds(self) -> Option<&'static LaneBounds> {
        self.0.bounds.as_ref()
    }

    /// Are they the same? As `==`, for constants.
    #[must_use]
    pub const fn is(self, other: Self) -> bool {
        self.0.id == other.0.id && same_text(self.0.name, other.0.name)
    }

    /// The lane with this number, if it is known here.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        let known = Self::BUILT_IN.get(usize::from(id)).copied();
        known.or_else(|| KNOWN.find(|lane| lane.id() == id))
    }

    /// The lane of this name, if it is known here.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let known = Self::BUILT_IN.into_iter().find(|lane| lane.name() == name);
        known.or_else(|| KNOWN.find(|lane| lane.name() == name))
    }

    /// All lanes that are known here, Sidelane's own first.
    #[must_use]
    pub fn known() -> Vec<Self> {
        Self::BUILT_IN.into_iter().chain(KNOWN.all()).collect()
    }

    /// Makes a lane known to the whole process, as one that it was compiled with.
    pub fn remember(self) {
        if self.id() >= FIRST_OWN_LANE {
            // Those that were compiled in are bounded by the program.
            let _ = KNOWN.add(self, usize::MAX);
        }
    }

    /// Reads a lane from the wire: its number and name, which must mean the same, and its
    /// definition where it is a project's own.
    ///
    /// # Errors
    /// An unknown number, a name that belongs to another number, or a definition that cannot be.
    pub fn from_wire(
        id: u32,
        name: &str,
        definition: Option<&wire::Lane>,
    ) -> Result<Self, FieldError> {
        let unknown = || {
            let given = id.to_string();
            FieldError::new(
                "lane_id",
                Problem::Unknown {
                    given,
                    what: "lane",
                },
            )
        };
        let short = u16::try_from(id).map_err(|_| unknown())?;
        if short >= FIRST_OWN_LANE
            && let Some(definition) = definition
        {
            if definition.id != id || definition.name != name {
                let text = format!(
                    "lane_id {id} is `{name}`, lane_definition has {} `{}`",
                    definition.id, definition.name
                );
                return Err(FieldError::new(
                    "lane_definition",
                    Problem::Contradiction(text),
                ));
            }
            return Self::learn(definition).map_err(|error| error.within("lane_definition"));
        }
        let exact = KNOWN.find(|lane| lane.id() == short && lane.name() == name);
        let lane = exact.or_else(|| Self::from_id(short)).ok_or_else(unknown)?;
        if lane.name() == name {
            return Ok(lane);
        }
        let text = format!("lane_id {id} is `{lane}`, lane says `{name}`");
        Err(FieldError::new("lane", Problem::Contradiction(text)))
    }

    /// The definition as the wire has it, where a project defined the lane.
    #[must_use]
    pub fn definition_to_wire(self) -> Option<wire::Lane> {
        let bounds = self.bounds()?;
        let mut connections = Vec::new();
        let (mut custom, mut definitions) = (Vec::new(), Vec::new());
        for class in self.0.classes {
            match class {
                ConnectionClass::Own(own) => {
                    custom.push(own.definition().name.to_owned());
                    definitions.push(own.to_wire());
                }
                built_in => connections.push(built_in.to_wire().0.into()),
            }
        }
        Some(wire::Lane {
            id: self.id().into(),
            name: self.name().to_owned(),
            connections,
            connections_custom: custom,
            window: bounds.window,
            max_streams: bounds.max_streams,
            connection_window: bounds.connection_window,
            max_connections: bounds.max_connections,
            max_waiting: bounds.max_waiting,
            dscp: bounds.dscp.into(),
            priority: bounds.priority.into(),
            class_definitions: definitions,
        })
    }

    /// Takes in a definition: one that is written in a file, or that somebody else sends. It is
    /// kept as long as the process lives.
    ///
    /// # Errors
    /// Names the field that cannot be, or says that there are too many already.
    pub fn learn(definition: &wire::Lane) -> Result<Self, FieldError> {
        for (index, class) in definition.class_definitions.iter().enumerate() {
            OwnClass::learn(class)
                .map_err(|error| error.within(format_args!("class_definitions[{index}]")))?;
        }
        let parts = read(definition, &ConnectionClass::known())?;
        let same = |lane: &Self| lane.id() == parts.0 && lane.name() == definition.name;
        if let Some(known) = KNOWN.find(same) {
            return Ok(known);
        }
        let many = |problem| FieldError::new("name", problem);
        KNOWN.room(LEARNED_LANES_LIMIT).map_err(many)?;
        let lane = Self::keep(&definition.name, parts);
        KNOWN.add(lane, LEARNED_LANES_LIMIT).map_err(many)
    }

    /// The lane that a definition means among these classes, whatever else the process knows; for
    /// those who read whole sets of rules, which bring their own. It is kept as long as the
    /// process lives.
    ///
    /// # Errors
    /// Names the field that cannot be.
    pub(super) fn read(
        definition: &wire::Lane,
        classes: &[ConnectionClass],
    ) -> Result<Self, FieldError> {
        let (id, classes, bounds) = read(definition, classes)?;
        // Whoever reads the same set again and again must not keep it again and again.
        let same = |lane: &Self| {
            let known = lane.definition();
            (known.id, known.name, known.classes, known.bounds)
                == (id, &*definition.name, &*classes, Some(bounds))
        };
        if let Some(known) = KNOWN.find(same) {
            return Ok(known);
        }
        Ok(Self::keep(&definition.name, (id, classes, bounds)))
    }

    fn keep(name: &str, (id, classes, bounds): Parts) -> Self {
        Self(Box::leak(Box::new(LaneDefinition {
            id,
            name: Box::leak(name.into()),
            classes: Box::leak(classes.into_boxed_slice()),
            bounds: Some(bounds),
        })))
    }
}

/// What a definition says beside the name: number, classes and bounds.
type Parts = (u16, Vec<ConnectionClass>, LaneBounds);

fn read(definition: &wire::Lane, known: &[ConnectionClass]) -> Result<Parts, FieldError> {
    let id = u16::try_from(definition.id)
        .ok()
        .filter(|id| *id >= FIRST_OWN_LANE)
        .ok_or_else(|| {
            let given = definition.id.to_string();
            let wanted = "a number of a lane of one's own (16 to 65535)";
            FieldError::new("id", Problem::Malformed { given, wanted })
        })?;
    check_name(&definition.name, "name")?;
    if is_built_in(&definition.name) {
        let text = format!(
            "`{}` is a lane of Sidelane's own; take another name",
            definition.name
        );
        return Err(FieldError::new("name", Problem::Refused(text)));
    }
    let mut classes = Vec::new();
    for (index, number) in definition.connections.iter().enumerate() {
        let path = format!("connections[{index}]");
        classes.push(ConnectionClass::from_wire(*number, None, &path)?);
    }
    for (index, name) in definition.connections_custom.iter().enumerate() {
        let class = ConnectionClass::own_among(known, name);
        classes.push(
            class.map_err(|problem| {
                FieldError::new(format!("connections_custom[{index}]"), problem)
            })?,
        );
    }
    if classes.is_empty() {
        return Err(FieldError::new("connections", Problem::Missing));
    }
    Ok((id, classes, LaneBounds::from_wire(definition)?))
}

const fn built_in(definition: &'static LaneDefinition) -> Lane {
    Lane(definition)
}

impl LaneBounds {
    /// The smallest window of a stream, in bytes: one frame of the default size.
    pub const SMALLEST_WINDOW: u32 = 16 * 1024;
    /// The largest window of a stream, in bytes.
    pub const LARGEST_WINDOW: u32 = 64 * 1024 * 1024;
    /// The largest window of a connection, in bytes.
    pub const LARGEST_CONNECTION_WINDOW: u32 = 1024 * 1024 * 1024;

    /// Bounds with this window of a stream, in bytes, and so many calls on a connection; all else
    /// follows from them.
    #[must_use]
    pub const fn new(window: u32, max_streams: u32) -> Self {
        Self {
            window,
            connection_window: least_connection_window(window, max_streams),
            max_streams,
            max_connections: 1,
            max_waiting: max_streams,
            dscp: 0,
            priority: 0,
        }
    }

    /// Checks every figure.
    ///
    /// # Errors
    /// The field that cannot be, and what it should be.
    pub const fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.window < Self::SMALLEST_WINDOW || self.window > Self::LARGEST_WINDOW {
            return Err(("window", "a lane's window is 16 KiB to 64 MiB"));
        }
        if self.max_streams == 0 || self.max_streams > 65_536 {
            return Err(("max_streams", "a lane's max_streams is 1 to 65536"));
        }
        let least = self.window.saturating_mul(4);
        if self.connection_window < least
            || self.connection_window > Self::LARGEST_CONNECTION_WINDOW
        {
            let problem = "a lane's connection_window is at least four windows and at most 1 GiB";
            return Err(("connection_window", problem));
        }
        if self.max_connections == 0 || self.max_connections > 16 {
            return Err(("max_connections", "a lane's max_connections is 1 to 16"));
        }
        if self.max_waiting == 0 || self.max_waiting > 65_536 {
            return Err(("max_waiting", "a lane's max_waiting is 1 to 65536"));
        }
        if self.dscp > 63 {
            return Err(("dscp", "a lane's dscp is 0 to 63"));
        }
        if self.priority > 6 {
            return Err(("priority", "a lane's priority is 0 to 6"));
        }
        Ok(())
    }

    fn from_wire(definition: &wire::Lane) -> Result<Self, FieldError> {
        for (field, value) in [
            ("window", definition.window),
            ("max_streams", definition.max_streams),
        ] {
            if value == 0 {
                let text = "is missing: a lane says its `window` (bytes that one stream may send \
                            before it is read) and its `max_streams` (calls open at once)";
                return Err(FieldError::new(field, Problem::Refused(text.to_owned())));
            }
        }
        let mut bounds = Self::new(definition.window, definition.max_streams);
        for (given, bound) in [
            (definition.connection_window, &mut bounds.connection_window),
            (definition.max_connections, &mut bounds.max_connections),
            (definition.max_waiting, &mut bounds.max_waiting),
        ] {
            if given != 0 {
                *bound = given;
            }
        }
        bounds.dscp = u8::try_from(definition.dscp).unwrap_or(u8::MAX);
        bounds.priority = u8::try_from(definition.priority).unwrap_or(u8::MAX);
        bounds.check().map_err(|(field, wanted)| {
            let text = wanted.to_owned();
            FieldError::new(field, Problem::OutOfBounds(text))
        })?;
        Ok(bounds)
    }
}

/// 32 windows where many streams share the connection, 4 otherwise, within what there is.
const fn least_connection_window(window: u32, max_streams: u32) -> u32 {
    let times = if max_streams > 64 { 32 } else { 4 };
    let wanted = window.saturating_mul(times);
    if wanted > LaneBounds::LARGEST_CONNECTION_WINDOW {
        return LaneBounds::LARGEST_CONNECTION_WINDOW;
    }
    wanted
}

/// Is this a name for a lane or a class?
pub(super) const fn is_plain_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > PLAIN_NAME_LIMIT || !bytes[0].is_ascii_lowercase() {
        return false;
    }
    let mut index = 0;
    while index < bytes.len() {
        let byte = bytes[index];
        if !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
            return false;
        }
        index += 1;
    }
    true
}

pub(super) fn check_name(name: &str, path: &str) -> Result<(), FieldError> {
    if is_plain_name(name) {
        return Ok(());
    }
    if name.is_empty() {
        return Err(FieldError::new(path, Problem::Missing));
    }
    if name.len() > PLAIN_NAME_LIMIT {
        let (length, limit) = (name.len(), PLAIN_NAME_LIMIT);
        return Err(FieldError::new(path, Problem::TooLong { length, limit }));
    }
    let given = name.to_owned();
    let wanted = "a name of lower-case letters, digits and `_`";
    Err(FieldError::new(path, Problem::Malformed { given, wanted }))
}

const fn is_built_in(name: &str) -> bool {
    let mut index = 0;
    while index < Lane::BUILT_IN.len() {
        if same_text(Lane::BUILT_IN[index].0.name, name) {
            return true;
        }
        index += 1;
    }
    false
}

impl PartialEq for Lane {
    fn eq(&self, other: &Self) -> bool {
        // The same definition is the same lane; most comparisons are of one of Sidelane's own.
        std::ptr::eq(self.0, other.0) || self.is(*other)
    }
}

impl Eq for Lane {}

impl std::hash::Hash for Lane {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl PartialOrd for Lane {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Lane {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.id(), self.name()).cmp(&(other.id(), other.name()))
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

impl std::fmt::Display for Lane {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}
