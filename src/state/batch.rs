//! The items of a batch, on their way from the body to the state.
//!
//! Reading the body refuses some items, the rules refuse others when the batch is applied. An
//! answer names the first of both in the order of the batch, so a batch keeps what reading refused.

use crate::error::{ApiError, BatchErrors};

/// The items of a batch with their keys. With refused ones, applying it fails.
#[derive(Debug, Clone)]
pub struct BatchItems<N, P> {
    good: Vec<(N, P)>,
    /// Positions in the batch, ascending. Good items have the others.
    refused: Vec<(usize, ApiError)>,
}

impl<N, P> BatchItems<N, P> {
    /// The results of reading the first items, as long as an answer may name their errors.
    pub fn read(items: impl Iterator<Item = Result<(N, P), ApiError>>) -> Result<Self, ApiError> {
        let mut batch = Self::from(Vec::with_capacity(items.size_hint().0));
        let mut errors = BatchErrors::default();
        for (position, item) in items.enumerate() {
            match item {
                Ok(item) => batch.good.push(item),
                Err(error) => {
                    batch.refused.push((position, error.clone()));
                    errors.keep::<()>(Err(error));
                    if errors.is_full() {
                        break;
                    }
                }
            }
        }
        // Nothing is left that the rules could refuse.
        if batch.good.is_empty() {
            errors.finish()?;
        }
        Ok(batch)
    }

    /// The batch, unless items were refused when it was read.
    pub fn all_good(self) -> Result<Self, ApiError> {
        let mut errors = BatchErrors::default();
        for (_, error) in &self.refused {
            errors.keep::<()>(Err(error.clone()));
        }
        errors.finish()?;
        Ok(self)
    }

    /// The items that were not refused.
    pub fn iter(&self) -> std::slice::Iter<'_, (N, P)> {
        self.good.iter()
    }

    /// The items that were not refused, to be changed.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, (N, P)> {
        self.good.iter_mut()
    }

    pub fn len(&self) -> usize {
        self.good.len()
    }

    /// Applies each item, given with its position. The error has the first refused items of both
    /// kinds, in order.
    pub fn apply_each(
        self,
        mut apply: impl FnMut(usize, N, P) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        let mut errors = BatchErrors::default();
        let mut refused = self.refused.into_iter().peekable();
        let mut good = self.good.into_iter();
        let mut position = 0;
        while !errors.is_full() {
            let result = match refused.next_if(|(at, _)| *at == position) {
                Some((_, error)) => Err(error),
                None => match good.next() {
                    Some((key, item)) => apply(position, key, item),
                    None => break,
                },
            };
            errors.keep(result);
            position += 1;
        }
        errors.finish()
    }
}

impl<N, P> From<Vec<(N, P)>> for BatchItems<N, P> {
    fn from(good: Vec<(N, P)>) -> Self {
        Self {
            good,
            refused: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error;

    /// Reading refuses the items of `unread`, the rules those of `ruled`.
    fn errors(count: usize, unread: &[usize], ruled: &[usize]) -> Vec<String> {
        let bad = |i: usize| error::NOT_STRING.at(format!("/{i}"));
        let items = (0..count).map(|i| {
            if unread.contains(&i) {
                Err(bad(i))
            } else {
                Ok((i, ()))
            }
        });
        let judge = |position, key, ()| {
            assert_eq!(position, key, "every item keeps its position");
            if ruled.contains(&position) {
                return Err(error::NOT_INTEGER.at(format!("/{position}")));
            }
            Ok(())
        };
        let result = BatchItems::read(items).and_then(|batch| batch.apply_each(judge));
        let items = result.err().map(|error| error.items);
        let named = |item: error::ErrorItem| {
            let pointer = item.pointer.expect("an item of the batch");
            format!("{} {pointer}", item.code)
        };
        items.into_iter().flatten().map(named).collect()
    }

    #[test]
    fn errors_of_reading_and_of_rules_are_in_order() {
        assert_eq!(errors(5, &[], &[]), [""; 0]);
        assert_eq!(errors(0, &[], &[]), [""; 0]);
        assert_eq!(
            errors(5, &[1, 4], &[0, 3]),
            [
                "not_integer /0",
                "not_string /1",
                "not_integer /3",
                "not_string /4"
            ]
        );
        assert_eq!(errors(2, &[0, 1], &[]), ["not_string /0", "not_string /1"]);
        // Twenty in all, of 30 and 30.
        let (even, odd): (Vec<usize>, Vec<usize>) = (0..60).partition(|i| i % 2 == 0);
        let expected = (0..20).map(|i| match i % 2 {
            0 => format!("not_string /{i}"),
            _ => format!("not_integer /{i}"),
        });
        assert_eq!(errors(60, &even, &odd), expected.collect::<Vec<_>>());
        // What reading refused late does not hide what the rules refuse early.
        let late: Vec<usize> = (30..60).collect();
        let found = errors(60, &late, &[7]);
        assert_eq!((found.len(), &*found[0]), (20, "not_integer /7"));
    }

    #[test]
    fn batch_with_refused_items_is_not_all_good() {
        let read = |bad: bool| {
            let second = if bad {
                Err(error::NOT_OBJECT.at("/1"))
            } else {
                Ok(("b", ()))
            };
            BatchItems::read([Ok(("a", ())), second].into_iter()).expect("one is good")
        };
        assert_eq!(read(false).all_good().expect("both are").len(), 2);
        let error = read(true).all_good().expect_err("the second is bad");
        assert_eq!(error.items.len(), 1);
    }
}
