//! Readers of the settings that say where this node's certificate comes from: control, three files, or
//! a SPIFFE agent. There is one source at a time; what contradicts it is refused, and what is beaten
//! by it without being wrong (a variable of the surroundings) is said once.

use std::path::PathBuf;

use sidelane_identity::SpiffeId;
use sidelane_identity::files::Files;
use sidelane_identity::token::TokenText;
use sidelane_process::runtime::RuntimeFolder;
use sidelane_process::settings::{
    Environment, Flag, InvalidSetting, Item, Settings, SettingsError, Trust,
};
use sidelane_spiffe::{Endpoint, VARIABLE as AGENT_VARIABLE, Wanted};
use zeroize::Zeroizing;

use super::table::{
    ACCOUNT_TOKEN, CONTROL_ROOTS, IDENTITY, IDENTITY_CHAIN, IDENTITY_KEY, IDENTITY_ROOTS,
    KEEP_IDENTITY, SPIFFE_HINT, SPIFFE_SOCKET, TOKEN_FILE,
};
use super::{Joins, ServiceAccount, Workload};

/// The variable that may hold a token.
const TOKEN_VARIABLE: &str = "SIDELANE_TOKEN";

fn is_set(environment: &Environment, name: &str) -> bool {
    environment.get(name).is_some_and(|text| !text.is_empty())
}

/// Takes the agent that the standard's variable names, where nothing else says where the certificate
/// comes from: the variable belongs to the surroundings, and a setting of ours beats it.
pub(super) fn ambient(settings: &mut Settings, trust: Trust, environment: &Environment) {
    let ours = [&SPIFFE_SOCKET, &IDENTITY_CHAIN, &TOKEN_FILE, &ACCOUNT_TOKEN];
    let said = ours.iter().any(|flag| settings.item(flag).is_some());
    let kept = settings.switch(&KEEP_IDENTITY).unwrap_or(true);
    if trust == Trust::Disabled || said || kept || is_set(environment, TOKEN_VARIABLE) {
        return;
    }
    let named = environment.get(AGENT_VARIABLE).filter(|it| !it.is_empty());
    if let Some(named) = named {
        settings.derive_from(&SPIFFE_SOCKET, &named.to_string_lossy(), AGENT_VARIABLE);
    }
}

/// A sentence for each variable that something else beats.
pub(super) fn overruled(
    settings: &Settings,
    trust: Trust,
    environment: &Environment,
) -> Vec<String> {
    let winner = if trust == Trust::Disabled {
        Some("--trust disabled asks for no certificate")
    } else if settings.item(&IDENTITY_CHAIN).is_some() {
        Some("the certificate comes from files")
    } else if settings.item(&SPIFFE_SOCKET).is_some() {
        Some("the certificate comes from the agent at --spiffe-socket")
    } else if settings.item(&TOKEN_FILE).is_some() {
        Some("--token-file names another token")
    } else if settings.item(&ACCOUNT_TOKEN).is_some() {
        Some("--service-account-token names another proof")
    } else {
        None
    };
    let (true, Some(winner)) = (is_set(environment, TOKEN_VARIABLE), winner) else {
        return Vec::new();
    };
    vec![format!("{TOKEN_VARIABLE} is set and not used: {winner}")]
}

/// Which agent gives the certificate, if one does.
pub(super) fn spiffe(settings: &Settings, trust: Trust) -> Result<Option<Workload>, SettingsError> {
    let hint = settings.item(&SPIFFE_HINT);
    let Some(socket) = settings.item(&SPIFFE_SOCKET) else {
        return match hint {
            None => Ok(None),
            Some(hint) => Err(hint
                .refuse("there is no agent that could have several identities; name it with --spiffe-socket")
                .into()),
        };
    };
    if trust == Trust::Disabled {
        return Err(socket
            .refuse("no certificate is shown in trust mode disabled; say --trust strict or permissive, or remove this setting")
            .into());
    }
    if let Some(chain) = settings.item(&IDENTITY_CHAIN) {
        let other =
            "the certificate comes from the agent at --spiffe-socket; remove one of the two";
        return Err(chain.refuse(other).into());
    }
    let wanted = match (hint, settings.optional(&IDENTITY, SpiffeId::new)?) {
        (Some(hint), Some(_)) => {
            let both = "--identity says already which of the agent's identities is meant; remove one of the two";
            return Err(hint.refuse(both).into());
        }
        (Some(hint), None) => Wanted::Hint(hint.text().to_owned()),
        (None, Some(id)) => Wanted::Id(id),
        (None, None) => Wanted::First,
    };
    let endpoint = socket.parse(str::parse::<Endpoint>)?;
    Ok(Some(Workload { endpoint, wanted }))
}

