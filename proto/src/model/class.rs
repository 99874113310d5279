//! Connection classes: from where a call may come. Two are Sidelane's own; a project can add more,
//! each with a listener of its own.

use super::error::{FieldError, Problem};
use super::lane::{Lane, is_plain_name};
use super::registry::Registry;
use crate::wire::routing::v1 as wire;

/// The first number that a project may give to a class.
pub const FIRST_OWN_CLASS: u8 = 16;
/// The most classes of projects that one process learns from others.
pub const LEARNED_CLASSES_LIMIT: usize = 16;

/// From where a call may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConnectionClass {
    /// Node to node, on the internal bind address.
    Internal,
    /// Users and peers, on the external bind address.
    External,
    /// A project's own, on its own bind address.
    Own(OwnClass),
}

/// A class that a project defined. Two with the same number and name are the same.
#[derive(Clone, Copy)]
pub struct OwnClass(&'static ClassDefinition);

/// What a project says of a class of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassDefinition {
    /// From [`FIRST_OWN_CLASS`], unique in the mesh.
    pub number: u8,
    /// Lower-case letters, digits and `_`.
    pub name: &'static str,
    /// Those of Sidelane's own lanes that go with it. A lane of one's own names its classes.
    pub lanes: &'static [Lane],
}

static KNOWN: Registry<OwnClass> = Registry::new();

impl ConnectionClass {
    /// Sidelane's own, in order.
    pub const BUILT_IN: [Self; 2] = [Self::Internal, Self::External];

    /// The name as it is written in rules and shown to people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Internal => "Internal",
            Self::External => "External",
            Self::Own(class) => class.0.name,
        }
    }

    /// The number of this class in the preamble of a link.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::External => 2,
            Self::Own(class) => class.0.number,
        }
    }

    /// The class with this number, if it is known here.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Internal),
            2 => Some(Self::External),
            _ => KNOWN.find(|class| class.0.number == number).map(Self::Own),
        }
    }

    /// The class of this name, if it is known here; Sidelane's own in any case of letters.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let built_in = Self::BUILT_IN.into_iter();
        built_in
            .into_iter()
            .find(|class| class.name().eq_ignore_ascii_case(name))
            .or_else(|| KNOWN.find(|class| class.0.name == name).map(Self::Own))
    }

    /// The class of this name among those of projects.
    pub(super) fn own_among(known: &[Self], name: &str) -> Result<Self, Problem> {
        let own = || known.iter().filter(|class| matches!(class, Self::Own(_)));
        own()
            .find(|class| class.name() == name)
            .copied()
            .ok_or_else(|| {
                let names = own().map(|class| class.name());
                Problem::unknown_name(name, "connection class of one's own", names)
            })
    }

    /// All classes that are known here, Sidelane's own first.
    #[must_use]
    pub fn known() -> Vec<Self> {
        let own = KNOWN.all().into_iter().map(Self::Own);
        Self::BUILT_IN.into_iter().chain(own).collect()
    }

    /// Are they the same? As `==`, for constants.
    #[must_use]
    pub const fn is(self, other: Self) -> bool {
        match (self, other) {
            (Self::Own(one), Self::Own(other)) => one.is(other),
            (Self::Internal, Self::Internal) | (Self::External, Self::External) => true,
            _ => false,
        }
    }

    /// Reads a class from the wire: its number among Sidelane's own, or a definition. `path` is
    /// the field of the number.
    ///
    /// # Errors
    /// Unspecified and unknown numbers, and definitions that cannot be.
    pub fn from_wire(
        number: i32,
        definition: Option<&wire::Class>,
        path: &str,
    ) -> Result<Self, FieldError> {
        match (wire::Connection::try_from(number), definition) {
            (Ok(wire::Connection::Internal), None) => Ok(Self::Internal),
            (Ok(wire::Connection::External), None) => Ok(Self::External),
            (Ok(wire::Connection::Unspecified), Some(definition)) => OwnClass::learn(definition)
                .map(Self::Own)
                .map_err(|error| error.within("class_definition")),
            (Ok(wire::Connection::Unspecified), None) => {
                Err(FieldError::new(path, Problem::Missing))
            }
            (Ok(_), Some(_)) => {
                let text = "class_definition names another class".to_owned();
                Err(FieldError::new(path, Problem::Contradiction(text)))
            }
            (Err(_), _) => Err(FieldError::new(
                path,
                Problem::Unknown {
                    given: number.to_string(),
                    what: "connection class",
                },
            )),
        }
    }

    /// The class as two peers name it to each other, who both know it: a number among Sidelane's
    /// own, or a name.
    #[must_use]
    pub fn spoken(self) -> (i32, &'static str) {
        match self {
            Self::Internal | Self::External => (self.to_wire().0.into(), ""),
            Self::Own(class) => (0, class.0.name),
        }
    }

    /// The class that a peer names so, if it is known here.
    #[must_use]
    pub fn from_spoken(number: i32, name: &str) -> Option<Self> {
        let own = |class: &Self| class.spoken() == (number, name);
        Self::known().into_iter().find(own)
    }

    /// The class as the wire has it: a number, or a definition.
    #[must_use]
    pub fn to_wire(self) -> (wire::Connection, Option<wire::Class>) {
        match self {
            Self::Internal => (wire::Connection::Internal, None),
            Self::External => (wire::Connection::External, None),
            Self::Own(class) => (wire::Connection::Unspecified, Some(class.to_wire())),
        }
    }
}

