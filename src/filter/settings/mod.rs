//! A filter's settings: reading them into the filter's own type, and types for common values.
//!
//! Whatever implements serde's `Deserialize` and schemars' `JsonSchema` can be settings. Scalars are
//! texts until the type asks for something else: `503` and `"503"` are the same, and a switch is
//! `true`, `on`, `false` or `off`. Because of that, serde's `untagged` and `flatten`, which guess the
//! type from the value, see texts only; an enum whose variants are words or maps with one key works
//! as it is.

mod read;
mod replacement;
mod types;

pub use replacement::Replacement;
pub use types::{
    CookieName, Count, FieldName, FieldValue, FilePath, Network, NoSettings, Pattern, Period, Port,
    Size, Status, Template,
};

pub(crate) use read::{read, takes_unknown_keys};
