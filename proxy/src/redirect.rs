//! The redirect rules of a pod as one nftables script.
//!
//! A pure text: what is redirected is decided here, how it is laid is `init`'s business. One table of ours in the
//! `inet` family, so IPv4 and IPv6 come and go together; the script replaces it in one transaction.

use std::fmt::Write;

/// What to redirect where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Where the proxy takes calls to the pod.
    pub inbound_port: u16,
    /// Where the proxy takes the pod's calls.
    pub outbound_port: u16,
    /// The proxy's admin port, reached directly.
    pub admin_port: u16,
    /// The proxy's user: its own connections are final.
    pub proxy_uid: u32,
    /// Calls to these ports reach the application directly.
    pub skip_inbound: Vec<u16>,
    /// Calls to these ports leave the pod directly.
    pub skip_outbound: Vec<u16>,
}

/// The table that is ours alone.
pub const TABLE: &str = "byrnie";

impl Default for Redirect {
    fn default() -> Self {
        Self {
            inbound_port: 14143,
            outbound_port: 14140,
            admin_port: 14191,
            proxy_uid: 14100,
            skip_inbound: Vec::new(),
            skip_outbound: Vec::new(),
        }
    }
}

impl Redirect {
    /// The script for `nft -f -`.
    ///
    /// `add` before `delete` makes the deletion succeed where the table is not there yet. What leaves by the loopback
    /// interface (localhost, and the pod's own addresses) stays the application's own business. From outside, the
    /// outbound port is closed: it would make the pod a relay.
    pub fn script(&self) -> String {
        let Self { inbound_port, outbound_port, admin_port, proxy_uid, .. } = self;
        let mut script = String::new();
        let skip = |ports: &[u16]| {
            if ports.is_empty() {
                String::new()
            } else {
                format!("\t\ttcp dport {{ {} }} return\n", list(ports))
            }
        };
        let skip_outbound = skip(&self.skip_outbound);
        let skip_inbound = skip(&self.skip_inbound);
        // a String takes all that is written to it
        let _ = write!(
            script,
            "\
add table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
	chain output {{
		type nat hook output priority -100; policy accept;
		meta skuid {proxy_uid} return
		oifname \"lo\" return
{skip_outbound}		meta l4proto tcp redirect to :{outbound_port}
	}}
	chain prerouting {{
		type nat hook prerouting priority -100; policy accept;
		iifname \"lo\" return
		tcp dport {admin_port} return
{skip_inbound}		meta l4proto tcp redirect to :{inbound_port}
	}}
	chain input {{
		type filter hook input priority 0; policy accept;
		iifname != \"lo\" tcp dport {outbound_port} drop
	}}
}}
"
        );
        script
    }

    /// What a listing of the table must show for all rules to be there: each chain with its number of rules and what
    /// the last one does.
    pub(crate) fn expected(&self) -> [(&'static str, usize, String); 3] {
        let rules = |skipped: &[u16]| 3 + usize::from(!skipped.is_empty());
        [
            ("output", rules(&self.skip_outbound), format!("redirect to :{}", self.outbound_port)),
            ("prerouting", rules(&self.skip_inbound), format!("redirect to :{}", self.inbound_port)),
            ("input", 1, format!("tcp dport {} drop", self.outbound_port)),
        ]
    }
}

fn list(ports: &[u16]) -> String {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_this() {
        let redirect =
            Redirect { skip_inbound: vec![22], skip_outbound: vec![4568, 4567, 4567], ..Redirect::default() };
        assert_eq!(
            redirect.script(),
            "\
add table inet byrnie
delete table inet byrnie
table inet byrnie {
	chain output {
		type nat hook output priority -100; policy accept;
		meta skuid 14100 return
		oifname \"lo\" return
		tcp dport { 4567, 4568 } return
		meta l4proto tcp redirect to :14140
	}
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		iifname \"lo\" return
		tcp dport 14191 return
		tcp dport { 22 } return
		meta l4proto tcp redirect to :14143
	}
	chain input {
		type filter hook input priority 0; policy accept;
		iifname != \"lo\" tcp dport 14140 drop
	}
}
"
        );
    }

    #[test]
    fn nothing_skipped_is_no_rule() {
        let script = Redirect::default().script();
        assert_eq!(script.matches("return").count(), 4);
        assert!(!script.contains("\n\n"));
    }
}
