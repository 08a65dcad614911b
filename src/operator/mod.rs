//! Subcommands of operators: each is a client of the API of a server.
//!
//! What a person reads goes to stderr if it is not the answer: `weir get ... -o json | jq` sees
//! JSON alone. Every request is strict (`Prefer: handling=strict`), so a misspelled field or filter
//! is an error. Changes of several objects name what must exist (`if_match`), so none is created
//! again that was deleted meanwhile.

mod bulk;
mod change;
pub mod connection;
mod context;
mod describe;
mod difference;
mod edit;
mod event;
mod files;
mod get;
mod kinds;
mod layouter;
mod maintenance;
mod names;
mod output;
pub mod progress;
mod selection;
mod status;
#[cfg(test)]
mod tests;
mod token;
mod top;
mod what_if;
mod words;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::{Config, Flags};
use crate::exit::{Exit, Failure};
use connection::{ClientFlags, Connection};

/// A subcommand of an operator, with its flags.
#[derive(Debug, Subcommand)]
pub enum OperatorVerb {
    /// Print the state of the cluster; exits with 3 if a streamer is down or a stream has no place.
    Status(Operated<status::StatusFlags>),
    /// Print objects: `get streams`, `get stream NAME`, `get streams labels.site=x`.
    Get(Operated<get::GetFlags>),
    /// Print all about one stream or streamer, as text.
    Describe(Operated<describe::DescribeFlags>),
    /// Print why a stream is where it is.
    Explain(Operated<describe::ExplainFlags>),
    /// Print where a stream was, and who changed it.
    History(Operated<describe::HistoryFlags>),
    /// Edit an object with $EDITOR; nothing is saved if it was changed meanwhile.
    Edit(Operated<edit::EditFlags>),
    /// Change fields of objects: `set stream NAME title=News labels.site=x labels.old-`.
    Set(Operated<change::SetFlags>),
    /// Enable streams.
    Enable(Operated<change::SwitchFlags>),
    /// Disable streams: no streamer runs them, and their configuration stays.
    Disable(Operated<change::SwitchFlags>),
    /// Set and remove labels of streams: `label NAME site=x old-`.
    Label(Operated<change::LabelFlags>),
    /// Delete objects.
    Delete(Operated<change::DeleteFlags>),
    /// Move streams to a streamer.
    Move(Operated<change::MoveFlags>),
    /// Keep new streams from streamers, which keep those they have.
    Cordon(Operated<maintenance::CordonFlags>),
    /// Move all streams off streamers, at a pace, without a gap.
    Drain(Operated<maintenance::DrainFlags>),
    /// Let streamers take new streams again; what a drain moved returns.
    Uncordon(Operated<maintenance::UncordonFlags>),
    /// Print what the layouter would do if streamers were lost, added or changed.
    WhatIf(Operated<what_if::WhatIfFlags>),
    /// Print how many more streams fit, and which losses the cluster survives.
    Capacity(Operated<what_if::CapacityFlags>),
    /// Print the streamers or streams with the highest load, again and again.
    Top(Operated<top::TopFlags>),
    /// Print events, newest first, or follow them.
    Events(Operated<event::EventFlags>),
    /// Print the configuration as JSON lines: sorted, as given, without stamps.
    Export(Operated<files::ExportFlags>),
    /// Compare files with the server; exits with 4 if there are differences.
    Diff(Operated<files::DiffFlags>),
    /// Make the configuration of the server like files; deletes with --prune only.
    Apply(Operated<files::ApplyFlags>),
    /// Print what the layouter does, or pause it.
    Layouter {
        #[command(subcommand)]
        action: layouter::LayouterVerb,
    },
    /// Create a token and print its key, once.
    Token {
        #[command(subcommand)]
        action: token::TokenVerb,
    },
    /// Print who the server takes this client for, and what it may.
    Whoami(Operated<token::WhoamiFlags>),
    /// Keep the URL and the key of a server in a context.
    Login(context::LoginFlags),
    /// Forget a context.
    Logout(context::LogoutFlags),
    /// List the contexts, or choose one.
    Context {
        #[command(subcommand)]
        action: context::ContextVerb,
    },
    /// Check whether a server is ready; exits with 0, or 3 if it is not.
    Healthcheck(Operated<status::HealthcheckFlags>),
}

/// Flags of a subcommand, and those of all clients.
#[derive(Debug, Args)]
pub struct Operated<T: Args> {
    #[command(flatten)]
    own: T,
    #[command(flatten)]
    client: ClientFlags,
}

