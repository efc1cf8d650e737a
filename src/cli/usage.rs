//! `imaged usage`: what a project uses of its quotas, and what remains, as Glance tells it.
//!
//! It asks Glance, not the daemon, which knows no projects; the routes of the Python module
//! `imaged.glance.api` have to be in front of Glance's own.

use std::{collections::BTreeMap, process::ExitCode};

use imaged_drivers::kit::{
    http::{Method, Request},
    keystone::TOKEN,
};
use serde::{Deserialize, Serialize};

use super::{
    args::Usage,
    cloud,
    output::{Done, Failure, Output, table},
    talk::runtime,
};

/// A limit, or what remains of it, where there is none.
const UNLIMITED: i64 = -1;
/// Bytes of an answer, at most.
const ANSWER: usize = 1 << 20;

/// What Glance tells.
#[derive(Debug, Deserialize, Serialize)]
struct Told {
    usage: BTreeMap<String, Quota>,
}

/// One quota; sizes in MiB.
#[derive(Debug, Deserialize, Serialize)]
struct Quota {
    limit: i64,
    usage: u64,
    remaining: i64,
    registered: bool,
}

/// Shows the usage of a project.
pub(crate) fn run(args: &Usage) -> ExitCode {
    let output = Output { json: args.json };
    output.end(runtime().and_then(|runtime| {
        let done = runtime.block_on(show(args, output));
        runtime.shutdown_background();
        done
    }))
}

async fn show(args: &Usage, output: Output) -> Done {
    let answer = cloud::glance(None)?
        .send(|token| {
            let mut url = cloud::at(token, &["info", "usage"]);
            if let Some(project) = &args.project {
                url.query_pairs_mut().append_pair("project_id", project);
            }
            Request::new(Method::GET, url).secret(TOKEN, token.value())
        })
        .await?;
    if !answer.status.is_success() {
        return Err(answer.failure("ask Glance for the usage").await.into());
    }
    let told: Told = answer.json(ANSWER).await.map_err(|error| {
        Failure::here(
            "Usage",
            format!("{error}; is imaged.glance.api in Glance's paste configuration?"),
        )
    })?;
    if told.usage.is_empty() {
        output.say("Glance has no quotas: use_keystone_limits is false in its configuration");
    }
    let rows: Vec<_> = told.usage.iter().map(|(name, quota)| row(name, quota)).collect();
    output.answer(&told, |out| table(out, &["QUOTA", "LIMIT", "USED", "REMAINING"], &rows))
}

fn row(name: &str, quota: &Quota) -> Vec<String> {
    // Sizes are in MiB, as limits are set.
    let unit = if name.contains("_count_") { "" } else { "MiB" };
    let shown = |count: i64| match count {
        UNLIMITED => "unlimited".to_owned(),
        count => format!("{count}{unit}"),
    };
    let limit = if quota.registered { shown(quota.limit) } else { "not-registered".to_owned() };
    vec![name.to_owned(), limit, format!("{}{unit}", quota.usage), shown(quota.remaining)]
}