impl std::fmt::Display for ConnectionClass {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

impl OwnClass {
    /// A class of a project, for constants.
    ///
    /// # Panics
    /// At compile time, where it is used in a constant: the number or the name is Sidelane's own,
    /// or the name is none.
    #[must_use]
    pub const fn define(definition: &'static ClassDefinition) -> Self {
        assert!(
            definition.number >= FIRST_OWN_CLASS,
            "numbers of classes below 16 are Sidelane's own"
        );
        assert!(
            is_plain_name(definition.name),
            "the name of a class has lower-case letters, digits and `_`, at most 63"
        );
        assert!(
            !is_built_in(definition.name),
            "this name is that of a class of Sidelane's own"
        );
        Self(definition)
    }

    /// What was said of it.
    #[must_use]
    pub const fn definition(self) -> &'static ClassDefinition {
        self.0
    }

    /// Makes a class known to the whole process, as one that it was compiled with.
    pub fn remember(self) {
        // Those that were compiled in are bounded by the program.
        let _ = KNOWN.add(self, usize::MAX);
    }

    const fn is(self, other: Self) -> bool {
        self.0.number == other.0.number && same_text(self.0.name, other.0.name)
    }

    /// Takes in what a file or somebody else says of a class; it is kept as long as the process
    /// lives.
    ///
    /// # Errors
    /// Names the field that cannot be, or says that there are too many already.
    pub fn learn(definition: &wire::Class) -> Result<Self, FieldError> {
        let (number, lanes) = read(definition)?;
        let name = definition.name.as_str();
        if let Some(known) = KNOWN.find(|class| class.0.number == number && class.0.name == name) {
            return Ok(known);
        }
        let many = |problem| FieldError::new("name", problem);
        KNOWN.room(LEARNED_CLASSES_LIMIT).map_err(many)?;
        let class = Self::keep(number, name, lanes);
        KNOWN.add(class, LEARNED_CLASSES_LIMIT).map_err(many)
    }

    /// The class that a definition means, whatever else the process knows; for those who read
    /// whole sets of rules, which bring their own. It is kept as long as the process lives.
    ///
    /// # Errors
    /// Names the field that cannot be.
    pub(super) fn read(definition: &wire::Class) -> Result<Self, FieldError> {
        let (number, lanes) = read(definition)?;
        let same = |class: &Self| {
            let known = class.definition();
            (known.number, known.name, known.lanes) == (number, &*definition.name, &*lanes)
        };
        if let Some(known) = KNOWN.find(same) {
            return Ok(known);
        }
        Ok(Self::keep(number, &definition.name, lanes))
    }

    fn keep(number: u8, name: &str, lanes: Vec<Lane>) -> Self {
        Self(Box::leak(Box::new(ClassDefinition {
            number,
            name: Box::leak(name.into()),
            lanes: Box::leak(lanes.into_boxed_slice()),
        })))
    }

    /// What was said of it, as the wire has it.
    #[must_use]
    pub fn to_wire(self) -> wire::Class {
        wire::Class {
            number: self.0.number.into(),
            name: self.0.name.to_owned(),
            lanes: self
                .0
                .lanes
                .iter()
                .map(|lane| lane.name().to_owned())
                .collect(),
        }
    }
}

/// The parts of a definition that become something else: its number and its lanes.
fn read(definition: &wire::Class) -> Result<(u8, Vec<Lane>), FieldError> {
    let number = u8::try_from(definition.number)
        .ok()
        .filter(|number| *number >= FIRST_OWN_CLASS)
        .ok_or_else(|| {
            let given = definition.number.to_string();
            let wanted = "a number of a class of one's own (16 to 255)";
            FieldError::new("number", Problem::Malformed { given, wanted })
        })?;
    let name = &definition.name;
    super::lane::check_name(name, "name")?;
    if is_built_in(name) {
        let text = format!("`{name}` is a class of Sidelane's own; take another name");
        return Err(FieldError::new("name", Problem::Refused(text)));
    }
    let mut lanes = Vec::new();
    for (index, name) in definition.lanes.iter().enumerate() {
        let lane = Lane::BUILT_IN.into_iter().find(|lane| lane.name() == name);
        lanes.push(lane.ok_or_else(|| {
            let what = "lane of Sidelane's own";
            let problem = Problem::unknown_name(name, what, Lane::BUILT_IN.map(Lane::name));
            FieldError::new(format!("lanes[{index}]"), problem)
        })?);
    }
    Ok((number, lanes))
}

/// Is this the name of a class of Sidelane's own, in the case in which projects write theirs?
const fn is_built_in(name: &str) -> bool {
    same_text(name, "internal") || same_text(name, "external")
}

/// Text equality for constants.
pub(super) const fn same_text(one: &str, other: &str) -> bool {
    same_bytes(one.as_bytes(), other.as_bytes())
}

/// The same for parts of texts.
pub(super) const fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut index = 0;
    while index < one.len() {
        if one[index] != other[index] {
            return false;
        }
        index += 1;
    }
    true
}

impl PartialEq for OwnClass {
    fn eq(&self, other: &Self) -> bool {
        self.is(*other)
    }
}

impl Eq for OwnClass {}

impl std::hash::Hash for OwnClass {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.number.hash(state);
    }
}

impl PartialOrd for OwnClass {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OwnClass {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0.number, self.0.name).cmp(&(other.0.number, other.0.name))
    }
}

impl std::fmt::Debug for OwnClass {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.0.name)
    }
}
