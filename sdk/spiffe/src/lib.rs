//! An identity from a SPIFFE Workload API, such as the agent of SPIRE serves: whoever runs one has an
//! authority already, and Sidelane then signs nothing. `endpoint` says where the agent is, `answer`
//! reads what it says (pure), and [`Agent`] keeps the stream to it. Both programs use it; what comes
//! of it goes into the same [`Source`](sidelane_identity::Source) that links read, so that a rotation
//! drops nothing.

mod agent;
mod answer;
mod endpoint;

pub use agent::{Agent, AgentError, Taken, Timing};
pub use answer::{AnswerError, SVIDS_LIMIT, Wanted};
pub use endpoint::{Endpoint, EndpointError, VARIABLE};
