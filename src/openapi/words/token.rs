//! API tokens.

use super::{
    BAD_BODY, BAD_QUERY, DELETED, OPERATION, TOO_LARGE, UNAUTHORIZED, UNAVAILABLE, json, path,
    refuse, saved,
};
use crate::error;
use crate::openapi::model::{BodyDoc, OperationDoc, ParamDoc, ResponseDoc, Shape};

const NAME: ParamDoc = path("name", "Name of the token.", r#""inference_server""#);
const NO_TOKEN: ResponseDoc = refuse("No API token has this name.", error::API_TOKEN_NOT_FOUND);
const TOKEN_EXAMPLE: &str = r#"{"name":"inference_server","key":"2b7Kq0c9VtYx3mWf8sLz1RnPdHa","permissions":[{"scopes":["streams/harbour%2F*"],"list":true,"read":true}]}"#;

pub const API_TOKENS_LIST: OperationDoc = OperationDoc {
    tag: "config",
    summary: "List API tokens",
    description: "A page of the API tokens that match the filters, by default sorted by name. \
         Keys are masked.",
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
    description: "The token and its permissions. The key is not masked for administrators.",
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
         new; without a `key` the server generates one. Changes are effective at once, also for \
         open connections and waiting requests.",
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
    description: "Deletes the token. Its key becomes invalid, and its waiting requests are ended. \
         Not available to tokens.",
    parameters: &[NAME],
    responses: &[DELETED, UNAUTHORIZED, NO_TOKEN, UNAVAILABLE],
    extension: true,
    ..OPERATION
};
