//! Who else may reach an image: its container's lists of readers and writers, as glance_store writes them.

use std::collections::BTreeSet;

use super::{
    account::Call,
    config::Config,
    store::{Place, Store, changed},
};
use crate::{
    contract::{Access, Error, Kind, Result},
    kit::http::{HeaderName, Method},
};

const READ: HeaderName = HeaderName::from_static("x-container-read");
const WRITE: HeaderName = HeaderName::from_static("x-container-write");

const CHANGE: &str = "change who reaches a container";

/// Everybody who has a token.
const EVERYBODY: &str = "*:*";

/// Has the server let those of `access` and the administrators of the configuration reach the container of an
/// image, and reads back that it does.
pub(super) async fn share(store: &Store, place: &Place, access: &Access) -> Result<()> {
    let [readers, writers] = lists(&store.config, access)?;
    let call = Call::container(Method::POST, place.container())
        .header(READ, readers.clone())
        .header(WRITE, writers.clone());
    changed(place.account.send(&call).await?, place, &store.name, CHANGE).await?;
    let told = place.account.send(&Call::container(Method::HEAD, place.container())).await?;
    for (name, wanted) in [(READ, &readers), (WRITE, &writers)] {
        let there = told.header(&name).unwrap_or_default();
        if entries(there) != entries(wanted) {
            let what = format!(
                "the server keeps another list than it was given, look at the container: {name}=`{there}` \
                 wanted=`{wanted}` container=`{}`",
                place.container()
            );
            return Err(Error::new(Kind::BackendDenied, what));
        }
    }
    changed(told, place, &store.name, CHANGE).await
}

/// The lists of readers and writers.
fn lists(config: &Config, access: &Access) -> Result<[String; 2]> {
    let readers = match access.public {
        true => EVERYBODY.to_owned(),
        false => list(access.read.iter())?,
    };
    Ok([readers, list(access.write.iter().chain(&config.admin_tenants))?])
}

fn list<'a>(projects: impl Iterator<Item = &'a String>) -> Result<String> {
    let each = projects.map(|project| {
        // `.r:*` is everybody without a token, `*` every project, and a comma begins the next entry.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        match !project.is_empty() && project.len() <= 255 && project.bytes().all(plain) {
            true => Ok(format!("{project}:*")),
            false => Err(Error::new(
                Kind::Invalid,
                format!(
                    "write the id of one project, of letters, digits, - and _: project=`{project}`"
                ),
            )),
        }
    });
    Ok(each.collect::<Result<BTreeSet<_>>>()?.into_iter().collect::<Vec<_>>().join(","))
}

fn entries(list: &str) -> BTreeSet<&str> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_project_and_nobody_is_let_in_twice() {
        let of = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            list(names.iter())
        };
        assert_eq!(of(&[]).unwrap(), "");
        assert_eq!(of(&["b", "a", "b"]).unwrap(), "a:*,b:*");
        for wide in
            ["", "*", ".r", ".r:*", "a,b", "a:b", "a b", "a\r\nx: y", ".rlistings", "%2A", "\u{e9}"]
        {
            assert_eq!(of(&[wide]).unwrap_err().kind(), Kind::Invalid, "{wide:?}");
        }
    }

    #[test]
    fn lists_are_the_same_in_whatever_order() {
        assert_eq!(entries("a:*, b:*"), entries("b:*,a:*,"));
        assert_ne!(entries("a:*"), entries("a:*,b:*"));
    }
}
