//! `imaged usage`: what a project uses of its quotas, and what remains, as Glance tells it.
//!
//! It asks Glance, not the daemon, which knows no projects; the routes of the Python module
//! `imaged.glance.api` have to be in front of Glance's own. Who asks is told by the variables that the
//! `openstack` command has.

use std::{collections::BTreeMap, env, process::ExitCode, time::Duration};

use imaged_drivers::{
    Error,
    kit::{
        http::{Client, Method, Request, Settings, Url},
        keystone::{Domain, Login, Name, Scope, Service, TOKEN, Tokens, Wanted, Who},
        options::Secret,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    args::Usage,
    output::{Done, Failure, Output, table},
    talk::runtime,
};

/// A limit, or what remains of it, where there is none.
const UNLIMITED: i64 = -1;
/// Bytes of an answer, at most.
const ANSWER: usize = 1 << 20;
/// A token that expires sooner is not used.
const SOON: Duration = Duration::from_secs(10);

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

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::here("Usage", error.to_string())
    }
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
    let (login, wanted) = (login()?, wanted()?);
    let ca = var("OS_CACERT").map(Into::into);
    let client = Client::new(Settings { ca, ..Settings::new("Glance") })?;
    let tokens = Tokens::new(client.clone(), login, wanted, SOON);
    let answer = Service::new(client, tokens)
        .send(|token| {
            let mut url = token.endpoint().clone();
            if let Ok(mut path) = url.path_segments_mut() {
                path.pop_if_empty().extend(["v2", "info", "usage"]);
            }
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

fn var(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn wants(name: &str) -> Result<String, Failure> {
    var(name).ok_or_else(|| {
        Failure::usage(format!(
            "{name} is not set: source the openrc of your project, as for the openstack command"
        ))
    })
}

fn url(name: &str, value: &str) -> Result<Url, Failure> {
    value.parse().map_err(|error| Failure::usage(format!("{name}=`{value}` is no URL: {error}")))
}

/// Who asks.
fn login() -> Result<Login, Failure> {
    let at = url("OS_AUTH_URL", &wants("OS_AUTH_URL")?)?;
    let who = if let Some(token) = var("OS_TOKEN") {
        Who::Bearer(token.into())
    } else if let Some(id) = var("OS_APPLICATION_CREDENTIAL_ID") {
        let secret = wants("OS_APPLICATION_CREDENTIAL_SECRET")?.into();
        Who::ApplicationCredential { id, secret }
    } else {
        let user = named("OS_USER_ID", "OS_USERNAME", "OS_USER_DOMAIN")?;
        let password: Secret = wants("OS_PASSWORD")?.into();
        let project = named("OS_PROJECT_ID", "OS_PROJECT_NAME", "OS_PROJECT_DOMAIN")?;
        Who::Password { user, password, scope: Scope::Project(project) }
    };
    Ok(Login { url: at, who })
}

/// A user or a project, by its id or by its name in a domain.
fn named(id: &str, name: &str, domain: &str) -> Result<Name, Failure> {
    if let Some(id) = var(id) {
        return Ok(Name::Id(id));
    }
    let domain = match (var(&format!("{domain}_ID")), var(&format!("{domain}_NAME"))) {
        (Some(id), _) => Domain::Id(id),
        (None, Some(name)) => Domain::Name(name),
        (None, None) => Domain::Id("default".to_owned()),
    };
    Ok(Name::In(domain, wants(name)?))
}

/// Where Glance is.
fn wanted() -> Result<Wanted, Failure> {
    let instead = var("OS_IMAGE_ENDPOINT_OVERRIDE");
    Ok(Wanted {
        service: "image".to_owned(),
        region: var("OS_REGION_NAME"),
        interface: var("OS_INTERFACE").unwrap_or_else(|| "public".to_owned()),
        instead: instead.map(|given| url("OS_IMAGE_ENDPOINT_OVERRIDE", &given)).transpose()?,
    })
}
