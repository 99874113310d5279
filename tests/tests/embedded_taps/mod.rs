//! Taps of a linked sidecar.

use super::*;

#[tokio::test]
async fn a_tap_tells_what_came_with_a_call_within_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let (mesh, _here, _seen) = alone("tapped", folder.path()).await;
    let url = format!("http://{}/tap?headers=true", admin_of(&mesh));
    let mut lines = fetch::lines(&url, SOON).await.unwrap().unwrap();
    let mut next = async || loop {
        let line = tokio::time::timeout(SOON, lines.next()).await.unwrap();
        let line = line.unwrap().unwrap();
        if !line.trim().is_empty() {
            return serde_json::from_str::<Value>(&line).unwrap();
        }
    };
    assert_eq!(next().await["kind"], "begun");
    for payload in ["told", "refuse"] {
        let mut request = counted(payload);
        let metadata = request.metadata_mut();
        metadata.insert("x-test-note", "visible".parse().unwrap());
        metadata.insert("authorization", "Bearer s3cret".parse().unwrap());
        let answer = call(&mesh, request).await;
        let told = next().await;
        let of = |set: &str, name: &str| {
            let pairs = told["headers"][set].as_array().cloned();
            let mut pairs = pairs.unwrap_or_default().into_iter();
            pairs
                .find(|pair| pair[0] == name)
                .map(|pair| pair[1].as_str().unwrap().to_owned())
        };
        assert_eq!(told["path"], PING);
        assert_eq!(told["peer"], "tapped");
        assert_eq!(of("request", "x-test-note").as_deref(), Some("visible"));
        let hidden = of("request", "authorization");
        assert_eq!(hidden.as_deref(), Some("[redacted]"));
        assert!(!told.to_string().contains("s3cret"), "{told:#}");
        match payload {
            "told" => {
                assert_eq!(answer.unwrap(), Counted(ping("told")));
                assert_eq!(of("response", "x-test-answer").as_deref(), Some("visible"));
                assert_eq!(of("response", "set-cookie").as_deref(), Some("[redacted]"));
            }
            _ => {
                assert_eq!(told["status"], 5, "{told:#}");
                // As the handler has it; the caller gets it without what only the mesh may say.
                let said = of("trailers", "sidelane-error");
                assert_eq!(said.as_deref(), Some("NO_ENDPOINT"));
            }
        }
    }
    mesh.shutdown().await;
}