impl OperatorVerb {
    /// The configuration file and the settings that are given to it.
    pub fn configured(&self) -> (Option<PathBuf>, Flags) {
        let own = self.client().map(|client| &client.server.configured);
        own.map_or_else(Default::default, |own| {
            (own.file.path.clone(), own.settings.0.clone())
        })
    }

    /// The flags of the client; `None` for a subcommand that needs no server.
    fn client(&self) -> Option<&ClientFlags> {
        Some(match self {
            Self::Status(Operated { client, .. })
            | Self::Get(Operated { client, .. })
            | Self::Describe(Operated { client, .. })
            | Self::Explain(Operated { client, .. })
            | Self::History(Operated { client, .. })
            | Self::Edit(Operated { client, .. })
            | Self::Set(Operated { client, .. })
            | Self::Enable(Operated { client, .. })
            | Self::Disable(Operated { client, .. })
            | Self::Label(Operated { client, .. })
            | Self::Delete(Operated { client, .. })
            | Self::Move(Operated { client, .. })
            | Self::Cordon(Operated { client, .. })
            | Self::Drain(Operated { client, .. })
            | Self::Uncordon(Operated { client, .. })
            | Self::WhatIf(Operated { client, .. })
            | Self::Capacity(Operated { client, .. })
            | Self::Top(Operated { client, .. })
            | Self::Events(Operated { client, .. })
            | Self::Export(Operated { client, .. })
            | Self::Diff(Operated { client, .. })
            | Self::Apply(Operated { client, .. })
            | Self::Whoami(Operated { client, .. })
            | Self::Healthcheck(Operated { client, .. })
            | Self::Token {
                action: token::TokenVerb::Create(Operated { client, .. }),
            } => client,
            Self::Layouter { action } => action.client(),
            Self::Login(_) | Self::Logout(_) | Self::Context { .. } => return None,
        })
    }
}

/// Executes a subcommand.
pub fn run(verb: OperatorVerb, config: &Config) -> Result<Exit, Failure> {
    let open = |client: ClientFlags| Connection::open(client, config);
    match verb {
        OperatorVerb::Status(it) => status::status(&open(it.client)?, &it.own),
        OperatorVerb::Get(it) => get::run(&open(it.client)?, &it.own),
        OperatorVerb::Describe(it) => describe::describe(&open(it.client)?, &it.own),
        OperatorVerb::Explain(it) => describe::explain(&open(it.client)?, &it.own),
        OperatorVerb::History(it) => describe::history(&open(it.client)?, &it.own),
        OperatorVerb::Edit(it) => edit::run(&open(it.client)?, &it.own, config),
        OperatorVerb::Set(it) => change::set(&open(it.client)?, &it.own),
        OperatorVerb::Enable(it) => change::switch(&open(it.client)?, &it.own, false),
        OperatorVerb::Disable(it) => change::switch(&open(it.client)?, &it.own, true),
        OperatorVerb::Label(it) => change::label(&open(it.client)?, &it.own),
        OperatorVerb::Delete(it) => change::delete(&open(it.client)?, &it.own),
        OperatorVerb::Move(it) => change::relocate(&open(it.client)?, &it.own),
        OperatorVerb::Cordon(it) => maintenance::cordon(&open(it.client)?, &it.own),
        OperatorVerb::Drain(it) => maintenance::drain(&open(it.client)?, &it.own),
        OperatorVerb::Uncordon(it) => maintenance::uncordon(&open(it.client)?, &it.own),
        OperatorVerb::WhatIf(it) => what_if::run(&open(it.client)?, &it.own),
        OperatorVerb::Capacity(it) => what_if::capacity(&open(it.client)?, &it.own),
        OperatorVerb::Top(it) => top::run(&open(it.client)?, &it.own),
        OperatorVerb::Events(it) => event::run(&open(it.client)?, &it.own),
        OperatorVerb::Export(it) => files::export(&open(it.client)?, &it.own),
        OperatorVerb::Diff(it) => files::diff(&open(it.client)?, &it.own),
        OperatorVerb::Apply(it) => files::apply(&open(it.client)?, &it.own),
        OperatorVerb::Layouter { action } => layouter::run(action, open),
        OperatorVerb::Token {
            action: token::TokenVerb::Create(it),
        } => token::create(&open(it.client)?, &it.own),
        OperatorVerb::Whoami(it) => token::whoami(&open(it.client)?, &it.own),
        OperatorVerb::Login(flags) => context::login(&flags, config),
        OperatorVerb::Logout(flags) => context::logout(&flags, config),
        OperatorVerb::Context { action } => context::run(&action, config),
        OperatorVerb::Healthcheck(it) => status::healthcheck(&open(it.client)?, &it.own),
    }
}
