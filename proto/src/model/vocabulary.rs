//! The lanes and classes that a set of rules may name: Sidelane's own and a project's. Each set
//! brings its own, so that two sets (an old and a new one, say) can be read in one process though
//! they define the same name differently.

use super::class::{ConnectionClass, OwnClass};
use super::error::{FieldError, Problem};
use super::lane::Lane;
use crate::wire::routing::v1 as wire;

/// The most lanes that one set of rules may define.
pub const LANES_LIMIT: usize = 64;
/// The most classes that one set of rules may define.
pub const CLASSES_LIMIT: usize = 16;

/// The lanes and classes that rules may name.
///
/// ```
/// use sidelane_proto::model::Vocabulary;
/// use sidelane_proto::wire::routing::v1 as wire;
///
/// let mut vocabulary = Vocabulary::built_in();
/// let telemetry = wire::Lane {
///     id: 20,
///     name: "telemetry".to_owned(),
///     connections: vec![wire::Connection::Internal.into()],
///     window: 256 * 1024,
///     max_streams: 64,
///     ..Default::default()
/// };
/// vocabulary.define_lane(&telemetry, "telemetry.proto:7").unwrap();
/// let error = vocabulary.define_lane(&telemetry, "other.proto:9").unwrap_err();
/// assert!(error.to_string().contains("telemetry.proto:7"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    lanes: Vec<Defined<Lane>>,
    classes: Vec<Defined<OwnClass>>,
}

/// What is defined, and where: `file:line`, or empty where nobody knows.
#[derive(Debug, Clone)]
struct Defined<T> {
    what: T,
    origin: String,
}

impl Vocabulary {
    /// Sidelane's own only.
    #[must_use]
    pub fn built_in() -> Self {
        Self::default()
    }

    /// Everything that this process knows.
    #[must_use]
    pub fn known() -> Self {
        let origin = String::new;
        let lanes = Lane::known().into_iter();
        let lanes = lanes.filter(|lane| lane.bounds().is_some());
        let classes = ConnectionClass::known().into_iter();
        let own = |class| match class {
            ConnectionClass::Own(own) => Some(own),
            ConnectionClass::Internal | ConnectionClass::External => None,
        };
        Self {
            lanes: lanes
                .map(|what| Defined {
                    what,
                    origin: origin(),
                })
                .collect(),
            classes: classes
                .filter_map(own)
                .map(|what| Defined {
                    what,
                    origin: origin(),
                })
                .collect(),
        }
    }

    /// Adds a class that is defined at `origin`.
    ///
    /// # Errors
    /// The field that cannot be, or that clashes with a class that is defined already.
    pub fn define_class(
        &mut self,
        definition: &wire::Class,
        origin: &str,
    ) -> Result<OwnClass, FieldError> {
        let class = OwnClass::read(definition)?;
        for known in &self.classes {
            let (number, name) = (known.what.definition().number, known.what.definition().name);
            if number == class.definition().number {
                let given = format!("{number} ");
                return Err(taken("number", &given, "class", name, &known.origin));
            }
            if name == class.definition().name {
                return Err(taken("name", "", "class", name, &known.origin));
            }
        }
        room(self.classes.len(), CLASSES_LIMIT)?;
        let origin = origin.to_owned();
        self.classes.push(Defined {
            what: class,
            origin,
        });
        Ok(class)
    }

    /// Adds a lane that is defined at `origin`; the classes that it names are to be defined before.
    ///
    /// # Errors
    /// The field that cannot be, or that clashes with a lane that is defined already.
    pub fn define_lane(
        &mut self,
        definition: &wire::Lane,
        origin: &str,
    ) -> Result<Lane, FieldError> {
        let lane = Lane::read(definition, &self.classes())?;
        for known in &self.lanes {
            let (id, name) = (known.what.id(), known.what.name());
            if id == lane.id() {
                let given = format!("{id} ");
                return Err(taken("id", &given, "lane", name, &known.origin));
            }
            if name == lane.name() {
                return Err(taken("name", "", "lane", name, &known.origin));
            }
        }
        room(self.lanes.len(), LANES_LIMIT)?;
        let origin = origin.to_owned();
        self.lanes.push(Defined { what: lane, origin });
        Ok(lane)
    }

    /// All lanes, Sidelane's own first.
    #[must_use]
    pub fn lanes(&self) -> Vec<Lane> {
        let own = self.lanes.iter().map(|lane| lane.what);
        Lane::BUILT_IN.into_iter().chain(own).collect()
    }

    /// All classes, Sidelane's own first.
    #[must_use]
    pub fn classes(&self) -> Vec<ConnectionClass> {
        let own = self.classes.iter().map(|class| class.what);
        let own = own.map(ConnectionClass::Own);
        ConnectionClass::BUILT_IN.into_iter().chain(own).collect()
    }
}

fn taken(path: &str, given: &str, what: &str, name: &str, origin: &str) -> FieldError {
    let origin = match origin {
        "" => String::new(),
        origin => format!(" ({origin})"),
    };
    let text = format!("{given}is taken by {what} `{name}`{origin}; take another {path}");
    FieldError::new(path, Problem::Refused(text))
}

fn room(count: usize, limit: usize) -> Result<(), FieldError> {
    let count = count + 1;
    if count > limit {
        return Err(FieldError::new("name", Problem::TooMany { count, limit }));
    }
    Ok(())
}
