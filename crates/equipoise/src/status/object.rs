//! Objects in requests.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// What is written as an object: what serde derives takes a list of the fields' values as well, and so an empty list for
/// whatever has none that is needed.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, fields: M) -> Result<T, M::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }
}

/// An object in another one, which may be absent.
pub(super) fn if_any<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(from)?.map(|Object(object)| object))
}

/// A list of objects.
pub(super) fn each<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<Object<T>>::deserialize(from)?.into_iter().map(|Object(object)| object).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Inner {
        a: u32,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Outer {
        #[serde(deserialize_with = "if_any")]
        one: Option<Inner>,
        #[serde(deserialize_with = "each")]
        many: Vec<Inner>,
    }

    fn read(text: &str) -> Result<Outer, String> {
        let object: Result<Object<Outer>, _> = serde_json::from_str(text);
        object.map(|Object(outer)| outer).map_err(|error| error.to_string())
    }

    #[test]
    fn object_is_what_is_in_braces() {
        assert_eq!(read("{}"), Ok(Outer::default()));
        let all = Outer { one: Some(Inner { a: 1 }), many: vec![Inner { a: 2 }, Inner { a: 0 }] };
        assert_eq!(read(r#"{"one": {"a": 1}, "many": [{"a": 2}, {}]}"#), Ok(all));
        assert_eq!(read(r#"{"one": null}"#), Ok(Outer::default()));
        for list in ["[]", r#"[{"a": 1}, []]"#, r#"{"one": []}"#, r#"{"one": [1]}"#] {
            assert_eq!(
                read(list).unwrap_err().split(" at").next(),
                Some("invalid type: sequence, expected an object"),
                "{list}"
            );
        }
        assert!(read(r#"{"many": [[1]]}"#).is_err());
        assert!(read(r#"{"two": 1}"#).unwrap_err().starts_with("unknown field `two`"));
        assert!(read(r#"{"one": {"a": "1"}}"#).unwrap_err().starts_with("invalid type: string"));
    }
}
