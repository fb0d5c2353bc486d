//! Names that applications may ask a forward proxy for, and the addresses under which the rest of the proxy knows them.
//!
//! What a worker knows, it knows by address: a service that is asked for by name has one that no packet ever carries.
//! Must not know what is behind an address.

use std::{
    collections::HashMap,
    hash::Hasher,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use byrnie_model::ServicePort;
use hickory_resolver::TokioResolver;

/// Names in lower case with a port, and addresses with a port, as they are asked for.
pub type Table = HashMap<String, SocketAddr>;

/// What is known, and who knows the rest. Empty where nobody may ask.
#[derive(Debug, Default)]
pub struct Hosts {
    /// The services.
    pub table: ArcSwap<Table>,
    /// DNS.
    pub resolver: ArcSwapOption<TokioResolver>,
}

/// Marks, as the flow label of an address, one to which HTTP goes in plaintext.
const PLAIN: u32 = 1;

/// The address that stands for a service, from the prefix that is discarded (RFC 6666). The same for one name always.
pub fn of_service(name: &ServicePort) -> SocketAddr {
    let mut hash = std::hash::DefaultHasher::new();
    hash.write(name.to_string().as_bytes());
    let ip = u128::from(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0)) | u128::from(hash.finish());
    SocketAddr::new(Ipv6Addr::from(ip).into(), name.port)
}

/// The address that stands for HTTP in plaintext to an address.
pub fn of_plain(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddrV6::new(ip, address.port(), PLAIN, 0).into()
}

/// What an address of [`of_plain`] stands for.
pub fn plain(address: SocketAddr) -> Option<SocketAddr> {
    match address {
        SocketAddr::V6(v6) if v6.flowinfo() == PLAIN => {
            Some(SocketAddr::new(v6.ip().to_canonical(), v6.port()))
        }
        _ => None,
    }
}

/// Whether an address is one that nothing may be sent to because an application asked: the host's own link (which
/// clouds keep their credentials on), nobody, everybody.
pub fn is_forbidden(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_stand_for_something_are_told_apart() {
        for text in ["10.0.0.1:80", "[2001:db8::1]:443"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_ne!(of_plain(address), address);
            assert_eq!((plain(of_plain(address)), plain(address)), (Some(address), None));
        }
        let (one, other) = (ServicePort::new("a", "b", 80), ServicePort::new("a", "c", 80));
        assert_eq!(of_service(&one), of_service(&one));
        assert_ne!(of_service(&one), of_service(&other));
        assert!(of_service(&one).to_string().starts_with("[100::"));
    }

    #[test]
    fn links_nobody_and_everybody_are_forbidden() {
        for ip in
            ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"]
        {
            assert!(is_forbidden(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["127.0.0.1", "10.0.0.1", "::1", "2001:db8::1"] {
            assert!(!is_forbidden(ip.parse().unwrap()), "{ip}");
        }
    }
}
