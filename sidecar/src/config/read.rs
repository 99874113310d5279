//! Readers of the sidecar's single settings, and the rules between several of them. Each says what
//! would fit; the flag, the value and its origin are put in front by the settings.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sidelane_process::address::{self, AddressError, DialAddress, HostPort, ListenAddress};
use sidelane_process::settings::{
    Environment, InvalidSetting, Item, LOG, Listener, Origin, Settings, value,
};
use sidelane_proto::model::endpoint::{LABEL_LIMIT, LABELS_LIMIT, WEIGHT_LIMIT};
use sidelane_proto::model::node::OFFERS_LIMIT;
use sidelane_proto::model::{Locality, Network, NodeId, ServiceName};

use super::table::{DATA, LABEL, LISTEN, OUTBOUND, SERVE};
use super::{Advertise, Config, Serve, Unknown};
use crate::health::CheckBy;

/// What `--link-max-age` may say: links are looked at every second.
const LINK_AGES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(24 * 3_600)];
/// Local services are not looked at more often than this, nor less often than each hour.
const INTERVALS: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(3_600)];
/// The most looks that may be demanded in a row.
const LOOKS_LIMIT: u32 = 100;

/// Only for a sidecar that is linked into a program.
pub(super) fn refuse_log(settings: &Settings) -> Result<(), InvalidSetting> {
    match settings.item(&LOG) {
        Some(item) if *item.origin() != Origin::Default => Err(item.refuse(
            "a program that has its sidecar linked in says by its own `tracing` subscriber what \
             is logged; remove this setting",
        )),
        _ => Ok(()),
    }
}

/// The id also names a folder, so it cannot be one that means another folder.
pub(super) fn node(text: &str) -> Result<NodeId, String> {
    if text.bytes().all(|byte| byte == b'.') {
        return Err("a node's name needs more than dots".to_owned());
    }
    NodeId::new(text).map_err(|error| error.problem.to_string())
}

pub(super) fn network(text: &str) -> Result<Network, String> {
    Network::new(text).map_err(|error| error.problem.to_string())
}

pub(super) fn control(text: &str) -> Result<HostPort, String> {
    if text == "auto" {
        return Err("not built yet: name the addresses of control, HOST:PORT,…".to_owned());
    }
    text.parse()
        .map_err(|error: AddressError| error.to_string())
}

