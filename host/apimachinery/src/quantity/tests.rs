use super::*;
use proptest::prelude::*;

#[track_caller]
fn check(text: &str, canonical: &str, value: i64, milli: i64) {
    let q = Quantity::parse(text).unwrap();
    assert_eq!(q.to_string(), canonical, "canonical form of {text}");
    assert_eq!(q.value(), value, "value of {text}");
    assert_eq!(q.milli_value(), milli, "milli value of {text}");
}

#[test]
fn canonical_forms_are_upstreams() {
    check("0", "0", 0, 0);
    check("0Mi", "0", 0, 0);
    check("1", "1", 1, 1000);
    check("1.5", "1500m", 2, 1500);
    check("0.1", "100m", 1, 100);
    check("100m", "100m", 1, 100);
    check("1000m", "1", 1, 1000);
    check("1.5Gi", "1536Mi", 1_610_612_736, 1_610_612_736_000);
    check("1024Mi", "1Gi", 1 << 30, 1000 << 30);
    check("1023", "1023", 1023, 1_023_000);
    check("1000000", "1M", 1_000_000, 1_000_000_000);
    check("12e6", "12e6", 12_000_000, 12_000_000_000);
    check("1e3", "1e3", 1000, 1_000_000);
    check("1E3", "1e3", 1000, 1_000_000);
    check("1E", "1E", 1_000_000_000_000_000_000, i64::MAX);
    check("+5k", "5k", 5000, 5_000_000);
    check("-5k", "-5k", -5000, -5_000_000);
    check(".5Mi", "512Ki", 524_288, 524_288_000);
    check("0.5Ki", "512", 512, 512_000);
    check("0.001Ki", "1024m", 2, 1024);
    check("1n", "1n", 1, 1);
    check("0.1n", "1n", 1, 1);
    check("0.1m", "100u", 1, 1);
    check("100e-3", "100e-3", 1, 100);
    check("001", "1", 1, 1000);
    check("16Ei", "9223372036854775807", i64::MAX, i64::MAX);
}

#[test]
fn faults_have_upstreams_words() {
    for text in ["", "aoeu", "1 ", "1i", "1.2.3", "--1", "1MiMi", "10Z"] {
        assert!(Quantity::parse(text).is_err(), "{text}");
    }
    assert_eq!(Quantity::parse("1KK"), Err(QuantityError::Suffix));
    assert_eq!(Quantity::parse("1e"), Err(QuantityError::Suffix));
    assert_eq!(Quantity::parse("."), Err(QuantityError::Numeric));
    assert_eq!(Quantity::parse("Mi"), Err(QuantityError::Numeric));
    assert_eq!(Quantity::parse("1x"), Err(QuantityError::Format));
}

#[test]
fn sums_keep_the_left_format() {
    let q = |text| Quantity::parse(text).unwrap();
    assert_eq!(q("1Gi").add(q("1G")).to_string(), "2073741824");
    assert_eq!(q("0").add(q("1Gi")).to_string(), "1Gi");
    assert_eq!(q("2").sub(q("500m")).to_string(), "1500m");
    assert!(q("1Gi") > q("1G"));
    assert_eq!(q("1000m"), q("1"));
}

proptest! {
    #[test]
    fn canonical_form_is_a_fixed_point(
        whole in 0u64..1_000_000_000, fraction in proptest::option::of(0u32..1_000_000),
        suffix in proptest::sample::select(vec!["n","u","m","","k","M","G","Ki","Mi","Gi","e3","E-3"]),
        negative: bool,
    ) {
        let sign = if negative { "-" } else { "" };
        let fraction = fraction.map(|f| format!(".{f}")).unwrap_or_default();
        let q = Quantity::parse(&format!("{sign}{whole}{fraction}{suffix}")).unwrap();
        let again = Quantity::parse(&q.to_string()).unwrap();
        prop_assert_eq!(q, again);
        prop_assert_eq!(q.to_string(), again.to_string());
    }

    #[test]
    fn addition_is_inverted_by_subtraction(a in -1_000_000i64..1_000_000, b in -1_000_000i64..1_000_000) {
        let a = Quantity::from_milli(a, Format::DecimalSi);
        let b = Quantity::from_milli(b, Format::DecimalSi);
        prop_assert_eq!(a.add(b).sub(b), a);
        prop_assert_eq!(a.cmp(&b), a.milli_value().cmp(&b.milli_value()));
    }
}
