//! What cannot be, and what cannot stand in one program beside each other: two rules of one service,
//! two lanes or two classes of one number or name. All of it runs when the program is compiled, so it is loops and
//! arrays; the message of a panic is the compile error that people read.

use sidelane_proto::model::lane::FIRST_OWN_LANE;
use sidelane_proto::model::{ConnectionClass, Flaw, Lane, LaneDefinition, Rule};

use super::message::Message;
use super::services::PREDEFINED;
use super::services::registry::RouteTable;

/// The most rules that a program is compiled with, the predefined ones included.
pub const RULES_LIMIT: usize = 16_384;
/// The most lanes of a project's own that a program is compiled with.
pub const LANES_LIMIT: usize = 64;
/// The most connection classes of a project's own that a program is compiled with.
pub const CLASSES_LIMIT: usize = 16;

/// At least twice the rules, so that a free place is near; a power of two.
const PLACES: usize = RULES_LIMIT * 2;

pub(super) const fn all(table: &RouteTable) {
    let mut services = Services {
        count: 0,
        places: [None; PLACES],
    };
    services.add_all(PREDEFINED);
    services.add_table(table);
    lanes_and_classes(table);
}

/// Refuses a rule that a type states. Its pair was refused already, if it had to be, and better
/// said once: rustc looked at the types. Where their relation was opened by hand, the table looks
/// at the values.
pub(super) const fn stated(rule: &Rule) {
    match rule.flaw() {
        None | Some(Flaw::Pair) => (),
        Some(flaw) => refuse(rule, flaw),
    }
}

/// Refuses a rule whose parts do not go together.
const fn one(rule: &Rule) {
    if let Some(flaw) = rule.flaw() {
        refuse(rule, flaw);
    }
}

const fn refuse(rule: &Rule, flaw: Flaw) -> ! {
    let message = Message::new("the rule of `")
        .and(text(&rule.service))
        .and("` cannot be: ");
    let message = match (flaw, flaw.method(rule)) {
        (Flaw::Pair, _) => message
            .and("lane `")
            .and(rule.lane.name())
            .and("` does not go with class ")
            .and(rule.class.name()),
        (Flaw::RetryOfOnce(_) | Flaw::HashOnStream(_) | Flaw::RetryOfStream(_), Some(method)) => {
            message
                .and("method `")
                .and(text(&method.name))
                .and("` ")
                .and(flaw.reason())
        }
        (_, Some(method)) => message
            .and("method `")
            .and(text(&method.name))
            .and("`: `")
            .and(flaw.field())
            .and("` ")
            .and(flaw.reason()),
        (_, None) => message
            .and("`")
            .and(flaw.field())
            .and("` ")
            .and(flaw.reason()),
    };
    message.and(" (").and(text(&rule.origin)).and(")").panic();
}

pub(super) const fn lanes_and_classes(table: &RouteTable) {
    let mut traffic = Traffic {
        lanes: [None; LANES_LIMIT],
        classes: [None; CLASSES_LIMIT],
    };
    traffic.add_table(table);
}

/// The rules seen so far, by a hash of their service: comparing each with each would take too long
/// for a compiler.
struct Services {
    count: usize,
    places: [Option<&'static Rule>; PLACES],
}

impl Services {
    const fn add_table(&mut self, table: &RouteTable) {
        self.add_all(table.own());
        let mut index = 0;
        while index < table.parts().len() {
            self.add_table(&table.parts()[index]);
            index += 1;
        }
    }

    const fn add_all(&mut self, rules: &'static [Rule]) {
        let mut index = 0;
        while index < rules.len() {
            self.add(&rules[index]);
            index += 1;
        }
    }

    const fn add(&mut self, rule: &'static Rule) {
        one(rule);
        self.count += 1;
        assert!(
            self.count <= RULES_LIMIT,
            "a program is compiled with at most 16384 rules, the predefined ones included"
        );
        let service = text(&rule.service);
        let mut place = hash(service);
        while let Some(other) = self.places[place % PLACES] {
            if same(text(&other.service), service) {
                Message::new("two rules are for `")
                    .and(service)
                    .and("`: one at ")
                    .and(text(&other.origin))
                    .and(", one at ")
                    .and(text(&rule.origin))
                    .panic();
            }
            place += 1;
        }
        self.places[place % PLACES] = Some(rule);
    }
}

/// The lanes and classes of a project's own that were seen so far, each once.
struct Traffic {
    lanes: [Option<Lane>; LANES_LIMIT],
    classes: [Option<ConnectionClass>; CLASSES_LIMIT],
}

impl Traffic {
    const fn add_table(&mut self, table: &RouteTable) {
        let mut index = 0;
        while index < table.given_classes().len() {
            self.add_class(table.given_classes()[index]);
            index += 1;
        }
        index = 0;
        while index < table.given_lanes().len() {
            self.add_lane(table.given_lanes()[index]);
            index += 1;
        }
        index = 0;
        while index < table.own().len() {
            self.add_class(table.own()[index].class);
            self.add_lane(table.own()[index].lane);
            index += 1;
        }
        index = 0;
        while index < table.parts().len() {
            self.add_table(&table.parts()[index]);
            index += 1;
        }
    }

