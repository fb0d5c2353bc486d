//! placeholder
pub struct DecodeError;
