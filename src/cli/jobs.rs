//! `imaged jobs`

use std::time::{Duration, SystemTime};

use imaged::client::{self, State, View};
use serde_json::json;

use super::{
    args::Jobs,
    output::{Done, bytes, fields, table},
    talk::Talk,
};

/// Shows all jobs or one, or ends one.
pub(crate) async fn run(talk: &Talk, args: &Jobs) -> Done {
    if let Some(id) = &args.cancel {
        talk.client.cancel_job(id).await?;
        let document = json!({"job": id, "cancelled": true});
        return talk.output.answer(&document, |out| writeln!(out, "cancelled {id}"));
    }
    if let Some(id) = &args.id {
        let view = talk.client.job(id, Duration::ZERO).await?;
        return talk.output.answer(&view, |out| {
            writeln!(out, "{}: {} of {} in {}", view.id, view.kind, view.image, view.store)?;
            let mut known = vec![
                ("state", state(view.state).to_owned()),
                ("done", done(&view)),
                ("begun", ago(view.begun)),
            ];
            known.extend(view.error.clone().map(|error| ("error", error)));
            fields(out, &known)
        });
    }
    let jobs = talk.client.jobs().await?;
    let rows: Vec<_> = jobs.iter().map(row).collect();
    talk.output.answer(&client::Jobs { jobs }, |out| {
        table(out, &["ID", "KIND", "STORE", "IMAGE", "STATE", "DONE", "BEGUN", "ERROR"], &rows)
    })
}

fn row(view: &View) -> Vec<String> {
    vec![
        view.id.clone(),
        view.kind.clone(),
        view.store.clone(),
        view.image.clone(),
        state(view.state).to_owned(),
        done(view),
        ago(view.begun),
        view.error.clone().unwrap_or_default(),
    ]
}

fn state(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Waiting => "waiting",
        State::Done => "done",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}

fn done(view: &View) -> String {
    match view.total {
        Some(total) => format!("{} of {}", bytes(view.done), bytes(total)),
        None => bytes(view.done),
    }
}

fn ago(begun: u64) -> String {
    let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(begun);
    let past = SystemTime::now().duration_since(begun).unwrap_or_default();
    format!("{} ago", indicatif::HumanDuration(past))
}
