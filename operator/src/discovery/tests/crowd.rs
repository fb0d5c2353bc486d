//! Many proxies at once, some of which do not listen.

use futures::future::join_all;

use super::*;

/// A pod of the crowd; it may come from any address.
fn member(n: u32) -> String {
    let [.., high, low] = n.to_be_bytes();
    pod(&format!("crowd-{n}"), "crowd", &format!("10.2.{high}.{low}"))
}

fn payment(pods: usize) -> String {
    let all = [("pay-1", "10.1.0.1", "ready"), ("pay-2", "10.1.0.2", "ready")];
    slice("pay", &all[..pods])
}

impl Rig {
    fn crowded(members: u32) -> Self {
        let rig = Self::shop();
        (0..members).for_each(|n| rig.apply(&member(n)));
        rig.trust(1);
        rig
    }

    /// A member that knows all that there is to know.
    async fn informed(&self, n: u32) -> Proxy {
        let name = format!("crowd-{n}");
        // On a busy machine a hello may come too late; a proxy comes again.
        let mut proxy = loop {
            match self.proxy_as("spiffe://cluster.local/ns/shop/sa/crowd", hello(&name)).await {
                Ok(proxy) => break proxy,
                Err(status) => assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}"),
            }
        };
        assert!(matches!(proxy.take().await, Resource::Trust(_)));
        proxy.workload().await;
        proxy.subscribe("10.96.0.1:80").await;
        assert_eq!(proxy.endpoints().await, 2);
        proxy
    }

    fn hung_up(&self) -> u64 {
        self.discovery.core.metrics.hung_up.get()
    }

    fn connected(&self) -> usize {
        self.discovery.holdings().own().len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_come_back_at_once() {
    let rig = Rig::crowded(1000);
    let begun = Instant::now();
    let proxies = join_all((0..1000).map(|n| rig.informed(n))).await;
    let took = Instant::now() - begun;
    println!("1,000 streams, all informed: {took:.1?}");
    assert_eq!((proxies.len(), rig.connected()), (1000, 1000));
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_hundred_one_that_does_not_read_slows_no_other() {
    let rig = Rig::crowded(200);
    let mut proxies = join_all((0..200).map(|n| rig.informed(n))).await;
    let mut slowest = Vec::new();
    for stalled in [0, 1] {
        let mut took = Vec::new();
        for round in 0..40 {
            let pods = 1 + round % 2;
            let begun = Instant::now();
            rig.apply(&payment(pods));
            let told = proxies[stalled..].iter_mut().map(|proxy| async move {
                assert_eq!(proxy.endpoints().await, pods);
                Instant::now() - begun
            });
            took.extend(join_all(told).await);
        }
        took.sort_unstable();
        slowest.push(took[took.len() * 99 / 100]);
    }
    println!("99 % of changes within {:.1?}; with one of 200 stalled within {:.1?}", slowest[0], slowest[1]);
    assert!(slowest[1] < Duration::from_secs(1).max(slowest[0] * 3), "{slowest:?}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_listen_is_hung_up_on() {
    let rig = Rig::crowded(3);
    let mut listens = rig.informed(0).await;
    let mut reads = rig.informed(1).await;
    let _deaf = rig.informed(2).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!((rig.hung_up(), rig.connected()), (0, 3), "nothing to say is nothing to miss");

    rig.apply(&payment(1));
    assert_eq!(listens.endpoints().await, 1);
    reads.hear().await;
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert_eq!(rig.hung_up(), 0, "it may be slow");
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(rig.hung_up(), 2, "one did not read, one did not answer");
    rig.apply(&payment(2));
    assert_eq!(listens.endpoints().await, 2);
}
