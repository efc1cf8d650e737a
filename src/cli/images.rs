//! `imaged stat`, `imaged delete` and `imaged list`

use imaged::client::Remains;
use serde_json::{Map, json};

use super::{
    args::{Image, List, Recover},
    output::{Done, Failure, bytes, fields, print},
    talk::{Talk, which},
};

/// Shows what is known of an image.
pub(crate) async fn stat(talk: &Talk, args: &Image) -> Done {
    let stat = talk.client.stat(&args.store, which(&args.id)).await?;
    let digests: Map<_, _> =
        stat.digests.iter().map(|one| (one.algo.to_string(), one.value.clone().into())).collect();
    let document = json!({
        "store": args.store, "image": args.id, "size": stat.size, "location": stat.location,
        "digests": digests,
    });
    talk.output.answer(&document, |out| {
        writeln!(out, "{} in {}: {}", args.id, args.store, bytes(stat.size))?;
        let mut known = vec![("size", stat.size.to_string())];
        known.extend(stat.location.map(|location| ("location", location)));
        known.extend(stat.digests.into_iter().map(|one| (one.algo.name(), one.value)));
        fields(out, &known)
    })
}

/// Removes an image.
pub(crate) async fn delete(talk: &Talk, args: &Image) -> Done {
    talk.client.delete(&args.store, which(&args.id)).await?;
    let document = json!({"store": args.store, "image": args.id, "deleted": true});
    talk.output.answer(&document, |out| writeln!(out, "deleted {} from {}", args.id, args.store))
}

/// Clears away what an upload has left whose daemon is gone.
pub(crate) async fn recover(talk: &Talk, args: &Recover) -> Done {
    let recovery = talk.client.recover(&args.store, &args.id).await?;
    let found = match recovery.found {
        Remains::Nothing => "there is nothing of it".to_owned(),
        Remains::Whole => "the image is whole, and stays".to_owned(),
        Remains::Removed => format!("removed {}", recovery.removed.join(", ")),
    };
    let document = serde_json::to_value(&recovery).unwrap_or_default();
    talk.output.answer(&document, |out| writeln!(out, "{} in {}: {found}", args.id, args.store))
}

/// Lists a store's images: for people as they come, for programs when they are all there.
pub(crate) async fn list(talk: &Talk, args: &List) -> Done {
    let mut listing = talk.client.list(&args.store).await?;
    if talk.output.json {
        let mut images = Vec::new();
        while let Some(entry) = listing.next().await? {
            images.push(entry);
        }
        let document = json!({"store": args.store, "images": images});
        return talk.output.answer(&document, |_| Ok(()));
    }
    let mut some = false;
    while let Some(entry) = listing.next().await? {
        if !some {
            print(|out| writeln!(out, "{:<36}  {:>11}  LOCATION", "ID", "SIZE"))?;
            some = true;
        }
        print(|out| {
            writeln!(out, "{:<36}  {:>11}  {}", entry.id, bytes(entry.size), entry.location)?;
            entry.odd.map_or(Ok(()), |odd| writeln!(out, "{:<36}  {:>11}  {odd}", "", "odd:"))
        })?;
    }
    if !some {
        talk.output.say(&format!("no images in {}", args.store));
    }
    Ok::<(), Failure>(())
}
