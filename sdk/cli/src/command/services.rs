//! `sidelane services`: every service that nodes offer, where it is reached, and in which lane.

use std::ffi::OsString;
use std::process::ExitCode;

use serde_json::{Value, json};
use sidelane_process::settings::Program;
use sidelane_proto::wire::admin::v1::ListServicesResponse;
use sidelane_proto::wire::control::v1::{Addresses, Endpoint, ServiceState};
use sidelane_proto::wire::routing::v1::{Connection, Rule};

use super::arguments::{self, CONTROL, Format, NETWORK, OUTPUT, Usage, plain};
use super::output::Table;
use super::{Failure, block_on, control, output};

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane services",
        version: env!("CARGO_PKG_VERSION"),
        about: "Lists the services that nodes offer, and where",
        flags: &[CONTROL, NETWORK, OUTPUT],
    },
    operand: None,
};

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let addresses = control::addresses(&arguments.settings)?;
    let network = arguments.settings.optional(&NETWORK, plain)?;
    let listed = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        control.list_services(&network.unwrap_or_default()).await
    })??;
    match format {
        Format::Json => output::json(&json(&listed))?,
        Format::Table => output::text(&table(&listed))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(listed: &ListServicesResponse) -> String {
    if listed.services.is_empty() {
        return "no node offers a service; start one with `sidelane sidecar --serve \
                SERVICE=ADDRESS …`\n"
            .to_owned();
    }
    let mut table = Table::new(&[
        "service", "node", "health", "class", "lane", "address", "weight", "version",
    ]);
    for state in &listed.services {
        if state.endpoints.is_empty() {
            let mut row = vec![state.service.clone(), "nobody now".to_owned()];
            row.resize(8, "-".to_owned());
            table.row(row);
        }
        for endpoint in &state.endpoints {
            table.row(row(state, endpoint));
        }
    }
    table.text()
}

fn row(state: &ServiceState, endpoint: &Endpoint) -> [String; 8] {
    // Where a node brings no rule for what it offers, the default rule holds.
    let rule = endpoint.rule.as_ref();
    let class = rule.map_or(Connection::Internal, Rule::connection);
    let own = rule.and_then(|rule| rule.class_definition.as_ref());
    let lane = rule.map_or("general", |rule| rule.lane.as_str());
    let addresses = endpoint.addresses.clone().unwrap_or_default();
    let address = match (own, class) {
        (Some(own), _) => own_address(&addresses, &own.name),
        (None, Connection::External) => addresses.external,
        (None, _) => addresses.internal,
    };
    let built_in = || class.as_str_name().to_lowercase();
    let class = own.map_or_else(built_in, |own| own.name.clone());
    let version = if endpoint.version.is_empty() {
        "-"
    } else {
        &endpoint.version
    };
    [
        state.service.clone(),
        endpoint.node_id.clone(),
        endpoint.health().as_str_name().to_lowercase(),
        class,
        lane.to_owned(),
        address,
        weight(endpoint).to_string(),
        version.to_owned(),
    ]
}

/// Where a node takes calls of a class of a project's own.
fn own_address(addresses: &Addresses, name: &str) -> String {
    let own = addresses.own.iter().find(|own| {
        let class = own.class.as_ref();
        class.is_some_and(|class| class.name == name)
    });
    own.map_or_else(|| "-".to_owned(), |own| own.address.clone())
}

/// On the wire nothing means the usual weight.
fn weight(endpoint: &Endpoint) -> u32 {
    match endpoint.weight {
        0 => 100,
        weight => weight,
    }
}

fn json(listed: &ListServicesResponse) -> Value {
    let version = listed.version.clone().unwrap_or_default();
    let service = |state: &ServiceState| {
        json!({
            "service": state.service,
            "ever_seen": state.ever_seen,
            "endpoints": state.endpoints.iter().map(endpoint_json).collect::<Vec<_>>(),
        })
    };
    json!({
        "services": listed.services.iter().map(service).collect::<Vec<_>>(),
        "version": { "store_id": version.store_id, "counter": version.counter },
    })
}

fn endpoint_json(endpoint: &Endpoint) -> Value {
    let addresses = endpoint.addresses.clone().unwrap_or_default();
    let locality = endpoint.locality.clone().unwrap_or_default();
    json!({
        "node_id": endpoint.node_id,
        "generation": endpoint.generation,
        "identity": endpoint.identity,
        "addresses": {
            "internal": addresses.internal,
            "external": addresses.external,
            "own": addresses.own.iter().map(|own| json!({
                "class": own.class.as_ref().map(|class| &class.name),
                "address": own.address,
            })).collect::<Vec<_>>(),
        },
        "locality": { "region": locality.region, "zone": locality.zone },
        "health": endpoint.health().as_str_name(),
        "weight": weight(endpoint),
        "version": endpoint.version,
        "labels": endpoint.labels,
        "rule": endpoint.rule.as_ref().map(rule_json),
    })
}

fn rule_json(rule: &Rule) -> Value {
    json!({
        "service": rule.service,
        "category": rule.category().as_str_name(),
        "class": match &rule.class_definition {
            Some(own) => own.name.as_str(),
            None => rule.connection().as_str_name(),
        },
        "lane": rule.lane,
        "secure": rule.secure,
        "persistent": rule.persistent,
        "load_balancing": rule.load_balancing().as_str_name(),
        "origin": rule.origin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidelane_proto::wire::control::v1::{ClassAddress, Health};
    use sidelane_proto::wire::routing::v1::Class;

    fn listed() -> ListServicesResponse {
        let addresses = Addresses {
            internal: "127.0.0.1:1".to_owned(),
            external: "127.0.0.1:2".to_owned(),
            own: Vec::new(),
        };
        let plain = Endpoint {
            node_id: "a".to_owned(),
            addresses: Some(addresses),
            health: Health::Healthy.into(),
            ..Endpoint::default()
        };
        let ruled = Endpoint {
            node_id: "b".to_owned(),
            version: "v2".to_owned(),
            weight: 10,
            health: Health::Draining.into(),
            rule: Some(Rule {
                connection: Connection::External.into(),
                lane: "ingress_data".to_owned(),
                ..Rule::default()
            }),
            ..plain.clone()
        };
        let state = |service: &str, endpoints| ServiceState {
            service: service.to_owned(),
            ever_seen: true,
            endpoints,
        };
        ListServicesResponse {
            services: vec![
                state("x.Empty", vec![]),
                state("x.Full", vec![plain, ruled]),
            ],
            version: None,
        }
    }

    #[test]
    fn the_address_is_that_of_the_class() {
        let text = table(&listed());
        let rows: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            rows[1..],
            [
                "x.Empty nobody now - - - - - -",
                "x.Full a healthy internal general 127.0.0.1:1 100 -",
                "x.Full b draining external ingress_data 127.0.0.1:2 10 v2",
            ]
        );
    }

    #[test]
    fn a_class_of_ones_own_is_shown_by_its_name_and_with_its_address() {
        let mut listed = listed();
        let endpoint = &mut listed.services[1].endpoints[1];
        let partner = Class {
            number: 40,
            name: "partner".to_owned(),
            lanes: vec!["general".to_owned()],
        };
        let rule = endpoint.rule.as_mut().unwrap();
        (rule.connection, rule.lane) = (0, "general".to_owned());
        rule.class_definition = Some(partner.clone());
        let row = |listed: &ListServicesResponse| {
            let text = table(listed);
            let last = text.lines().last().unwrap();
            last.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row(&listed), "x.Full b draining partner general - 10 v2");
        let endpoint = &mut listed.services[1].endpoints[1];
        endpoint.addresses.as_mut().unwrap().own = vec![ClassAddress {
            class: Some(partner),
            address: "127.0.0.1:3".to_owned(),
        }];
        assert_eq!(
            row(&listed),
            "x.Full b draining partner general 127.0.0.1:3 10 v2"
        );
        let json = json(&listed);
        let endpoint = &json["services"][1]["endpoints"][1];
        assert_eq!(endpoint["rule"]["class"], "partner");
        assert_eq!(endpoint["addresses"]["own"][0]["address"], "127.0.0.1:3");
    }

    #[test]
    fn programs_see_rules_and_weights() {
        let json = json(&listed());
        assert_eq!(json["services"][0]["endpoints"], json!([]));
        let endpoints = &json["services"][1]["endpoints"];
        assert_eq!(endpoints[0]["weight"], 100);
        assert_eq!(endpoints[0]["rule"], Value::Null);
        assert_eq!(endpoints[1]["rule"]["lane"], "ingress_data");
        assert_eq!(endpoints[1]["health"], "DRAINING");
    }

    #[test]
    fn a_mesh_without_services_says_how_to_offer_one() {
        assert!(table(&ListServicesResponse::default()).starts_with("no node offers a service;"));
    }
}
