//! Bulk changes: one change for all streams that match filters.
//!
//! Which streams these are is decided once, by a scan of one state: a change that makes more
//! streams match, or fewer, is made to those that matched before it, and to each once. A stream
//! that others change or delete meanwhile is looked at again and changed only if it still matches.
//! Up to 10,000 streams are changed in one commit; more in several, each whole, with a line of
//! progress after each. The core runs it (`core::bulk`) on what `matching` has.

use std::sync::Arc;

use super::call::{Call, Outcome};
use super::layout::preview_visibility;
use super::matching::{BulkRequest, ExpectedMatch, RunningBulk};
use super::stream_doc::{KIND, SEARCH};
use super::strict::check_body;
use crate::access::auth::Caller;
use crate::access::rights::{Action, Listable};
use crate::error::{self, ApiError};
use crate::json::{Object, Value};
use crate::query::params::{Flag, Parameter, ParameterValues as _};
use crate::query::{Query, Restriction, pairs};
use crate::state::command::{Command, LayoutPatch, SelectedChange, StreamPatch};

/// Parameters of `POST /streams/batch_by_filter`, besides the filters.
pub const PARAMETERS: &[&dyn Parameter] = &[&SEARCH, &APPLY];

const APPLY: Flag = Flag::new(
    "apply",
    false,
    "`true` makes the change. Without it nothing is changed, and the answer has what it would \
     change.",
)
.example("true")
.extension();

pub fn change(call: &Call<'_>) -> Result<Outcome, ApiError> {
    check_body(call)?;
    let query = selecting_query(call)?;
    let applies = call.flag(&APPLY)?;
    let Value::Object(mut body) = call.json()? else {
        return Err(error::NOT_OBJECT.at(""));
    };
    let expected = expected_of(body.remove("expect"))?;
    let change = change_of(body)?;
    if applies && expected.is_none() {
        return Err(error::MISSING_REQUIRED.at("/expect"));
    }
    let running = applies.then(|| RunningBulk::begin(&call.shared.workers.bulk_changes));
    Ok(Outcome::Bulk(Arc::new(BulkRequest {
        query: Arc::new(query),
        applies,
        expected,
        command: call.audited(Command::ChangeSelected {
            items: Vec::new(),
            change: change.clone(),
        })?,
        change,
        rights: match call.caller {
            Caller::Token(token) => Some(token.rights.clone()),
            _ => None,
        },
        visible: preview_visibility(call),
        _running: running.transpose()?,
    })))
}

/// The filters, which show no more than a list of streams does.
pub fn selecting_query(call: &Call<'_>) -> Result<Query, ApiError> {
    const OF_PAGES: [&str; 5] = ["limit", "sort", "cursor", "select", "$reversed"];
    for (name, _) in pairs(call.request.query).flatten() {
        if OF_PAGES.contains(&&*name) {
            let title =
                format!("Parameter `{name}` does not apply: all streams that match are taken");
            return Err(error::UNKNOWN_PARAMETER.titled(title).at_parameter(name));
        }
    }
    let mut query = call.strict_query(&KIND)?;
    if let Caller::Token(token) = call.caller
        && token.rights.listable("streams") != Listable::Everything
    {
        let rights = token.rights.clone();
        query.restrict(Restriction::new("", move |name| {
            rights.may(Action::List, "streams", Some(name))
        }));
    }
    Ok(query)
}

fn expected_of(given: Option<Value>) -> Result<Option<ExpectedMatch>, ApiError> {
    let expect = match given {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(expect)) => expect,
        Some(_) => return Err(error::NOT_OBJECT.at("/expect")),
    };
    let number = |member: &str| match expect.get(member) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| {
            let at = format!("/expect/{member}");
            error::NOT_INTEGER.about(at, "must be an integer of at least 0")
        }),
    };
    Ok(Some(ExpectedMatch {
        count: number("count")?,
        revision: number("revision")?,
    }))
}

fn change_of(mut body: Object) -> Result<SelectedChange, ApiError> {
    let mut given = ["patch", "delete", "move"]
        .into_iter()
        .filter_map(|member| Some((member, body.remove(member).filter(|it| !it.is_null())?)));
    let (Some((member, value)), None) = (given.next(), given.next()) else {
        return Err(error::NOT_ONE_CHANGE.error());
    };
    match (member, value) {
        ("delete", Value::Bool(true)) => Ok(SelectedChange::Delete),
        ("delete", _) => Err(error::NOT_CONST.about("/delete", "must be true")),
        ("patch", patch) => {
            if patch.get("name").is_some() {
                let same = "cannot be the same for many streams";
                return Err(error::KEY_MISMATCH.about("/patch/name", same));
            }
            StreamPatch::of_any(patch, "/patch").map(SelectedChange::Patch)
        }
        (_, wanted) => move_of(&wanted),
    }
}

fn move_of(wanted: &Value) -> Result<SelectedChange, ApiError> {
    let Value::Object(members) = wanted else {
        return Err(error::NOT_OBJECT.at("/move"));
    };
    if members.get("ingest").is_none() {
        return Err(error::MISSING_REQUIRED.at("/move/ingest"));
    }
    let force = match members.get("force") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(force)) => *force,
        Some(_) => return Err(error::NOT_BOOLEAN.at("/move/force")),
    };
    let LayoutPatch { ingest, pinned, .. } = LayoutPatch::from_body(wanted, "/move")?;
    Ok(SelectedChange::Move(LayoutPatch {
        ingest,
        pinned,
        force,
        ..LayoutPatch::default()
    }))
}
