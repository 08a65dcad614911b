//! Cors: which web pages of other origins may read the answers.
//!
//! A waiting request keeps the number of its origin instead of the text, so that a parked
//! connection stays small. The fields are written by `response`.

use super::Head;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cors {
    #[default]
    Off,
    Any,
    /// Each response names the origin of its request, because the field has room for one. At most
    /// 255; later ones are not allowed.
    Origins(Vec<String>),
}

impl Cors {
    /// The number of the origin of a request in the list; 0 if it is not in it.
    pub(super) fn of(&self, head: &Head<'_>) -> u8 {
        let Cors::Origins(known) = self else { return 0 };
        let Some(origin) = head.headers.get("origin") else {
            return 0;
        };
        let place = known.iter().position(|known| known.as_bytes() == origin);
        place.map_or(0, |place| u8::try_from(place + 1).unwrap_or(0))
    }

    /// The origin with this number.
    pub(super) fn allowed(&self, number: u8) -> Option<&str> {
        match self {
            Cors::Origins(known) => known.get(usize::from(number).checked_sub(1)?),
            Cors::Off | Cors::Any => None,
        }
        .map(String::as_str)
    }
}