    const fn add_lane(&mut self, lane: Lane) {
        if lane.id() < FIRST_OWN_LANE {
            return;
        }
        let mut index = 0;
        while index < LANES_LIMIT {
            let Some(other) = self.lanes[index] else {
                self.lanes[index] = Some(lane);
                let mut class = 0;
                while class < lane.definition().classes.len() {
                    self.add_class(lane.definition().classes[class]);
                    class += 1;
                }
                return;
            };
            if lane.is(other) {
                if !same_lane(lane.definition(), other.definition()) {
                    Message::new("lane `")
                        .and(lane.name())
                        .and("` is defined twice, and not alike")
                        .panic();
                }
                return;
            }
            clash(
                "lanes",
                (lane.name(), lane.id()),
                (other.name(), other.id()),
            );
            index += 1;
        }
        panic!("a program is compiled with at most 64 lanes of its own");
    }

    const fn add_class(&mut self, class: ConnectionClass) {
        let ConnectionClass::Own(own) = class else {
            return;
        };
        let mut index = 0;
        while index < CLASSES_LIMIT {
            let Some(other) = self.classes[index] else {
                self.classes[index] = Some(class);
                return;
            };
            if let ConnectionClass::Own(other_own) = other
                && class.is(other)
            {
                if !same_lanes(own.definition().lanes, other_own.definition().lanes) {
                    Message::new("connection class `")
                        .and(class.name())
                        .and("` is defined twice, and not alike")
                        .panic();
                }
                return;
            }
            let (number, other_number) = (class.number() as u16, other.number() as u16);
            clash(
                "connection classes",
                (class.name(), number),
                (other.name(), other_number),
            );
            index += 1;
        }
        panic!("a program is compiled with at most 16 connection classes of its own");
    }
}

/// Two that differ have neither number nor name in common.
const fn clash(what: &str, (name, number): (&str, u16), (other_name, other_number): (&str, u16)) {
    if number == other_number {
        Message::new("two ")
            .and(what)
            .and(" have the number ")
            .and_number(number)
            .and(": `")
            .and(other_name)
            .and("` and `")
            .and(name)
            .and("`")
            .panic();
    }
    if same(name, other_name) {
        Message::new("two ")
            .and(what)
            .and(" have the name `")
            .and(name)
            .and("`: ")
            .and_number(other_number)
            .and(" and ")
            .and_number(number)
            .panic();
    }
}

const fn same_lane(one: &LaneDefinition, other: &LaneDefinition) -> bool {
    let bounds = match (&one.bounds, &other.bounds) {
        (Some(one), Some(other)) => {
            one.window == other.window
                && one.connection_window == other.connection_window
                && one.max_streams == other.max_streams
                && one.max_connections == other.max_connections
                && one.max_waiting == other.max_waiting
                && one.dscp == other.dscp
                && one.priority == other.priority
        }
        (None, None) => true,
        _ => false,
    };
    if !bounds || one.classes.len() != other.classes.len() {
        return false;
    }
    let mut index = 0;
    while index < one.classes.len() {
        if !one.classes[index].is(other.classes[index]) {
            return false;
        }
        index += 1;
    }
    true
}

const fn same_lanes(one: &[Lane], other: &[Lane]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut index = 0;
    while index < one.len() {
        if !one[index].is(other[index]) {
            return false;
        }
        index += 1;
    }
    true
}

/// A text of a rule, for constants: what a `Cow` is otherwise read by is none of theirs.
#[allow(clippy::ptr_arg)]
const fn text<'a>(text: &'a std::borrow::Cow<'static, str>) -> &'a str {
    match text {
        std::borrow::Cow::Borrowed(text) => text,
        std::borrow::Cow::Owned(text) => text.as_str(),
    }
}

/// FNV-1a, which is short enough for a compiler.
const fn hash(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut hash: u32 = 0x811c_9dc5;
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u32).wrapping_mul(0x0100_0193);
        index += 1;
    }
    hash as usize
}

const fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
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
