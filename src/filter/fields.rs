//! Header fields that filters set.

use crate::model::frames_message;
use http::{HeaderName, HeaderValue};

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
