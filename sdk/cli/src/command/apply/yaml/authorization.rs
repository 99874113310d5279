//! What rules say of who may call.

use serde::Deserialize;
use sidelane_proto::wire::routing::v1 as wire;

use super::{Flag, Reader, Text};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authorization {
    allow: Vec<serde_saphyr::Spanned<Allow>>,
    dry_run: Flag,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow {
    anyone: Flag,
    identity: Text,
    namespace: Text,
    trust_domain: Text,
    prefix: Text,
    connection: Text,
    connection_custom: Text,
    lane: Text,
}

impl Reader {
    pub(super) fn authorization(&mut self, path: &str, it: Authorization) -> wire::Authorization {
        let path = format!("{path}.authorization");
        let allow = it.allow.into_iter().enumerate();
        let allow = allow.map(|(index, allow)| {
            let path = format!("{path}.allow[{index}]");
            self.note(path.clone(), allow.referenced);
            self.allow(&path, allow.value)
        });
        wire::Authorization {
            allow: allow.collect(),
            dry_run: self.take(&path, "dry_run", it.dry_run),
        }
    }

    fn allow(&mut self, path: &str, allow: Allow) -> wire::Allow {
        let connection = self.take(path, "connection", allow.connection);
        let connection = match connection.as_str() {
            "" => 0,
            word => self.connection(&format!("{path}.connection"), word),
        };
        wire::Allow {
            anyone: self.take(path, "anyone", allow.anyone),
            identity: self.take(path, "identity", allow.identity),
            namespace: self.take(path, "namespace", allow.namespace),
            trust_domain: self.take(path, "trust_domain", allow.trust_domain),
            prefix: self.take(path, "prefix", allow.prefix),
            connection,
            connection_custom: self.take(path, "connection_custom", allow.connection_custom),
            lane: self.take(path, "lane", allow.lane),
        }
    }
}
