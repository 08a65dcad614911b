//! Values as they are written in files, flags and variables.

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// A value as it is written in its source.
#[derive(Debug, Clone)]
pub(super) enum RawValue {
    One(String),
    Many(Vec<String>),
}

impl RawValue {
    /// The only text of a value that is not a list, without spaces around it.
    pub(super) fn one(&self) -> Option<&str> {
        match self {
            Self::One(text) => Some(text.trim()),
            Self::Many(texts) => match &texts[..] {
                [text] => Some(text.trim()),
                _ => None,
            },
        }
    }

    /// The elements of a list; a text with commas is several elements.
    pub(super) fn split(&self) -> Vec<String> {
        let texts: Vec<&str> = match self {
            Self::One(text) => text.split(',').collect(),
            Self::Many(texts) => texts.iter().flat_map(|text| text.split(',')).collect(),
        };
        texts
            .into_iter()
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
            .collect()
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::One(text) => text.clone(),
            Self::Many(texts) => texts.join(","),
        }
    }
}

/// A number written in digits only.
pub(super) fn whole(text: &str) -> Option<u64> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().ok())?
}

pub(super) fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// `64MiB`, `64M` (both powers of 1024), `64MB` (powers of 1000), `1048576`.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => MIB,
        "g" | "gib" => GIB,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

/// The shortest text that reads back as the same number of bytes.
pub(super) fn bytes_text(bytes: u64) -> String {
    for (scale, unit) in [(GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")] {
        if bytes >= scale && bytes.is_multiple_of(scale) {
            return format!("{}{unit}", bytes / scale);
        }
    }
    bytes.to_string()
}

// -------------------------------------------------------------------------------------------------
// The document of `/config`

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::proptests::config())]
        #[test]
        fn sizes_are_read_back(amount in 1_u64..1 << 44) {
            prop_assert_eq!(parse_bytes(&bytes_text(amount)), Some(amount));
        }
    }
}
