//! The check of a rule stops at the first field that is wrong. People want to hear all of it, so
//! that field is put right and the check is run again, until nothing is wrong.

use sidelane_proto::model::{FieldError, Problem, Rule, Vocabulary, WrittenRule};

/// The rule that is meant, or everything that is wrong with it.
pub(super) fn read(
    written: &WrittenRule,
    vocabulary: &Vocabulary,
) -> Result<Rule, Vec<FieldError>> {
    let mut repaired = written.clone();
    let mut errors: Vec<FieldError> = Vec::new();
    // Each round puts one field right, and a rule has less than thirty and ten a method.
    for _ in 0..30 + 10 * written.methods.len() {
        match repaired.read_with(vocabulary) {
            Ok(rule) if errors.is_empty() => return Ok(rule),
            Ok(_) => break,
            Err(error) => {
                // Without the methods that were put right none may be left to try again.
                let follows = error.path == "retry"
                    && matches!(error.problem, Problem::Refused(_))
                    && !errors.is_empty();
                if follows {
                    break;
                }
                let repaired = repair(&mut repaired, &error.path, vocabulary);
                errors.push(error);
                if !repaired {
                    break;
                }
            }
        }
    }
    Err(errors)
}

/// Makes the field at `path` right in itself; false where that cannot be.
fn repair(rule: &mut WrittenRule, path: &str, vocabulary: &Vocabulary) -> bool {
    if let Some((index, field)) = method_field(path) {
        let Some(method) = rule.methods.get_mut(index) else {
            return false;
        };
        let options = &mut method.options;
        match first(field) {
            "name" => method.name = format!("m{index}"),
            "timeout" => options.timeout.clear(),
            "hash_on" => options.hash_on.clear(),
            "idempotent" => {
                options.idempotent = false;
                (options.retry, options.hedge) = (None, None);
            }
            "retry" => options.retry = None,
            "hedge" => options.hedge = None,
            "limits" => options.limits.clear(),
            "fault" => options.fault = None,
            "authorization" => options.authorization = None,
            _ => return false,
        }
        return true;
    }
    let options = &mut rule.options;
    match first(path) {
        "service" => rule.service = "a.B".to_owned(),
        "category" => options.category = 0,
        // Either class goes with the general lane, and every class of one's own with some lane.
        "connection" | "connection_custom" => {
            options.connection_custom.clear();
            let name = options.lane.as_str();
            let classes = || vocabulary.classes();
            let lane = vocabulary
                .lanes()
                .into_iter()
                .find(|lane| lane.name() == name);
            let class =
                lane.and_then(|lane| classes().into_iter().find(|class| class.allows(lane)));
            let class = class.unwrap_or(sidelane_proto::model::ConnectionClass::Internal);
            options.connection = class.to_wire().0.into();
            if options.connection == 0 {
                class.name().clone_into(&mut options.connection_custom);
            }
        }
        "lane" => {
            let classes = vocabulary.classes();
            let class = classes.into_iter().find(|class| {
                let (number, definition) = class.to_wire();
                let own = definition.map(|definition| definition.name);
                match own {
                    Some(name) => name == options.connection_custom,
                    None => i32::from(number) == options.connection,
                }
            });
            let lanes = vocabulary.lanes();
            let mut fits = lanes
                .iter()
                .filter(|lane| class.is_some_and(|class| class.allows(**lane)));
            let Some(lane) = fits.next() else {
                return false;
            };
            lane.name().clone_into(&mut options.lane);
        }
        "timeout" => options.timeout.clear(),
        "max_timeout" => options.max_timeout.clear(),
        "load_balancing" => options.load_balancing = 0,
        "load_balancing_custom" => options.load_balancing_custom.clear(),
        "retry" => options.retry = None,
        "hash_header" => options.hash_header.clear(),
        "locality" => options.locality = 0,
        "slow_start" => options.slow_start.clear(),
        "breaker" => options.breaker = None,
        "outlier" => options.outlier = None,
        "split" => options.split = None,
        "limits" => options.limits.clear(),
        "concurrency" => options.concurrency = None,
        "fault" => options.fault = None,
        "authorization" => options.authorization = None,
        _ => return false,
    }
    true
}

/// `methods[2].timeout` is field `timeout` of method 2.
pub(super) fn method_field(path: &str) -> Option<(usize, &str)> {
    let (index, field) = path.strip_prefix("methods[")?.split_once("].")?;
    Some((index.parse().ok()?, field))
}

fn first(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or_default()
}
