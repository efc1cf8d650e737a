//! Glance, as the caller's login reaches it: by the variables that the `openstack` command has.

use std::{env, time::Duration};

use imaged_drivers::{
    Error,
    kit::{
        http::{Client, Settings, Url},
        keystone::{Domain, Login, Name, Scope, Service, Token, Tokens, Wanted, Who},
        options::Secret,
    },
};

use super::output::Failure;

/// A token that expires sooner is not used.
const SOON: Duration = Duration::from_secs(10);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::here("Glance", error.to_string())
    }
}

/// Glance, at this URL or where the catalog has it.
pub(crate) fn glance(at: Option<Url>) -> Result<Service, Failure> {
    let (login, wanted) = (login()?, wanted(at)?);
    let ca = var("OS_CACERT").map(Into::into);
    let client = Client::new(Settings { ca, ..Settings::new("Glance") })?;
    let tokens = Tokens::new(client.clone(), login, wanted, SOON);
    Ok(Service::new(client, tokens))
}

/// A URL of Glance's API.
pub(crate) fn at(token: &Token, path: &[&str]) -> Url {
    let mut url = token.endpoint().clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push("v2").extend(path);
    }
    url
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
fn wanted(at: Option<Url>) -> Result<Wanted, Failure> {
    const INSTEAD: &str = "OS_IMAGE_ENDPOINT_OVERRIDE";
    let instead = match at {
        Some(at) => Some(at),
        None => var(INSTEAD).map(|given| url(INSTEAD, &given)).transpose()?,
    };
    Ok(Wanted {
        service: "image".to_owned(),
        region: var("OS_REGION_NAME"),
        interface: var("OS_INTERFACE").unwrap_or_else(|| "public".to_owned()),
        instead,
    })
}
