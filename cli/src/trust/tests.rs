//! How MeshTrust is shown, and when a rotation is over.

use byrnie_crds::MeshTrust;
use k8s_openapi::jiff::Timestamp;

use super::{progress, render, root_id};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn trust(phase: &str, signer: &str, roots: &[(&str, &str)], ready: &str) -> MeshTrust {
    let root = |(id, state): &(&str, &str)| {
        format!("  - {{id: {id}, certificate: x, notAfter: \"2027-11-23T06:00:00Z\", state: {state}}}")
    };
    let roots = roots.iter().map(root).collect::<Vec<_>>().join("\n");
    let text = format!(
        "apiVersion: byrnie.dev/v1alpha1\nkind: MeshTrust\nmetadata: {{name: default}}\n\
         spec: {{trustDomain: cluster.local, leafLifetime: 24h, rootLifetime: 8760h, source: {{selfManaged: {{}}}}}}\n\
         status:\n  phase: {phase}\n  phaseSince: \"2026-11-23T06:00:00Z\"\n  epoch: 7\n  signer: {signer}\n  roots:\n{roots}\n\
         \x20 proxies: {{current: 3, total: 4}}\n  conditions:\n\
         \x20 - {{type: Ready, status: \"{ready}\", reason: R, message: how it is, lastTransitionTime: \"2026-11-23T06:00:00Z\"}}\n\
         \x20 - {{type: Rotating, status: \"True\", reason: WaitingForProxies, message: \"waits for shop/web\", lastTransitionTime: \"2026-11-23T06:00:00Z\"}}\n"
    );
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn people_see_roots_and_what_is_waited_for() {
    let object = trust("Staged", A, &[("cccccccccccccccc", "Tainted"), (A, "Active"), (B, "Staged")], "True");
    let now: Timestamp = "2026-11-23T06:01:15Z".parse().unwrap();
    let text = anstream::adapter::strip_str(&render::status(&object, now)).to_string();
    insta::assert_snapshot!(text, @r"
    trust domain  cluster.local
    phase         Staged for 75 s, epoch 7
    proxies       3/4 hold the current bundle
    certificates  how it is
    rotation      waits for shop/web

    ROOT              STATE     SIGNS  ENDS
    cccccccccccccccc  Tainted          2027-11-23 06:00 UTC
    aaaaaaaaaaaaaaaa  Active    yes    2027-11-23 06:00 UTC
    bbbbbbbbbbbbbbbb  Staged           2027-11-23 06:00 UTC
    ");
    assert!(render::is_ready(&object));
    assert!(!render::is_ready(&trust("Stable", A, &[(A, "Active")], "False")));
}

#[test]
fn programs_see_the_same() {
    let object = trust("Signing", B, &[(A, "Draining"), (B, "Active")], "True");
    let json = serde_json::to_value(render::Report::of(&object)).unwrap();
    assert_eq!(
        (&json["phase"], &json["rotating"], &json["epoch"]),
        (&"Signing".into(), &true.into(), &7.into())
    );
    assert_eq!((&json["roots"][1]["signs"], &json["reason"]), (&true.into(), &"WaitingForProxies".into()));
}

#[test]
fn a_rotation_is_over_when_another_root_is_alone() {
    let before = trust("Stable", A, &[(A, "Active")], "True");
    let under_way = trust("Draining", B, &[(A, "Draining"), (B, "Active")], "True");
    let after = trust("Stable", B, &[(A, "Tainted"), (B, "Active")], "True");
    assert!(!progress::is_rotated(&before, &before) && !progress::is_rotated(&before, &under_way));
    assert!(progress::is_rotated(&before, &after));
    let gone = progress::is_out_of_force(A.into());
    assert!(!gone(&before, &under_way) && gone(&before, &after));
}

#[test]
fn a_root_is_named_by_the_beginning_of_its_id() {
    let object = trust("Signing", B, &[(A, "Draining"), (B, "Active")], "True");
    assert_eq!(render::find(&object, "aaaaaaaa").unwrap(), A);
    assert!(render::find(&object, "cccccccc").unwrap_err().to_string().contains("there is no root cccccccc"));
    assert!(render::find(&object, "").unwrap_err().to_string().contains("more than one"));
    assert!(root_id("aaaaaaaa").is_ok());
    for wrong in ["", "aaaaaaa", "AAAAAAAA", "gggggggg", &"a".repeat(65)] {
        assert!(root_id(wrong).is_err(), "{wrong}");
    }
}
