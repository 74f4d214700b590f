//! The description of the types on the control socket, taken from their declarations.
//!
//! [`described!`] copies a struct or enum and implements [`Described`] for it. The interface in
//! Varlink's language and p2pfs-json(5) are generated from these descriptions.

use jiff::Timestamp;
use p2pfs_types::id::NodeName;

use super::types::PeerState;

/// The type of a field, in Varlink's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldType {
    /// `int`
    Int,
    /// `float`
    Float,
    /// `bool`
    Bool,
    /// `string`
    Text,
    /// `string`, a time (RFC 3339)
    Time,
    /// One of some words: `(file, directory, symlink)`.
    Word(Vec<String>),
    /// `[]TYPE`
    List(Box<FieldType>),
    /// `?TYPE`
    Optional(Box<FieldType>),
    /// An object with a name of its own.
    Object(ObjectType),
}

/// An object on the control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectType {
    /// Its name in Varlink's language.
    pub name: &'static str,
    /// The lines of its documentation.
    pub about: &'static [&'static str],
    /// Its fields, in the order of the declaration.
    pub fields: Vec<Field>,
}

impl ObjectType {
    /// Returns the name of a kind of event as it stands in JSON: as serde writes it in
    /// `kebab-case`.
    pub fn tag(&self) -> String {
        let mut tag = String::new();
        for letter in self.name.chars() {
            if letter.is_uppercase() && !tag.is_empty() {
                tag.push('-');
            }
            tag.extend(letter.to_lowercase());
        }
        tag
    }
}

/// A field of an object, or a parameter of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name in JSON.
    pub name: &'static str,
    /// The lines of its documentation.
    pub about: &'static [&'static str],
    /// Its type.
    pub kind: FieldType,
}

/// A type that describes itself.
pub trait Described {
    /// Returns the type.
    fn kind() -> FieldType;

    /// Returns the fields of an object; empty for another type.
    fn fields() -> Vec<Field> {
        match Self::kind() {
            FieldType::Object(object) => object.fields,
            FieldType::Optional(inner) => match *inner {
                FieldType::Object(object) => object.fields.into_iter().map(optional).collect(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
}

fn optional(field: Field) -> Field {
    Field {
        kind: field.kind.optional(),
        ..field
    }
}

impl FieldType {
    /// Returns the type of a field that may be absent.
    #[must_use]
    pub fn optional(self) -> Self {
        match self {
            Self::Optional(_) => self,
            required => Self::Optional(Box::new(required)),
        }
    }
}

/// Describes a field by its declaration. A flattened field stands for the fields of its type, and a
/// skipped one is not described.
pub(super) fn field<T: Described>(
    name: &'static str,
    about: &'static [&'static str],
    words: &[&str],
    serde: &str,
) -> Vec<Field> {
    if serde == "(skip)" {
        return Vec::new();
    }
    if serde.contains("flatten") {
        return T::fields()
            .into_iter()
            .map(|inner| with_about(inner, about))
            .collect();
    }
    let kind = match words {
        [] => T::kind(),
        words => FieldType::Word(words.iter().map(|word| (*word).to_owned()).collect()),
    };
    vec![Field { name, about, kind }]
}

/// Gives a flattened name the documentation of the field that it stands for.
fn with_about(inner: Field, about: &'static [&'static str]) -> Field {
    match inner.name {
        "path" => Field { about, ..inner },
        _ => inner,
    }
}

/// Describes a parameter by its declaration. A parameter with a default may be absent.
pub(super) fn parameter<T: Described>(
    name: &'static str,
    about: &'static [&'static str],
    serde: &str,
) -> Vec<Field> {
    let fields = field::<T>(name, about, &[], serde).into_iter();
    if serde.contains("default") {
        fields.map(optional).collect()
    } else {
        fields.collect()
    }
}

/// Returns the words of an enum without data, as serde writes them.
pub(super) fn words(values: &[impl serde::Serialize]) -> FieldType {
    let word = |value| match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    };
    FieldType::Word(values.iter().map(word).collect())
}

/// Declares types of the control socket: the items as they are written, and their descriptions.
///
/// `as "NAME"` is the name in Varlink's language. `as ["A", "B"]` behind a field lists the values
/// of a text.
macro_rules! described {
    (
        $(#[doc = $about:literal])* $(#[derive $derive:tt])* $(#[serde $container:tt])*
        pub struct $Name:ident as $name:literal {
            $(
                $(#[doc = $doc:literal])* $(#[serde $serde:tt])*
                pub $field:ident: $Type:ty $(as [$($word:literal),+])?,
            )*
        }
    ) => {
        $(#[doc = $about])* $(#[derive $derive])* $(#[serde $container])*
        pub struct $Name {
            $( $(#[doc = $doc])* $(#[serde $serde])* pub $field: $Type, )*
        }

        impl $crate::daemon::control::described::Described for $Name {
            fn kind() -> $crate::daemon::control::described::FieldType {
                use $crate::daemon::control::described::{Field, FieldType, ObjectType};
                let fields: Vec<Vec<Field>> = vec![$(
                    $crate::daemon::control::described::field::<$Type>(
                        stringify!($field),
                        &[$($doc),*],
                        &[$($($word),+)?],
                        concat!($(stringify!($serde)),*),
                    )
                ),*];
                FieldType::Object(ObjectType {
                    name: $name,
                    about: &[$($about),*],
                    fields: fields.concat(),
                })
            }
        }
    };
    (
        $(#[doc = $about:literal])* $(#[derive $derive:tt])* $(#[serde $container:tt])*
        pub enum $Name:ident {
            $( $(#[$attribute:meta])* $Variant:ident, )*
        }
    ) => {
        $(#[doc = $about])* $(#[derive $derive])* $(#[serde $container])*
        pub enum $Name { $( $(#[$attribute])* $Variant, )* }

        impl $crate::daemon::control::described::Described for $Name {
            fn kind() -> $crate::daemon::control::described::FieldType {
                $crate::daemon::control::described::words(&[$(Self::$Variant),*])
            }
        }
    };
}
pub(super) use described;

macro_rules! plain {
    ($($Type:ty => $kind:ident),*) => {
        $(impl Described for $Type {
            fn kind() -> FieldType {
                FieldType::$kind
            }
        })*
    };
}

plain!(u64 => Int, u32 => Int, f64 => Float, bool => Bool, String => Text, Timestamp => Time,
       NodeName => Text);

impl<T: Described> Described for Vec<T> {
    fn kind() -> FieldType {
        FieldType::List(Box::new(T::kind()))
    }
}

impl<T: Described> Described for Option<T> {
    fn kind() -> FieldType {
        T::kind().optional()
    }
}

impl Described for PeerState {
    fn kind() -> FieldType {
        words(&[
            Self::Alive,
            Self::Suspect,
            Self::Away,
            Self::Down,
            Self::Left,
            Self::Expelled,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::control::{Named, Provenance, TrustStep};

    #[test]
    fn flattened_name_stands_for_its_two_fields() {
        let names = |fields: Vec<Field>| fields.iter().map(|it| it.name).collect::<Vec<_>>();
        assert_eq!(names(Named::fields()), ["path", "path_base64"]);
        assert_eq!(
            names(Provenance::fields())[..3],
            ["path", "path_base64", "listed"]
        );
        let path = TrustStep::fields().into_iter().find(|it| it.name == "path");
        assert_eq!(path.unwrap().kind, FieldType::Text.optional());
    }
}
