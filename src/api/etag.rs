//! Entity tags in answers, and the conditions of requests: one implementation for all operations
//! that name one entity.
//!
//! A tag has two parts. The first names the stored version (`state::tag`); `If-Match` and
//! conditions on changes are about it, and the writer judges them. The second names the form of the
//! body: with reports of streamers, state of connections, layouts of other entities or masks in it,
//! it is a digest of the body. So a request is answered with 304 only if it would get the same
//! bytes.

use super::call::Call;
use super::tagged::BodySource;
use crate::error::ApiError;
use crate::http::Response;
use crate::http::string_ids::TAG_MARK;
use crate::state::command::Command;
use crate::state::tag::{ConditionKind, EntityTag, Precondition, TagList};

impl Call<'_> {
    /// The answer to a read of one entity: 304 if the client has this body, 412 if it wants another
    /// version.
    pub fn entity_answer(
        &self,
        tag: EntityTag,
        source: BodySource,
        body: Vec<u8>,
    ) -> Result<Response, ApiError> {
        let text = tag.text(source.form(&body));
        for (kind, tags) in self.conditions()? {
            match kind {
                ConditionKind::IfMatch if !tags.names(Some(tag), true) => {
                    return Err(kind.failed());
                }
                ConditionKind::IfMatch => {}
                ConditionKind::IfNoneMatch => {
                    let tags = self.of_form(tags);
                    let known = match &tags {
                        TagList::Any => Some(text.clone()),
                        TagList::Tags(_) => tags.find(&text).map(|tag| format!("\"{tag}\"")),
                    };
                    if let Some(known) = known {
                        return Ok(Response::new(304).header("ETag", known));
                    }
                }
            }
        }
        Ok(Response::json(200, body).header("ETag", text))
    }

    /// The tags of the answers that the client has: the field `If-None-Match`.
    pub fn known_tags(&self) -> Result<Option<TagList>, ApiError> {
        let mut conditions = self.conditions()?.into_iter();
        let known = conditions.find(|(kind, _)| *kind == ConditionKind::IfNoneMatch);
        Ok(known.map(|(_, tags)| self.of_form(tags)))
    }

    /// The tags of the form that the client wants. The answer gets its mark when it is sent.
    fn of_form(&self, tags: TagList) -> TagList {
        if self.request.headers.wants_string_ids() {
            tags.of_form(TAG_MARK)
        } else {
            tags
        }
    }

    /// The conditions of the request on the entity that `command` changes.
    pub fn preconditions(&self, command: &Command) -> Result<Vec<Precondition>, ApiError> {
        let Some(of) = command.entity() else {
            return Ok(Vec::new());
        };
        let conditions = self.conditions()?.into_iter();
        let condition = |(kind, tags)| Precondition {
            of: of.clone(),
            kind,
            tags,
            pointer: None,
        };
        Ok(conditions.map(condition).collect())
    }

    /// The fields `If-Match` and `If-None-Match`.
    fn conditions(&self) -> Result<Vec<(ConditionKind, TagList)>, ApiError> {
        let headers = &self.request.headers;
        if !headers.has_conditions() {
            return Ok(Vec::new());
        }
        let mut conditions = Vec::new();
        for kind in ConditionKind::ALL {
            let mut values = headers.all(kind.field()).peekable();
            if values.peek().is_some() {
                let tags = TagList::parse(values).ok_or_else(|| kind.malformed())?;
                conditions.push((kind, tags));
            }
        }
        Ok(conditions)
    }
}