/// Where the certificate is: all three files, or none in trust mode `disabled` and where control
/// signs.
pub(super) fn files(settings: &Settings, trust: Trust) -> Result<Option<Files>, InvalidSetting> {
    const FLAGS: [&Flag; 3] = [&IDENTITY_CHAIN, &IDENTITY_KEY, &IDENTITY_ROOTS];
    const ALL: &str = "--identity-chain, --identity-key and --identity-roots";
    let items = FLAGS.map(|flag| settings.item(flag));
    let given = items.iter().flatten().next();
    match (trust, given, items) {
        (Trust::Disabled, None, _) => Ok(None),
        (Trust::Disabled, Some(item), _) => Err(item.refuse(
            "no certificate is shown in trust mode disabled; say --trust strict or permissive, or \
             remove this setting",
        )),
        (_, _, [Some(chain), Some(key), Some(roots)]) => Ok(Some(Files {
            chain: chain.text().into(),
            key: key.text().into(),
            roots: roots.text().into(),
        })),
        (_, Some(item), _) => Err(item.refuse(format!("{ALL} come together; name all three"))),
        (_, None, _) => Ok(None),
    }
}

/// How control is asked to sign: not at all in trust mode `disabled`, with files and with an agent.
pub(super) fn joins(
    settings: &Settings,
    trust: Trust,
    environment: &Environment,
) -> Result<Option<Joins>, SettingsError> {
    let keep = settings.switch(&KEEP_IDENTITY)?;
    // A switch that says no asks for nothing.
    let kept = settings.item(&KEEP_IDENTITY).filter(|_| keep);
    let (token_file, identity) = (settings.item(&TOKEN_FILE), settings.item(&IDENTITY));
    let [account_token, roots] = [&ACCOUNT_TOKEN, &CONTROL_ROOTS].map(|it| settings.item(it));
    let refuse = |given: &[Option<&Item>], reason: &str| match given.iter().flatten().next() {
        None => Ok(None),
        Some(item) => Err(item.refuse(reason).into()),
    };
    if settings.item(&IDENTITY_CHAIN).is_some() {
        return refuse(
            &[token_file, account_token, roots, identity, kept],
            "the certificate comes from files, and control is not asked for one; remove one of the two",
        );
    }
    if trust == Trust::Disabled {
        return refuse(
            &[token_file, account_token, roots, identity, kept],
            "no certificate is asked for in trust mode disabled; remove this setting, or say --trust strict",
        );
    }
    if settings.item(&SPIFFE_SOCKET).is_some() {
        return refuse(
            &[token_file, account_token, roots, kept],
            "the certificate comes from the agent at --spiffe-socket, and control is not asked for one; remove one of the two",
        );
    }
    // What is no text is no token either: it is refused as one that is broken.
    let token = environment.get(TOKEN_VARIABLE);
    let token = token.filter(|text| !text.is_empty());
    let token = token.map(|text| Zeroizing::new(text.to_string_lossy().into_owned()));
    let token = token.map(TokenText::new);
    Ok(Some(Joins {
        account: account(settings)?,
        token_file: settings.optional(&TOKEN_FILE, str::parse::<PathBuf>)?,
        token,
        runtime: RuntimeFolder::of(environment),
        identity: settings.optional(&IDENTITY, SpiffeId::new)?,
        keep,
    }))
}

