use super::*;
use proptest::prelude::*;
use serde_json::json;

fn labels(pairs: &[(&str, &str)]) -> Vec<(Box<str>, Box<str>)> {
    let mut labels: Vec<_> = pairs.iter().map(|(k, v)| (Box::from(*k), Box::from(*v))).collect();
    labels.sort();
    labels
}

#[track_caller]
fn check(selector: &str, pairs: &[(&str, &str)], expected: bool) {
    let parsed = Selector::parse(selector).unwrap();
    assert_eq!(parsed.matches(&labels(pairs)), expected, "{selector} on {pairs:?}");
    assert_eq!(Selector::parse(&parsed.to_string()).unwrap(), parsed, "{selector} printed and parsed again");
}

#[test]
fn strings_select() {
    check("", &[("x", "y")], true);
    check("x=y", &[("x", "y")], true);
    check("x==y", &[("x", "z")], false);
    check("x=", &[("x", "")], true);
    check("x!=y", &[], true);
    check("x=y,z=w", &[("x", "y"), ("z", "w")], true);
    check("x in (a,b)", &[("x", "b")], true);
    check("x in (,a)", &[("x", "")], true);
    check("x notin (a,b)", &[("x", "c")], true);
    check("x notin (a)", &[], true);
    check("x notin (a)", &[("x", "a")], false);
    check("x", &[("x", "")], true);
    check("!x", &[("x", "")], false);
    check("!x,y", &[("y", "1")], true);
    check("x>1", &[("x", "2")], true);
    check("x<1", &[("x", "2")], false);
    check("in in (in,notin)", &[("in", "notin")], true);
    check(" a = b , c in ( d , e ) ", &[("a", "b"), ("c", "e")], true);
}

#[track_caller]
fn refuse(selector: &str, message: &str) {
    assert_eq!(Selector::parse(selector).unwrap_err().to_string(), message, "{selector}");
}

#[test]
fn faults_have_upstreams_words() {
    refuse("x=a y", "found 'y', expected: ',' or 'end of string'");
    refuse(",", "found ',', expected: !, identifier, or 'end of string'");
    refuse("x,", "found '', expected: identifier after ','");
    refuse("x in a", "unable to parse requirement: found 'a' expected: '('");
    refuse("x y", "unable to parse requirement: found 'y', expected: in, notin, =, ==, !=, gt, lt");
    refuse("x in (a", "unable to parse requirement: found '', expected: ',' or ')'");
    refuse(
        "x>a",
        "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be an integer",
    );
    assert!(Selector::parse("a/b/c=d").unwrap_err().to_string().starts_with(
        "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a qualified name must consist of"
    ));
}

#[test]
fn label_selectors_select() {
    let s = |v| Selector::from_label_selector(&v).unwrap();
    let app = labels(&[("app", "web"), ("tier", "front")]);
    assert!(!s(json!(null)).matches(&app));
    assert!(s(json!({})).matches(&app));
    assert!(s(json!({"matchLabels": {"app": "web"}})).matches(&app));
    assert!(
        s(json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}]}))
            .matches(&app)
    );
    assert!(!s(json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]})).matches(&app));
    let bad = json!({"matchExpressions": [{"key": "tier", "operator": "Foo"}]});
    assert_eq!(
        Selector::from_label_selector(&bad).unwrap_err().to_string(),
        "\"Foo\" is not a valid label selector operator"
    );
    assert_eq!(
        format_label_selector(&json!({"matchLabels": {"b": "1", "a": "2"},
            "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["y", "x"]}]})),
        "a=2,b=1,c notin (x,y)"
    );
}

#[test]
fn field_selectors_select() {
    let parse = |t| FieldSelector::parse(t).unwrap();
    let get = |field: &str| if field == "status.phase" { "Running" } else { "" };
    assert!(parse("status.phase=Running").matches_with(get));
    assert!(parse("status.phase!=Failed,spec.nodeName=").matches_with(get));
    assert!(!parse("status.phase!=Running").matches_with(get));
    assert_eq!(parse("a=b\\,c\\=d").requirements()[0].value.as_ref(), "b,c=d");
    assert_eq!(parse("a=b\\,c").to_string(), "a=b\\,c");
    assert_eq!(
        FieldSelector::parse("foo").unwrap_err().to_string(),
        "invalid selector: 'foo'; can't understand 'foo'"
    );
    assert_eq!(parse("a=1,b=2").unknown_field(&["a"]), Some("b"));
}

#[test]
fn node_selectors_select() {
    let selector = NodeSelector::from_value(&json!({"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "cpus", "operator": "Gt", "values": ["4"]}, {"key": "disk", "operator": "Exists"}]},
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
    ]}))
    .unwrap();
    let node = |pairs: &'static [(&str, &str)]| {
        move |k: &str| pairs.iter().find(|(key, _)| *key == k).map(|(_, v)| *v)
    };
    assert!(selector.matches("n2", node(&[("cpus", "8"), ("disk", "ssd")])));
    assert!(!selector.matches("n2", node(&[("cpus", "4"), ("disk", "ssd")])));
    assert!(selector.matches("n1", node(&[])));
    let empty = NodeSelector::from_value(&json!({"nodeSelectorTerms": [{}]})).unwrap();
    assert!(!empty.matches("n1", node(&[])));
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "[a-z=!,()<> ./\\-\\\\]{0,24}") {
        let _ = Selector::parse(&text);
        let _ = FieldSelector::parse(&text);
    }

    #[test]
    fn not_in_is_the_negation_of_in(key in "[a-c]", values in proptest::collection::vec("[x-z]", 1..3),
        pairs in proptest::collection::btree_map("[a-c]", "[x-z]", 0..3)) {
        let labels: Vec<(Box<str>, Box<str>)> =
            pairs.into_iter().map(|(k, v)| (k.into_boxed_str(), v.into_boxed_str())).collect();
        let list = values.join(",");
        let within = Selector::parse(&format!("{key} in ({list})")).unwrap();
        let without = Selector::parse(&format!("{key} notin ({list})")).unwrap();
        prop_assert_ne!(within.matches(&labels), without.matches(&labels));
    }
}
