//! What is sent is what arrives, also over the wire.

use byrnie_api::{decode, encode, v1};
use proptest::prelude::*;
use prost::Message;

use crate::values;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_workload_arrives_as_it_was_sent(workload in values::workload()) {
        let wire = encode::workload(&workload).encode_to_vec();
        prop_assert_eq!(decode::workload(v1::Workload::decode(&wire[..]).unwrap()), Ok(workload));
    }

    #[test]
    fn a_destination_arrives_as_it_was_sent(at in values::address(), destination in values::destination()) {
        let wire = encode::destination(at, &destination).encode_to_vec();
        prop_assert_eq!(decode::destination(v1::Destination::decode(&wire[..]).unwrap()), Ok((at, destination)));
    }

    #[test]
    fn trust_arrives_as_it_was_sent(trust in values::trust()) {
        let wire = encode::trust(&trust).encode_to_vec();
        prop_assert_eq!(decode::trust(v1::Trust::decode(&wire[..]).unwrap()), Ok(trust));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = v1::Workload::decode(&bytes[..]).map(decode::workload);
        let _ = v1::Destination::decode(&bytes[..]).map(decode::destination);
        let _ = v1::Trust::decode(&bytes[..]).map(decode::trust);
    }
}

#[test]
fn mapped_addresses_become_what_they_are() {
    let mapped = "[::ffff:10.1.2.3]:80".parse().unwrap();
    let plain = "10.1.2.3:80".parse().unwrap();
    assert_eq!(encode::address(mapped), encode::address(plain));
    let on_the_wire = v1::Address {
        ip: "::ffff:10.1.2.3".parse::<std::net::Ipv6Addr>().unwrap().octets().into(),
        port: 80,
    };
    assert_eq!(decode::address(&on_the_wire), Ok(plain));
}

#[test]
fn a_limit_below_a_millisecond_stays_a_limit() {
    let timeouts =
        byrnie_model::Timeouts { request: Some(std::time::Duration::from_micros(10)), ..Default::default() };
    let route = byrnie_model::Route { timeouts, ..Default::default() };
    let service = byrnie_model::Service {
        name: byrnie_model::ServicePort::new("shop", "pay", 80),
        protocol: byrnie_model::Protocol::Http1,
        routes: vec![route],
        backends: vec![],
        traffic: byrnie_model::Traffic::default(),
    };
    let at = "10.0.0.1:80".parse().unwrap();
    let sent = encode::destination(at, &byrnie_model::Destination::Service(service));
    let (_, byrnie_model::Destination::Service(arrived)) = decode::destination(sent).unwrap() else {
        panic!()
    };
    assert_eq!(arrived.routes[0].timeouts.request, Some(std::time::Duration::from_millis(1)));
}
