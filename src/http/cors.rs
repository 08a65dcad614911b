//! Cors: which web pages of other origins may read the answers.

use super::Head;

/// Which web pages of other origins may read the answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cors {
    #[default]
    Off,
    Any,
    /// Each is told to itself only, because the field has room for one. At most 255; later ones are not served.
    Origins(Vec<String>),
}

impl Cors {
    /// The number that stands for the origin of a request, if it is one of several; 0 for none.
    pub(super) fn of(&self, head: &Head<'_>) -> u8 {
        let Cors::Origins(known) = self else { return 0 };
        let Some(origin) = head.headers.get("origin") else {
            return 0;
        };
        let place = known.iter().position(|known| known.as_bytes() == origin);
        place.map_or(0, |place| u8::try_from(place + 1).unwrap_or(0))
    }

    /// The origin behind a number.
    pub(super) fn allowed(&self, number: u8) -> Option<&str> {
        match self {
            Cors::Origins(known) => known.get(usize::from(number).checked_sub(1)?),
            Cors::Off | Cors::Any => None,
        }
        .map(String::as_str)
    }
}
