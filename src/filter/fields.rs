//! Header fields that filters set.

use crate::model::frames_message;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Why a header field cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Its name is no field name.
    #[error("not the name of a header field")]
    Name,
    /// Its value has characters that no field may have.
    #[error("not the value of a header field")]
    Value,
    /// It frames the message or belongs to one connection; whoever sends the message sets it.
    #[error("{0} frames the message and is set for you")]
    Framing(HeaderName),
}

/// A field that a filter may set.
pub(crate) fn settable<N, V>(name: N, value: V) -> Result<(HeaderName, HeaderValue), FieldError>
where
    N: TryInto<HeaderName>,
    V: TryInto<HeaderValue>,
{
    let value = value.try_into().map_err(|_| FieldError::Value)?;
    Ok((settable_name(name)?, value))
}

/// The name of a field that a filter may set or remove.
pub(crate) fn settable_name<N: TryInto<HeaderName>>(name: N) -> Result<HeaderName, FieldError> {
    let name = name.try_into().map_err(|_| FieldError::Name)?;
    if frames_message(&name) { Err(FieldError::Framing(name)) } else { Ok(name) }
}

/// The value of a field if it is there and is text. Of several, the first.
pub(crate) fn text_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Gives a hook's argument the header fields of its message, to see and to change: it has `head` and
/// `head_mut`.
macro_rules! has_fields {
    ($name:ident) => {
        impl $name<'_> {
            /// The header fields.
            pub fn headers(&self) -> &http::HeaderMap {
                &self.head().headers
            }

            /// The value of a header field if it is there and is text. Of several, the first.
            pub fn header(&self, name: &str) -> Option<&str> {
                $crate::filter::fields::text_of(self.headers(), name)
            }

            /// Sets a header field, in the place of those of that name.
            ///
            /// # Errors
            /// When the name or the value is not one, or the field frames the message.
            pub fn set_header<N, V>(&mut self, name: N, value: V) -> Result<(), FieldError>
            where
                N: TryInto<http::HeaderName>,
                V: TryInto<http::HeaderValue>,
            {
                let (name, value) = $crate::filter::fields::settable(name, value)?;
                self.head_mut().insert_header(name, value).map_err(|_| FieldError::Name)
            }

            /// Adds a header field to those of that name.
            ///
            /// # Errors
            /// When the name or the value is not one, or the field frames the message.
            pub fn add_header<N, V>(&mut self, name: N, value: V) -> Result<(), FieldError>
            where
                N: TryInto<http::HeaderName>,
                V: TryInto<http::HeaderValue>,
            {
                let (name, value) = $crate::filter::fields::settable(name, value)?;
                self.head_mut().append_header(name, value).map_err(|_| FieldError::Name)?;
                Ok(())
            }

            /// Removes the header fields of that name.
            ///
            /// # Errors
            /// When the name is not one, or the field frames the message.
            pub fn remove_header<N>(&mut self, name: N) -> Result<(), FieldError>
            where
                N: TryInto<http::HeaderName>,
            {
                let name = $crate::filter::fields::settable_name(name)?;
                self.head_mut().remove_header(&name);
                Ok(())
            }
        }
    };
}

pub(super) use has_fields;
