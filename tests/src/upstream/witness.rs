//! `Witness` as [`Upstream`](super::Upstream) serves it: the ledger, for clients that are not in
//! this process.

use std::time::{Duration, UNIX_EPOCH};

use tonic::{Request, Response, Status};

use super::Shared;
use super::echo::milliseconds;
use crate::wire::v1::witness_server::Witness;
use crate::wire::v1::{
    CountCallsRequest, CountCallsResponse, Moment, ObserveRequest, ObserveResponse,
};

#[tonic::async_trait]
impl Witness for Shared {
    async fn observe(
        &self,
        request: Request<ObserveRequest>,
    ) -> Result<Response<ObserveResponse>, Status> {
        let request = request.into_inner();
        let (key, moment) = (request.key.as_str(), request.moment());
        let within = Duration::from_millis(request.timeout_ms.into());
        let reached = self.ledger.reached(key, moment, 1, within).await;
        let Some((when, remaining)) = reached else {
            let text = format!(
                "call `{key}` is not {} after {within:?}",
                moment.as_str_name()
            );
            return Err(Status::not_found(text));
        };
        let since = when.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Response::new(ObserveResponse {
            unix_nanos: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            remaining_ms: milliseconds(remaining),
        }))
    }

    async fn count_calls(
        &self,
        request: Request<CountCallsRequest>,
    ) -> Result<Response<CountCallsResponse>, Status> {
        let key = request.into_inner().key;
        let count = |moment| self.ledger.count(&key, moment) as u64;
        Ok(Response::new(CountCallsResponse {
            arrived: count(Moment::Arrived),
            finished: count(Moment::Finished),
            cancelled: count(Moment::Cancelled),
        }))
    }
}
