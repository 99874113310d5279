//! May the caller call it? Asked of what calls ask, and nothing is counted or noted: nobody called.

use serde::Serialize;
use sidelane_identity::SpiffeId;
use sidelane_proto::model::CallPath;
use sidelane_proto::wire::admin::v1 as wire;

use super::{Explanation, Question};
use crate::authorization::Asked;
use crate::classify::Classified;
use crate::own;
use crate::reason::Reason;
use crate::respond::{Failure, authorization_failure};
use crate::stack::Stack;

/// The answer, with the fields of `sidelane.admin.v1.Authorized`.
#[derive(Debug, Serialize)]
pub(super) struct Authorized {
    identity: String,
    verdict: &'static str,
    by: String,
    from: String,
}

/// Whether the call may come in; what it would be told where not.
///
/// # Errors
/// Who is said to call can be nobody.
pub(super) fn judge(
    stack: &Stack,
    classified: &Classified,
    path: CallPath<'_>,
    question: &Question,
    answer: &mut Explanation,
) -> Result<Result<(), Failure>, Failure> {
    let given = question.as_identity.as_deref().map(SpiffeId::new);
    let given = given.transpose().map_err(|error| {
        let text = format!("nobody can call as that: {error}");
        Failure::refused(Reason::NotAuthorized, text)
    })?;
    let identity = given.as_ref().or(stack.own.identity.as_ref());
    let who = identity.map_or("a caller whose identity is not known", SpiffeId::as_str);
    let permitted = &classified.target.permitted;
    let permitted = permitted
        .as_ref()
        .filter(|_| !own::every_node_serves(path.service));
    let Some(permitted) = permitted else {
        if given.is_some() {
            let text = format!("{who} may call it, as everybody may: no rule says who may");
            answer.steps.push(text);
        }
        return Ok(Ok(()));
    };
    let asked = Asked {
        identity,
        node: &stack.own.node,
        callee: stack.own.identity.as_ref(),
        service: path.service,
        method: path.method,
        class: classified.class,
        lane: classified.lane,
    };
    let verdict = permitted.judge(&asked);
    let whose = if verdict.of_method {
        "the method's list"
    } else {
        "the service's list"
    };
    let (by, why) = match verdict.fits {
        Some((place, allow)) => (
            allow.to_string(),
            format!("fits entry {} of {whose}: {allow}", place + 1),
        ),
        None => (String::new(), format!("fits no entry of {whose}")),
    };
    answer.steps.push(format!(
        "{who} is {}: it {why} ({}){}",
        match verdict.word() {
            "would be denied" => "let in by a dry run",
            word => word,
        },
        verdict.origin,
        if stack.local.get(path.service).is_some() {
            ""
        } else {
            "; the callee's sidecar decides, by the rule that it knows"
        }
    ));
    answer.authorized = Some(Authorized {
        identity: identity.map_or_else(String::new, ToString::to_string),
        verdict: verdict.word(),
        by,
        from: verdict.origin.to_owned(),
    });
    Ok(if verdict.is_refused() {
        Err(authorization_failure(&verdict.refusal(&asked)))
    } else {
        Ok(())
    })
}

impl Authorized {
    pub(super) fn to_wire(&self) -> wire::Authorized {
        wire::Authorized {
            identity: self.identity.clone(),
            verdict: self.verdict.to_owned(),
            by: self.by.clone(),
            from: self.from.clone(),
        }
    }
}
