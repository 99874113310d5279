//! `sidelane routes`: by which rules sidecars send the calls of the services that they know of, and
//! where each rule is from.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use sidelane_process::settings::Program;

use super::arguments::{self, Format, OUTPUT, Usage};
use super::figures::{self, SIDECARS};
use super::output::Table;
use super::{Failure, block_on, output, sidecar};

/// How long a sidecar may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// What is shown of each service, by its names in `/config`.
const COLUMNS: [&str; 8] = [
    "service",
    "class",
    "lane",
    "secure",
    "strategy",
    "endpoints",
    "rule",
    "origin",
];

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane routes",
        version: env!("CARGO_PKG_VERSION"),
        about: "Tells by which rules a sidecar sends calls, and where each is from",
        flags: &[SIDECARS, OUTPUT],
    },
    operand: None,
};

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let bases = figures::bases(&arguments.settings)?;
    let routes = block_on(async move {
        let mut routes = Vec::new();
        for base in bases {
            let page = sidecar::get(&base, "/config", ANSWER_LIMIT).await?;
            let config: Value = serde_json::from_slice(&page.body).unwrap_or_default();
            routes.extend(of(&base, &config));
        }
        Ok::<_, Failure>(routes)
    })??;
    match format {
        Format::Json => output::json(&json!({ "routes": routes }))?,
        Format::Table => output::text(&table(&routes))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Each service of one sidecar, with whose it is.
fn of(base: &str, config: &Value) -> Vec<Value> {
    let node = config["node"].as_str().unwrap_or(base);
    let services = config["services"].as_array().into_iter().flatten();
    let routes = services.map(|service| {
        let mut route = service.clone();
        route["node"] = json!(node);
        route
    });
    routes.collect()
}

fn table(routes: &[Value]) -> String {
    if routes.is_empty() {
        return "no service is known there: nothing was called yet, and no rule is compiled in\n"
            .to_owned();
    }
    let head: Vec<_> = ["node"].into_iter().chain(COLUMNS).collect();
    let mut table = Table::new(&head);
    for route in routes {
        let cells = head.iter().map(|column| match &route[*column] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        });
        table.row(cells);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_is_a_row_with_its_rule() {
        let config = json!({
            "node": "cart-1",
            "services": [{
                "service": "shop.v1.Orders", "class": "Internal", "lane": "general", "secure": true,
                "strategy": "ROUND_ROBIN", "endpoints": 2, "rule": "compiled",
                "origin": "orders.proto:8", "persistent": false,
            }],
        });
        let routes = of("http://a", &config);
        assert_eq!(routes[0]["node"], "cart-1");
        assert_eq!(
            routes[0]["persistent"], false,
            "programs are told all of it"
        );
        let table = table(&routes);
        let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        let expected =
            "cart-1 shop.v1.Orders Internal general true ROUND_ROBIN 2 compiled orders.proto:8";
        assert_eq!(row.join(" "), expected);
        assert!(super::table(&[]).starts_with("no service is known there"));
    }
}
