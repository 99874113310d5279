//! Lanes and connection classes of a project's own.

use super::{Case, hold, try_build};

const OWN: &str = r#"syntax = "proto3";
package audit.v1;
import "sidelane/routing/v1/routing.proto";

option (sidelane.routing.v1.class) = { number: 16  name: "partners"  lanes: "general" };
option (sidelane.routing.v1.lane) = {
  id: 20
  name: "telemetry"
  connections: INTERNAL
  connections_custom: "partners"
  window: 65536
  max_streams: 32
};

service Audit {
  option (sidelane.routing.v1.service) = { connection_custom: "partners"  lane: "telemetry" };
  rpc Look(Nothing) returns (Nothing);
}
message Nothing {}
"#;

const DEFINITION: &[Case] = &[
    (
        "  window: 65536\n",
        "",
        "proto/audit.proto:6:1: window is missing: a lane says its `window` (bytes that one stream \
         may send before it is read) and its `max_streams` (calls open at once)",
        "  window: 16384\n",
    ),
    (
        "max_streams: 32",
        "max_streams: 70000",
        "proto/audit.proto:12:3: max_streams is out of bounds: a lane's max_streams is 1 to 65536",
        "max_streams: 65536",
    ),
];

#[test]
fn of_lanes_without_bounds() {
    // The service in that lane says nothing of it.
    hold("audit.proto", OWN, DEFINITION);
}

#[test]
fn of_lanes_and_classes() {
    let cases: &[Case] = &[
        (
            "id: 20",
            "id: 15",
            "proto/audit.proto:7:3: id `15` is not a number of a lane of one's own (16 to 65535)",
            "id: 16",
        ),
        (
            "\"telemetry\"\n",
            "\"Telemetry\"\n",
            "proto/audit.proto:8:3: name `Telemetry` is not a name of lower-case letters, digits \
             and `_`",
            "\"telemetry\" // fine\n",
        ),
        (
            "  connections: INTERNAL\n  connections_custom: \"partners\"\n",
            "",
            "proto/audit.proto:6:1: connections is missing",
            "  connections_custom: [\"partners\"]\n",
        ),
        (
            "connections_custom: \"partners\"",
            "connections_custom: [\"partners\", \"partner\"]",
            "proto/audit.proto:10:36: connections_custom[1] `partner` is not a known connection \
             class of one's own; did you mean `partners`? (known are partners)",
            "connections_custom: [\"partners\"]",
        ),
        (
            "max_streams: 32",
            "max_streams: 32 dscp: 64",
            "proto/audit.proto:12:19: dscp is out of bounds: a lane's dscp is 0 to 63",
            "max_streams: 32 dscp: 63",
        ),
        (
            "max_streams: 32",
            "max_streams: 32 connection_window: 65536",
            "proto/audit.proto:12:19: connection_window is out of bounds: a lane's \
             connection_window is at least four windows and at most 1 GiB",
            "max_streams: 32 connection_window: 262144",
        ),
        (
            "number: 16",
            "number: 15",
            "proto/audit.proto:5:40: number `15` is not a number of a class of one's own (16 to \
             255)",
            "number: 255",
        ),
        (
            "lanes: \"general\"",
            "lanes: \"generel\"",
            "proto/audit.proto:5:77: lanes[0] `generel` is not a known lane of Sidelane's own; did \
             you mean `general`? (known are general, gossip, bifrost_data, ingress_data)",
            "lanes: \"gossip\"",
        ),
    ];
    // The service would only repeat that its lane or class is not there.
    let start = OWN.find("service Audit").unwrap();
    hold("audit.proto", &OWN[..start], cases);
}

#[test]
fn of_pairs_with_a_lane_of_ones_own() {
    let cases: &[Case] = &[
        (
            "connection_custom: \"partners\"  lane",
            "connection: EXTERNAL  lane",
            "proto/audit.proto:16:66: External and lane `telemetry` do not go together; \
             External allows general, ingress_data",
            "connection: INTERNAL  lane",
        ),
        (
            "lane: \"telemetry\" }",
            "lane: \"gossip\" }",
            "proto/audit.proto:16:75: partners and lane `gossip` do not go together; partners \
             allows general, telemetry",
            "lane: \"general\" }",
        ),
    ];
    hold("audit.proto", OWN, cases);
}

#[test]
fn of_definitions_that_clash_with_another_file() {
    let other = |lane: &str, class: &str| {
        format!(
            "syntax = \"proto3\";\npackage other.v1;\n\
             import \"sidelane/routing/v1/routing.proto\";\n\
             option (sidelane.routing.v1.lane) = {{ {lane} connections: INTERNAL window: 65536 \
             max_streams: 8 }};\n\
             option (sidelane.routing.v1.class) = {{ {class} }};\n"
        )
    };
    for (lane, class, expected) in [
        (
            "id: 20 name: \"reports\"",
            "number: 17 name: \"guests\"",
            "proto/other.proto:4:39: id 20 is taken by lane `telemetry` (audit.proto:6); take \
             another id",
        ),
        (
            "id: 21 name: \"telemetry\"",
            "number: 17 name: \"guests\"",
            "proto/other.proto:4:46: name is taken by lane `telemetry` (audit.proto:6); take \
             another name",
        ),
        (
            "id: 21 name: \"reports\"",
            "number: 16 name: \"guests\"",
            "proto/other.proto:5:40: number 16 is taken by class `partners` (audit.proto:5); take \
             another number",
        ),
        (
            "id: 21 name: \"reports\"",
            "number: 17 name: \"partners\"",
            "proto/other.proto:5:51: name is taken by class `partners` (audit.proto:5); take \
             another name",
        ),
    ] {
        let text = other(lane, class);
        let error = try_build(&[("audit.proto", OWN), ("other.proto", &text)]).unwrap_err();
        assert_eq!(error, expected);
    }
    let good = other("id: 21 name: \"reports\"", "number: 17 name: \"guests\"");
    let built = try_build(&[("audit.proto", OWN), ("other.proto", &good)]).unwrap();
    assert_eq!((built.rules.lanes.len(), built.rules.classes.len()), (2, 2));
}
