//! `GET /facets`: how many streams have which value of a field.
//!
//! For all streams the numbers are those of the shared count; for a part of them, by filters or by
//! the permissions of a token, a scan counts (`core::facets`).

use std::sync::Arc;

use super::bulk::selecting_query;
use super::call::{Call, Outcome};
use super::cluster::{CountsReader, CountsRequest};
use super::cluster_counts::{ClusterCounts, CountsForm};
use super::facet_counts::{FacetField, FacetScan, WantedFacets};
use super::stream_doc::SEARCH;
use crate::error::{self, ApiError};
use crate::http::Response;
use crate::query::params::{Choice, Integer, Parameter, ParameterValues as _, Text};

const OF: Choice = Choice::new("of", &["streams"], "What is counted.")
    .required()
    .example(r#""streams""#);

const FIELDS: Text = Text::list(
    "fields",
    "Fields whose values are counted, joined by commas, at most 20: `labels` (each label), \
     `labels.KEY` (one label), `template`, `namespace`, `layout.ingest`.",
)
.required()
.example(r#"["labels","layout.ingest"]"#);

const VALUES: Integer = Integer::new(
    "values",
    "Values of each field at most, the most frequent ones, by default 30.",
)
.between(1, 100)
.example("30");

pub const PARAMETERS: &[&dyn Parameter] = &[&OF, &FIELDS, &VALUES, &SEARCH];

const VALUES_USUAL: u64 = 30;
const FIELDS_MAX: usize = 20;

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    call.choice(&OF)?;
    let wanted = WantedFacets {
        fields: fields(call)?,
        values: call.integer(&VALUES)?.unwrap_or(VALUES_USUAL) as usize,
    };
    let query = selecting_query(call)?;
    if query.selects_all() {
        return Ok(Outcome::Pending(Box::new(CountsRequest(FacetsRequest {
            wanted,
        }))));
    }
    Ok(Outcome::Facets(Box::new(FacetScan {
        query: Arc::new(query),
        wanted,
    })))
}

fn fields(call: &Call<'_>) -> Result<Vec<FacetField>, ApiError> {
    let text = call.text(&FIELDS)?.unwrap_or_default();
    let names: Vec<&str> = text.split(',').collect();
    if names.len() > FIELDS_MAX {
        let allowed = format!("takes at most {FIELDS_MAX} fields");
        return Err(error::INPUT_OUT_OF_RANGE.about_parameter(FIELDS.name(), &allowed));
    }
    let mut fields = Vec::new();
    for name in names {
        let field = FacetField::parse(name).ok_or_else(|| {
            let known = "labels, labels.KEY, template, namespace, layout.ingest";
            let allowed = format!("must be one of: {known}");
            error::UNKNOWN_ENUM_OPTION.about_parameter(FIELDS.name(), &allowed)
        })?;
        if !fields.contains(&field) {
            fields.push(field);
        }
    }
    Ok(fields)
}

/// A request about all streams, which waits for the counts of the cluster.
struct FacetsRequest {
    wanted: WantedFacets,
}

impl CountsReader for FacetsRequest {
    const FORM: CountsForm = CountsForm::Facets;

    fn answer(&self, counts: &ClusterCounts) -> Option<Response> {
        let facets = counts.scan.facets.as_ref()?;
        let body = facets.body(&self.wanted, counts.scan.collected_at_ms);
        Some(Response::json(200, body))
    }

    fn depends_on_visibility(&self) -> bool {
        true
    }
}
