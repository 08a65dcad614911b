//! One promise each, with a number to compare with.
