//! API tokens.

use super::{
    BAD_BODY, BAD_QUERY, DELETED, LIST, OPERATION, TOO_LARGE, UNAUTHORIZED, UNAVAILABLE, json,
    path, refuse, saved,
};
use crate::error;
use crate::openapi::model::{BodyDoc, OperationDoc, ParamDoc, ResponseDoc, Shape};

const NAME: ParamDoc = path("name", "Name of the token.", r#""inference_server""#);
const NO_TOKEN: ResponseDoc = refuse("No API token has this name.", error::API_TOKEN_NOT_FOUND);
const TOKEN_EXAMPLE: &str = r#"{"name":"inference_server","key":"2b7Kq0c9VtYx3mWf8sLz1RnPdHa","permissions":[{"scopes":["streams/harbour%2F*"],"list":true,"read":true}]}"#;

pub const API_TOKENS_LIST: OperationDoc = OperationDoc {
    tag: "config",
    summary: "List API tokens",
    description: "A page of the API tokens that pass the filters, sorted by name unless asked \
         otherwise. Keys are masked.",
    shared: LIST,
    responses: &[
        json(
            200,
            "The page.",
            Shape::One("api_tokens_list"),
            r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"api_tokens":[{"name":"inference_server","key":"***","permissions":[{"scopes":["*"],"read":true}]}]}"#,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const API_TOKEN_GET: OperationDoc = OperationDoc {
    tag: "config",
    summary: "Read one API token",
    description: "The token and what it may do. An administrator sees its key here in the clear.",
    parameters: &[NAME],
    responses: &[
        json(200, "The token.", Shape::One("api_token"), TOKEN_EXAMPLE),
        UNAUTHORIZED,
        NO_TOKEN,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const API_TOKEN_SAVE: OperationDoc = OperationDoc {
    tag: "config",
    summary: "Create or change an API token",
    description: "Merges the body into the stored token, or creates the token if the name is \
         new; without a `key` the server makes one up. Changes hold at \
                  once, also for open connections and requests that wait.",
    parameters: &[NAME],
    request: Some(BodyDoc {
        shape: Shape::One("api_token"),
        description: "The fields to change.",
        example: TOKEN_EXAMPLE,
        partial: true,
    }),
    responses: &[
        saved("api_token", TOKEN_EXAMPLE),
        BAD_BODY,
        UNAUTHORIZED,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

pub const API_TOKEN_DELETE: OperationDoc = OperationDoc {
    tag: "config",
    summary: "Delete an API token",
    description: "Removes the token for good. From then on its key opens nothing; requests that \
         wait by right of it are ended. Not for tokens.",
    parameters: &[NAME],
    responses: &[DELETED, UNAUTHORIZED, NO_TOKEN, UNAVAILABLE],
    extension: true,
    ..OPERATION
};
