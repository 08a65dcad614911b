const WIDE_FILES: &[&str] = &[];
const LONG_FILES: &[&str] = &[];
const LONG_FUNCTIONS: &[&str] = &[];
const PRIVATE_WORDS: &[&str] = &[];
const TYPE_NAMES: &[&str] = &[];
const CROSSED_FLOORS: &[&str] = &[];