pub(super) fn outbound(settings: &Settings) -> Result<Vec<ListenAddress>, InvalidSetting> {
    let mut addresses: Vec<ListenAddress> = Vec::new();
    for item in settings.items(&OUTBOUND) {
        let address = item.parse(str::parse)?;
        let any_port = matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
        if !any_port && addresses.contains(&address) {
            return Err(item.refuse("is there twice; keep one of them"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

pub(super) fn external(text: &str) -> Result<Option<SocketAddr>, AddressError> {
    if text == "off" {
        Ok(None)
    } else {
        address::listen_tcp(text).map(Some)
    }
}

pub(super) fn advertise(text: &str) -> Result<Advertise, String> {
    // A bare IPv6 address has colons, too, but no port.
    let (host, port) = match text.parse::<HostPort>() {
        Ok(HostPort { host, port }) => (host, Some(port)),
        Err(AddressError::NoPort(_)) => (
            address::host(text).map_err(|error| error.to_string())?,
            None,
        ),
        Err(error) => return Err(error.to_string()),
    };
    if host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified()) {
        return Err("no peer can dial an unspecified address; name one that they can".to_owned());
    }
    Ok(Advertise { host, port })
}

pub(super) fn locality(text: &str) -> Result<Locality, &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let good = |part: &str| !part.is_empty() && part.bytes().all(plain);
    match text.split_once('/') {
        Some((region, zone)) if good(region) && good(zone) => Ok(Locality {
            region: Arc::from(region),
            zone: Arc::from(zone),
        }),
        _ => Err("not a locality; write REGION/ZONE, such as eu-central/eu-central-1a"),
    }
}

pub(super) fn weight(text: &str) -> Result<u32, String> {
    let known = text
        .parse()
        .ok()
        .filter(|it| (1..=WEIGHT_LIMIT).contains(it));
    known.ok_or_else(|| {
        format!("not a weight; write a whole number from 1 to {WEIGHT_LIMIT}, such as 300")
    })
}

pub(super) fn unknown(text: &str) -> Result<Unknown, String> {
    let choices = [
        ("refuse", Unknown::Refuse),
        ("passthrough", Unknown::Passthrough),
    ];
    value::choice(text, &choices).map_err(|error| error.to_string())
}

/// Reads `--label`; the same key twice is an error that names both.
pub(super) fn labels(settings: &Settings) -> Result<BTreeMap<String, String>, InvalidSetting> {
    let mut read: BTreeMap<String, (String, &Item)> = BTreeMap::new();
    for item in settings.items(&LABEL) {
        let (key, value) = item.parse(label)?;
        if let Some((_, first)) = read.get(&key) {
            return Err(item.refuse(format!("label `{key}` is set by {first} already")));
        }
        if read.len() == LABELS_LIMIT {
            return Err(item.refuse(format!("more than {LABELS_LIMIT} labels")));
        }
        read.insert(key, (value, item));
    }
    let labels = read.into_iter();
    Ok(labels.map(|(key, (value, _))| (key, value)).collect())
}

fn label(text: &str) -> Result<(String, String), String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err("write KEY=VALUE, such as version=v2".to_owned());
    };
    let (key, value) = (key.trim(), value.trim());
    for (what, text) in [("key", key), ("value", value)] {
        if text.is_empty() {
            return Err(format!("the {what} is empty; write KEY=VALUE"));
        }
        if text.len() > LABEL_LIMIT {
            return Err(format!("a {what} has at most {LABEL_LIMIT} bytes"));
        }
    }
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn check_by(text: &str) -> Result<CheckBy, String> {
    let choices = [("grpc", CheckBy::Grpc), ("tcp", CheckBy::Tcp)];
    value::choice(text, &choices).map_err(|error| error.to_string())
}

pub(super) fn between_looks(text: &str) -> Result<Duration, String> {
    let interval = value::duration(text).map_err(|error| error.to_string())?;
    let [least, most] = INTERVALS;
    if interval < least || interval > most {
        return Err("must be from 50ms to 1h".to_owned());
    }
    Ok(interval)
}

pub(super) fn link_age(text: &str) -> Result<Duration, String> {
    let age = value::duration(text).map_err(|error| error.to_string())?;
    let [least, most] = LINK_AGES;
    if age < least || age > most {
        return Err("must be from 1s to 24h".to_owned());
    }
    Ok(age)
}

pub(super) fn look_timeout(text: &str) -> Result<Duration, String> {
    let limit = value::duration(text).map_err(|error| error.to_string())?;
    let [_, most] = INTERVALS;
    if limit.is_zero() || limit > most {
        return Err("must be from 1ms to 1h".to_owned());
    }
    Ok(limit)
}

pub(super) fn looks(text: &str) -> Result<u32, String> {
    let wanted = || format!("must be a number from 1 to {LOOKS_LIMIT}");
    let looks = text.parse().map_err(|_| wanted())?;
    (1..=LOOKS_LIMIT)
        .contains(&looks)
        .then_some(looks)
        .ok_or_else(wanted)
}

/// Reads `--listen`; the same class twice is an error that names both.
pub(super) fn listen(settings: &Settings) -> Result<Vec<(String, SocketAddr)>, InvalidSetting> {
    let mut read: Vec<(String, &Item, SocketAddr)> = Vec::new();
    for item in settings.items(&LISTEN) {
        let (class, address) = item.parse(listen_item)?;
        if let Some((_, first, _)) = read.iter().find(|(known, ..)| *known == class) {
            return Err(item.refuse(format!("class `{class}` listens by {first} already")));
        }
        read.push((class, item, address));
    }
    Ok(read
        .into_iter()
        .map(|(class, _, address)| (class, address))
        .collect())
}

fn listen_item(text: &str) -> Result<(String, SocketAddr), String> {
    let Some((class, address)) = text.split_once('=') else {
        return Err("write CLASS=ADDRESS, such as partner=0.0.0.0:15007".to_owned());
    };
    let class = class.trim();
    if let Some(flag) = ["internal", "external"]
        .into_iter()
        .find(|own| class.eq_ignore_ascii_case(own))
    {
        return Err(format!(
            "class {class} has a flag of its own: write --{flag} {address}"
        ));
    }
    let address = address::listen_tcp(address.trim())
        .map_err(|error| format!("the address {address:?} {error}"))?;
    Ok((class.to_owned(), address))
}

/// Reads `--serve`; the same service twice is an error that names both.
pub(super) fn serve(settings: &Settings) -> Result<Vec<Serve>, InvalidSetting> {
    let mut served: Vec<(ServiceName, &Item)> = Vec::new();
    let mut read = Vec::new();
    for item in settings.items(&SERVE) {
        let serve = item.parse(serve_item)?;
        for service in &serve.services {
            if let Some((_, first)) = served.iter().find(|(known, _)| known == service) {
                return Err(item.refuse(format!("{service} is served by {first} already")));
            }
            served.push((service.clone(), item));
        }
        if served.len() > OFFERS_LIMIT {
            return Err(item.refuse(format!("more than {OFFERS_LIMIT} services; use more nodes")));
        }
        read.push(serve);
    }
    Ok(read)
}

fn serve_item(text: &str) -> Result<Serve, String> {
    let Some((names, address)) = text.split_once('=') else {
        return Err("write SERVICE=ADDRESS, such as shop.v1.Orders=127.0.0.1:50051".to_owned());
    };
    let service = |name: &str| {
        ServiceName::new(name.trim()).map_err(|error| format!("a service {}", error.problem))
    };
    Ok(Serve {
        services: names.split(',').map(service).collect::<Result<_, _>>()?,
        address: address
            .trim()
            .parse()
            .map_err(|error| format!("the address {address:?} {error}"))?,
    })
}

/// A local service that is one of our own listeners would make calls go round in circles.
pub(super) fn refuse_loops(
    settings: &Settings,
    config: &Config,
    listeners: &[Listener<'_>],
) -> Result<(), InvalidSetting> {
    for (item, serve) in settings.items(&SERVE).iter().zip(&config.serve) {
        let own = match &serve.address {
            DialAddress::Tcp(target) => listeners
                .iter()
                .find(|listener| is_at(target, listener.address))
                .map(|listener| listener.item.to_string()),
            DialAddress::Unix(path) => config
                .outbound
                .contains(&ListenAddress::Unix(path.clone()))
                .then(|| format!("--outbound unix:{}", path.display())),
        };
        if let Some(own) = own {
            return Err(item.refuse(format!("leads back to this sidecar: {own} listens there")));
        }
    }
    Ok(())
}

fn is_at(target: &HostPort, listener: SocketAddr) -> bool {
    let ip = match target.host.as_str() {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        host => host.parse().ok(),
    };
    target.port == listener.port()
        && ip.is_some_and(|ip: IpAddr| {
            ip == listener.ip() || (listener.ip().is_unspecified() && ip.is_loopback())
        })
}

/// Gives `--data` its default, and says so where it will not last.
pub(super) fn derive_data(
    settings: &mut Settings,
    environment: &Environment,
    node: Option<&NodeId>,
    outbound: &[ListenAddress],
) -> Result<Option<String>, InvalidSetting> {
    if settings.item(&DATA).is_some() {
        return Ok(None);
    }
    let folder = match (node, outbound.first(), settings.item(&OUTBOUND)) {
        (Some(node), ..) => node.to_string(),
        (None, Some(ListenAddress::Tcp(address)), Some(item)) if address.port() == 0 => {
            return Err(item.refuse(
                "with any free port there is nothing to know this node by after a restart; name \
                 it with --node, or its folder with --data",
            ));
        }
        (None, first, _) => {
            let first = first.map(ToString::to_string).unwrap_or_default();
            let plain = |c: char| {
                if c.is_ascii_alphanumeric() || c == '.' {
                    c
                } else {
                    '-'
                }
            };
            format!("sidecar-{}", first.chars().map(plain).collect::<String>())
        }
    };
    let absolute = |name: &str| {
        environment
            .get(name)
            .and_then(|value| value.to_str())
            .filter(|path| path.starts_with('/'))
    };
    let state = match (absolute("XDG_STATE_HOME"), absolute("HOME")) {
        (Some(state), _) => Some(state.to_owned()),
        (None, Some(home)) => Some(format!("{}/.local/state", home.trim_end_matches('/'))),
        (None, None) => None,
    };
    let lasting = state.is_some();
    let state = state.unwrap_or_else(|| absolute("TMPDIR").unwrap_or("/tmp").to_owned());
    let data = format!("{}/sidelane/{folder}", state.trim_end_matches('/'));
    settings.derive(&DATA, &data);
    Ok((!lasting).then(|| {
        format!(
            "neither XDG_STATE_HOME nor HOME names a folder: the node's id and snapshot go to \
             {data}, which may not outlive a restart; name a folder with --data"
        )
    }))
}