/// A service account's token, and who it is shown to: the two come together, and instead of a join
/// token.
fn account(settings: &Settings) -> Result<Option<ServiceAccount>, SettingsError> {
    let (token, roots) = (settings.item(&ACCOUNT_TOKEN), settings.item(&CONTROL_ROOTS));
    match (token, roots, settings.item(&TOKEN_FILE)) {
        (None, None, _) => Ok(None),
        (Some(token), _, Some(_)) => Err(token
            .refuse("--token-file names another proof; remove one of the two")
            .into()),
        (Some(token), Some(roots), None) => Ok(Some(ServiceAccount {
            token: token.text().into(),
            roots: roots.text().into(),
        })),
        (Some(token), None, None) => Err(token
            .refuse(
                "such a token says nothing of control; name control's roots with --control-roots",
            )
            .into()),
        (None, Some(roots), _) => Err(roots
            .refuse(
                "a join token or the join file says who control is; these are for \
                 --service-account-token alone",
            )
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use sidelane_process::settings::Start;

    use super::super::{Config, Loaded};
    use super::*;

    const SOCKET: &str = "unix:///run/agent.sock";

    fn load(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Loaded, SettingsError> {
        let home = [("HOME", "/home/me")];
        let environment = Environment::new(home.iter().chain(variables).copied());
        let loaded = Config::load(arguments.iter().copied(), &environment, |_| unreachable!())?;
        match loaded {
            Start::Run(loaded) => Ok(loaded),
            Start::Print(text) => panic!("printed {text}"),
        }
    }

    fn agent(arguments: &[&str], variables: &[(&str, &str)]) -> Option<Workload> {
        let loaded = load(arguments, variables).unwrap();
        assert_eq!(
            loaded.config.spiffe.is_some(),
            loaded.config.joins.is_none()
        );
        loaded.config.spiffe
    }

    #[test]
    fn an_agent_is_named_by_flag_or_by_the_variable_of_the_standard() {
        let wanted = |wanted| {
            let endpoint = SOCKET.parse().unwrap();
            Some(Workload { endpoint, wanted })
        };
        let flag = ["--spiffe-socket", SOCKET];
        assert_eq!(agent(&flag, &[]), wanted(Wanted::First));
        let own = [("SIDELANE_SPIFFE_SOCKET", SOCKET)];
        assert_eq!(agent(&[], &own), wanted(Wanted::First));
        let standard = [(AGENT_VARIABLE, SOCKET)];
        assert_eq!(agent(&[], &standard), wanted(Wanted::First));
        let hint = Wanted::Hint("main".to_owned());
        assert_eq!(agent(&["--spiffe-hint", "main"], &standard), wanted(hint));
        let id = "spiffe://mesh.example/ns/shop/sa/orders";
        let meant = Wanted::Id(SpiffeId::new(id).unwrap());
        assert_eq!(agent(&["--identity", id], &standard), wanted(meant));
        let loaded = load(&[], &standard).unwrap();
        let shown = loaded.settings.describe()["spiffe-socket"].clone();
        assert_eq!(shown["origin"], AGENT_VARIABLE);
    }

    #[test]
    fn what_is_said_to_us_beats_the_variable_of_the_standard() {
        let standard = (AGENT_VARIABLE, SOCKET);
        assert_eq!(agent(&["--token-file", "a.token"], &[standard]), None);
        assert_eq!(agent(&["--keep-identity"], &[standard]), None);
        assert_eq!(agent(&[], &[standard, (TOKEN_VARIABLE, "abc")]), None);
        let disabled = load(&["--trust", "disabled"], &[standard]).unwrap();
        assert_eq!(disabled.config.spiffe, None);
    }

    #[test]
    fn two_sources_are_refused() {
        let files = [
            "--identity-chain=c.pem",
            "--identity-key=k.pem",
            "--identity-roots=r.pem",
        ];
        let cases: [(&[&str], &str); 7] = [
            (
                &["--trust", "disabled"],
                "no certificate is shown in trust mode disabled",
            ),
            (&files, "remove one of the two"),
            (&["--token-file", "a.token"], "remove one of the two"),
            (&["--keep-identity"], "remove one of the two"),
            (
                &["--spiffe-hint", "a", "--identity", "spiffe://a/b"],
                "--identity says already",
            ),
            (&["--spiffe-socket", "/run/agent.sock"], "given twice"),
            (&["--spiffe-hint"], "needs a value"),
        ];
        for (arguments, expected) in cases {
            let arguments = [&["--spiffe-socket", SOCKET], arguments].concat();
            let error = load(&arguments, &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
        let far = ["--spiffe-socket", "tcp://192.0.2.1:8082"];
        let far = load(&far, &[]).unwrap_err().to_string();
        assert!(far.contains("in the clear"), "{far}");
        let lone = load(&["--spiffe-hint", "a"], &[]).unwrap_err().to_string();
        assert!(lone.contains("--spiffe-socket"), "{lone}");
    }

    #[test]
    fn a_service_accounts_token_comes_with_controls_roots_and_with_no_other_proof() {
        let token = ["--service-account-token", "/run/token"];
        let roots = ["--control-roots", "/etc/roots.pem"];
        let both = [&token[..], &roots].concat();
        let found = load(&both, &[(AGENT_VARIABLE, SOCKET)]).unwrap().config;
        let account = ServiceAccount {
            token: "/run/token".into(),
            roots: "/etc/roots.pem".into(),
        };
        assert_eq!(found.joins.and_then(|joins| joins.account), Some(account));
        let files = [
            "--identity-chain=c.pem",
            "--identity-key=k.pem",
            "--identity-roots=r.pem",
        ];
        let cases: [(&[&str], &[&str], &str); 6] = [
            (&token, &[], "name control's roots with --control-roots"),
            (&roots, &[], "for --service-account-token alone"),
            (&both, &["--token-file", "t"], "remove one of the two"),
            (
                &both,
                &["--trust", "disabled"],
                "no certificate is asked for",
            ),
            (&both, &["--spiffe-socket", SOCKET], "comes from the agent"),
            (&both, &files, "comes from files"),
        ];
        for (given, more, expected) in cases {
            let error = load(&[given, more].concat(), &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{more:?}: {error}");
        }
        let told = load(&both, &[(TOKEN_VARIABLE, "sidelane-token-1.hidden")]);
        let warnings = told.unwrap().warnings;
        assert!(
            warnings[0].contains("--service-account-token"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_token_that_is_not_used_is_told_of_once() {
        let token = (TOKEN_VARIABLE, "sidelane-token-1.hidden");
        let cases: [(&[&str], &str); 3] = [
            (&["--token-file", "a.token"], "--token-file"),
            (&["--spiffe-socket", SOCKET], "--spiffe-socket"),
            (&["--trust", "disabled"], "--trust disabled"),
        ];
        for (arguments, winner) in cases {
            let warnings = load(arguments, &[token]).unwrap().warnings;
            let [warning] = warnings.as_slice() else {
                panic!("{warnings:?}")
            };
            assert!(warning.contains(winner), "{warning}");
            assert!(!warning.contains("hidden"), "{warning}");
        }
        assert!(load(&[], &[token]).unwrap().warnings.is_empty());
        // An empty variable counts as not set.
        let empty = load(&[], &[(TOKEN_VARIABLE, "")]).unwrap().config;
        assert_eq!(empty.joins.and_then(|joins| joins.token), None);
    }

    #[test]
    fn strict_or_not_who_opens_outbound_or_admin_to_others_is_told_so() {
        let open = [
            "--outbound",
            "0.0.0.0:15001",
            "--admin",
            "0.0.0.0:15000",
            "--internal",
            "0.0.0.0:15006",
        ];
        let warnings = load(&open, &[]).unwrap().warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("--outbound") && warnings[1].contains("--admin"));
        assert!(
            warnings
                .iter()
                .all(|it| it.contains("no certificate is asked for there"))
        );
    }
}
