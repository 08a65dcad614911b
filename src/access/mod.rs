//! Who may watch: rules about addresses, countries, tokens and programs, evaluated without I/O.

pub mod subnet;
