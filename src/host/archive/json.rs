//! JSON in which no key stands twice: readers differ in which one counts, and what one has checked another would act on.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A value that was looked at and is not kept. Nesting is bounded by the parser.
struct Unambiguous;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Look)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Unambiguous;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
    fn visit_str<E>(self, _: &str) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
    fn visit_unit<E>(self) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Unambiguous, A::Error> {
        while all.next_element::<Unambiguous>()?.is_some() {}
        Ok(Unambiguous)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Unambiguous, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = all.next_key::<String>()? {
            let shown: String = key.chars().take(40).collect();
            if !keys.insert(key) {
                return Err(A::Error::custom(format!("the key {shown:?} stands there twice")));
            }
            all.next_value::<Unambiguous>()?;
        }
        Ok(Unambiguous)
    }
}

/// Reads a document, unless a key stands twice in any object of it.
///
/// # Errors
/// It is no JSON, says something twice, or is not what is expected.
pub(super) fn read<T: for<'a> Deserialize<'a>>(text: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice::<Unambiguous>(text)?;
    serde_json::from_slice(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_refused_at_any_depth() {
        let read = |text: &str| read::<serde_json::Value>(text.as_bytes());
        assert!(read(r#"{"a":[{"b":1,"c":null,"d":-1.5,"e":"x","f":true}],"b":{"a":-1}}"#).is_ok());
        for bad in [r#"{"a":1,"a":1}"#, r#"[{"x":{"b":1,"\u0062":2}}]"#, "{", &"[".repeat(100_000)] {
            assert!(read(bad).is_err(), "{}", bad.chars().take(40).collect::<String>());
        }
    }
}
