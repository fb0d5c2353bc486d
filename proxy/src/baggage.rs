//! A route that a request asks for itself: `baggage: byrnie-route=NAMESPACE/SERVICE:OTHER`, several joined by `|`.
//!
//! W3C's baggage travels with a trace, so one request can lead a whole call graph past a Service in trial. What may be
//! asked for is the policy's business. Owns the reading of the header; everything else in it passes untouched.

use byrnie_model::ObjectName;
use http::{HeaderMap, HeaderName, HeaderValue};

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const KEY: &str = "byrnie-route";

/// What a request asks for instead of a Service.
pub fn asked_for<'a>(headers: &'a HeaderMap, service: &ObjectName) -> Option<&'a str> {
    let lines = headers.get_all(BAGGAGE).iter().filter_map(|line| line.to_str().ok());
    let wishes = lines.flat_map(|line| line.split(',')).filter_map(wish).flat_map(|wish| wish.split('|'));
    let mut pairs = wishes.filter_map(|wish| wish.trim().rsplit_once(':'));
    pairs.find_map(|(of, other)| {
        let (namespace, name) = of.split_once('/')?;
        (namespace == service.namespace && name == service.name).then_some(other)
    })
}

/// Takes wishes out: whose they are is not known.
pub fn strip(headers: &mut HeaderMap) {
    let asks = |line: &HeaderValue| {
        line.to_str().is_ok_and(|line| line.split(',').any(|member| wish(member).is_some()))
    };
    if !headers.get_all(BAGGAGE).iter().any(asks) {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(BAGGAGE).iter().cloned().collect();
    headers.remove(BAGGAGE);
    for line in lines {
        let Ok(text) = line.to_str() else { continue };
        let rest: Vec<_> = text.split(',').filter(|member| wish(member).is_none()).collect();
        if let Ok(rest) = HeaderValue::try_from(rest.join(","))
            && !rest.is_empty()
        {
            headers.append(BAGGAGE, rest);
        }
    }
}

/// The value of our own member (its properties, behind a semicolon, mean nothing).
fn wish(member: &str) -> Option<&str> {
    let (key, value) = member.split_once('=')?;
    (key.trim() == KEY).then(|| value.split_once(';').map_or(value, |(value, _)| value).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(BAGGAGE, HeaderValue::from_static(line));
        }
        headers
    }

    #[test]
    fn a_wish_is_for_one_service() {
        let of = |lines: &[&'static str], service| {
            asked_for(&headers(lines), &ObjectName::new("shop", service)).map(str::to_owned)
        };
        let both = ["userId=alice, byrnie-route = shop/pay:pay-next|shop/cart:cart-2;prop=1 ,x=y"];
        assert_eq!(of(&both, "pay").as_deref(), Some("pay-next"));
        assert_eq!(of(&both, "cart").as_deref(), Some("cart-2"));
        assert_eq!(of(&both, "web"), None);
        assert_eq!(of(&["x=y", "byrnie-route=shop/pay:b"], "pay").as_deref(), Some("b"));
        for nothing in
            ["byrnie-route=pay:b", "byrnie-route", "byrnie-routes=shop/pay:b", "byrnie-route=lab/pay:b"]
        {
            assert_eq!(of(&[nothing], "pay"), None, "{nothing}");
        }
    }

    #[test]
    fn what_is_not_ours_stays_as_it_is() {
        let stripped = |lines: &[&'static str]| {
            let mut headers = headers(lines);
            strip(&mut headers);
            headers.get_all(BAGGAGE).iter().map(|line| line.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(stripped(&["a=1, byrnie-route=shop/pay:b,c=%20;d", "e"]), ["a=1,c=%20;d", "e"]);
        assert_eq!(stripped(&["byrnie-route=shop/pay:b"]), [""; 0]);
        assert_eq!(stripped(&["a=1, b=2"]), ["a=1, b=2"]);
    }
}
