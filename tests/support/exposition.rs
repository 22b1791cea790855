//! A strict reader of Prometheus' text format, version 0.0.4: whatever its description does not allow fails the test.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "shared by test binaries")]

use std::collections::{BTreeMap, BTreeSet};

/// Name and labels.
pub type Series = (String, BTreeMap<String, String>);

/// Series by name and labels, with their values; and the kind of each family.
#[derive(Debug, Default)]
pub struct Exposition {
    pub series: BTreeMap<Series, f64>,
    pub kinds: BTreeMap<String, String>,
}

fn is_name(s: &str) -> bool {
    let mut all = s.chars();
    all.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && all.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// `name{a="b"} 1`.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value: f64 = value.parse().unwrap_or_else(|e| panic!("{e}: {line}"));
    let Some((name, rest)) = head.split_once('{') else { return (head.to_owned(), BTreeMap::new(), value) };
    let mut rest = rest.strip_suffix('}').unwrap_or_else(|| panic!("labels do not end: {line}"));
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, more) = rest.split_once("=\"").unwrap_or_else(|| panic!("a label without a value: {line}"));
        assert!(is_name(label), "{label:?} can't name a label: {line}");
        let (mut text, mut chars, mut end) = (String::new(), more.char_indices(), None);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = Some(at);
                    break;
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, c @ ('"' | '\\'))) => text.push(c),
                    other => panic!("an escape that there is not, {other:?}: {line}"),
                },
                c => text.push(c),
            }
        }
        let end = end.unwrap_or_else(|| panic!("a value without an end: {line}"));
        assert!(labels.insert(label.to_owned(), text).is_none(), "a label twice: {line}");
        rest = &more[end + 1..];
        if let Some(next) = rest.strip_prefix(',') {
            rest = next;
        } else {
            assert!(rest.is_empty(), "{rest:?} after a value: {line}");
        }
    }
    (name.to_owned(), labels, value)
}

impl Exposition {
    pub fn read(text: &str) -> Self {
        assert!(text.ends_with('\n') && !text.contains('\r'), "lines end with a newline, the last too");
        let (mut all, mut helped, mut closed) = (Exposition::default(), BTreeSet::new(), BTreeSet::new());
        let mut now = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(is_name(name) && !help.is_empty() && helped.insert(name.to_owned()), "{line}");
                closed.insert(std::mem::replace(&mut now, name.to_owned()));
                assert!(!closed.contains(name), "lines of one family are not together: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(matches!(kind, "counter" | "gauge" | "histogram" | "summary" | "untyped"), "{line}");
                assert_eq!(name, now, "{line}");
                assert!(all.kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else {
                assert!(!line.starts_with('#'), "a line that says nothing: {line}");
                let (name, labels, value) = sample(line);
                assert!(is_name(&name), "{line}");
                let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|s| name.strip_suffix(s) == Some(&now));
                match all.kinds.get(&now).map(String::as_str) {
                    Some("histogram") => assert!(of_histogram, "{line}"),
                    Some("counter") => assert!(name == now && name.ends_with("_total") && value >= 0.0, "{line}"),
                    Some(_) => assert_eq!(name, now, "{line}"),
                    None => panic!("a series without a type: {line}"),
                }
                assert!(all.series.insert((name, labels), value).is_none(), "a series twice: {line}");
            }
        }
        all.check_histograms();
        all
    }

    fn check_histograms(&self) {
        let mut buckets = BTreeMap::<Series, Vec<(f64, f64)>>::new();
        for ((name, labels), value) in &self.series {
            let Some(family) = name.strip_suffix("_bucket") else { continue };
            let mut labels = labels.clone();
            let le: f64 = labels.remove("le").expect("a bucket without a bound").parse().unwrap();
            buckets.entry((family.to_owned(), labels)).or_default().push((le, *value));
        }
        for ((family, labels), mut all) in buckets {
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(all.is_sorted_by_key(|(_, n)| *n), "{family}: buckets are not cumulative");
            let count = self.series[&(format!("{family}_count"), labels.clone())];
            assert_eq!(all.last(), Some(&(f64::INFINITY, count)), "{family}");
            assert!(self.series.contains_key(&(format!("{family}_sum"), labels)));
        }
    }

    /// Names of all series that there could be, those of which there is none yet too.
    pub fn names(&self) -> BTreeSet<String> {
        let of = |(name, kind): (&String, &String)| match kind.as_str() {
            "histogram" => ["_bucket", "_sum", "_count"].map(|s| format!("{name}{s}")).to_vec(),
            _ => vec![name.clone()],
        };
        self.kinds.iter().flat_map(of).collect()
    }

    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.series.get(&(name.to_owned(), labels)).copied()
    }
}
