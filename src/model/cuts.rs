//! Cutting bytes into pieces, for the checks that no cut makes a difference.

/// Places at which to cut `bytes` into pieces, which the bytes themselves decide: so that an engine
/// can find the cut that matters.
pub(crate) fn cuts(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let mut at = 0;
    bytes.iter().rev().map_while(move |byte| {
        at += 1 + usize::from(byte % 17);
        (at < bytes.len()).then_some(at)
    })
}
